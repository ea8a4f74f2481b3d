"""The tasks of ``--sysprep``: files that belong to one machine, by the program that made them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Edit = Callable[[bytes], bytes]


@dataclass(frozen=True)
class SysprepTask:
    """The files of one task."""

    about: str
    """A description of them, for ``--sysprep list``."""
    remove: tuple[str, ...] = ()
    """Patterns of paths that are removed."""
    remove_files: tuple[str, ...] = ()
    """Patterns of which only regular files are removed, because folders between them must stay."""
    empty: tuple[str, ...] = ()
    """Patterns of files that are emptied, because their absence has a different meaning."""
    empty_below: tuple[str, ...] = ()
    """Folders below which all files are emptied."""
    edit: tuple[tuple[str, Edit], ...] = ()
    """Patterns of files, and functions that return their content without the identity."""
    holding: tuple[tuple[str, re.Pattern[bytes]], ...] = ()
    """Patterns of files that are removed if they contain a text."""
    named: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Folders below which all files are removed whose names have one of some endings."""
    create: tuple[str, ...] = ()
    """Files that are created."""
    in_all: bool = True
    """True if ``all`` includes the task."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """All patterns of paths that it may change."""
        edited = [pattern for pattern, _edit in self.edit]
        held = [pattern for pattern, _text in self.holding if pattern not in edited]
        below = [f"{folder}/**" for folder in self.empty_below]
        named = [f"{folder}/**/*{ending}" for folder, endings in self.named for ending in endings]
        return (*self.remove, *self.remove_files, *self.empty, *below, *named, *edited, *held, *self.create)


def _without_lines(expression: bytes) -> Edit:
    lines = re.compile(rb"^[ \t]*(?:" + expression + rb")[^\n]*(?:\n|\Z)", re.MULTILINE | re.IGNORECASE)
    return lambda content: lines.sub(b"", content)


_INLINE_MATCH = re.compile(rb"^[ ]*match:[ ]*\{[^}\n]*macaddress[^}\n]*\}[ ]*\n", re.MULTILINE)
_BLOCK_MATCH = re.compile(rb"^([ ]*)match:[ ]*\n\1[ ]+macaddress:[^\n]*\n(?!\1[ ])", re.MULTILINE)
_ADDRESS = re.compile(rb"^[ ]*macaddress:[^\n]*\n", re.MULTILINE)
_SET_NAME = re.compile(rb"^[ ]*set-name:[^\n]*\n", re.MULTILINE)


def _without_cards(netplan: bytes) -> bytes:
    """Remove hardware addresses from netplan(5); an interface is then found by its name."""
    content = netplan if netplan.endswith(b"\n") else netplan + b"\n"
    found = _ADDRESS.sub(b"", _BLOCK_MATCH.sub(b"", _INLINE_MATCH.sub(b"", content)))
    if found == content:
        return netplan
    # Without a "match", netplan refuses "set-name".
    return found if b"match:" in found else _SET_NAME.sub(b"", found)


_ISCSI = "/etc/iscsi/initiatorname.iscsi"
_ISCSI_NAME = re.compile(rb"\A(?!.*will not start).*^InitiatorName=", re.DOTALL | re.MULTILINE)


def _without_iscsi_name(content: bytes) -> bytes:
    """Let Debian make a new name; it needs the file, as a comment in it says, others need its absence."""
    kept = b"will not start" in content and b"\nInitiatorName=" in content
    return content[: content.index(b"\nInitiatorName=")] + b"\nGenerateName=yes\n" if kept else content


_IFCFG = ("/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*")
_KEYFILES = "/etc/NetworkManager/system-connections/*"
_HOMES = ("/root", "/home/*")

TASKS = {
    "machine-id": SysprepTask(
        "the machine's ID; made again at boot",
        remove=("/var/lib/dbus/machine-id",), empty=("/etc/machine-id",),
    ),
    "ssh-hostkeys": SysprepTask(
        "the ssh server's keys; the guest must make new ones at boot",
        remove=("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub",
                "/etc/dropbear/dropbear_*_host_key"),
    ),
    "dhcp-leases": SysprepTask(
        "leases and state of DHCP clients and servers",
        remove=(
            "/var/lib/dhcp/*.lease*", "/var/lib/dhcp3/*.lease*", "/var/lib/dhclient/*", "/var/lib/dhcpd/*",
            "/var/lib/dhcpcd/*.lease*", "/var/lib/dhcpcd/duid",
            "/var/lib/NetworkManager/*.lease", "/var/lib/NetworkManager/secret_key",
            "/var/lib/NetworkManager/timestamps", "/var/lib/NetworkManager/seen-bssids",
        ),
    ),
    "network-rules": SysprepTask(
        "udev's names of network cards",
        remove=("/etc/udev/rules.d/70-persistent-net.rules",
                "/etc/udev/rules.d/75-persistent-net-generator.rules"),
    ),
    "net-hwaddr": SysprepTask(
        "hardware addresses in network configuration",
        edit=(*((path, _without_lines(rb"(?:HWADDR|MACADDR|LLADDR|UUID)[ \t]*=")) for path in _IFCFG),
              ("/etc/netplan/*.yaml", _without_cards)),
    ),
    "net-hostname": SysprepTask(
        "host names in the configuration of single interfaces",
        edit=tuple((path, _without_lines(rb"(?:DHCP_)?HOSTNAME[ \t]*=")) for path in _IFCFG),
    ),
    "net-nmconn": SysprepTask(
        "hardware addresses in NetworkManager's profiles; profiles with passwords are removed",
        edit=((_KEYFILES, _without_lines(rb"(?:cloned-)?mac-address[ \t]*=[ \t]*[0-9A-F]{2}:")),),
        holding=((_KEYFILES, re.compile(rb"^(?:psk|wep-key[0-9]|password)[ \t]*=", re.MULTILINE)),),
    ),
    "lvm-system-devices": SysprepTask(
        "LVM's list of the machine's disks",
        remove=("/etc/lvm/devices/system.devices", "/etc/lvm/devices/backup/*"),
    ),
    "disk-names": SysprepTask(
        "names of this machine towards storage, and of its disks: iSCSI, NVMe, multipath, ZFS, blkid",
        remove=("/etc/nvme/hostnqn", "/etc/nvme/hostid", "/etc/multipath/wwids", "/etc/multipath/bindings",
                "/etc/hostid", "/etc/blkid.tab"),
        edit=((_ISCSI, _without_iscsi_name),),
        holding=((_ISCSI, _ISCSI_NAME),),
    ),
    "rh-subscription-manager": SysprepTask(
        "registrations with Red Hat and SUSE",
        remove=("/etc/pki/consumer/*", "/etc/pki/entitlement/*", "/etc/sysconfig/rhn/systemid",
                "/etc/sysconfig/rhn/osad-auth.conf", "/etc/insights-client/machine-id",
                "/etc/zypp/credentials.d/SCCcredentials", "/var/lib/yum/uuid", "/etc/smolt/uuid",
                "/etc/sysconfig/hw-uuid", "/var/lib/ubuntu-advantage/private/*"),
    ),
    "domain": SysprepTask(
        "membership of domains: Kerberos keytab, IPA, sssd, samba",
        remove=("/etc/krb5.keytab", "/etc/ipa/ca.crt", "/etc/ipa/default.conf",
                "/var/lib/ipa-client/sysrestore/*", "/var/lib/ipa-client/pki/*", "/var/lib/sss/db/*",
                "/var/lib/samba/private/*.tdb", "/var/lib/samba/*.tdb", "/var/log/samba/old/*"),
    ),
    "management": SysprepTask(
        "identities of agents: puppet, salt, chef",
        remove=("/etc/puppetlabs/puppet/ssl", "/etc/puppet/ssl", "/var/lib/puppet/ssl",
                "/etc/salt/minion_id", "/etc/salt/pki/minion", "/etc/chef/client.pem"),
    ),
    "vpn": SysprepTask(
        "keys of tailscale, wireguard, ZeroTier",
        remove=("/var/lib/tailscale/*", "/etc/wireguard/*.conf", "/etc/wireguard/*.key",
                "/var/lib/zerotier-one/identity.*"),
    ),
    "passwd-backups": SysprepTask(
        "old copies of the account files",
        remove=("/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/subuid-",
                "/etc/subgid-"),
    ),
    "mail-spool": SysprepTask(
        "local mail", remove_files=("/var/spool/mail/*", "/var/mail/*"), remove=("/var/lib/dovecot/*",)
    ),
    "cron-spool": SysprepTask(
        "jobs of users for cron and at",
        remove_files=("/var/spool/cron/*", "/var/spool/cron/crontabs/*", "/var/spool/cron/tabs/*",
                      "/var/spool/cron/atjobs/[!.]*", "/var/spool/cron/atspool/*", "/var/spool/at/[!.]*",
                      "/var/spool/at/spool/*", "/var/spool/atjobs/[!.]*", "/var/spool/atspool/*"),
    ),
    "crash-data": SysprepTask(
        "dumps of crashed programs and kernels",
        remove=("/var/crash/*", "/var/log/dump/*", "/var/spool/abrt/*", "/var/tmp/abrt/*",  # noqa: S108
                "/var/lib/systemd/coredump/*"),
    ),
    "logs": SysprepTask(
        "logs; rotated ones and journals are removed, others emptied",
        remove=("/var/log/journal/*", "/var/log/*.gz", "/var/log/*.xz", "/var/log/*.[0-9]", "/var/log/*.old",
                "/var/log/*/*.gz", "/var/log/*/*.[0-9]", "/root/install.log", "/root/anaconda-ks.cfg",
                "/var/account/pacct*"),
        empty_below=("/var/log",),
    ),
    "shell-history": SysprepTask(
        "histories of shells and other programs",
        remove=tuple(
            f"{home}/{name}"
            for home in _HOMES
            for name in (".*_history", ".lesshst", ".viminfo", ".wget-hsts")
        ),
    ),
    "package-caches": SysprepTask(
        "packages and lists that were fetched",
        remove=("/var/cache/apt/archives/*.deb", "/var/cache/apt/archives/partial/*", "/var/cache/apt/*.bin",
                "/var/lib/apt/lists/*_*", "/var/lib/apt/lists/partial/*", "/var/lib/apt/lists/auxfiles/*",
                "/var/cache/PackageKit/*", "/var/cache/dnf/*", "/var/cache/libdnf5/*",
                "/var/cache/yum/*", "/var/cache/tdnf/*", "/var/cache/zypp/*",
                "/var/cache/pacman/pkg/*", "/var/cache/apk/*", "/var/cache/xbps/*", "/var/cache/urpmi/rpms/*",
                "/var/lib/rpm/__db.*"),
    ),
    "backup-files": SysprepTask(
        "copies that editors left",
        named=tuple((folder, ("~", ".bak")) for folder in ("/etc", "/root", "/srv", "/tmp", "/var")),  # noqa: S108
    ),
    "temporary-files": SysprepTask(
        "temporary files",
        remove=("/tmp/*", "/tmp/.[!.]*", "/var/tmp/*", "/var/tmp/.[!.]*"),  # noqa: S108 - in the guest
    ),
    "cloud-init": SysprepTask(
        "cloud-init's state, not its seed",
        remove=("/var/lib/cloud/instance", "/var/lib/cloud/instances/*", "/var/lib/cloud/data/*",
                "/var/lib/cloud/sem/*"),
    ),
    "random-seed": SysprepTask(
        "seeds of the random number generator",
        remove=("/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/var/lib/random-seed",
                "/var/lib/urandom/random-seed", "/var/lib/misc/random-seed", "/etc/random-seed",
                "/var/lib/seedrng/*"),
    ),
    "lvm-uuids": SysprepTask(
        "UUIDs of LVM's physical volumes and volume groups, and the files that name them"
    ),
    "fs-uuids": SysprepTask(
        "UUIDs of ext, XFS, btrfs and swap, and the files that name them; one that stays is a warning",
        in_all=False,
    ),
    "flag-reconfiguration": SysprepTask(
        "a file with which systems of Red Hat up to version 7 ask questions at boot",
        create=("/.unconfigured",), in_all=False,
    ),
    "ssh-userdir": SysprepTask(
        "ssh keys and settings of users", remove=tuple(f"{home}/.ssh" for home in _HOMES), in_all=False
    ),
    "user-account": SysprepTask(
        "accounts of people, numbers 1000 to 59999, in the account files, and their homes",
        in_all=False,
    ),
    "firewall-rules": SysprepTask(
        "rules of the firewall",
        remove=("/etc/sysconfig/iptables", "/etc/sysconfig/ip6tables", "/etc/firewalld/services/*",
                "/etc/firewalld/zones/*"),
        in_all=False,
    ),
    "ca-certificates": SysprepTask(
        "certificates that were added",
        remove=("/etc/pki/ca-trust/source/anchors/*", "/etc/pki/trust/anchors/*",
                "/usr/local/share/ca-certificates/*"),
        in_all=False,
    ),
    "kerberos-data": SysprepTask(
        "the database of a Kerberos server",
        remove=("/var/kerberos/krb5kdc/principal*", "/var/kerberos/krb5kdc/.k5*"), in_all=False,
    ),
}  # fmt: skip
"""The tasks by their names; names of virt-sysprep's operations where the files are the same."""

PEER_NAMES = {
    "abrt-data": "crash-data",
    "bash-history": "shell-history",
    "blkid-tab": "disk-names",
    "dhcp-client-state": "dhcp-leases",
    "dhcp-server-state": "dhcp-leases",
    "dovecot-data": "mail-spool",
    "ipa-client": "domain",
    "kerberos-hostkeytab": "domain",
    "logfiles": "logs",
    "pacct-log": "logs",
    "package-manager-cache": "package-caches",
    "puppet-data-log": "management",
    "rhn-systemid": "rh-subscription-manager",
    "rpm-db": "package-caches",
    "samba-db-log": "domain",
    "smolt-uuid": "rh-subscription-manager",
    "sssd-db-log": "domain",
    "tmp-files": "temporary-files",
    "udev-persistent-net": "network-rules",
    "utmp": "logs",
    "yum-uuid": "rh-subscription-manager",
}
"""Names of virt-sysprep's operations, and the tasks that include them."""

NOT_TASKS = {
    "customize": "give the customizations as options",
    "pam-data": "these files are in /run and not on the disk",
    "script": "use --run",
}
"""virt-sysprep's other operations, and what to do instead."""

"""Operations on the guest's system settings: hostname, time zone and SELinux labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from imgbuilder.customize import argforms, values, windowsboot
from imgbuilder.customize.accountfiles import rename_host
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import EVERYWHERE, Family, Init
from imgbuilder.customize.needs import Need
from imgbuilder.customize.operation import Operation, Phase, SettingOperation, read_if_present
from imgbuilder.customize.registry import operation
from imgbuilder.errors import OperationError
from imgbuilder.events import Reporter, warn
from imgbuilder.guests.ports import Guest
from imgbuilder.host.text import one_line, without_controls

_ZONEINFO = "/usr/share/zoneinfo"
_ZONE_MAGIC = b"TZif"
"""First bytes of a compiled time zone, RFC 8536 section 3.1."""

_CLOCK = "/etc/sysconfig/clock"
_ZONE_LINE = re.compile(rb"^(ZONE|TIMEZONE)=", re.MULTILINE)
"""Red Hat 6 and SUSE 11 make /etc/localtime again from this line when they update the time zone data."""

_EXCLUDED = "/etc/selinux/fixfiles_exclude_dirs"
_POLICY = re.compile(r"[A-Za-z0-9_-]{1,64}")

_SYSTEMD = "/etc/systemd"
_READ_HOSTNAME = {Init.OPENRC, Init.RUNIT}
"""Init systems besides systemd whose own services set the name in /etc/hostname."""
_UCI_HOSTNAME = "/etc/uci-defaults/99-pybuilder-hostname"
"""OpenWrt runs the scripts in this folder once, before it sets its name."""
_SYSTEMD_SINCE = {Family.FEDORA: 18, Family.RHEL: 7}
"""First major versions that read /etc/hostname."""


@operation(
    "hostname",
    progress="Setting the hostname: {name}",
    form=argforms.single("HOSTNAME"),
    needs=(Need.HOSTNAME,),
    systems=EVERYWHERE,
)
@dataclass(frozen=True)
class Hostname(Operation):
    """Set the hostname of the guest.

    HOSTNAME may have a domain. It goes where the guest reads it: /etc/hostname, or in older systems
    /etc/sysconfig/network or /etc/HOSTNAME; OpenWrt sets it at its first boot. On Debian and its derivatives
    the old name in /etc/hosts is replaced as well. In Windows it goes to the registry and has at most 15
    characters before the domain.

    Attributes:
        name: The hostname.
    """

    name: str = field(metadata=values.HOSTNAME)

    def check_guest(self, context: GuestContext) -> None:
        if context.windows is not None:
            windowsboot.check_computer_name(self.name)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        if context.windows is not None:
            windowsboot.set_computer_name(guest, context, self.name)
            return
        family, (major, _minor) = context.facts.family, context.facts.version
        if family is Family.OPENWRT:
            guest.mkdir_p(_UCI_HOSTNAME.rpartition("/")[0])
            lines = (f"uci set system.@system[0].hostname={self.name}", "uci commit system")
            guest.write(_UCI_HOSTNAME, "".join(f"{line}\n" for line in lines).encode())
            return
        if family in _SYSTEMD_SINCE:
            # The version of systems older than os-release is unknown.
            if (0 < major < _SYSTEMD_SINCE[family]) or (major == 0 and not guest.is_dir(_SYSTEMD)):
                _set_assignment(guest, "/etc/sysconfig/network", "HOSTNAME", self.name)
                return
            _set_assignment(guest, "/etc/machine-info", "PRETTY_HOSTNAME", self.name)
        before_systemd = guest.is_file("/etc/HOSTNAME") and not guest.is_symlink("/etc/HOSTNAME")
        if before_systemd:  # SUSE, Slackware
            guest.write("/etc/HOSTNAME", f"{self.name}\n".encode())
        old = _old_hostname(guest)
        guest.write("/etc/hostname", f"{self.name}\n".encode())
        if family is Family.DEBIAN:
            hosts = read_if_present(guest, "/etc/hosts")
            renamed = rename_host(hosts, old, self.name)
            if renamed != hosts:
                guest.replace("/etc/hosts", renamed)
        known = before_systemd or guest.is_dir(_SYSTEMD) or _READ_HOSTNAME & set(context.facts.inits)
        if family is Family.OTHER and not known:
            warn(
                context.on_event,
                f"--hostname: {self.name} is in /etc/hostname, but guests of this kind "
                f"({context.facts.distro}) may not read their name from there",
            )


@operation(
    "timezone",
    progress="Setting the timezone: {name}",
    form=argforms.single("TIMEZONE"),
    needs=(Need.TIMEZONE,),
)
@dataclass(frozen=True)
class Timezone(Operation):
    """Set the time zone of the guest.

    TIMEZONE is a name such as Europe/Berlin; the guest must have its time zone data installed.

    Attributes:
        name: The time zone.
    """

    name: str = field(metadata=values.TIMEZONE)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        path = f"{_ZONEINFO}/{self.name}"
        if not _is_zone(guest, path):
            installed = guest.is_dir(_ZONEINFO)
            raise OperationError(
                f"--timezone: {path} is not a time zone in the guest",
                hint=f"see the names in {_ZONEINFO}, for example Europe/Berlin"
                if installed
                else "the guest has no time zone data: put --install tzdata before it",
            )
        guest.symlink(path, "/etc/localtime")
        if guest.is_file("/etc/timezone"):
            guest.write("/etc/timezone", f"{self.name}\n".encode())
        line = _ZONE_LINE.search(read_if_present(guest, _CLOCK))
        if line is not None:
            _set_assignment(guest, _CLOCK, line[1].decode(), f'"{self.name}"')


def _is_zone(guest: Guest, path: str) -> bool:
    if not guest.exists(path) or not guest.is_file(path):  # links may lead in a circle
        return False
    # A name may be a link to another zone, but not out of the folder, as Debian's "localtime" is.
    inside = guest.realpath(path).startswith(guest.realpath(_ZONEINFO) + "/")
    return inside and guest.start_of(path, len(_ZONE_MAGIC)) == _ZONE_MAGIC


def _old_hostname(guest: Guest) -> str:
    lines = map(str.strip, read_if_present(guest, "/etc/hostname").decode(errors="replace").splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")


def _set_assignment(guest: Guest, path: str, name: str, value: str) -> None:
    """Make ``name=value`` the only such line of a file, at its end."""
    content = read_if_present(guest, path)
    lines = [line for line in content.split(b"\n") if not line.lstrip().startswith(f"{name}=".encode())]
    kept = b"\n".join(lines)
    if kept and not kept.endswith(b"\n"):
        kept += b"\n"
    guest.write(path, kept + f"{name}={value}\n".encode())


@operation(
    "no-selinux-relabel",
    progress="Leaving SELinux labels as they are",
    form=argforms.flag(),
    phase=Phase.SETTING,
    systems=EVERYWHERE,
)
@dataclass(frozen=True)
class NoSelinuxRelabel(SettingOperation):
    """Do not relabel files in an SELinux guest.

    Changed files may then have wrong labels, and the guest may not boot in enforcing mode.
    """


@operation("selinux-relabel", progress="SELinux relabelling", form=argforms.flag(), phase=Phase.LAST)
@dataclass(frozen=True)
class SelinuxRelabel(Operation):
    """Relabel files in an SELinux guest.

    This is the default. The labels are set in the appliance if it has setfiles. Otherwise, or if the guest's
    policy is not found, the guest relabels itself at its first boot and then boots once more. Guests without
    SELinux are not changed.
    """

    def apply(self, guest: Guest, context: GuestContext) -> None:
        if not has_selinux(guest):
            return
        config = _assignments(guest.read("/etc/selinux/config").decode(errors="replace"))
        policy = config.get("SELINUXTYPE", "targeted")
        specification = f"/etc/selinux/{policy}/contexts/files/file_contexts"
        if (
            config.get("SELINUX") != "disabled"
            and _POLICY.fullmatch(policy)
            and guest.is_file(specification)
            and guest.relabel(specification, context.unlabelled)
        ):
            guest.remove("/.autorelabel")
        else:
            _exclude_at_boot(guest, context.unlabelled)
            guest.touch("/.autorelabel")


@operation(
    "selinux-relabel-exclude",
    progress="Leaving SELinux labels below {path} as they are",
    form=argforms.single("DIR"),
    phase=Phase.SETTING,
)
@dataclass(frozen=True)
class SelinuxRelabelExclude(SettingOperation):
    """Leave out a directory when files in an SELinux guest are relabelled.

    It may be given several times. If the guest relabels itself at its first boot, the directory is added to
    the guest's list /etc/selinux/fixfiles_exclude_dirs and stays in it.

    Attributes:
        path: The directory in the guest.
    """

    path: str = field(metadata=values.GUEST_PATH)


def _exclude_at_boot(guest: Guest, folders: Sequence[str]) -> None:
    """Add directories to the list that the guest's fixfiles(8) reads."""
    if not folders:
        return
    known = read_if_present(guest, _EXCLUDED).decode(errors="surrogateescape")
    missing = [folder for folder in folders if folder not in known.splitlines()]
    head = f"{known}\n" if known and not known.endswith("\n") else known
    text = head + "".join(f"{folder}\n" for folder in missing)
    guest.write(_EXCLUDED, text.encode(errors="surrogateescape"))


def has_selinux(guest: Guest) -> bool:
    """Tell whether the guest uses SELinux, by the same files as virt-builder."""
    return guest.is_file("/etc/selinux/config") and (
        guest.is_file("/usr/sbin/load_policy") or guest.is_file("/sbin/load_policy")
    )


def warn_of_missing_policy(guest: Guest, on_event: Reporter) -> None:
    """Warn if the guest enforces SELinux, but would find no policy to load when it boots."""
    if not has_selinux(guest):
        return
    config = _assignments(guest.read("/etc/selinux/config").decode(errors="replace"))
    policy = config.get("SELINUXTYPE", "targeted")
    if config.get("SELINUX") != "enforcing":
        return
    name = without_controls(one_line(policy, 64))
    if not _POLICY.fullmatch(policy) or not guest.glob(f"/etc/selinux/{policy}/policy/policy.*"):
        warn(
            on_event,
            f"the guest enforces SELinux and its policy {name} is missing: it does not boot unless an "
            "operation installs the policy, or sets SELINUX=permissive in /etc/selinux/config",
        )


def _assignments(text: str) -> dict[str, str]:
    """Read ``NAME=value`` lines, selinux(8)."""
    pairs = [line.split("=", 1) for line in text.split("\n") if "=" in line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, value in pairs}

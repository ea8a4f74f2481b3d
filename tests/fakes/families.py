"""Guests of each kind in memory: the files that identify each kind, and those that operations need."""

from __future__ import annotations

import re

from imgbuilder.guests.ports import CommandResult
from tests.fakes.guest import FakeGuest
from tests.fakes.windows import fill_windows

_SYSTEMD = "/etc/systemd/system/"
_ENABLED = f"{_SYSTEMD}multi-user.target.wants/"
_NETWORKD, _MANAGER = f"{_ENABLED}systemd-networkd.service", f"{_ENABLED}NetworkManager.service"
_IFUPDOWN = "/sbin/ifup /etc/network/interfaces"
_OPENRC = "/etc/runlevels/default/ /sbin/openrc-run /etc/init.d/"
KINDS: dict[str, tuple[str, str]] = {
    "Debian 11-13": ("ID=debian\nVERSION_ID=12", f"/usr/bin/apt-get {_SYSTEMD} /etc/init.d/ {_IFUPDOWN}"),
    "Debian, Devuan without systemd": (
        "ID=devuan\nID_LIKE=debian",
        f"/usr/bin/apt-get /etc/init.d/ {_IFUPDOWN}",
    ),
    "Ubuntu": (
        "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=24.04",
        f"/usr/bin/apt-get {_SYSTEMD} /etc/init.d/ /usr/sbin/netplan",
    ),
    "Fedora with dnf5": ("ID=fedora\nVERSION_ID=42", f"/usr/bin/dnf5 {_SYSTEMD} /etc/rc.d/ {_MANAGER}"),
    "RHEL, Rocky, Alma 8-10": (
        "ID=rocky\nID_LIKE=rhel\nVERSION_ID=9.4",
        f"/usr/bin/dnf {_SYSTEMD} /etc/rc.d/ {_MANAGER}",
    ),
    "RHEL with microdnf": ("ID=rhel\nVERSION_ID=9.4", f"/usr/bin/microdnf {_SYSTEMD} {_MANAGER}"),
    "CentOS, RHEL 7": ("ID=centos\nVERSION_ID=7", f"/usr/bin/yum {_SYSTEMD} /etc/rc.d/ {_MANAGER}"),
    "CentOS, RHEL 5-6": ("", "/usr/bin/yum /etc/rc.d/ /etc/redhat-release /etc/sysconfig/network"),
    "openSUSE, SLES 12-15": ("ID=sles\nID_LIKE=suse\nVERSION_ID=15.5", f"/usr/bin/zypper {_SYSTEMD}"),
    "SLES 11": ("", "/usr/bin/zypper /etc/init.d/ /etc/SuSE-release /etc/HOSTNAME"),
    "Arch": ("ID=arch", f"/usr/bin/pacman {_SYSTEMD} {_NETWORKD}"),
    "Alpine": ("ID=alpine\nVERSION_ID=3.23", f"/sbin/apk {_OPENRC} {_IFUPDOWN}"),
    "Void": ("ID=void", "/usr/bin/xbps-install /etc/runit/runsvdir/default/"),
    "Photon, Azure Linux": ("ID=photon\nVERSION_ID=5.0", f"/usr/bin/tdnf {_SYSTEMD} {_NETWORKD}"),
    "Mageia": ("ID=mageia\nVERSION_ID=9", f"/usr/sbin/urpmi {_SYSTEMD}"),
    "Gentoo": ("ID=gentoo", f"/usr/bin/emerge {_OPENRC}"),
    "NixOS": ("ID=nixos", "/etc/nixos/configuration.nix"),
    "OpenWrt": ("ID=openwrt\nVERSION_ID=24.10", "/bin/opkg /etc/dropbear/ /etc/config/system"),
    "other Linux with systemd": ("ID=clear-linux-os", f"/usr/bin/swupd {_SYSTEMD}"),
    "other Linux": ("ID=buildroot", "/etc/inittab"),
    "Windows": ("", ""),
    "FreeBSD": ("ID=freebsd", "/bin/freebsd-version"),
}
"""By name: its os-release, and the paths that it has; folders end with a slash."""

PASSWD = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"


def guest_of(kind: str) -> FakeGuest:
    """Return a guest of a kind, with two users and some files."""
    release, paths = KINDS[kind]
    guest = FakeGuest()
    if kind == "Windows":
        return fill_windows(guest)
    for path in paths.split():
        if path.endswith("/"):
            guest.add_dir(path.rstrip("/"))
        else:
            guest.add(path, mode=0o755)
    if release:
        guest.add("/etc/os-release", f"{release}\n")
    if kind == "SLES 11":
        guest.add("/etc/HOSTNAME", "old\n")
    for folder in ("/tmp", "/root", "/var/lib/systemd"):
        guest.add_dir(folder)
    for name in ("a", "b", "tree/c"):
        guest.add(f"/srv/{name}", "old\n")
    guest.add("/etc/passwd", PASSWD)
    guest.add("/etc/shadow", "root:*:19000:0:99999:7:::\nann:!:19000:0:99999:7:::\n", mode=0o640)
    guest.add("/etc/group", "root:x:0:\nwheel:x:10:\n")
    guest.add("/usr/share/zoneinfo/Europe/Berlin", b"TZif2")
    guest.add("/root/.ash_history", "secret\n")
    for program in ("/usr/bin/cloud-init", "/bin/sh"):
        guest.add(program, mode=0o755)
    guest.add("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n")
    guest.add("/usr/sbin/load_policy")
    guest.on_sh("adduser", lambda script: _add_user(guest, script))
    return guest


def _add_user(guest: FakeGuest, script: str) -> CommandResult:
    match = re.search(r"adduser -D .* (\w+)\n", script)
    assert match is not None
    guest.append("/etc/passwd", f"{match[1]}:x:1007:1007::/home/{match[1]}:/bin/sh\n".encode())
    guest.append("/etc/shadow", f"{match[1]}:!:19000:0:99999:7:::\n".encode())
    return CommandResult(0, "")

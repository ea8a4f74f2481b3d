"""Facts about a guest, such as its distribution, and what it offers to operations.

The facts are read from a few files: full inspection by libguestfs takes as long as booting the appliance
under emulation. os-release(5) and the programs of package managers and init systems are enough.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from imgbuilder.guests.ports import Guest
from imgbuilder.guests.roots import read_os_release
from imgbuilder.host.text import one_line, without_controls

_LONGEST_NAME = 100
_PLAIN_ID = re.compile(r"[a-z0-9][a-z0-9._-]*")


class System(enum.Enum):
    """Kinds of operating systems."""

    LINUX = "linux"
    WINDOWS = "windows"
    FREEBSD = "freebsd"


EVERYWHERE = (System.LINUX, System.WINDOWS)
"""The kinds of guests that can be changed."""


class Family(enum.Enum):
    """Distributions that keep their files in the same places."""

    DEBIAN = "debian"
    FEDORA = "fedora"
    RHEL = "rhel"
    SUSE = "suse"
    ARCH = "arch"
    ALPINE = "alpine"
    VOID = "void"
    MAGEIA = "mageia"
    PARDUS = "pardus"
    PHOTON = "photon"
    GENTOO = "gentoo"
    NIXOS = "nixos"
    OPENWRT = "openwrt"
    OTHER = "other"


class PackageManager(enum.Enum):
    """The known package managers."""

    APT = "apt"
    DNF = "dnf"
    DNF5 = "dnf5"
    YUM = "yum"
    MICRODNF = "microdnf"
    TDNF = "tdnf"
    ZYPPER = "zypper"
    PACMAN = "pacman"
    APK = "apk"
    XBPS = "xbps"
    URPMI = "urpmi"
    PISI = "pisi"


class Init(enum.Enum):
    """The known programs that start a system's services."""

    SYSTEMD = "systemd"
    OPENRC = "OpenRC"
    SYSV = "System V init"
    RUNIT = "runit"


class NetworkProgram(enum.Enum):
    """The known programs that set up a system's network."""

    NETPLAN = "netplan"
    NETWORK_MANAGER = "NetworkManager"
    NETWORKD = "systemd-networkd"
    IFUPDOWN = "ifupdown"


_FAMILIES = {
    Family.DEBIAN: "debian ubuntu kali linuxmint raspbian devuan pureos",
    Family.FEDORA: "fedora",
    Family.RHEL: "rhel centos rocky almalinux ol scientific amzn openeuler kylin neokylin anolis",
    Family.SUSE: "suse opensuse opensuse-leap opensuse-tumbleweed sles sled sle-micro",
    Family.ARCH: "arch archarm manjaro",
    Family.ALPINE: "alpine",
    Family.VOID: "void",
    Family.MAGEIA: "mageia mandriva openmandriva",
    Family.PARDUS: "pisilinux",
    Family.PHOTON: "photon mariner azurelinux",
    Family.GENTOO: "gentoo funtoo calculate",
    Family.NIXOS: "nixos",
    Family.OPENWRT: "openwrt lede immortalwrt",
}
_FAMILY_OF = {name: family for family, names in _FAMILIES.items() for name in names.split()}

_OLD_RELEASE_FILES = (
    ("/etc/debian_version", "debian"),
    ("/etc/openwrt_release", "openwrt"),
    ("/etc/fedora-release", "fedora"),
    ("/etc/redhat-release", "rhel"),
    ("/etc/SuSE-release", "suse"),
    ("/etc/alpine-release", "alpine"),
    ("/etc/arch-release", "arch"),
)
"""Files of systems older than os-release, the special ones before the general ones."""

_PROGRAMS = (
    ("/usr/bin/apt-get", PackageManager.APT),
    ("/usr/sbin/urpmi", PackageManager.URPMI),
    ("/usr/bin/zypper", PackageManager.ZYPPER),
    ("/usr/bin/dnf", PackageManager.DNF),
    ("/usr/bin/dnf5", PackageManager.DNF5),
    ("/usr/bin/tdnf", PackageManager.TDNF),
    ("/usr/bin/yum", PackageManager.YUM),
    ("/usr/bin/microdnf", PackageManager.MICRODNF),
    ("/usr/bin/pacman", PackageManager.PACMAN),
    ("/sbin/apk", PackageManager.APK),
    ("/usr/bin/xbps-install", PackageManager.XBPS),
    ("/usr/bin/pisi", PackageManager.PISI),
)
"""The order matters: Mageia may have dnf besides urpmi, Fedora may have apt for making Debian packages."""

_FIRST_CHOICE = {
    Family.FEDORA: (PackageManager.DNF, PackageManager.DNF5, PackageManager.YUM, PackageManager.MICRODNF),
    Family.RHEL: (PackageManager.DNF, PackageManager.DNF5, PackageManager.YUM, PackageManager.MICRODNF),
    Family.PHOTON: (PackageManager.TDNF,),
    Family.SUSE: (PackageManager.ZYPPER,),
    Family.ARCH: (PackageManager.PACMAN,),
    Family.ALPINE: (PackageManager.APK,),
    Family.VOID: (PackageManager.XBPS,),
}


_OPENRC = ("/sbin/openrc-run", "/usr/bin/openrc-run", "/usr/sbin/openrc-run")
_RUNIT = "/etc/runit/runsvdir/default"
_ENABLED = "/etc/systemd/system/multi-user.target.wants"
_NETWORK_SIGNS = {
    NetworkProgram.NETPLAN: ("/usr/sbin/netplan", "/usr/bin/netplan"),
    NetworkProgram.NETWORK_MANAGER: (
        f"{_ENABLED}/NetworkManager.service",
        "/etc/runlevels/default/networkmanager",
    ),
    NetworkProgram.NETWORKD: (f"{_ENABLED}/systemd-networkd.service",),
    NetworkProgram.IFUPDOWN: ("/usr/sbin/ifup", "/sbin/ifup"),
}
"""Files or links that show that the program is used, the first program first: some build on later ones."""
_OTHER_IFUP = (Family.OPENWRT, Family.SUSE)
"""Their ifup is a different program."""
_SYSV = {
    Family.DEBIAN: "/etc/init.d",
    Family.FEDORA: "/etc/rc.d",
    Family.RHEL: "/etc/rc.d",
    Family.SUSE: "/etc/init.d",
}
"""The folder that shows that a guest of the family can have System V init."""


@dataclass(frozen=True)
class GuestFacts:
    """Facts about a guest."""

    distro: str
    """os-release's ID, such as ``debian``, or ``unknown``."""
    family: Family
    version: tuple[int, int]
    """Major and minor version; (0, 0) if unknown or rolling."""
    package_manager: PackageManager | None
    product_name: str
    """Its name for people; printable."""
    system: System = System.LINUX
    inits: tuple[Init, ...] = ()
    """The programs that may start its services; a guest may have the files of several."""
    network: NetworkProgram | None = None
    """The program that sets up its network."""


def read_facts(guest: Guest) -> GuestFacts:
    """Read the facts about a mounted guest."""
    release = read_os_release(guest)
    distro = release.get("ID", "").lower()
    if not _PLAIN_ID.fullmatch(distro):
        distro = next((name for path, name in _OLD_RELEASE_FILES if guest.exists(path)), "unknown")
    candidates = [distro, *release.get("ID_LIKE", "").lower().split()]
    family = next((_FAMILY_OF[name] for name in candidates if name in _FAMILY_OF), Family.OTHER)
    name = release.get("PRETTY_NAME") or release.get("NAME") or distro
    system = _system(guest, distro)
    if system is System.WINDOWS:
        name = "Windows"
    return GuestFacts(
        distro=distro,
        family=family,
        version=_version(release.get("VERSION_ID", "")),
        package_manager=_package_manager(guest, family),
        product_name=without_controls(one_line(name, _LONGEST_NAME)),
        system=system,
        inits=_inits(guest, family),
        network=_network(guest, family),
    )


def _system(guest: Guest, distro: str) -> System:
    if distro == "freebsd" or guest.exists("/bin/freebsd-version"):
        return System.FREEBSD
    if distro == "unknown" and guest.glob("/[Ww][Ii][Nn][Dd][Oo][Ww][Ss]/[Ss][Yy][Ss][Tt][Ee][Mm]32"):
        return System.WINDOWS
    return System.LINUX


def _inits(guest: Guest, family: Family) -> tuple[Init, ...]:
    if family is Family.NIXOS:  # generates the folders of systemd itself
        return ()
    found = {
        Init.SYSTEMD: guest.is_dir("/etc/systemd/system"),
        Init.OPENRC: guest.is_dir("/etc/runlevels/default") and any(map(guest.exists, _OPENRC)),
        Init.SYSV: family in _SYSV and guest.is_dir(_SYSV[family]),
        Init.RUNIT: guest.is_dir(_RUNIT),
    }
    return tuple(init for init, present in found.items() if present)


def _network(guest: Guest, family: Family) -> NetworkProgram | None:
    for program in NetworkProgram:
        if program is NetworkProgram.IFUPDOWN and (family in _OTHER_IFUP or not guest.is_dir("/etc/network")):
            continue
        if any(guest.exists(path) or guest.is_symlink(path) for path in _NETWORK_SIGNS[program]):
            return program
    return None


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?", text)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def _package_manager(guest: Guest, family: Family) -> PackageManager | None:
    present = [manager for path, manager in _PROGRAMS if guest.exists(path)]
    if PackageManager.DNF5 in present and PackageManager.DNF in present and guest.is_symlink("/usr/bin/dnf"):
        present.remove(PackageManager.DNF)  # in Fedora since 41 it is dnf5
    for manager in _FIRST_CHOICE.get(family, ()):
        if manager in present:
            return manager
    return present[0] if present else None

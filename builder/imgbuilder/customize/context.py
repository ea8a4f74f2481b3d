"""Facts about a guest, such as its distribution, and the context in which operations are applied to it.

The facts are read from a few files: full inspection by libguestfs takes as long as booting the appliance
under emulation. os-release(5) and the package manager's program are enough for the operations.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize.passwords import Crypto
from imgbuilder.customize.secrecy import Mask, proxy_passwords
from imgbuilder.events import Reporter, ignore
from imgbuilder.guests.ports import Guest
from imgbuilder.guests.roots import read_os_release
from imgbuilder.host.text import one_line, without_controls
from imgbuilder.host.variation import Variation

_LONGEST_NAME = 100
_PLAIN_ID = re.compile(r"[a-z0-9][a-z0-9._-]*")


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
    OTHER = "other"


class PackageManager(enum.Enum):
    """The known package managers, which are virt-builder's."""

    APT = "apt"
    DNF = "dnf"
    YUM = "yum"
    ZYPPER = "zypper"
    PACMAN = "pacman"
    APK = "apk"
    XBPS = "xbps"
    URPMI = "urpmi"
    PISI = "pisi"


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
}
_FAMILY_OF = {name: family for family, names in _FAMILIES.items() for name in names.split()}

_OLD_RELEASE_FILES = (
    ("/etc/debian_version", "debian"),
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
    ("/usr/bin/dnf5", PackageManager.DNF),
    ("/usr/bin/yum", PackageManager.YUM),
    ("/usr/bin/pacman", PackageManager.PACMAN),
    ("/sbin/apk", PackageManager.APK),
    ("/usr/bin/xbps-install", PackageManager.XBPS),
    ("/usr/bin/pisi", PackageManager.PISI),
)
"""The order matters: Mageia may have dnf besides urpmi, Fedora may have apt for making Debian packages."""

_FIRST_CHOICE = {
    Family.FEDORA: (PackageManager.DNF, PackageManager.YUM),
    Family.RHEL: (PackageManager.DNF, PackageManager.YUM),
    Family.SUSE: (PackageManager.ZYPPER,),
    Family.ARCH: (PackageManager.PACMAN,),
    Family.ALPINE: (PackageManager.APK,),
    Family.VOID: (PackageManager.XBPS,),
}


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


def read_facts(guest: Guest) -> GuestFacts:
    """Read the facts about a mounted guest."""
    release = read_os_release(guest)
    distro = release.get("ID", "").lower()
    if not _PLAIN_ID.fullmatch(distro):
        distro = next((name for path, name in _OLD_RELEASE_FILES if guest.exists(path)), "unknown")
    candidates = [distro, *release.get("ID_LIKE", "").lower().split()]
    family = next((_FAMILY_OF[name] for name in candidates if name in _FAMILY_OF), Family.OTHER)
    name = release.get("PRETTY_NAME") or release.get("NAME") or distro
    return GuestFacts(
        distro=distro,
        family=family,
        version=_version(release.get("VERSION_ID", "")),
        package_manager=_package_manager(guest, family),
        product_name=without_controls(one_line(name, _LONGEST_NAME)),
    )


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?", text)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def _package_manager(guest: Guest, family: Family) -> PackageManager | None:
    present = [manager for path, manager in _PROGRAMS if guest.exists(path)]
    for manager in _FIRST_CHOICE.get(family, ()):
        if manager in present:
            return manager
    return present[0] if present else None


@dataclass(frozen=True)
class GuestContext:
    """Facts about the guest, and options, for one customization.

    ``run.customize`` sets the fields from ``log_file`` on, except ``follow`` and ``command_limit``.
    """

    facts: GuestFacts
    arch: str
    """The guest's architecture, normalised."""
    runs_commands: bool = True
    """True if the guest's programs can run in this appliance."""
    network: bool = True
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Lower-case proxy variables of the host; not shown, since they may contain credentials."""
    password_crypto: Crypto = Crypto.SHA512
    implicit_root_password: bool = False
    """True if root gets a random password if no operation sets one."""
    log_file: str = "/tmp/builder.log"  # noqa: S108 - a path in the guest
    """The file in the guest for the output of commands."""
    on_event: Reporter = field(default=ignore, repr=False)
    follow: bool = False
    """True if the output of commands is reported while they run."""
    command_limit: float | None = None
    """Seconds after which a command is stopped; None for no limit."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables for commands whose values are hidden everywhere."""
    mirror: str = field(default="", repr=False)
    package_cache: Path | None = None
    wanted: dict[str, str] = field(default_factory=dict, repr=False)
    """File names of packages that apt was about to fetch, and their SHA-256."""
    memory: str = ""
    """Folder in the guest that is not on its disk, or empty."""
    unlabelled: tuple[str, ...] = ()
    """Directories whose SELinux labels are not changed."""
    variation: Variation = field(default_factory=Variation, repr=False)

    @property
    def mask(self) -> Mask:
        """The mask for the secrets and the passwords of proxies."""
        return Mask([*self.secrets.values(), *proxy_passwords({**self.proxies, "mirror": self.mirror})])

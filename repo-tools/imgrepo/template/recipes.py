"""What each template is made of: suite, archive key, packages, sources.

A recipe is data; ``bootstrap.py`` installs it into a folder and ``disk.py``
puts that folder on a bootable disk.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from imgbuilder.errors import UsageError

DEBIAN_MIRROR = "http://deb.debian.org/debian"
DEBIAN_SECURITY_MIRROR = "http://deb.debian.org/debian-security"

GUEST_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Where the package debian-archive-keyring puts the keys, here as in the guest."""

_PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian Policy 5.6.1


class Kernel(enum.Enum):
    """Flavour of the guest's kernel."""

    CLOUD = "cloud"
    """Small and quick to boot; has virtio drivers but none for real hardware."""

    GENERIC = "generic"
    """Drivers for real hardware too, such as SATA controllers."""


_KERNEL_PACKAGES = {Kernel.CLOUD: "linux-image-cloud-amd64", Kernel.GENERIC: "linux-image-amd64"}

_PACKAGES = (
    # Starting: GRUB without the package grub-pc, whose upgrades ask on which disk to install the boot
    # sector. grub2-common still writes a new menu whenever a kernel comes or goes.
    "e2fsprogs",
    "grub-pc-bin",
    "grub2-common",
    "initramfs-tools",
    "kmod",
    "systemd-sysv",
    "udev",
    "zstd",
    # logind needs D-Bus, and without logind a virtual machine does not obey its power button.
    "dbus",
    "libpam-systemd",
    # Network and time.
    "iproute2",
    "iputils-ping",
    "netbase",
    "openssh-server",
    "systemd-resolved",
    "systemd-timesyncd",
    "tzdata",
    # What scripts expect everywhere.
    "ca-certificates",
    "debian-archive-keyring",
    "procps",
)


@dataclass(frozen=True)
class Recipe:
    """One kind of template.

    Attributes:
        name: What users ask for, and the guest's host name.
        suite: Code name of the release in the archive.
        packages: What is installed beside the release's essential and required packages.
        keyring: The keys that may sign the archive.
        keyring_package: The Debian package that brings ``keyring``.
    """

    name: str
    suite: str
    packages: tuple[str, ...] = _PACKAGES
    keyring: Path = GUEST_KEYRING
    keyring_package: str = "debian-archive-keyring"


RECIPES = {recipe.name: recipe for recipe in (Recipe("debian-12", "bookworm"), Recipe("debian-13", "trixie"))}


def check_mirror(url: str) -> None:
    """Check a mirror's URL before it becomes a line of apt's configuration.

    Raises:
        UsageError: It is no http, https or file URL, or has blanks or brackets, which apt gives a meaning.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    plain = url.isascii() and url.isprintable() and not re.search(r"[\s\[\]#\"'\\]", url)
    if not plain or parts.scheme not in {"http", "https", "file"} or not (parts.netloc or parts.path):
        raise UsageError(
            f"{url!r} is not the URL of a package mirror", hint=f"give one such as {DEBIAN_MIRROR}"
        )


@dataclass(frozen=True)
class Sources:
    """Where packages come from.

    Attributes:
        mirror: URL of the archive with the suite and its updates.
        security: URL of the archive with security updates.
    """

    mirror: str = DEBIAN_MIRROR
    security: str = DEBIAN_SECURITY_MIRROR

    def __post_init__(self) -> None:
        check_mirror(self.mirror)
        check_mirror(self.security)


DEBIAN = Sources()
"""Debian's own mirrors."""


def recipe_named(name: str) -> Recipe:
    """Return the recipe with this name.

    Raises:
        UsageError: There is none.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UsageError(
            f"there is no recipe for a template {name!r}", hint=f"known recipes: {', '.join(RECIPES)}"
        ) from None


def check_packages(names: tuple[str, ...]) -> None:
    """Check package names before they are given to mmdebstrap.

    Raises:
        UsageError: One of them cannot be a package's name (Debian Policy 5.6.1).
    """
    for name in names:
        if not _PACKAGE_NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not the name of a package")


def packages_of(recipe: Recipe, kernel: Kernel, include: tuple[str, ...]) -> tuple[str, ...]:
    """Return all packages to install, sorted and each once."""
    return tuple(sorted({*recipe.packages, _KERNEL_PACKAGES[kernel], *include}))


def build_sources(recipe: Recipe, sources: Sources, keyring: Path) -> tuple[str, ...]:
    """Return the lines of apt's sources for making the template; each names the keys that may sign it.

    Args:
        recipe: The template.
        sources: The mirrors to use.
        keyring: Absolute path of the keys on this machine.
    """
    return tuple(
        f"deb [signed-by={keyring}] {url} {suite} main"
        for url, suite in (
            (sources.mirror, recipe.suite),
            (sources.mirror, f"{recipe.suite}-updates"),
            (sources.security, f"{recipe.suite}-security"),
        )
    )

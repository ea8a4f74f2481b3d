"""The recipe of each template: suite, archive key, packages, mirrors, and our files in the guest.

A recipe is data; ``bootstrap.py`` installs it into a folder and ``disk.py``
puts that folder on a bootable disk.
"""

from __future__ import annotations

import enum
import io
import re
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from imgbuilder.errors import UsageError
from imgbuilder.fetch.urls import Address, hide_in
from imgrepo.template.disk import Layout, RootKind

DEBIAN_MIRROR = "http://deb.debian.org/debian"
DEBIAN_SECURITY_MIRROR = "http://deb.debian.org/debian-security"

GUEST_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Keys from the package debian-archive-keyring, on this machine as in the guest."""

_PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian Policy 5.6.1


class Kernel(enum.Enum):
    """Flavour of the guest's kernel."""

    CLOUD = "cloud"
    """Small and quick to boot; has drivers for virtio but not for real hardware."""

    GENERIC = "generic"
    """Has drivers for real hardware as well, such as SATA controllers."""


class Arch(enum.Enum):
    """Architecture of the guest, as Debian names it."""

    AMD64 = "amd64"
    I386 = "i386"


_KERNEL_PACKAGES = {
    (Arch.AMD64, Kernel.CLOUD): "linux-image-cloud-amd64",
    (Arch.AMD64, Kernel.GENERIC): "linux-image-amd64",
    # Debian has no small kernel for i386.
    (Arch.I386, Kernel.CLOUD): "linux-image-686-pae",
    (Arch.I386, Kernel.GENERIC): "linux-image-686-pae",
}
_EFI_PACKAGES = {Arch.AMD64: "grub-efi-amd64-bin", Arch.I386: "grub-efi-ia32-bin"}

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
class TemplateRecipe:
    """One kind of template.

    Attributes:
        name: Name for users, and the guest's host name.
        packages: Packages besides the release's essential and required ones.
        rolling: Whether it is a rolling suite, without suites for updates and security.
        old_grub: Whether its GRUB and kernel cannot read an XFS of today.
    """

    name: str
    suite: str
    packages: tuple[str, ...] = _PACKAGES
    arches: frozenset[Arch] = frozenset({Arch.AMD64})
    rolling: bool = False
    old_grub: bool = False
    keyring: Path = GUEST_KEYRING

    def suites(self, sources: Mirrors) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return the addresses of archives, and the suites that are used of each."""
        if self.rolling:
            return ((sources.mirror, (self.suite,)),)
        return (
            (sources.mirror, (self.suite, f"{self.suite}-updates")),
            (sources.security, (f"{self.suite}-security",)),
        )


_BOTH = frozenset({Arch.AMD64, Arch.I386})

RECIPES = {
    recipe.name: recipe
    for recipe in (
        TemplateRecipe(
            "debian-11",
            "bullseye",
            # There, systemd-resolved is still a part of systemd itself.
            packages=tuple(name for name in _PACKAGES if name != "systemd-resolved"),
            arches=_BOTH,
            old_grub=True,
        ),
        TemplateRecipe("debian-12", "bookworm", arches=_BOTH),
        TemplateRecipe("debian-13", "trixie"),
        TemplateRecipe("debian-sid", "sid", rolling=True),
    )
}


def check_mirror(url: str) -> None:
    """Check a mirror's URL before it becomes a line of apt's configuration."""
    address, url = Address(url), Address(url).reveal()
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    plain = url.isascii() and url.isprintable() and not re.search(r"[\s\[\]#\"'\\]", url)
    if not plain or parts.scheme not in {"http", "https", "file"} or not (parts.netloc or parts.path):
        raise UsageError(
            f"{str(address)!r} is not the URL of a package mirror", hint=f"give one such as {DEBIAN_MIRROR}"
        )


@dataclass(frozen=True)
class Mirrors:
    """The mirrors of the archive with the suite and its updates, and of the one with security updates."""

    mirror: str = DEBIAN_MIRROR
    security: str = DEBIAN_SECURITY_MIRROR

    def __post_init__(self) -> None:
        hide_in(self, "mirror", "security")
        check_mirror(self.mirror)
        check_mirror(self.security)


DEBIAN = Mirrors()
"""Debian's own mirrors."""


def recipe_named(name: str) -> TemplateRecipe:
    """Return the recipe with a name; a UsageError lists the known ones."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UsageError(
            f"no recipe makes a template {name!r}", hint=f"known recipes: {', '.join(RECIPES)}"
        ) from None


def check_packages(names: tuple[str, ...]) -> None:
    """Check package names before they go to mmdebstrap."""
    for name in names:
        if not _PACKAGE_NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not the name of a package")


def check_combination(recipe: TemplateRecipe, arch: Arch, layout: Layout) -> None:
    """Refuse a combination that cannot start, before anything is downloaded."""
    if arch not in recipe.arches:
        raise UsageError(
            f"{recipe.name} has no kernel for {arch.value}",
            hint=f"the last release that has one is debian-12: make-template debian-12 --arch {arch.value}",
        )
    if recipe.old_grub and layout.root is RootKind.XFS:
        raise UsageError(
            f"the GRUB of {recipe.name} cannot read an XFS of today", hint="give --root ext4 or --root btrfs"
        )


def packages_of(
    recipe: TemplateRecipe,
    kernel: Kernel,
    include: tuple[str, ...],
    *,
    arch: Arch = Arch.AMD64,
    layout: Layout = Layout(),  # noqa: B008 - frozen
) -> tuple[str, ...]:
    """Return all packages to install, sorted and each once."""
    more = {layout.root.package, _KERNEL_PACKAGES[arch, kernel], *include}
    if layout.uefi:
        more.add(_EFI_PACKAGES[arch])
    if layout.lvm:
        more.add("lvm2")
    return tuple(sorted({*recipe.packages, *more}))


def build_sources(recipe: TemplateRecipe, sources: Mirrors, keyring: Path) -> tuple[str, ...]:
    """Return the lines of apt's sources for making the template; each names the keys that may sign it."""
    return tuple(
        f"deb [signed-by={keyring}] {Address(url).reveal()} {suite} main"
        for url, suites in recipe.suites(sources)
        for suite in suites
    )


# Our files in a new template, and the commands that finish it: mmdebstrap's hooks apply both, at the speed of
# this machine and not of an emulated appliance.
PLAIN_LOCALE = "C.UTF-8"
"""The locale of every system without the package locales."""

_LOCALE = re.compile(r"C\.UTF-8|[a-z]{2,3}_[A-Z]{2}\.UTF-8(?:@[a-z]+)?")


@dataclass(frozen=True)
class GuestFile:
    """One file in the guest, owned by root."""

    path: str
    content: str
    mode: int = 0o644


_GRUB = """\
# Read update-grub's manual page, then run update-grub after a change.
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
# Both the screen and the first serial port; the last one named gets the messages of the start.
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200n8"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
GRUB_DISABLE_OS_PROBER=true
"""

_NETWORK = """\
# Every wired interface, under any name that the hypervisor gives it, asks for an address.
[Match]
Type=ether
Name=en* eth*

[Network]
DHCP=yes

[DHCPv4]
# A machine that is made again from the template keeps the address for its MAC address.
ClientIdentifier=mac
"""

_WAIT_ONLINE = """\
# One working interface is enough; one without a cable must not hold up the start.
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=30
"""

# A plain file, although systemd-resolved prefers a link into /run: without the running system, as in the
# appliance, that link points to nothing.
_RESOLV_CONF = """\
# systemd-resolved answers here with the servers that DHCP named; see: resolvectl status
nameserver 127.0.0.53
options edns0 trust-ad
"""

_HOST_KEYS = """\
[Unit]
Description=Make the SSH host keys of this machine
Documentation=man:ssh-keygen(1)
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
Before=ssh.service

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
"""

_FINISH = """\
systemctl enable systemd-networkd.service systemd-resolved.service ssh-host-keys.service
usermod --password '*' root
rm -f /etc/ssh/ssh_host_*
rm -f /etc/apt/sources.list /etc/apt/apt.conf.d/99mmdebstrap
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed
rm -f /var/lib/dpkg/*-old /var/cache/debconf/*-old /etc/*-
rm -f /var/log/alternatives.log /var/log/bootstrap.log /var/log/dpkg.log /var/log/apt/*
rm -rf /var/cache/ldconfig/aux-cache /var/log/journal/*
find /var/log -type f -exec truncate --size=0 {} +
"""


def check_locale(name: str) -> None:
    """Check the name of a locale before it stands in the guest's files."""
    if not _LOCALE.fullmatch(name):
        raise UsageError(
            f"{name!r} is not the name of a locale in UTF-8", hint="give one such as --locale de_DE.UTF-8"
        )


def finish_script(locale: str = PLAIN_LOCALE) -> str:
    """Return the shell commands that finish a new system from inside it; any failing command fails all."""
    return _FINISH if locale == PLAIN_LOCALE else f"locale-gen\n{_FINISH}"


def guest_files(
    recipe: TemplateRecipe, sources: Mirrors, locale: str = PLAIN_LOCALE
) -> tuple[GuestFile, ...]:
    """Return our files for a template."""
    generated = () if locale == PLAIN_LOCALE else (GuestFile("/etc/locale.gen", f"{locale} UTF-8\n"),)
    return (
        *generated,
        GuestFile("/etc/apt/sources.list.d/debian.sources", _apt_sources(recipe, sources)),
        GuestFile("/etc/default/grub", _GRUB),
        GuestFile("/etc/default/locale", f"LANG={locale}\n"),
        GuestFile("/etc/hostname", f"{recipe.name}\n"),
        GuestFile("/etc/hosts", _hosts(recipe.name)),
        GuestFile("/etc/resolv.conf", _RESOLV_CONF),
        GuestFile("/etc/systemd/network/99-dhcp.network", _NETWORK),
        GuestFile("/etc/systemd/system/ssh-host-keys.service", _HOST_KEYS),
        GuestFile(
            "/etc/systemd/system/systemd-networkd-wait-online.service.d/any-interface.conf", _WAIT_ONLINE
        ),
    )


def _apt_sources(recipe: TemplateRecipe, sources: Mirrors) -> str:
    """Return the guest's sources.list(5) in the deb822 style."""
    return "\n".join(
        f"Types: deb\nURIs: {Address(url).reveal()}\nSuites: {' '.join(suites)}\n"
        f"Components: main\nSigned-By: {GUEST_KEYRING}\n"
        for url, suites in recipe.suites(sources)
    )


def _hosts(name: str) -> str:
    return (
        f"127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    )


def write_overlay(files: tuple[GuestFile, ...], archive: Path, epoch: int | None = None) -> None:
    """Write files and their folders into a tar archive, owned by root; without ``epoch``, of now."""
    folders: set[str] = set()
    now = int(time.time()) if epoch is None else epoch
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for file in files:
            parts = file.path.strip("/").split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                if folder not in folders:
                    folders.add(folder)
                    entry = tarfile.TarInfo(folder)
                    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, now
                    tar.addfile(entry)
            content = file.content.encode()
            entry = tarfile.TarInfo("/".join(parts))
            entry.size, entry.mode, entry.mtime = len(content), file.mode, now
            tar.addfile(entry, io.BytesIO(content))

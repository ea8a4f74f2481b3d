"""Our files in a new template, and the commands that finish it.

mmdebstrap's hooks apply both, at the speed of this machine and not of an
emulated appliance.
"""

from __future__ import annotations

import io
import re
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import UsageError
from imgbuilder.fetch.urls import Address
from imgrepo.template.recipes import GUEST_KEYRING, Mirrors, TemplateRecipe

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

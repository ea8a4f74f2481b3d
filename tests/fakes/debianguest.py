"""A Debian guest in memory, and contexts for its customization."""

from __future__ import annotations

from typing import Any

from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import System, read_facts
from imgbuilder.customize.operation import Operation
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation
from tests.fakes.windows import WINDOWS_FACTS

DEBIAN = (
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
    "VERSION_CODENAME=bookworm\nID=debian\n"
)
PASSWD = (
    "root:x:0:0:root:/root:/bin/bash\n"
    "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
    "ann:x:1000:1001:Ann,,,:/home/ann:/bin/bash\n"
)
SHADOW = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\nann:!:19000:0:99999:7:::\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5fW1Y0Yv8E1uTqWm3s0c1l1m3Zr1aP5mUe8Xr0pQ2d ann@example.org"
OTHER_KEY = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 bob@example.org"


def debian_guest() -> FakeGuest:
    """Return a Debian 12 like its cloud templates: merged /usr, systemd, an empty machine ID."""
    return fill_debian(FakeGuest())


def fill_debian(guest: FakeGuest) -> FakeGuest:
    """Add the files of that Debian to a guest, and return it."""
    for folder in ("/tmp", "/root", "/usr/bin", "/var/lib/systemd", "/etc/systemd/system", "/etc/init.d"):
        guest.add_dir(folder)
    guest.add_link("/bin", "usr/bin")
    guest.add_link("/var/run", "/run")
    guest.add_dir("/run")
    guest.add("/usr/lib/os-release", DEBIAN)
    guest.add_link("/etc/os-release", "../usr/lib/os-release")
    guest.add("/usr/bin/apt-get", mode=0o755)
    guest.add("/usr/bin/sh", mode=0o755)
    guest.add("/etc/machine-id", b"", mode=0o444)
    guest.add("/etc/passwd", PASSWD)
    guest.add("/etc/shadow", SHADOW, mode=0o640, gid=42)
    guest.add("/etc/hostname", "debian\n")
    guest.add("/etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n")
    guest.add("/usr/share/zoneinfo/Europe/Berlin", b"TZif2 and more")
    guest.add_link("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
    return guest


def context_of(guest: FakeGuest, **changes: Any) -> GuestContext:
    """Return the context that a build makes, with changes."""
    facts = read_facts(guest)
    windows = WINDOWS_FACTS if facts.system is System.WINDOWS else None
    return GuestContext(**{"facts": facts, "arch": "x86_64", "windows": windows, **changes})


def apply(guest: FakeGuest, keyword: str, text: str = "", **changes: Any) -> Operation:
    """Parse one option and apply it."""
    operation = parse_operation(keyword, text)
    operation.apply(guest, context_of(guest, **changes))
    return operation

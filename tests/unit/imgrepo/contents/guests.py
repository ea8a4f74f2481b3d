"""Small guests with package databases like real ones, a record of contents, and the commands about them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.host.hashing import Fingerprint
from imgrepo.cli.main import run
from imgrepo.contents.packages import find_target, list_packages
from imgrepo.library.records import ContentsRecord, ImageMark, Package
from tests.fakes.appliance import FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest
from tests.unit.imgrepo.repository import Repository, image

WHEN = datetime(2026, 11, 25, 4, 0, 0, tzinfo=UTC)
MARK = ImageMark("ab" * 64, Fingerprint(1, 2, 3, 4))
PACKAGES = (
    Package("bash", "5.2.15-2+b7", "amd64", "bash", "5.2.15-2", ("GPL-3", "GPL 3"), copyleft=True),
    Package(
        "bison", "2:3.8", "amd64", "bison", "2:3.8", ("GPL-3.0-or-later WITH Bison-exception-2.2", "MIT")
    ),
    Package("libc6", "2.36-9", "amd64", "glibc", "2.36-9", ("LGPL-2.1-or-later",), copyleft=True),
    Package("libc6", "2.36-9", "i386", "glibc", "2.36-9", ("LGPL-2.1-or-later",), copyleft=True),
    Package("libstdc++6", "12.2.0-14", "amd64", "gcc-12", "12.2.0-14"),
)
CONTENTS = ContentsRecord(MARK, "Debian GNU/Linux 12 (bookworm)", "debian", "12", "dpkg", PACKAGES)

STATUS = """\
Package: bash
Essential: yes
Status: install ok installed
Priority: required
Architecture: amd64
Multi-Arch: foreign
Version: 5.2.15-2+b7
Source: bash (5.2.15-2)
Description: GNU Bourne Again SHell
 Bash is an sh-compatible command language interpreter.
 .
 And more.

Package: busybox-static
Status: install ok installed
Architecture: amd64
Version: 1:1.35.0-4+b3
Source: busybox (1:1.35.0-4)
Built-Using: glibc (= 2.36-9), libxcrypt (= 1:4.4.33-2)
Description: small

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
Description: only its settings are there

Package: libssl3
Status: install ok installed
Architecture: amd64
Version: 3.0.11-1
Source: openssl
Description: one

Package: libz
Status: install ok installed
Architecture: all
Version: 1.0-1
Description: without a known licence
"""

DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: busybox

Files: *
Copyright: The Author
License: GPL-2

Files: x/*
Copyright: The Author
License: BSD-3-clause and Expat
 text of it
 .
 more

License: GPL-2
 On Debian systems ...
"""

FREE_TEXT = """\
This is Debian GNU/Linux's prepackaged version of bash.

   This program is free software; you can redistribute it under the terms of the GNU General Public License.
On Debian systems, see `/usr/share/common-licenses/GPL-3'.
"""

APACHE = "Licensed under the Apache License, Version 2.0: see /usr/share/common-licenses/Apache-2.0.\n"

OS_RELEASE = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'


def debian_guest(status: str = STATUS) -> FakeGuest:
    guest = FakeGuest()
    guest.add("/usr/lib/os-release", OS_RELEASE)
    guest.add_link("/etc/os-release", "../usr/lib/os-release")
    guest.add("/var/lib/dpkg/status", status)
    guest.add("/usr/share/doc/bash/copyright", FREE_TEXT)
    guest.add("/usr/share/doc/busybox/copyright", DEP5)
    guest.add_link("/usr/share/doc/busybox-static", "/usr/share/doc/busybox")
    guest.add("/usr/share/doc/libssl3/copyright", APACHE)
    return guest


def disk_of(guest: FakeGuest) -> FakeDisk:
    return FakeDisk({1: FakeFilesystem("vfat"), 2: FakeFilesystem("ext4", guest)})


def look(folder: Path, disk: FakeDisk, appliances: FakeAppliances | None = None) -> ContentsRecord:
    path = image(folder / "a.img")
    appliances = appliances or FakeAppliances({"a.img": disk})
    return list_packages(find_target(path).image, appliances, ApplianceOptions(), lambda _event: None)


def sbom(repository: Repository, *words: str | Path) -> int:
    return run(["sbom", *[str(word) for word in words], "--quiet"], repository.services())

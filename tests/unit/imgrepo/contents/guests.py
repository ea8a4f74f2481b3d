"""Small guests with package databases that look like real ones."""

from __future__ import annotations

from tests.fakes.appliance import FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest

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
Description: nobody says its licence
"""

DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: busybox

Files: *
Copyright: Somebody
License: GPL-2

Files: x/*
Copyright: Somebody
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

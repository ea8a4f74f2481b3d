"""Guests in memory, for tests of review."""

from __future__ import annotations

from tests.fakes.guest import FakeGuest

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
git:x:990:990::/srv/git:/bin/sh
www:x:33:33::/var/www:/usr/sbin/nologin
"""


def guest() -> FakeGuest:
    """Return a guest without leftovers."""
    made = FakeGuest()
    made.add("/etc/os-release", "ID=debian\n")
    made.add("/etc/passwd", PASSWD)
    made.add("/etc/shadow", "root:*:19000:0:99999:7:::\n")
    made.add("/etc/machine-id", "uninitialized\n")
    made.add("/etc/hostname", "localhost\n")
    made.add_dir("/root")
    made.add_dir("/home/ann")
    made.add_dir("/srv/git")
    return made

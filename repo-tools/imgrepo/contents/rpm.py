"""Packages of Fedora, SUSE and their relatives: asked of the guest's own rpm, in the appliance.

The database has had three formats (Berkeley DB, ndb, SQLite), and each guest's
rpm knows its own. It runs in the appliance like any command of a customization:
without a network, on filesystems that are mounted read-only, and writes into
memory. What it says is checked as if it were hostile, since it may be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.guests.ports import Guest
from imgrepo.contents.licences import of_expression
from imgrepo.contents.reading import at_most, lines_of, read_text
from imgrepo.library.records import Package

_FOLDERS = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
_FILES = ("rpmdb.sqlite", "Packages.db", "Packages")
_MEMORY = "/tmp"  # noqa: S108 - in the guest, where memory is mounted on it
_LIST = f"{_MEMORY}/packages"
_LARGEST = 16 << 20
_LIMIT = 300.0
"""Seconds for rpm, under emulation."""

_FORMAT = r"%{NAME}\t%|EPOCH?{%{EPOCH}}|\t%{VERSION}\t%{RELEASE}\t%{ARCH}\t%{SOURCERPM}\t%{LICENSE}\n"
_SCRIPT = f"""\
export LC_ALL=C HOME={_MEMORY}
ask() {{
    rpm "$@" -qa --nodigest --nosignature --queryformat '{_FORMAT}' >{_LIST} 2>{_MEMORY}/words
    [ "$?" = 0 ] && [ -s {_LIST} ]
}}
ask --dbpath DATABASE && exit 0
# Some formats want to write even to read.
cp -r DATABASE {_MEMORY}/database && ask --dbpath {_MEMORY}/database && exit 0
tail -n 3 {_MEMORY}/words
exit 1
"""
_PSEUDO = "gpg-pubkey"
"""What rpm calls the keys in its database."""

_NONE = "(none)"
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~^:-]{0,200}")
_SOURCE = re.compile(r"(?P<name>.+)-(?P<version>[^-]+-[^-]+)\.(?:no)?src\.rpm")


def has_rpm(guest: Guest) -> bool:
    """Tell whether a guest has such a database."""
    return _database(guest) is not None


def _database(guest: Guest) -> str | None:
    for folder in _FOLDERS:
        if any(guest.is_file(f"{folder}/{name}") for name in _FILES):
            return folder
    return None


def read_rpm(guest: Guest) -> tuple[Package, ...]:
    """Ask for the packages of a mounted guest.

    Raises:
        GuestError: Its rpm cannot be run, or says what cannot be.
    """
    folder = _database(guest)
    assert folder is not None
    guest.mount_memory(_MEMORY)
    try:
        try:
            result = guest.sh(_SCRIPT.replace("DATABASE", folder), limit=_LIMIT)
        except GuestCallError as error:
            raise _not_asked(error.message) from error
        if result.status != 0:
            raise _not_asked(result.output.strip()[-500:] or f"status {result.status}")
        return tuple(at_most(parse_list(read_text(guest, _LIST, _LARGEST))))
    finally:
        guest.unmount(_MEMORY)


def _not_asked(reason: str) -> GuestError:
    return GuestError(
        f"the guest's rpm does not tell its packages: {reason}",
        hint="the image needs its rpm, and must be of an architecture that this machine runs",
    )


def parse_list(text: str) -> Iterator[Package]:
    """Read what rpm said.

    Args:
        text: A line for each package.

    Raises:
        GuestError: It cannot be understood; nothing is left out silently.
    """
    for line in filter(None, lines_of(text)):
        fields = line.split("\t")
        if len(fields) != 7:
            raise GuestError(f"the guest's rpm has a package that cannot be: {line[:120]!r}")
        name, epoch, version, release, arch, source, licence = fields
        if name == _PSEUDO:
            continue
        whole = f"{version}-{release}"
        origin = _SOURCE.fullmatch(source)
        source_name, source_version = (origin["name"], origin["version"]) if origin else (name, whole)
        words = (name, whole, arch, source_name, source_version)
        if not all(map(_WORD.fullmatch, words)) or not (epoch.isascii() and (epoch.isdigit() or not epoch)):
            raise GuestError(f"the guest's rpm has a package that cannot be: {line[:120]!r}")
        found = of_expression("" if licence == _NONE else licence)
        full = f"{epoch}:{whole}" if epoch not in ("", "0") else whole
        yield Package(name, full, arch, source_name, source_version, found.names, found.copyleft)

"""Packages of Alpine: ``/lib/apk/db/installed`` (apk-package(5))."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from imgbuilder.errors import GuestError
from imgbuilder.guests.ports import Guest
from imgrepo.contents.licences import of_expression
from imgrepo.contents.reading import at_most, lines_of, read_text
from imgrepo.library.records import Package

_PLACES = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
_LARGEST = 32 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}")
_VERSION = re.compile(r"[A-Za-z0-9._~-]{1,200}")


def has_apk(guest: Guest) -> bool:
    """Tell whether a guest has such a database."""
    return any(guest.is_file(path) for path in _PLACES)


def read_apk(guest: Guest) -> tuple[Package, ...]:
    """Read the packages of a mounted guest.

    Raises:
        GuestError: The database cannot be understood.
    """
    path = next(path for path in _PLACES if guest.is_file(path))
    return tuple(at_most(parse_installed(read_text(guest, path, _LARGEST))))


def parse_installed(text: str) -> Iterator[Package]:
    """Read a database.

    Args:
        text: Its content.

    Raises:
        GuestError: It cannot be understood; nothing is left out silently.
    """
    for fields in _paragraphs(text):
        name, version, arch = (fields.get(key, "") for key in "PVA")
        source = fields.get("o") or name
        if not all(map(_NAME.fullmatch, (name, arch, source))) or not _VERSION.fullmatch(version):
            raise GuestError(
                f"the guest's database has a package that cannot be: {name[:60]!r} {version[:60]!r}"
            )
        found = of_expression(fields.get("L", ""))
        # All packages of one source have the version that it was built as.
        yield Package(name, version, arch, source, version, found.names, found.copyleft)


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    for line in itertools.chain(lines_of(text), [""]):
        if not line:
            if fields:
                yield fields
            fields = {}
            continue
        key, colon, value = line.partition(":")
        if colon and len(key) == 1:  # F:, R: and the like come again and again, and tell of files
            fields.setdefault(key, value.strip())
        elif line.strip():
            fields.setdefault("", line)  # a paragraph all the same, and one that cannot be

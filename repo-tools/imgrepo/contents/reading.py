"""Reading files of a guest that may be hostile, within limits (``docs/threat-model.md`` T14, T15)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from imgbuilder.errors import GuestError
from imgbuilder.guests.ports import Guest
from imgrepo.library.records import Package

_MOST_PACKAGES = 20_000
"""More than twice as many as the largest guests have."""


def read_text(guest: Guest, path: str, limit: int) -> str:
    """Read a text in UTF-8; what is not becomes a replacement character.

    Args:
        guest: The guest, mounted.
        path: The file; links are followed inside the guest.
        limit: Most bytes that it may have.

    Raises:
        GuestCallError: It is not there, no regular file, or larger.
    """
    return guest.read(path, limit=limit).decode("utf-8", "replace")


def lines_of(text: str) -> Iterator[str]:
    """Yield the lines of a text one after the other: a list of all of them takes twenty times the memory."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def at_most(packages: Iterator[Package]) -> Iterator[Package]:
    """Yield packages.

    Raises:
        GuestError: There are more than any guest has.
    """
    yield from itertools.islice(packages, _MOST_PACKAGES)
    if next(packages, None) is not None:
        raise GuestError(f"the guest's database has more than {_MOST_PACKAGES} packages")

"""Debian's control files (deb822(5)) and the order of its versions, read by python-debian.

The files come from guests, mirrors and maintainers, any of whom may be hostile:
every exception of python-debian becomes a ``RepositoryError``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from imgbuilder.errors import RepositoryError

_RELATION = re.compile(r"\s*([^\s()]+)\s*\(\s*=\s*([^\s()]+)\s*\)\s*")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]{0,200}")
_VERSION = re.compile(r"[A-Za-z0-9.+:~-]{1,200}")

_MOST_FIELDS = 1000
"""Fields of a paragraph; python-debian takes half a KiB of memory for each."""

_MOST_RELATIONS = 10_000
"""Packages in one field."""

_STUMBLES = (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, RecursionError)


def is_package_name(name: str) -> bool:
    """Check whether a name is valid for a package (Debian Policy 5.6.7)."""
    return _PACKAGE.fullmatch(name) is not None


def is_version(version: str) -> bool:
    """Check whether a text is a valid version (Debian Policy 5.6.12)."""
    return _VERSION.fullmatch(version) is not None


def paragraphs(text: str, *, where: str) -> Iterator[Mapping[str, str]]:
    """Read the paragraphs of a control file; the names of fields are found in any case."""
    from debian.deb822 import Deb822  # late: few commands read control files

    try:
        # Not by apt_pkg, which reads in C, and only from real files.
        yield from Deb822.iter_paragraphs(_bounded_lines(text, where), use_apt_pkg=False)
    except _STUMBLES as error:
        raise RepositoryError(f"{where} is not a control file of Debian: {error}") from error


def _bounded_lines(text: str, where: str) -> Iterator[str]:
    """Yield lines one after the other; refuse a paragraph with too many fields."""
    start, fields = 0, 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end]
        fields = fields + (not line[0].isspace()) if line.strip() else 0
        if fields > _MOST_FIELDS:
            raise RepositoryError(f"{where} has a paragraph of more than {_MOST_FIELDS} fields")
        yield line
        start = end + 1


def exact_relations(text: str) -> tuple[tuple[str, str], ...]:
    """Read a field such as ``Built-Using``: names, each with one version in the form ``(= VERSION)``."""
    found = []
    if text.count(",") > _MOST_RELATIONS:
        raise RepositoryError(f"{text[:100]!r}... names more than {_MOST_RELATIONS} packages")
    for item in text.split(","):
        if not item.strip():
            continue
        match = _RELATION.fullmatch(item)
        if match is None or not is_package_name(match[1]) or not is_version(match[2]):
            raise RepositoryError(f"{item.strip()[:100]!r} is not a package with its version")
        found.append((match[1], match[2]))
    return tuple(found)


def compare_versions(left: str, right: str) -> int:
    """Compare two versions by Debian's rule (Debian Policy 5.6.12); return less than 0, 0, or more."""
    from debian.debian_support import NativeVersion

    try:
        first, second = NativeVersion(left), NativeVersion(right)
        return (first > second) - (first < second)
    except _STUMBLES as error:
        raise RepositoryError(f"{left!r} or {right!r} is not a version: {error}") from error

"""The licences of a package, and the source packages that they require.

Names become SPDX identifiers where the meaning is certain. The list that comes
with license-expression (that of ScanCode) classifies over two thousand licences.
A licence that is not in it stays unknown, and counts as copyleft for sources.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from imgbuilder.errors import RepositoryError, UsageError
from imgrepo.contents.debcontrol import paragraphs
from imgrepo.library.records import ContentsRecord

_LONGEST_NAME = 80
_MOST_NAMES = 200
"""Names of one package; more than the Linux kernel's copyright file has."""
_LONGEST_EXPRESSION = 1 << 16
_MORE = "(more)"
"""The name, in an expression that is not read to its end, of all further licences: they are not known."""

_FORMAT = re.compile(r"copyright-format|dep-?5", re.IGNORECASE)
_GNU = re.compile(r"([AL]?GPL|GFDL|FDL)(?:[- ]?v?([0-9](?:\.[0-9])?))?(\+|-only|-or-later)?", re.IGNORECASE)
_BETWEEN = re.compile(r"\s+(?:and/or|and|or)\s+|\s*[,;|/]\s*", re.IGNORECASE)
_EXCEPTION = re.compile(r"\s+with\s+", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]+")

_DEBIAN_NAMES = {
    "apache-2": "Apache-2.0",
    "artistic": "Artistic-1.0",
    "artistic-1": "Artistic-1.0",
    "artistic-2": "Artistic-2.0",
    "bsd-2-clauses": "BSD-2-Clause",
    "bsd-3-clauses": "BSD-3-Clause",
    "cc0": "CC0-1.0",
    "expat": "MIT",
    "lppl": "LPPL-1.0",
    "mpl-2": "MPL-2.0",
}
"""SPDX identifiers of short names in Debian's machine-readable format, in lower case."""

_FREE_NAMES = {
    "public-domain",
    "pd",
    "bsd",
    "bsd-style",
    "permissive",
    "mit/x11",
    "bsd-like",
    "public domain",
}
"""Names without an SPDX identifier that require nothing."""

_COPYLEFT = {"Copyleft", "Copyleft Limited"}
_FREE = {"Permissive", "Public Domain"}

_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z][A-Za-z0-9.-]*[A-Za-z0-9])")
_PHRASES = (
    (re.compile(r"GNU (?:Library|Lesser) General Public", re.IGNORECASE), "LGPL"),
    (re.compile(r"GNU Affero General Public", re.IGNORECASE), "AGPL"),
    (re.compile(r"GNU General Public|\bGPL\b"), "GPL"),
    (re.compile(r"GNU Free Documentation", re.IGNORECASE), "GFDL"),
    (re.compile(r"Mozilla Public License"), "MPL"),
    (re.compile(r"Apache License,? Version 2"), "Apache-2.0"),
    (re.compile(r"Permission is hereby granted, free of charge, to any person obtaining a copy"), "MIT"),
    (re.compile(r"Redistribution and use in source and binary forms"), "BSD"),
    (re.compile(r"Permission to use, copy, modify, and(?:/or)? distribute this software"), "ISC-like"),
    (re.compile(r"public domain", re.IGNORECASE), "public-domain"),
)
"""Phrases of licences in free text; they show the kind of licence, not its version."""


@dataclass(frozen=True)
class Licences:
    """Licences of a package, and whether one of them requires sources; None when that is not known."""

    names: tuple[str, ...] = ()
    copyleft: bool | None = None


UNKNOWN = Licences()


def of_copyright(text: str, *, where: str) -> Licences:
    """Read a copyright file of Debian: its machine-readable format, or the phrases in it."""
    try:
        found = _machine_readable(text, where)
    except RepositoryError:
        found = None
    return _judged(_from_phrases(text) if found is None else found)


def of_expression(text: str) -> Licences:
    """Read a licence field of rpm or apk: an SPDX expression, or the distribution's own names."""
    return _judged(_names_in(text.replace("(", " ").replace(")", " ")))


def is_spdx(name: str) -> bool:
    """Check whether a name is an SPDX identifier of a licence, with its exception if it has one."""
    base, _, exception = name.partition(" WITH ")
    known, more = _by_spdx().get(base.lower()), _by_spdx().get(exception.lower())
    good = known is not None and known.identifier == base and not known.is_exception
    return good and (
        not exception or (more is not None and more.identifier == exception and more.is_exception)
    )


def _machine_readable(text: str, where: str) -> list[str] | None:
    """Return the names in a machine-readable file; None if it is not machine-readable."""
    if not _FORMAT.search(text[:2000]):
        return None
    names: list[str] = []
    header = True
    for paragraph in paragraphs(text, where=where):
        if header and not _FORMAT.search(paragraph.get("Format", paragraph.get("Format-Specification", ""))):
            return None
        header = False
        synopsis = paragraph.get("License", "").strip().split("\n")[0]
        names += _names_in(synopsis)
    return names or None


def _names_in(synopsis: str) -> list[str]:
    """Return the names in an expression; of one that is too long to be real, the first and a mark."""
    # Runs of blanks would cost the patterns the square of their length.
    plain = " ".join(synopsis[:_LONGEST_EXPRESSION].split())
    items = list(dict.fromkeys(filter(str.strip, _BETWEEN.split(plain))))
    names = [] if len(synopsis) <= _LONGEST_EXPRESSION and len(items) <= _MOST_NAMES else [_MORE]
    for item in items[:_MOST_NAMES]:
        base, *exceptions = _EXCEPTION.split(item.strip(), maxsplit=1)
        name = _spdx_of(base)
        if exceptions:
            known = _by_spdx().get(exceptions[0].strip().lower())
            sound = known is not None and known.is_exception and is_spdx(name)
            name = f"{name} WITH {known.identifier}" if known and sound else f"{base} with {exceptions[0]}"
        names.append(name)
    return names


def _spdx_of(name: str) -> str:
    """Return the SPDX identifier for a short name, or the name itself."""
    name = name.strip()
    key = name.lower()
    known = _by_spdx().get(_DEBIAN_NAMES.get(key, name).lower())
    gnu = _GNU.fullmatch(name)
    if gnu and gnu[2]:
        family = gnu[1].upper().replace("FDL", "GFDL").replace("GG", "G")
        version = gnu[2] if "." in gnu[2] else f"{gnu[2]}.0"
        ending = "-or-later" if gnu[3] in ("+", "-or-later") else "-only"
        known = _by_spdx().get(f"{family}-{version}{ending}".lower(), known)
    return known.identifier if known else name


def _from_phrases(text: str) -> list[str]:
    names = [name.rstrip(".") for name in _COMMON.findall(text)]
    kinds = {name.split("-")[0] for name in names}
    names += [word for pattern, word in _PHRASES if word not in kinds and pattern.search(text)]
    return names


def _judged(names: Iterable[str]) -> Licences:
    clean = {_UNPRINTABLE.sub(" ", name).strip()[:_LONGEST_NAME] for name in names} - {""}
    kept = tuple(sorted(clean)[:_MOST_NAMES])
    answers = [_requires_sources(name) for name in kept]
    if len(clean) > len(kept):
        answers.append(None)  # a name that was left out may require sources
    if True in answers:
        return Licences(kept, copyleft=True)
    return Licences(kept, copyleft=False if answers and None not in answers else None)


def _requires_sources(name: str) -> bool | None:
    base = re.split(r" with ", name, flags=re.IGNORECASE)[0]
    known = _by_spdx().get(_spdx_of(base).lower())
    if known and known.category in _COPYLEFT:
        return True
    if (known and known.category in _FREE) or base.lower() in _FREE_NAMES:
        return False
    if _GNU.match(base) or base.upper().startswith(("MPL", "EPL", "CDDL", "CC-BY-SA")):
        return True
    return None


class _Known(NamedTuple):
    """A licence that SPDX lists: identifier, category, and whether it is only an exception to others."""

    identifier: str
    category: str
    is_exception: bool


@functools.cache
def _by_spdx() -> Mapping[str, _Known]:
    """Return the licences that SPDX lists, by identifier in lower case."""
    from license_expression import get_license_index  # late: it reads its list of licences

    entries = list(get_license_index())
    pairs = [(entry.get("spdx_license_key") or "", entry) for entry in entries]
    # Deprecated names such as GPL-2.0, which left open whether later versions apply.
    pairs += [(name, entry) for entry in entries for name in entry.get("other_spdx_license_keys", ())]
    found: dict[str, _Known] = {}
    for identifier, entry in pairs:
        if identifier and not identifier.startswith("LicenseRef-"):
            known = _Known(identifier, entry["category"], bool(entry["is_exception"]))
            found.setdefault(identifier.lower(), known)
    return found


def required_sources(contents: ContentsRecord) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the source packages that the licences in an image require, each with its binary packages.

    A licence that is not known counts as copyleft. Sources of other packages that went into a package
    (``Built-Using``) are part of its source.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for package in contents.packages:
        if package.copyleft is False:
            continue
        for source in ((package.source, package.source_version), *package.built_using):
            found.setdefault(source, set()).add(package.name)
    return {source: tuple(sorted(names)) for source, names in sorted(found.items())}


def select_sources(
    required: dict[tuple[str, str], tuple[str, ...]], names: tuple[str, ...]
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Select the source packages of some source or binary packages; without names, all that are required."""
    for name in names:
        if not any(name in (source[0], *binaries) for source, binaries in required.items()):
            raise UsageError(
                f"no package {name} in the image needs its sources", hint="see contents.json for the names"
            )
    return {
        source: binaries
        for source, binaries in required.items()
        if not names or set(names) & {source[0], *binaries}
    }

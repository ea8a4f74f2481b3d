"""Parsing of an index, with every rule of ``docs/threat-model.md`` P1-P17.

There are two readers of one format. For publishers one bad entry makes the whole
index bad: they want to know about a mistake. For users only that entry is left out,
with its names: no other entry may be selected by them instead.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from imgindex.errors import IndexSyntaxError
from imgindex.fields import read_entry, strip_line_ends
from imgindex.lexer import check_values, parse_document, shorten
from imgindex.model import Entry, Index, Refused
from imgindex.trust import VerifiedText

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgindex.lexer import Section
    from imgindex.trust import UnverifiedText


def parse_index(text: VerifiedText | UnverifiedText, *, where: str) -> Index:
    """Read an index.

    Args:
        text: The text inside the signature; or that of an unsigned source, without any frame.
        where: The source, for error messages.

    Returns:
        The templates in the order of the text. Blanks at line ends are gone from notes, names, comments
        and unknown fields, as they are from every signed text.

    Raises:
        IndexSyntaxError: The text breaks the format or a rule. An entry without SHA-512 breaks one when
            the text is verified: its template could be exchanged (P2).
    """
    document = parse_document(text.text, where=where, first_line=text.first_line)
    required = isinstance(text, VerifiedText)
    entries = [read_entry(section, checksum_required=required, where=where) for section in document.sections]
    for clash in _clashes(entries, where):
        raise clash.problem
    return Index(tuple(entries), strip_line_ends(document.head), strip_line_ends(document.tail))


def parse_usable(text: VerifiedText | UnverifiedText, *, where: str) -> Index:
    """Read an index for its users: entries that break a rule are left out, and listed with the reason.

    Entries of the same name and architecture are all left out, and an alias of two templates is dropped:
    it is not known which one was meant.

    Args:
        text: As for ``parse_index``.
        where: The source, for error messages.

    Raises:
        IndexSyntaxError: The text is not an index.
    """
    document = parse_document(text.text, where=where, first_line=text.first_line, strict=False)
    required = isinstance(text, VerifiedText)
    entries: list[Entry] = []
    refused: list[Refused] = []
    for section in document.sections:
        try:
            check_values(section, where)
            entries.append(read_entry(section, checksum_required=required, where=where))
        except IndexSyntaxError as error:
            refused.append(_refusal(error, section))
    kept = tuple(_unambiguous(entries, where, refused))
    return Index(kept, strip_line_ends(document.head), strip_line_ends(document.tail), tuple(refused))


def _refusal(error: IndexSyntaxError, section: Section) -> Refused:
    values = {field.key: field.value for field in section.fields if field.subkey is None}
    arch = values.get("arch")
    usable = (
        arch is not None and len(arch) < 100 and sum(field.key == "arch" for field in section.fields) == 1
    )
    return Refused(error, (section.name, *values.get("aliases", "").split(" ")), arch if usable else None)


def _unambiguous(entries: list[Entry], where: str, refused: list[Refused]) -> Iterator[Entry]:
    """Leave out entries and aliases that clash with others, and record them (P1, P17)."""
    clashes: dict[tuple[str, str | None], Refused] = {}
    for clash in _clashes(entries, where):
        clashes.setdefault((clash.names[0], clash.arch), clash)  # one for all of the same kind
    names = Counter((entry.os_version, entry.arch) for entry in entries)
    lost: dict[tuple[str, str], list[str]] = {}
    owners: dict[tuple[str, str], str] = {}
    shared = set()
    for entry in entries:
        key = entry.os_version, entry.arch
        if names[key] > 1:
            lost.setdefault(key, []).extend(entry.aliases)
        for alias in entry.aliases:
            if owners.setdefault((alias, entry.arch), entry.os_version) != entry.os_version:
                shared.add((alias, entry.arch))
    for (name, arch), clash in clashes.items():
        refused.append(clash._replace(names=(name, *lost.get((name, arch or ""), ()))))
    for entry in entries:
        if names[entry.os_version, entry.arch] == 1:
            own = tuple(alias for alias in entry.aliases if (alias, entry.arch) not in shared)
            yield entry if own == entry.aliases else replace(entry, aliases=own)


Examined = tuple[tuple[Entry, ...], tuple[IndexSyntaxError, ...]]
"""The good entries of an index, and the faults of the others."""


def examine_index(text: VerifiedText | UnverifiedText, *, where: str) -> Examined:
    """Read an index for its author: report every entry that ``parse_index`` would refuse, not only the first.

    Args:
        text: The text of the index.
        where: The file, for error messages.

    Returns:
        The entries that are good by themselves, and the faults of the others or between them, by line. A
        missing SHA-512 is always a fault, since the index is to be signed.

    Raises:
        IndexSyntaxError: The text is not an index.
    """
    entries: list[Entry] = []
    problems: list[IndexSyntaxError] = []
    for section in parse_document(text.text, where=where, first_line=text.first_line).sections:
        try:
            entries.append(read_entry(section, checksum_required=True, where=where))
        except IndexSyntaxError as error:
            problems.append(error)
    problems += [clash.problem for clash in _clashes(entries, where)]
    return tuple(entries), tuple(sorted(problems, key=lambda error: error.line or 0))


def _clashes(entries: Iterable[Entry], where: str) -> Iterator[Refused]:
    """Find pairs of entries with the same name or alias (P1, P17)."""
    by_name: dict[tuple[str, str], Entry] = {}
    by_alias: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        first = by_name.setdefault((entry.os_version, entry.arch), entry)
        if first is not entry:
            problem = (
                f"template {entry.os_version} for {entry.arch} is given twice, first in line {first.line}"
            )
            yield Refused(IndexSyntaxError(where, entry.line, problem), (entry.os_version,), entry.arch)
        for alias in entry.aliases:
            first = by_alias.setdefault((alias, entry.arch), entry)
            if first.os_version != entry.os_version:
                problem = (
                    f"templates {first.os_version} and {entry.os_version} for {entry.arch} "
                    f"have the same alias {shorten(alias)}"
                )
                yield Refused(IndexSyntaxError(where, entry.line, problem), (alias,), entry.arch)

"""From the text of an index to its meaning; every rule of ``reliability.md`` P1-P17.

One bad entry makes the whole index bad: what is wrong with it may be half of
an attack, and a publisher should hear of a mistake rather than lose a template.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgindex.errors import IndexSyntaxError
from imgindex.fields import read_entry, strip_line_ends
from imgindex.lexer import parse_document, shorten
from imgindex.model import Entry, Index
from imgindex.trust import VerifiedText

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
        raise clash
    return Index(tuple(entries), strip_line_ends(document.head), strip_line_ends(document.tail))


Examined = tuple[tuple[Entry, ...], tuple[IndexSyntaxError, ...]]
"""The right entries of an index, and what is wrong with the others."""


def examine_index(text: VerifiedText | UnverifiedText, *, where: str) -> Examined:
    """Read an index for its author: find every entry that ``parse_index`` would refuse, not only the first.

    Args:
        text: The text of the index.
        where: The file, for error messages.

    Returns:
        The entries that are right each by itself, and what is wrong with the others or between them, by
        line. A missing SHA-512 is always wrong, since the index is to be signed.

    Raises:
        IndexSyntaxError: The lines are no index at all.
    """
    entries: list[Entry] = []
    problems: list[IndexSyntaxError] = []
    for section in parse_document(text.text, where=where, first_line=text.first_line).sections:
        try:
            entries.append(read_entry(section, checksum_required=True, where=where))
        except IndexSyntaxError as error:
            problems.append(error)
    problems += _clashes(entries, where)
    return tuple(entries), tuple(sorted(problems, key=lambda error: error.line or 0))


def _clashes(entries: Iterable[Entry], where: str) -> Iterator[IndexSyntaxError]:
    """Find two entries that answer to the same request (P1, P17)."""
    by_name: dict[tuple[str, str], Entry] = {}
    by_alias: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        first = by_name.setdefault((entry.os_version, entry.arch), entry)
        if first is not entry:
            yield IndexSyntaxError(
                where,
                entry.line,
                f"template {entry.os_version} for {entry.arch} is given twice, first in line {first.line}",
            )
        for alias in entry.aliases:
            first = by_alias.setdefault((alias, entry.arch), entry)
            if first.os_version != entry.os_version:
                yield IndexSyntaxError(
                    where,
                    entry.line,
                    f"templates {first.os_version} and {entry.os_version} for {entry.arch} "
                    f"have the same alias {shorten(alias)}",
                )

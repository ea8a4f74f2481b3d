"""The lines of an index or of a source configuration file, grouped into sections.

Both kinds of file have one grammar (virt-builder(1), "Creating and signing
the index file"). It is read as the newest virt-builder reads it: comments and
empty lines may stand anywhere. Unlike there, empty lines *between* the
lines of one value belong to the value. Clear-signing cuts the blanks at the
ends of lines, and with them the single blank that marks an empty line of a
note, so that nothing else of that empty line is left in a signed text.

A comment belongs to the section header or field that follows it, wherever it
stands; only those above the first section that an empty line ends, and those
below the last field, belong to the file.

Lines end only at a newline (``docs/threat-model.md`` V7): for Python's own splitting,
other characters would end a line as well.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from imgindex.errors import IndexSyntaxError

MAX_TEXT_SIZE = 5_000_000
"""Longest text that is read, in bytes of UTF-8 (V1, P15)."""

LEAST_BYTES_PER_LINE = 10
"""Least average bytes per line of a largest text: many short lines cost far more memory (P15)."""

MAX_LINES = MAX_TEXT_SIZE // LEAST_BYTES_PER_LINE
"""Most lines, and so most fields, of a text."""

_SECTION = re.compile(r"\[([A-Za-z0-9._-]+)\][ \t]*")
_FIELD = re.compile(r"([A-Za-z0-9_.]+)(?:\[([A-Za-z0-9_,.]+)\])?=(.*)")

_FIELD_WITH_HYPHENS = re.compile(_FIELD.pattern.replace("_.]+)(?:", "_.-]+)(?:", 1))
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, further line separators, and halves of characters (P16)."""

MISLEADING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
"""Characters that control a terminal or mislead a reader: control characters except newline and tab,
those that change the direction of text, and invisible ones (Unicode TR 36)."""

_FORBIDDEN_ANYWHERE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""Those of them that the frame of a signed text may not hold either: the whole text is refused."""


class Field(NamedTuple):
    """One ``key=value`` of a section.

    Attributes:
        key: The part before ``=`` and before ``[``.
        subkey: The part inside ``[...]``, or None.
        value: Everything after ``=``, blanks included; lines of a longer value are joined with newlines.
        line: 1-based line of the key.
        comment: The comment lines before it, with their ``#``, joined with newlines.
    """

    key: str
    subkey: str | None
    value: str
    line: int
    comment: str = ""


class Section(NamedTuple):
    """One ``[name]`` with its fields, in the order of the file.

    Attributes:
        name: The part inside the brackets.
        line: 1-based line of the header.
        fields: All fields, repeated ones included.
        comment: The comment lines before the header.
    """

    name: str
    line: int
    fields: tuple[Field, ...]
    comment: str = ""


class Document(NamedTuple):
    """A whole text.

    Attributes:
        sections: The sections in order, repeated names included.
        head: The comment lines at the top that an empty line parts from the first section.
        tail: The comment lines below the last section.
    """

    sections: tuple[Section, ...] = ()
    head: str = ""
    tail: str = ""


def decode_text(data: bytes, *, where: str, limit: int = MAX_TEXT_SIZE) -> str:
    """Decode the bytes of an index or configuration file.

    Args:
        data: The whole file.
        where: The file or source, for error messages.
        limit: Most bytes that it may have.

    Raises:
        IndexSyntaxError: The file is too large or is not UTF-8.
    """
    _check_size(len(data), where, limit)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise IndexSyntaxError(where, line, "the text is not valid UTF-8") from None


def parse_sections(text: str, *, where: str, hyphens: bool = False) -> list[Section]:
    """Group the lines of a text into sections; the time needed is linear in its length.

    Args:
        text: The text of an index, without any OpenPGP frame, or of a source configuration file.
        where: The file or source, for error messages.
        hyphens: Allow hyphens in keys; never for an index, since virt-builder does not.

    Returns:
        The sections in order, repeated names included. An empty text has none.

    Raises:
        IndexSyntaxError: A line is not a comment, empty line, section, field or continuation; or a
            character is not allowed; or the last line does not end (as virt-builder).
    """
    return list(parse_document(text, where=where, hyphens=hyphens).sections)


def parse_document(
    text: str, *, where: str, hyphens: bool = False, first_line: int = 1, strict: bool = True
) -> Document:
    """Parse sections as ``parse_sections`` does, and the comments of the file.

    ``first_line`` is the number of the text's first line in its file. Without ``strict``, characters that
    are only dangerous to a terminal are left to ``check_values``, section by section.
    """
    _check_characters(text, where, first_line, _FORBIDDEN if strict else _FORBIDDEN_ANYWHERE)
    if not text:
        return Document()
    if text.count("\n") > MAX_LINES:
        raise IndexSyntaxError(where, None, f"the text has more than {MAX_LINES:,} lines")
    if not text.endswith("\n"):
        problem = "the last line does not end with a newline; the file may have been cut short"
        raise IndexSyntaxError(where, text.count("\n") + first_line, problem)
    lines = text.split("\n")
    lines.pop()
    return _Grouper(where, _FIELD_WITH_HYPHENS if hyphens else _FIELD).group(lines, first_line)


def check_values(section: Section, where: str) -> None:
    """Refuse a section with a forbidden character in a value."""
    for field in section.fields:
        found = None if field.value.isascii() else _FORBIDDEN.search(field.value)
        if found is not None:
            raise IndexSyntaxError(where, field.line, _not_allowed(found))


class _Grouper:
    """Groups the lines of one text."""

    def __init__(self, where: str, pattern: re.Pattern[str]) -> None:
        self._where = where
        self._pattern = pattern
        self._sections: list[Section] = []
        self._header: tuple[str, int, str] | None = None
        self._fields: list[Field] = []
        self._field: tuple[str, str | None, int, str] | None = None
        self._value: list[str] = []
        self._empty_lines = 0
        self._comments: list[str] = []
        self._head: list[str] = []

    def group(self, lines: list[str], first_line: int) -> Document:
        for number, line in enumerate(lines, first_line):
            if not line:
                self._empty_lines += 1
                if self._header is None:
                    self._head += self._comments
                    self._comments.clear()
            elif line[0] == "#":
                self._comments.append(line)
            elif line[0] in " \t":
                self._continue_value(line, number)
            elif match := self._pattern.fullmatch(line):
                self._start_field(match, number)
            elif match := _SECTION.fullmatch(line):
                self._end_section()
                self._header = (match[1], number, self._take_comments())
            else:
                raise IndexSyntaxError(self._where, number, _explain(line))
        self._end_section()
        if not self._sections:
            return Document(head="\n".join(self._head + self._comments))
        return Document(tuple(self._sections), "\n".join(self._head), self._take_comments())

    def _take_comments(self) -> str:
        if not self._comments:
            return ""
        comment = "\n".join(self._comments)
        self._comments.clear()
        return comment

    def _continue_value(self, line: str, number: int) -> None:
        if self._field is None:
            raise IndexSyntaxError(
                self._where,
                number,
                "the line starts with a blank, so it continues a field, but there is no field before it",
            )
        self._value.extend([""] * self._empty_lines)
        self._value.append(line[1:])
        self._empty_lines = 0

    def _start_field(self, match: re.Match[str], number: int) -> None:
        if self._header is None:
            raise IndexSyntaxError(self._where, number, "there is a field before the first [section]")
        self._end_field()
        self._field = (match[1], match[2], number, self._take_comments())
        self._value.append(match[3])
        self._empty_lines = 0

    def _end_field(self) -> None:
        if self._field is not None:
            key, subkey, number, comment = self._field
            self._fields.append(Field(key, subkey, "\n".join(self._value), number, comment))
        self._field = None
        self._value.clear()

    def _end_section(self) -> None:
        self._end_field()
        if self._header is not None:
            name, number, comment = self._header
            self._sections.append(Section(name, number, tuple(self._fields), comment))
        self._fields.clear()


def _check_size(size: int, where: str, limit: int = MAX_TEXT_SIZE) -> None:
    if size > limit:
        raise IndexSyntaxError(where, None, f"the text is larger than {limit:,} bytes")


def _not_allowed(found: re.Match[str]) -> str:
    return f"the control character U+{ord(found[0]):04X} is not allowed"


def _check_characters(text: str, where: str, first_line: int, forbidden: re.Pattern[str]) -> None:
    # The encoding of a text is never shorter than the text; encoding comes after the
    # search, because halves of characters cannot be encoded.
    _check_size(len(text), where)
    if text.startswith("\ufeff"):
        raise IndexSyntaxError(
            where, first_line, "the file starts with a byte order mark", hint="save it as UTF-8 without BOM"
        )
    found = forbidden.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + first_line
        if found[0] == "\r":
            problem = "there is a carriage return (are the line ends CR LF?)"
            raise IndexSyntaxError(where, line, problem, hint="save the file with Unix line ends")
        raise IndexSyntaxError(where, line, _not_allowed(found))
    if not text.isascii():
        _check_size(len(text.encode("utf-8")), where)


def _explain(line: str) -> str:
    shown = shorten(line)
    if line.startswith("-----BEGIN PGP"):
        return f"an OpenPGP frame inside the text: {shown}"
    if line.startswith("["):
        return f"not a section header, which is [name] of letters, digits and .-_ alone: {shown}"
    return f"neither a [section], nor a key=value field, nor a comment: {shown}"


def shorten(value: str) -> str:
    """Quote a piece of foreign text for a message, escaped and cut to about 60 characters."""
    if len(value) <= 60:
        return ascii(value)
    return ascii(value[:57]) + "..."

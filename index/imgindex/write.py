"""Writing an index, with fields in the order that virt-builder's own tool uses.

Each section is followed by exactly one empty line and has none inside, because
empty lines have a meaning for older virt-builders. The text is read back before it
is returned, so that nothing is published that means something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from imgindex.errors import IndexSyntaxError, RepositoryError
from imgindex.fields import entry_fields, field_label, is_known_field, strip_line_ends
from imgindex.lexer import shorten
from imgindex.model import Entry, Index
from imgindex.parse import parse_index
from imgindex.trust import UnverifiedText

LONGEST_LINE = 8192
"""Most bytes of a line that is written: we read longer ones, but not every client does."""


def tidy_note(text: str) -> str:
    """Make a text fit for a note, a name or an unknown field.

    Clear-signing cuts blanks at the ends of lines (RFC 9580 section 7.2), and an index cannot hold empty
    lines at the end of a value; ``write_index`` refuses both instead of changing its input.

    Args:
        text: Any text without control characters; newlines and tabs are kept.

    Returns:
        The same without blanks at line ends and without empty lines at its end.
    """
    return strip_line_ends(text)


def write_index(index: Index) -> str:
    """Write an index.

    Args:
        index: The index. Its texts must be as ``tidy_note`` returns them.

    Returns:
        The text, ready to be clear-signed; reading it returns an equal index.

    Raises:
        RepositoryError: A value breaks a rule of the format, or would not survive signing and reading.
    """
    for entry in index.entries:
        _check_entry(entry)
    for label, comment in (("the comment at the top", index.head), ("the comment at the end", index.tail)):
        _check_text("the index", label, comment)
        _check_lengths("the index", _lines(comment))
    text = "".join(f"{line}\n" for line in _index_lines(index))
    try:
        again = parse_index(UnverifiedText(text), where="new index")
    except IndexSyntaxError as error:
        raise RepositoryError(f"the index cannot be written: {error.problem}") from error
    if again != index:
        raise RepositoryError(f"the index cannot be written: {_first_difference(index, again)}")
    return text


def _check_entry(entry: Entry) -> None:
    for key, subkey, _value in entry.extra:
        if is_known_field(key, subkey):
            raise RepositoryError(
                f"template {entry.os_version}: {key} is a known field and cannot be an extra field"
            )
    what = f"template {entry.os_version}"
    for label, value in _texts(entry):
        _check_text(what, label, value)
    _check_lengths(what, _entry_lines(entry))


def _check_text(what: str, label: str, value: str) -> None:
    if value != tidy_note(value):
        raise RepositoryError(
            f"{what}: {label} has blanks at the end of a line or ends in an empty line, which a signature "
            f"does not keep: {shorten(value)}",
            hint="remove them",
        )


def _check_lengths(what: str, lines: Iterable[str]) -> None:
    for line in lines:
        if len(line.encode("utf-8", "replace")) > LONGEST_LINE:
            raise RepositoryError(
                f"{what}: a line is longer than {LONGEST_LINE:,} bytes: {shorten(line)}",
                hint="break the text into several lines",
            )


def _texts(entry: Entry) -> Iterator[tuple[str, str]]:
    yield "name", entry.name or ""
    yield "osinfo", entry.osinfo or ""
    for language, text in entry.notes:
        yield field_label("notes", language or None), text
    for key, subkey, value in entry.extra:
        yield field_label(key, subkey), value
    for before, text in entry.comments:
        yield f"the comment on {before or 'it'}", text


def _index_lines(index: Index) -> Iterator[str]:
    if index.head:
        yield from _lines(index.head)
        yield ""  # separates the comment from that on the first template
    for entry in index.entries:
        yield from _entry_lines(entry)
    yield from _lines(index.tail)


def _entry_lines(entry: Entry) -> Iterator[str]:
    comments = {comment.before: comment.text for comment in entry.comments}
    yield from _lines(comments.get(""))
    yield f"[{entry.os_version}]"
    for label, value in entry_fields(entry):
        yield from _lines(comments.get(label))
        first, *others = value.split("\n")
        yield f"{label}={first}"
        for line in others:
            yield f" {line}"
    yield ""


def _lines(comment: str | None) -> Iterator[str]:
    if comment:
        yield from comment.split("\n")


def _first_difference(index: Index, again: Index) -> str:
    for wanted, found in zip(index.entries, again.entries, strict=False):
        if wanted != found:
            return f"template {shorten(wanted.os_version)} would be read back differently"
    if len(index.entries) != len(again.entries):
        return "a different number of templates would be read back"
    return "the comments at its top or end would be read back differently"

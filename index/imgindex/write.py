"""From the meaning of an index to its text, in the order that virt-builder's own tool uses.

Each section is followed by exactly one empty line and has none inside, because
older virt-builders give empty lines a meaning. What is written is read back
before it is handed out, so that nothing is published that says something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgindex.clearsign import MAX_LINE_SIZE
from imgindex.errors import IndexSyntaxError, RepositoryError
from imgindex.lexer import shorten
from imgindex.parse import is_known_field, parse_index, strip_line_ends
from imgindex.trust import UnverifiedText

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgindex.model import Entry, Index


def tidy_note(text: str) -> str:
    """Make a text fit for a note, a name or an unknown field.

    Clear-signing cuts blanks at the ends of lines (RFC 9580 section 7.2), and an index cannot hold empty
    lines at the end of a value; ``write_index`` refuses both instead of changing what it was given.

    Args:
        text: Any text without control characters; newlines and tabs are kept.

    Returns:
        The same without blanks at line ends and without empty lines at its end.
    """
    return strip_line_ends(text)


def write_index(index: Index) -> str:
    """Write an index.

    Args:
        index: What to write. Texts must be as ``tidy_note`` returns them.

    Returns:
        The text, ready to be clear-signed; reading it returns an equal index.

    Raises:
        RepositoryError: A value breaks a rule of the format, or would not survive signing and reading.
    """
    for entry in index.entries:
        _check_entry(entry)
    text = "".join(f"{line}\n" for entry in index.entries for line in _entry_lines(entry))
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
                f"template {entry.os_version}: {key} is a field of its own and cannot be an extra field"
            )
    for label, value in _texts(entry):
        if value != tidy_note(value):
            raise RepositoryError(
                f"template {entry.os_version}: {label} has blanks at the end of a line or ends in an empty "
                f"line, which a signature does not keep: {shorten(value)}",
                hint="remove them",
            )
    for line in _entry_lines(entry):
        if len(line.encode("utf-8", "replace")) > MAX_LINE_SIZE:
            raise RepositoryError(
                f"template {entry.os_version}: a line is longer than {MAX_LINE_SIZE:,} bytes: "
                f"{shorten(line)}",
                hint="break the text into several lines",
            )


def _texts(entry: Entry) -> Iterator[tuple[str, str]]:
    yield "name", entry.name or ""
    yield "osinfo", entry.osinfo or ""
    for language, text in entry.notes:
        yield f"notes[{language}]" if language else "notes", text
    for key, subkey, value in entry.extra:
        yield key if subkey is None else f"{key}[{subkey}]", value


def _entry_lines(entry: Entry) -> Iterator[str]:
    yield f"[{entry.os_version}]"
    yield from _optional("name", entry.name)
    yield from _optional("osinfo", entry.osinfo)
    yield f"file={entry.file}"
    yield f"arch={entry.arch}"
    yield from _optional("sig", entry.sig)
    yield from _optional("checksum[sha512]", entry.sha512)
    yield f"revision={entry.revision}"
    yield from _optional("format", entry.format)
    yield f"size={entry.size}"
    yield from _optional("compressed_size", entry.compressed_size)
    yield from _optional("expand", entry.expand)
    yield from _optional("lvexpand", entry.lvexpand)
    for language, text in entry.notes:
        yield from _value_lines(f"notes[{language}]" if language else "notes", text)
    if entry.aliases:
        yield f"aliases={' '.join(entry.aliases)}"
    if entry.hidden:
        yield "hidden=true"
    if entry.zstd is not None:
        yield f"file[zstd]={entry.zstd.file}"
        yield f"checksum[zstd.sha512]={entry.zstd.sha512}"
        yield f"compressed_size[zstd]={entry.zstd.compressed_size}"
    for key, subkey, value in entry.extra:
        yield from _value_lines(key if subkey is None else f"{key}[{subkey}]", value)
    yield ""


def _optional(key: str, value: str | int | None) -> Iterator[str]:
    if value is not None:
        yield f"{key}={value}"


def _value_lines(label: str, value: str) -> Iterator[str]:
    first, *others = value.split("\n")
    yield f"{label}={first}"
    for line in others:
        yield f" {line}"


def _first_difference(index: Index, again: Index) -> str:
    for wanted, found in zip(index.entries, again.entries, strict=False):
        if wanted != found:
            return f"template {shorten(wanted.os_version)} would be read back differently"
    return "a different number of templates would be read back"

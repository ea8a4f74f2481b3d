"""What is different between two indexes, as lines for people. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator

from imgindex.layout import entry_fields
from imgindex.lexer import shorten
from imgindex.model import Entry, Index


def differences(old: Index, new: Index) -> Iterator[str]:
    """Yield a line per template that is new, gone or changed, and below it a line per field.

    Args:
        old: The index before.
        new: The index afterwards.
    """
    before = {(entry.os_version, entry.arch): entry for entry in old.entries}
    after = {(entry.os_version, entry.arch): entry for entry in new.entries}
    for key, entry in before.items():
        if key not in after:
            yield f"- {_title(entry)}"
    for key, entry in after.items():
        last = before.get(key)
        if last is None:
            yield f"+ {_title(entry)}"
            yield from (f"    {label}={shorten(value)}" for label, value in entry_fields(entry))
        elif last != entry:
            yield f"~ {_title(entry)}"
            yield from _changed_fields(last, entry)
    if (old.head, old.tail) != (new.head, new.tail):
        yield "~ comments at the top or end of the index"


def _title(entry: Entry) -> str:
    return f"{entry.os_version} ({entry.arch})"


def _changed_fields(old: Entry, new: Entry) -> Iterator[str]:
    before, after = dict(entry_fields(old)), dict(entry_fields(new))
    for label in [*before, *(label for label in after if label not in before)]:
        first, second = before.get(label), after.get(label)
        if first == second:
            continue
        if first is None:
            yield f"    {label}: {shorten(second or '')} (new)"
        elif second is None:
            yield f"    {label}: {shorten(first)} (gone)"
        else:
            yield f"    {label}: {shorten(first)} -> {shorten(second)}"
    if old.comments != new.comments:
        yield "    comments"

"""How an entry is laid out as text: its fields in order, and where its comments stand.

The order is that of virt-builder's own tool (virt-builder-repository); fields
of ours and unknown ones come last.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from imgindex.model import Comment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgindex.model import Entry


def field_label(key: str, subkey: str | None) -> str:
    """Return what stands before the ``=`` of a field."""
    return key if subkey is None else f"{key}[{subkey}]"


def entry_fields(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield label and value of each field that is written for an entry, in order."""
    yield from _optional("name", entry.name)
    yield from _optional("osinfo", entry.osinfo)
    yield "file", entry.file
    yield "arch", entry.arch
    yield from _optional("sig", entry.sig)
    yield from _optional("checksum[sha512]", entry.sha512)
    yield "revision", str(entry.revision)
    yield from _optional("format", entry.format)
    yield "size", str(entry.size)
    yield from _optional("compressed_size", entry.compressed_size)
    yield from _optional("expand", entry.expand)
    yield from _optional("lvexpand", entry.lvexpand)
    for language, text in entry.notes:
        yield field_label("notes", language or None), text
    if entry.aliases:
        yield "aliases", " ".join(entry.aliases)
    if entry.hidden:
        yield "hidden", "true"
    if entry.zstd is not None:
        yield "file[zstd]", entry.zstd.file
        yield "checksum[zstd.sha512]", entry.zstd.sha512
        yield "compressed_size[zstd]", str(entry.zstd.compressed_size)
    for key, subkey, value in entry.extra:
        yield field_label(key, subkey), value


def _optional(label: str, value: str | int | None) -> Iterator[tuple[str, str]]:
    if value is not None:
        yield label, str(value)


def settle_comments(entry: Entry) -> Entry:
    """Bring the comments of an entry into the form in which they are compared and written.

    Args:
        entry: An entry whose comments are in any order, perhaps several or for fields that it lacks.

    Returns:
        The same entry with one comment for each field, sorted by label. A comment on a field that is not
        written (``hidden=false``, or one that the entry no longer has) stands before the header instead.
    """
    if not entry.comments:
        return entry
    written = {label for label, _value in entry_fields(entry)}
    texts: dict[str, list[str]] = {}
    for before, text in entry.comments:
        label = "checksum[sha512]" if before == "checksum" else before
        texts.setdefault(label if label in written else "", []).append(text)
    settled = tuple(Comment(label, "\n".join(texts[label])) for label in sorted(texts))
    return dataclasses.replace(entry, comments=settled)

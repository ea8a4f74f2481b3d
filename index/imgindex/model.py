"""The content of an index: plain, frozen data.

The fields and their defaults are those of virt-builder's index format
(``docs/threat-model.md`` P1-P11 for what is refused, virt-builder(1), section
"Creating and signing the index file").
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from imgindex.errors import IndexSyntaxError

UNKNOWN_SIZE = 0
"""``Entry.size`` of a source that gives the size of the download, but not that of the disk."""


class ExtraField(NamedTuple):
    """A field that this version does not know; kept, and written back unchanged.

    Attributes:
        key: The part before ``=`` and before ``[``.
        subkey: The part inside ``[...]``, or None.
        value: Everything after ``=``; embedded newlines are continuation lines.
    """

    key: str
    subkey: str | None
    value: str


class Note(NamedTuple):
    """Notes in one language.

    Attributes:
        language: Language tag such as ``de`` or ``pt_BR``; the empty string for the default.
        text: The text, lines separated by newlines.
    """

    language: str
    text: str


class Comment(NamedTuple):
    """Comment lines of a template.

    Attributes:
        before: Label of the following field, such as ``notes[de]``; empty for the section header.
        text: The lines, each with its ``#``, separated by newlines; never empty.
    """

    before: str
    text: str


@dataclass(frozen=True)
class FurtherFile:
    """A file of a template that virt-builder does not know.

    Its keys, such as ``file[zstd]``, ``checksum[zstd.sha512]`` and ``compressed_size[zstd]``, have subkeys
    that virt-builder skips.

    Attributes:
        file: Path of the file relative to the index.
        sha512: SHA-512 of the file as 128 lower-case hex digits.
        compressed_size: Size of the file in bytes.
    """

    file: str
    sha512: str
    compressed_size: int


@dataclass(frozen=True)
class Entry:
    """One template of an index.

    Attributes:
        os_version: The section's name, by which users ask for the template.
        file: Path of the template file relative to the index.
        arch: Architecture as the publisher wrote it (compare with ``imgbuilder.host.arch.normalise``).
        size: Virtual size of the disk in bytes; also the smallest size of a built image. ``UNKNOWN_SIZE``
            where the source does not give it, never in an index of this format.
        name: Display name.
        osinfo: libosinfo short id.
        sha512: SHA-512 of ``file`` as 128 lower-case hex digits.
        revision: Positive integer that grows with each change of the template.
        format: Disk format after decompression, ``raw`` or ``qcow2``; None when the index does not give it.
        compressed_size: Size of ``file`` in bytes.
        expand: Device of the partition that grows with the disk, for example ``/dev/sda2``.
        lvexpand: Device of the logical volume that grows with it.
        notes: Notes per language, in the order of the index.
        hidden: Not shown by ``--list``.
        aliases: Other names of the template.
        sig: Path of a detached signature of ``file``, relative to the index.
        zstd: The same disk as a zstd file, which is unpacked several times faster than ``.xz``; None when the
            publisher offers none.
        blocks: List of the blocks in the zstd file (``imgindex.blocklist``); None when there is none.
        sha256: SHA-256 of ``file`` as 64 lower-case hex digits, from sources of other formats.
        extra: Fields that this version does not know.
        comments: At most one for each field, sorted by its label (``fields.settle_comments``).
        line: 1-based line of the section header in the text that was parsed; 0 when not parsed.
    """

    os_version: str
    file: str
    arch: str
    size: int
    name: str | None = None
    osinfo: str | None = None
    sha512: str | None = None
    revision: int = 1
    format: str | None = None
    compressed_size: int | None = None
    expand: str | None = None
    lvexpand: str | None = None
    notes: tuple[Note, ...] = ()
    hidden: bool = False
    aliases: tuple[str, ...] = ()
    sig: str | None = None
    zstd: FurtherFile | None = None
    blocks: FurtherFile | None = None
    sha256: str | None = None
    extra: tuple[ExtraField, ...] = ()
    comments: tuple[Comment, ...] = ()
    line: int = field(default=0, compare=False)


class Refused(NamedTuple):
    """An unusable entry of an index whose other entries can be used.

    Attributes:
        problem: Its fault.
        names: Its names; no other entry may be selected by them instead.
        arch: Its architecture; None where that cannot be read, so that it may be any.
    """

    problem: IndexSyntaxError
    names: tuple[str, ...]
    arch: str | None = None


@dataclass(frozen=True)
class Index:
    """All templates of one source.

    Attributes:
        entries: The templates, in the order of the index.
        head: Comment lines about the whole index, at its top, each with its ``#``.
        tail: Comment lines at its end; only where there are templates.
        refused: Its unusable entries.
    """

    entries: tuple[Entry, ...] = ()
    head: str = ""
    tail: str = ""
    refused: tuple[Refused, ...] = ()

    def find(self, name: str, arch: str) -> Entry | None:
        """Return the first template of a name and an architecture, both as they are written."""
        return self._by_place.get((name, arch))

    @functools.cached_property
    def _by_place(self) -> dict[tuple[str, str], Entry]:
        return {(entry.os_version, entry.arch): entry for entry in reversed(self.entries)}

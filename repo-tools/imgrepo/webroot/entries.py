"""Makes the new index of old index, facts and packed files; compares indexes; reads unsigned ones.

Names, notes, aliases, comments and unknown fields, which people write, stay.
Facts about an image come from the image.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.host.arch import normalise
from imgbuilder.host.hashing import hash_file
from imgindex.clearsign import unverified_text
from imgindex.fields import entry_fields, settle_comments
from imgindex.files import open_file
from imgindex.lexer import parse_document, shorten
from imgindex.model import Entry, Index
from imgindex.parse import parse_index
from imgindex.trust import UnverifiedText
from imgrepo.images.compress import Compressed
from imgrepo.images.facts import ImageFacts
from imgrepo.images.scan import SourceImage
from imgrepo.webroot.state import Published

_DIGITS = 16
"""Hex digits of a file's SHA-512 in its name."""

UNKNOWN_ARCH = "unknown"
"""Architecture of a hand-written entry without one."""

_PUBLISHED = re.compile(
    rf"(?P<stem>[A-Za-z0-9][A-Za-z0-9._-]*)-[0-9a-f]{{{_DIGITS}}}\.(?:xz|zst|blocklist|img|raw|qcow2)"
)


def published_name(stem: str, sha512: str, ending: str = "xz") -> str:
    """Return the name of a published file; ``ending`` is ``xz``, ``zst``, ``blocklist``, or the image's own.

    It depends on the content, so that clients with the old index never get a new file
    (``docs/threat-model.md`` R9).
    """
    return f"{stem}-{sha512[:_DIGITS]}.{ending}"


def stem_of_published(name: str) -> str | None:
    """Return the image's stem if a file has a name made by ``published_name``, else None."""
    match = _PUBLISHED.fullmatch(name)
    return match["stem"] if match else None


class NamedFile(NamedTuple):
    """A file that an entry names; size and SHA-512 are None when they are not known."""

    name: str
    size: int | None
    sha512: str | None


def downloads_of(entry: Entry) -> tuple[NamedFile, ...]:
    """Return the files of an entry that clients download: its disk once or twice, and the list of blocks."""
    further = (file for file in (entry.zstd, entry.blocks) if file is not None)
    return (
        NamedFile(entry.file, entry.compressed_size, entry.sha512),
        *(NamedFile(file.file, file.compressed_size, file.sha512) for file in further),
    )


def files_of(entry: Entry) -> tuple[NamedFile, ...]:
    """Return all files that an entry names: its downloads, and a signature of virt-builder's kind."""
    files = downloads_of(entry)
    return files if entry.sig is None else (*files, NamedFile(entry.sig, None, None))


def is_complete(folder: Path, file: NamedFile) -> bool:
    """Check by its size whether a file is in place."""
    path = folder / file.name
    return path.is_file() and file.size in (None, path.stat().st_size)


def origin_of(entry: Entry) -> str:
    """Return the stem of the image that an entry's file was made from, by the file's name.

    Names by virt-builder's own tool (``NAME.img.xz``) are understood as well.
    """
    match = re.fullmatch(
        rf"(?:.*/)?(.+?)(?:-[0-9a-f]{{{_DIGITS}}})?(?:\.(?:img|raw|qcow2))?(?:\.(?:xz|zst))?", entry.file
    )
    return match[1] if match else entry.file


def old_entry(index: Index, stem: str, remembered: Published | None, arch: str | None = None) -> Entry | None:
    """Find the entry that an image was published as."""

    def fits(entry: Entry) -> bool:
        return arch is None or entry.arch == UNKNOWN_ARCH or normalise(entry.arch) == normalise(arch)

    if remembered is not None:
        known = index.find(remembered.entry, remembered.arch)
        if known is not None and fits(known):
            return known
    fitting = [entry for entry in index.entries if fits(entry)]
    same_origin = [entry for entry in fitting if origin_of(entry) == stem]
    if len(same_origin) == 1:
        return same_origin[0]
    named = [entry for entry in fitting if entry.os_version == stem]
    return named[0] if len(named) == 1 else None


def new_entry(
    image: SourceImage,
    size: int,
    facts: ImageFacts,
    compressed: Compressed,
    old: Entry | None,
    last: Published | None = None,
    *,
    ending: str = "xz",
) -> Entry:
    """Describe a new or changed image; the revision stays the same if the published file does.

    Name and osinfo of the old entry stay if people wrote them. They did not if they are as they were found
    in the image before, by its record ``last``.
    """
    found = Entry(
        os_version=image.stem,
        file=published_name(image.stem, compressed.sha512, ending),
        arch=facts.arch,
        size=size,
        name=facts.name,
        osinfo=facts.osinfo,
        sha512=compressed.sha512,
        revision=1,
        format=image.format.value,
        compressed_size=compressed.size,
        expand=facts.expand,
        lvexpand=facts.lvexpand,
    )
    if old is None:
        return found
    if old.sha512 == compressed.sha512 and old.arch != UNKNOWN_ARCH:
        return old
    name = None if last is not None and old.name == last.name else old.name
    osinfo = None if last is not None and old.osinfo == last.osinfo else old.osinfo
    entry = dataclasses.replace(
        found,
        os_version=old.os_version,
        arch=facts.arch if old.arch == UNKNOWN_ARCH else old.arch,
        name=name or facts.name or old.name,
        osinfo=osinfo or facts.osinfo or old.osinfo,
        expand=facts.expand or old.expand,
        lvexpand=facts.lvexpand or old.lvexpand,
        revision=old.revision + 1,
        notes=old.notes,
        hidden=old.hidden,
        aliases=old.aliases,
        extra=old.extra,
        comments=old.comments,
    )
    return settle_comments(entry)


def merge(old: Index, replaced: Mapping[tuple[str, str], Entry], added: Sequence[Entry]) -> Index:
    """Make the new index, in the old order, with new templates at the end.

    Two images of the same template are refused (``docs/threat-model.md`` R16).
    """
    entries = [replaced.get((entry.os_version, entry.arch), entry) for entry in old.entries] + list(added)
    seen: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        first = seen.setdefault((entry.os_version, entry.arch), entry)
        if first is not entry:
            raise RepositoryError(
                f"two images would both be the template {entry.os_version} for {entry.arch}: "
                f"{first.file} and {entry.file}",
                hint="rename one of the images",
            )
    return dataclasses.replace(old, entries=tuple(entries))


def differences(old: Index, new: Index) -> Iterator[str]:
    """Yield a line per template that is new, gone or changed, and below it a line per field."""
    for entry in old.entries:
        if new.find(entry.os_version, entry.arch) is None:
            yield f"- {_title(entry)}"
    for entry in new.entries:
        last = old.find(entry.os_version, entry.arch)
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


# Unsigned indexes: written by hand, or by virt-builder-repository(1). Nothing in them is trusted: facts about
# files come from the files. They give names, notes, aliases, and the architecture of images without a system.
_DEFAULTS = (("arch", UNKNOWN_ARCH), ("size", "512"), ("revision", "0"))
_LARGEST = 5_000_000
_PIECE = 1 << 20


def read_draft(path: Path) -> Index | None:
    """Read an unsigned index, without digests that differ from its files'; None when there is none."""
    try:
        with open_file(path) as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise UsageError(f"{path} is larger than any client reads")
    text = unverified_text(data, where=str(path)).text
    index = parse_index(UnverifiedText(_completed(text, str(path))), where=str(path))
    checked = []
    for entry in index.entries:
        true = entry.sha512 is not None and _sha512(path.parent / entry.file) == entry.sha512
        checked.append(entry if true else dataclasses.replace(entry, sha512=None))
    return dataclasses.replace(index, entries=tuple(checked))


def _completed(text: str, where: str) -> str:
    """Add to each section the fields that are not known before its image is examined."""
    lines = text.split("\n")
    for section in reversed(parse_document(text, where=where).sections):
        given = {(item.key, item.subkey) for item in section.fields}
        missing = [f"{key}={value}" for key, value in _DEFAULTS if (key, None) not in given]
        lines[section.line : section.line] = missing
    return "\n".join(lines)


def _sha512(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None


LONGEST_NOTES = 20_000
"""Characters that the notes of a template have at most, as in ``entry.toml``."""

SUFFIX = ".entry"
"""Ending of the file next to an image with its entry; it is read before its template is first published."""


def sidecar_of(image: Path) -> Path:
    """Return the path of the entry of an image."""
    return image.with_name(f"{image.stem}{SUFFIX}")


def read_sidecar(image: SourceImage, index: Index) -> Entry | None:
    """Read the entry next to an image; None without one, or if its template is in an index already."""
    path = sidecar_of(image.path)
    draft = read_draft(path)
    if draft is None:
        return None
    if len(draft.entries) != 1 or draft.entries[0].file != image.name:
        raise RepositoryError(
            f"{path} is not the entry of {image.name}",
            hint=f"it holds one section, with file={image.name}",
        )
    entry = draft.entries[0]
    if any(len(note.text) > LONGEST_NOTES for note in entry.notes):
        raise RepositoryError(
            f"{path}: the notes are longer than {LONGEST_NOTES} characters", hint="shorten them"
        )
    return None if any(_same(entry, old) for old in index.entries) else entry


def _same(entry: Entry, old: Entry) -> bool:
    either = UNKNOWN_ARCH in (entry.arch, old.arch) or normalise(entry.arch) == normalise(old.arch)
    return entry.os_version == old.os_version and either

"""Makes a new revision of a zstd file from an old one, and fetches only the frames that are new.

A block of the disk that did not change has the same frame in both files, at another place; the lists of their
blocks say where (``docs/formats/blocks.md``). The caller proves the whole file afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from imgbuilder.cache.partial import open_partial
from imgbuilder.cache.supply import LARGEST, spans_of
from imgbuilder.errors import NoRangesError, RepositoryError, WrongSizeError
from imgbuilder.events import Reporter, Step, debug, info
from imgbuilder.fetch.transfer import Download, Fetcher
from imgbuilder.fetch.urls import Address
from imgbuilder.host.hashing import hash_file
from imgbuilder.host.workspace import explaining
from imgbuilder.sizes import human_size
from imgindex.blocklist import Block, BlockList, parse_blocklist
from imgindex.files import open_file
from imgindex.model import Entry

_WORTHWHILE = 0.6
"""Share of the bytes of the whole file up to which only the new frames are fetched."""


class Revision(NamedTuple):
    """A zstd file of a published folder, and the list of its blocks."""

    path: Path
    blocks: BlockList


class Stretch(NamedTuple):
    """Part of a new zstd file.

    Attributes:
        old: Where the same bytes begin in the old file; None if they are not there.
    """

    start: int
    end: int
    old: int | None


def read_revision(folder: Path, entry: Entry) -> Revision | None:
    """Read the block list of a template; None if it has none that can be used.

    The zstd file itself may be missing or damaged.
    """
    file, listed = entry.zstd, entry.blocks
    if file is None or listed is None:
        return None
    path = folder / listed.file
    try:
        if path.stat().st_size != listed.compressed_size or hash_file(path) != listed.sha512:
            return None
        blocks = parse_blocklist(
            path.read_bytes(), size=entry.size, packed=file.compressed_size, where=str(path)
        )
    except (OSError, RepositoryError):
        return None  # the whole file is moved then
    return Revision(folder / file.file, blocks)


def parts_of(blocks: BlockList) -> Iterator[Block]:
    """Yield all bytes of a zstd file in order: the frames of blocks, and in pieces what is between them.

    Between them are frames of zeros, the same ones for the same number of zeros. Such a piece has a name of
    its own instead of a digest; behind the last block, where the seek table is, it has none.
    """
    number, end = 0, 0
    for block in blocks:
        yield from _between(number, end, block.offset, f"{block.number - number} zeros")
        yield block
        number, end = block.number + 1, block.end
    yield from _between(number, end, blocks.packed, "")


def _between(number: int, start: int, end: int, name: str) -> Iterator[Block]:
    for at in range(start, end, LARGEST):
        own = f"{name} from {at - start}".encode() if name else b""
        yield Block(number, min(LARGEST, end - at), at, b"", own)


def _places(blocks: BlockList) -> dict[tuple[int, bytes], int]:
    """Return where each part begins, by its length and digest."""
    return {(part.length, part.packed_digest): part.offset for part in parts_of(blocks) if part.packed_digest}


def stretches(new: BlockList, old: BlockList) -> list[Stretch]:
    """Divide a new file into stretches that an old file has in one piece, and those that it has not."""
    places, found = _places(old), list[Stretch]()
    for part in parts_of(new):
        place = places.get((part.length, part.packed_digest))
        last = found[-1] if found else Stretch(0, 0, None)
        follows = None if last.old is None else last.old + last.end - last.start
        if found and place == follows:
            found[-1] = last._replace(end=part.end)
        else:
            found.append(Stretch(part.offset, part.end, place))
    return found


def fetch_frames(
    url: str, new: BlockList, old: Revision, target: Path, fetcher: Fetcher, on_event: Reporter
) -> bool:
    """Make a new zstd file of an old one and of what is fetched; its digest is still to be checked.

    A file that an earlier run left unfinished is continued.

    Returns:
        False if the whole file should be fetched: too much is new, or the server sends no parts of files.
    """
    with explaining(target), contextlib.ExitStack() as opened:
        descriptor = open_partial(target)
        opened.callback(os.close, descriptor)
        source = opened.enter_context(open_file(old.path)).fileno()
        os.ftruncate(descriptor, new.packed)
        places, missing = _places(old.blocks), list[Block]()
        for part in parts_of(new):
            place = places.get((part.length, part.packed_digest))
            if part.digest and _is_right(os.pread(descriptor, part.length, part.offset), part):
                continue
            piece = b"" if place is None else os.pread(source, part.length, place)
            if _is_right(piece, part):
                _write(descriptor, piece, part.offset)
            else:
                missing.append(part)
        needed, shown = sum(part.length for part in missing), Address(url)
        if needed > new.packed * _WORTHWHILE:
            debug(on_event, f"{shown}: {human_size(needed)} of it are new, so the whole file is fetched")
            return False
        what = f"{human_size(needed)} of {human_size(new.packed)}"
        on_event(Step(f"Fetching {shown}: {what}, the rest is in {old.path.name}"))
        try:
            for span in spans_of(missing):
                body = io.BytesIO()
                fetcher.fetch(
                    Download(
                        url, body, limit=new.packed, expected=new.packed, digest_known=True,
                        span=(span.start, span.end),
                    )
                )  # fmt: skip
                _write(descriptor, body.getvalue(), span.start)
        except (NoRangesError, WrongSizeError) as error:
            info(on_event, f"{error.message}; the whole file is fetched")
            return False
        os.fchmod(descriptor, 0o644)
        os.fsync(descriptor)
    return True


def _is_right(piece: bytes, part: Block) -> bool:
    """Check the digest of a frame; zeros have none, and the digest of the whole file proves them."""
    if len(piece) != part.length:
        return False
    return not part.digest or hashlib.sha256(piece).digest()[:16] == part.packed_digest


def _write(descriptor: int, piece: bytes, at: int) -> None:
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        at, rest = at + written, rest[written:]

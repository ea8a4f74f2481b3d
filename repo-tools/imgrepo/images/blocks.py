"""Packs a raw disk as zstd frames of one block each, so that clients can fetch only the blocks they miss.

The file is an ordinary zstd file in zstd's seekable format; ``docs/formats/blocks.md`` describes it and the
list of its blocks. The same disk gives the same bytes, with the same version of zstd and the same level.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import os
import struct
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import zstandard

from imgbuilder.events import Progress, ProgressEnd, Reporter
from imgbuilder.host import imagelocks
from imgbuilder.host.sparse import data_ranges, disk_usage
from imgbuilder.host.workspace import explain
from imgindex.blocklist import Block, BlockList, block_size_for, pack_blocks
from imgrepo.images.compress import Compressed, hash_image
from imgrepo.images.scan import SourceImage, check_unchanged

_ZERO_RUN = 64 << 20
"""Bytes of zeros in one frame, at most."""
_SKIPPABLE, _FOOTER = 0x184D2A5E, 0x8F92EAB1
"""Magic numbers of zstd's seekable format, version 0.1.0: of its last frame, and at that frame's end."""


def zstd_version() -> str:
    """Return the version of zstd that packs, on which the bytes depend."""
    return ".".join(map(str, zstandard.ZSTD_VERSION))


class _Packed(NamedTuple):
    """A frame, with digest and place of its block; None for a run of zeros."""

    data: bytes
    size: int
    block: tuple[int, bytes] | None


def compress_blocks(
    image: SourceImage, target: Path, level: int, on_event: Reporter, *, content: Path | None = None
) -> tuple[Compressed, BlockList]:
    """Pack a raw image into a new file, as ``compress`` does, and return the list of its blocks as well.

    With ``content``, the image itself is not read, and the result has no ``source_sha512``.
    """
    source_sha512 = hash_image(image, on_event) if content is None else ""
    path = content or image.path
    try:
        with (
            imagelocks.held(path),
            path.open("rb", buffering=0) as source,
            target.open("xb") as output,
        ):
            size = os.fstat(source.fileno()).st_size
            writer = _Writer(output, block_size_for(disk_usage(path)), size)
            with contextlib.closing(_packed(source.fileno(), size, writer.block_size, level)) as frames:
                for frame in frames:
                    writer.add(frame)
                    on_event(Progress(f"compressing {image.name} in blocks", writer.position, size))
            made = writer.finish(target, source_sha512)
    except OSError as error:
        check_unchanged(image)
        raise explain(error, target) from error
    finally:
        on_event(ProgressEnd())
    check_unchanged(image)
    return made, writer.blocks()


class _Writer:
    """Writes frames in the order of the disk, and the seek table behind them."""

    def __init__(self, output: IO[bytes], block_size: int, size: int) -> None:
        self._output, self.block_size, self._size = output, block_size, size
        self._digest = hashlib.sha512()
        self._written = 0
        self._table: list[bytes] = []
        self._blocks: list[Block] = []
        self.position = 0

    def add(self, frame: _Packed) -> None:
        """Append a frame."""
        if frame.block is not None:
            number, digest = frame.block
            packed_digest = hashlib.sha256(frame.data).digest()[:16]
            self._blocks.append(Block(number, len(frame.data), self._written, digest, packed_digest))
        self._table.append(struct.pack("<II", len(frame.data), frame.size))
        self._put(frame.data)
        self.position += frame.size

    def finish(self, target: Path, source_sha512: str) -> Compressed:
        """Append the seek table, and describe the file."""
        entries = b"".join(self._table)
        footer = struct.pack("<IBI", len(self._table), 0, _FOOTER)
        self._put(struct.pack("<II", _SKIPPABLE, len(entries) + len(footer)) + entries + footer)
        return Compressed(target, self._written, self._digest.hexdigest(), source_sha512)

    def blocks(self) -> BlockList:
        """Return the list of the blocks, once the file is finished."""
        return BlockList(self.block_size, self._size, self._written, pack_blocks(self._blocks))

    def _put(self, data: bytes) -> None:
        self._output.write(data)
        self._digest.update(data)
        self._written += len(data)


def _packed(source: int, size: int, block_size: int, level: int) -> Generator[_Packed]:
    """Yield the frames of a disk in order; several blocks are compressed at the same time."""
    workers = len(os.sched_getaffinity(0))
    own = threading.local()  # a compressor is for one thread

    def pack(number: int, piece: bytes) -> _Packed:
        if not hasattr(own, "compressor"):
            own.compressor = _compressor(level, block_size)
        return _Packed(own.compressor.compress(piece), len(piece), (number, hashlib.sha256(piece).digest()))

    waiting: collections.deque[Future[_Packed]] = collections.deque()
    after = 0  # the block behind the last one that holds data
    with ThreadPoolExecutor(workers) as pool:
        try:
            for number, piece in _data_blocks(source, size, block_size):
                if number > after:
                    while waiting:
                        yield waiting.popleft().result()
                    yield from _zeros((number - after) * block_size, level, block_size)
                waiting.append(pool.submit(pack, number, piece))
                after = number + 1
                if len(waiting) > 8 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
    if after * block_size < size:
        yield from _zeros(size - after * block_size, level, block_size)


def _data_blocks(source: int, size: int, block_size: int) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each block of a disk that is not all zeros."""
    zeros, after = bytes(block_size), 0
    for start, end in data_ranges(source, size):
        first, after = max(after, start // block_size), -(-end // block_size)
        for number in range(first, after):
            piece = os.pread(source, block_size, number * block_size)
            if piece != zeros[: len(piece)]:
                yield number, piece


def _zeros(count: int, level: int, block_size: int) -> Iterator[_Packed]:
    """Yield frames of zeros."""
    while count > 0:
        length = min(count, _ZERO_RUN)
        yield _Packed(_zero_frame(length, level, block_size), length, None)
        count -= length


@functools.cache
def _zero_frame(length: int, level: int, block_size: int) -> bytes:
    packing = _compressor(level, block_size).compressobj(size=length)
    pieces = [packing.compress(bytes(min(1 << 20, length - at))) for at in range(0, length, 1 << 20)]
    return b"".join([*pieces, packing.flush()])


def _compressor(level: int, block_size: int) -> zstandard.ZstdCompressor:
    """Return a compressor whose frames need no more memory to unpack than a block has."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=block_size, window_log=block_size.bit_length() - 1
    )
    return zstandard.ZstdCompressor(compression_params=parameters)

"""Makes an unpacked disk from blocks of older disks, and fetches only those that none of them has.

The list of the blocks is named in the signed index (``docs/formats/blocks.md``). No block is written before
its digest was checked, so it does not matter where it comes from. A new revision, an update that was stopped,
and a damaged disk take the same way.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from imgbuilder.cache.elsewhere import Peers
from imgbuilder.cache.supply import Frame, Supply
from imgbuilder.cache.unpack import FrameError, check_frames
from imgbuilder.catalog.catalog import Selection
from imgbuilder.disk.blocks import Wanted, compare
from imgbuilder.errors import (
    DigestMismatchError,
    FetchError,
    FileMissingError,
    NoRangesError,
    ProgramKilledError,
    PybuilderError,
    RepositoryError,
    ToolError,
    WrongSizeError,
)
from imgbuilder.events import Progress, ProgressEnd, Reporter, debug, warn
from imgbuilder.fetch.transfer import BETWEEN_TWO_VERSIONS, NO_PROXY, Download, Fetcher
from imgbuilder.fetch.urls import local_path, template_url
from imgbuilder.host import process
from imgbuilder.host.hashing import hash_stream, hashed_blocks
from imgbuilder.host.sparse import WriteBehind, clear, clone, write_at
from imgbuilder.sizes import human_size
from imgindex.blocklist import Block, BlockList, FileBytes, parse_blocklist

T = TypeVar("T")

_WORTHWHILE = 0.6
"""Share of the bytes of a whole file up to which blocks are fetched instead."""
_PATIENCE = 10.0
"""Seconds that a neighbour may take for a request, of 1 MiB at most."""
_MEMORY = "--memory=16MiB"
"""Memory for a window of the decompressor; that of a frame is at most as large as a block."""


def obstacle_to_blocks(selection: Selection) -> str | None:
    """Return why no blocks of a template can be fetched; None if that may be tried."""
    if local_path(selection.url) is not None:
        return "its source is on this machine"
    if selection.entry.format != "raw":
        return "only raw disks are updated by blocks"
    if selection.entry.blocks is None:
        return "its source offers no list of its blocks"
    return None


@dataclass(frozen=True)
class Foreseen:
    """The bytes that an update would fetch.

    Attributes:
        whole: Bytes of the smallest file that has the whole disk.
        blocks: Bytes of the blocks that no disk here has; None if the whole file is fetched.
        reason: The reason for that.
    """

    whole: int
    blocks: int | None
    reason: str = ""


def fetch_list(
    selection: Selection, fetcher: Fetcher, place: BinaryIO, on_event: Reporter
) -> BlockList | None:
    """Fetch the block list of a template; None if it cannot be had, and the whole file is to be fetched.

    ``place`` is an empty file, open for reading and writing. The list reads from it: a long one has 17 MB.
    """
    file, entry, source = selection.entry.blocks, selection.entry, selection.source
    assert file is not None, "obstacle_to_blocks() comes first"
    assert entry.compressed_size is not None, "a further file has a size"
    for uri in source.addresses:
        url = template_url(uri, file.file)
        place.seek(0)
        place.truncate()
        try:
            fetcher.fetch(
                Download(
                    url, place, limit=file.compressed_size, expected=file.compressed_size,
                    proxy=source.proxy, digest_known=True,
                )
            )  # fmt: skip
            place.seek(0)
            if hash_stream(place) != file.sha512:
                raise DigestMismatchError(
                    f"{url}: this is not the block list that the index names", hint=BETWEEN_TWO_VERSIONS
                )
            data = FileBytes(place.fileno(), file.compressed_size)
            return parse_blocklist(data, size=entry.size, packed=entry.compressed_size, where=url)
        except PybuilderError as error:
            say = warn if isinstance(error, DigestMismatchError) else debug
            say(on_event, error.message)
            if isinstance(error, RepositoryError):
                break  # other addresses have the same
    return None


@dataclass(frozen=True)
class Update:
    """A disk that is being made.

    Attributes:
        selection: Its template, with the zstd file.
        blocks: Its blocks.
        whole: Bytes of the smallest file that has the whole disk.
        fetcher: Gets what is missing.
        peers: Neighbours, which are asked for blocks first.
    """

    selection: Selection
    blocks: BlockList
    whole: int
    fetcher: Fetcher
    on_event: Reporter
    peers: Peers | None = None

    def fill(self, target: int, seeds: Sequence[int]) -> bool:
        """Fill an open file with the disk; what it holds already from an earlier try is used.

        Args:
            target: Descriptor of the file, for reading and writing.
            seeds: Descriptors of other disks, which may hold anything.

        Returns:
            False if the whole file should be fetched: too much is missing, or no server sends parts.

        Raises:
            FetchError: No server answers. What was written so far makes the next try shorter.
        """
        cloned = self._clone(target, seeds)
        missing = self._compare(target)
        if cloned and not self._is_too_much(missing.packed):
            seeds = seeds[1:]  # what it has is in place
        for seed in seeds:
            self._copy(seed, target, missing)
        if self.peers is not None and missing:
            self._ask_peers(self.peers, target, missing)
        needed = missing.packed
        if self._is_too_much(needed):
            debug(self.on_event, f"{human_size(needed)} of blocks are missing: the whole file is fetched")
            return False
        what = f"{human_size(needed)} of {human_size(self.whole)}"
        debug(self.on_event, f"{len(missing)} of {len(self.blocks)} blocks are fetched, {what}")
        try:
            self._fetch(missing, needed, target)
        except (NoRangesError, WrongSizeError, FileMissingError, DigestMismatchError) as error:
            say = debug if isinstance(error, NoRangesError) else warn
            say(self.on_event, f"{error.message}; the whole file is fetched")
            return False
        except RepositoryError as error:
            warn(self.on_event, f"{error.message}; the whole file is fetched ({error.hint})")
            os.ftruncate(target, 0)
            return False
        return True

    def foresee(self, seeds: Sequence[int]) -> Foreseen:
        """Return what ``fill`` would fetch."""
        missing = Wanted(self.blocks)
        for seed in seeds:
            self._copy(seed, None, missing)
        needed = missing.packed
        if self._is_too_much(needed):
            return Foreseen(self.whole, None, f"no disk here has {human_size(needed)} of its blocks")
        for block in itertools.islice(missing, 1):
            try:
                self._try_ranges(block)
            except FetchError as error:
                return Foreseen(self.whole, None, f"no blocks can be fetched: {error.message}")
        return Foreseen(self.whole, needed)

    def _is_too_much(self, needed: int) -> bool:
        return needed > self.whole * _WORTHWHILE

    def _try_ranges(self, block: Block) -> None:
        """Request a byte of the zstd file."""
        size, source = self.blocks.packed, self.selection.source
        span = (block.offset, block.offset + 1)
        self.fetcher.fetch(
            Download(
                self.selection.url, io.BytesIO(), limit=size, expected=size, proxy=source.proxy,
                digest_known=True, span=span,
            )
        )  # fmt: skip

    def _clone(self, target: int, seeds: Sequence[int]) -> bool:
        """Let an empty file share the extents of the first seed, if the filesystem can do that."""
        if not seeds or os.fstat(target).st_size:
            return False
        try:
            return clone(seeds[0], target)
        except OSError as error:
            debug(self.on_event, f"an older disk cannot be cloned: {error.strerror}")
            return False

    def _compare(self, target: int) -> Wanted:
        """Return the blocks that a file does not have; what it has where the disk has zeros is removed."""
        size = self.blocks.size
        os.ftruncate(target, size)
        found = compare(target, self.blocks)
        for number in found.stray:
            start = number * self.blocks.block_size
            clear(target, start, start + self.blocks.length_of(number))
        return found.missing

    def _copy(self, seed: int, target: int | None, missing: Wanted) -> None:
        """Copy what a seed has of the missing blocks, to nowhere for None, and take them off."""
        label, size = f"Comparing {self.selection.entry.os_version}", self.blocks.block_size
        pieces = hashed_blocks(seed, size, os.fstat(seed).st_size)
        behind = None if target is None else WriteBehind(target)
        try:
            for number, digest, piece in self._while_readable(pieces):
                for block in missing.take(digest, len(piece)):
                    if target is not None:
                        self._write(target, block, piece)
                if behind is not None:  # most blocks have the same place in both
                    behind.reached(number * size)
                self.on_event(Progress(label, number * size, self.blocks.size))
                if not missing:
                    break
        finally:
            self.on_event(ProgressEnd())

    def _while_readable(self, found: Iterator[T]) -> Iterator[T]:
        """Stop at an error of the disk that is read; those of the disk that is written are not caught."""
        try:
            yield from found
        except OSError as error:
            debug(self.on_event, f"an older disk cannot be read: {error.strerror}")

    def _ask_peers(self, peers: Peers, target: int, missing: Wanted) -> None:
        """Write the blocks that neighbours send, and take them off.

        A block of an unpacked disk is a frame that is packed by nothing, with the same digest.
        """
        size, entry, count = self.blocks.block_size, self.selection.entry, len(missing)
        label = f"{entry.os_version} from neighbours"
        supply = Supply(
            peers.addresses(f"disks/{entry.sha512}.raw"), self.blocks.size, NO_PROXY, peers.fetcher,
            self.on_event, instead="this neighbour is asked no more", tries=1, seconds=_PATIENCE,
            usual=(NoRangesError, FileMissingError),
        )  # fmt: skip
        plain = (
            block._replace(
                length=self.blocks.length_of(block.number),
                offset=block.number * size,
                packed_digest=block.digest[:16],
            )
            for block in missing
        )
        try:
            for frames in supply.fetch(plain):
                for frame in frames:
                    if hashlib.sha256(frame.data).digest() == frame.block.digest:
                        self._write(target, frame.block, frame.data)
                        missing.drop_number(frame.block.number)
                self.on_event(Progress(label, count - len(missing), count))
        except (FetchError, DigestMismatchError) as error:
            say = debug if isinstance(error, supply.usual) else warn
            say(self.on_event, f"{error.message}; {supply.instead}")
        finally:
            self.on_event(ProgressEnd())
        debug(self.on_event, f"neighbours sent {count - len(missing)} of {count} blocks")

    def _fetch(self, missing: Wanted, needed: int, target: int) -> None:
        entry, source = self.selection.entry, self.selection.source
        urls = [template_url(uri, entry.file) for uri in source.addresses]
        supply = Supply(urls, self.blocks.packed, source.proxy, self.fetcher, self.on_event)
        done = 0
        try:
            for frames in supply.fetch(missing):
                self._unpack(frames, target)
                done += sum(len(frame.data) for frame in frames)
                self.on_event(Progress(entry.os_version, done, needed))
        finally:
            self.on_event(ProgressEnd())

    def _unpack(self, frames: Sequence[Frame], target: int) -> None:
        """Decompress frames and write their blocks.

        Raises:
            RepositoryError: A block is not what the list says, although its frame is.
        """
        with open(os.memfd_create("frames"), "w+b", buffering=0) as packed:
            packed.write(b"".join(frame.data for frame in frames))
            try:
                check_frames(packed)
                packed.seek(0)
                command = ["zstd", "--decompress", "--stdout", "--quiet", _MEMORY]
                piece, length = b"", 0
                with process.streaming(command, stdin=packed) as running:
                    for frame in frames:
                        length = self.blocks.length_of(frame.block.number)
                        piece = running.stdout.read(length)
                        if len(piece) < length:
                            break  # zstd has ended, and its status may say why
                        if hashlib.sha256(piece).digest() != frame.block.digest:
                            raise self._contradiction(f"block {frame.block.number} is another one")
                        self._write(target, frame.block, piece)
                    if running.stdout.read(1):
                        raise self._contradiction("a frame holds more than its block")
                if len(piece) < length:
                    raise self._contradiction("a frame holds less than its block")
            except ProgramKilledError:  # such as for want of memory, which is not the publisher's fault
                raise
            except (FrameError, ToolError) as error:
                raise self._contradiction(str(error)) from error

    def _contradiction(self, problem: str) -> RepositoryError:
        return RepositoryError(
            f"{self.selection.url}: the blocks are not those of the list: {problem}",
            hint="tell the publisher of this source",
        )

    def _write(self, target: int, block: Block, piece: bytes | memoryview) -> None:
        write_at(target, piece, block.number * self.blocks.block_size)

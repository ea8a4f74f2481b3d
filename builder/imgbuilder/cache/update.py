"""Makes an unpacked disk from blocks of older disks, and fetches only those that none of them has.

The list of the blocks is named in the signed index (``docs/formats/blocks.md``). No block is written before
its digest was checked, so it does not matter where it comes from. A new revision, an update that was stopped,
and a damaged disk take the same way.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from imgbuilder.cache.elsewhere import Peers
from imgbuilder.cache.supply import Frame, Supply
from imgbuilder.cache.unpack import FrameError, check_frames
from imgbuilder.catalog.catalog import Selection
from imgbuilder.disk.blocks import compare, find_blocks
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
from imgbuilder.sizes import human_size
from imgindex.blocklist import Block, BlockList, parse_blocklist
from imgindex.model import FurtherFile

T = TypeVar("T")

_WORTHWHILE = 0.6
"""Share of the bytes of a whole file up to which blocks are fetched instead."""
_PATIENCE = 10.0
"""Seconds that a neighbour may take for a request, of 1 MiB at most."""
_MEMORY = "--memory=16MiB"
"""Memory for a window of the decompressor; that of a frame is at most as large as a block."""


def blocks_of(selection: Selection) -> FurtherFile | None:
    """Return the block list that can be used for a template; None for a local source, which needs none."""
    entry = selection.entry
    if entry.format != "raw" or local_path(selection.url) is not None:
        return None
    return entry.blocks


def fetch_list(selection: Selection, fetcher: Fetcher, on_event: Reporter) -> BlockList | None:
    """Fetch the block list of a template; None if it cannot be had, and the whole file is to be fetched."""
    file, entry, source = selection.entry.blocks, selection.entry, selection.source
    assert file is not None, "blocks_of() comes first"
    assert entry.compressed_size is not None, "a further file has a size"
    for uri in source.addresses:
        url, body = template_url(uri, file.file), io.BytesIO()
        try:
            fetcher.fetch(
                Download(
                    url, body, limit=file.compressed_size, expected=file.compressed_size,
                    proxy=source.proxy, digest_known=True,
                )
            )  # fmt: skip
            data = body.getvalue()
            if hashlib.sha512(data).hexdigest() != file.sha512:
                raise DigestMismatchError(
                    f"{url}: this is not the block list that the index names", hint=BETWEEN_TWO_VERSIONS
                )
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
        missing = self._resume(target)
        for seed in seeds:
            missing = self._copy(seed, target, missing)
        if self.peers is not None and missing:
            missing = self._ask_peers(self.peers, target, missing)
        needed = _packed(missing)
        if needed > self.whole * _WORTHWHILE:
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

    def needed(self, seeds: Sequence[int]) -> int | None:
        """Return the bytes of blocks that no seed has; None if the whole file should be fetched."""
        missing = list(self.blocks)
        for seed in seeds:
            missing = self._copy(seed, None, missing)
        size = _packed(missing)
        return size if size <= self.whole * _WORTHWHILE else None

    def _resume(self, target: int) -> list[Block]:
        """Return the blocks that an unfinished file does not have."""
        found = compare(target, self.blocks)
        if found.stray:  # of another disk
            os.ftruncate(target, 0)
            found = compare(target, self.blocks)
        os.ftruncate(target, self.blocks.size)
        return found.missing

    def _copy(self, seed: int, target: int | None, missing: list[Block]) -> list[Block]:
        """Copy what a seed has of the missing blocks, to nowhere for None; return the rest."""
        if not missing:
            return missing
        label = f"Comparing {self.selection.entry.os_version}"
        wanted: dict[bytes, list[Block]] = {}
        for block in missing:
            wanted.setdefault(block.digest, []).append(block)
        found = find_blocks(seed, self.blocks.block_size, wanted)
        try:
            for number, digest, piece in self._while_readable(found):
                for block in wanted.pop(digest):
                    if target is not None:
                        self._write(target, block, piece)
                self.on_event(Progress(label, number * self.blocks.block_size, self.blocks.size))
        finally:
            self.on_event(ProgressEnd())
        return sorted(block for rest in wanted.values() for block in rest)

    def _while_readable(self, found: Iterator[T]) -> Iterator[T]:
        """Stop at an error of the disk that is read; those of the disk that is written are not caught."""
        try:
            yield from found
        except OSError as error:
            debug(self.on_event, f"an older disk cannot be read: {error.strerror}")

    def _ask_peers(self, peers: Peers, target: int, missing: Sequence[Block]) -> list[Block]:
        """Write the blocks that neighbours send; return the rest.

        A block of an unpacked disk is a frame that is packed by nothing, with the same digest.
        """
        size, entry = self.blocks.block_size, self.selection.entry
        left, label = {block.number: block for block in missing}, f"{entry.os_version} from neighbours"
        supply = Supply(
            peers.addresses(f"disks/{entry.sha512}.raw"), self.blocks.size, NO_PROXY, peers.fetcher,
            self.on_event, instead="this neighbour is asked no more", tries=1, seconds=_PATIENCE,
            usual=(NoRangesError, FileMissingError),
        )  # fmt: skip
        plain = [
            block._replace(
                length=self.blocks.length_of(block.number),
                offset=block.number * size,
                packed_digest=block.digest[:16],
            )
            for block in missing
        ]
        try:
            for frames in supply.fetch(plain):
                for frame in frames:
                    if hashlib.sha256(frame.data).digest() == frame.block.digest:
                        self._write(target, frame.block, frame.data)
                        del left[frame.block.number]
                self.on_event(Progress(label, len(missing) - len(left), len(missing)))
        except (FetchError, DigestMismatchError) as error:
            say = debug if isinstance(error, supply.usual) else warn
            say(self.on_event, f"{error.message}; {supply.instead}")
        finally:
            self.on_event(ProgressEnd())
        debug(self.on_event, f"neighbours sent {len(missing) - len(left)} of {len(missing)} blocks")
        return list(left.values())

    def _fetch(self, missing: Sequence[Block], needed: int, target: int) -> None:
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

    def _write(self, target: int, block: Block, piece: bytes) -> None:
        at, rest = block.number * self.blocks.block_size, memoryview(piece)
        while rest:
            written = os.pwrite(target, rest, at)
            at, rest = at + written, rest[written:]


def _packed(blocks: Sequence[Block]) -> int:
    """Return the bytes of the frames of blocks."""
    return sum(block.length for block in blocks)

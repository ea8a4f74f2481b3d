"""The unpacked layer of the cache: sparse, read-only disks, made on first use and copied by every build."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from imgbuilder.cache.assemble import Foreseen, Update, fetch_list
from imgbuilder.cache.elsewhere import Elsewhere, older_disks, open_disks
from imgbuilder.cache.folder import (
    CacheFolder,
    has_content,
    is_unchanged,
    open_own,
    read_record,
    remove_file,
    touch_record,
    write_record,
)
from imgbuilder.cache.partial import open_partial
from imgbuilder.cache.templates import about, digest_of, is_file
from imgbuilder.cache.unpack import Unpacker
from imgbuilder.catalog.catalog import Selection
from imgbuilder.disk.blocks import content_of
from imgbuilder.disk.imageheader import UNNAMED, check_image
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.fetch.transfer import Fetcher
from imgbuilder.host.interrupts import Interrupted
from imgbuilder.host.locks import try_shared
from imgbuilder.host.workspace import is_full
from imgindex.files import open_file, publish, temporary_file
from imgindex.model import Entry

_CHECKED = "checked"
_KEPT = frozenset({"template", "arch", "source", "content", _CHECKED})
"""Fields of a record that stay when a disk was touched."""


class Disks:
    """The files in ``ROOT/disks``, and locks on those in use."""

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._in_use: list[int] = []  # descriptors whose locks protect files from removal

    def path(self, entry: Entry) -> Path:
        """Return the place of an entry's disk, which need not exist."""
        return self._folder.disks / f"{digest_of(entry)}.{_format(entry)}"

    def has(self, entry: Entry) -> bool:
        """Tell whether it exists; its bytes are not checked."""
        size = entry.size if _format(entry) == "raw" else None
        return entry.sha512 is not None and is_file(self.path(entry), size)

    def use(self, entry: Entry) -> bool:
        """Tell whether the disk exists and is good; if so, protect it from removal until ``release``."""
        path = self.path(entry)
        descriptor = open_own(path)
        if descriptor is None:
            return False
        good = False
        try:
            # A removal between opening and locking shows as a change: it sets the change time.
            good = try_shared(descriptor) and is_unchanged(path, descriptor)
            if good:
                check_image(path, _format(entry), entry.size)
                self._in_use.append(descriptor)
                touch_record(path)
        finally:
            if descriptor not in self._in_use:
                os.close(descriptor)
        return good

    def accept_again(self, entry: Entry, on_event: Reporter) -> None:
        """Check all bytes of a disk that was touched; renew its record if they are those that were unpacked.

        The caller holds the lock of the entry.
        """
        path = self.path(entry)
        descriptor = open_own(path)
        if descriptor is None:
            return
        try:
            if is_unchanged(path, descriptor) or not has_content(path, descriptor):
                return
            record = read_record(path) or {}
            kept: dict[str, str] = {key: str(value) for key, value in record.items() if key in _KEPT}
            write_record(path, descriptor, kept)
            debug(on_event, f"{path} was touched, but its content is unchanged")
        finally:
            os.close(descriptor)

    def check_once(self, path: Path, name: str, check: Callable[[int], None]) -> None:
        """Run a check on an open disk, unless it succeeded before and the disk is unchanged.

        Args:
            path: A disk of the cache that is in use.
            name: Name of the check.
            check: Raises an error if the disk fails; that is not remembered.
        """
        descriptor = open_own(path)
        if descriptor is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        try:
            record = read_record(path) or {}
            unchanged = is_unchanged(path, descriptor)
            if unchanged and record.get(_CHECKED) == name:
                return
            check(descriptor)
            if unchanged:
                kept: dict[str, str] = {key: str(value) for key, value in record.items() if key in _KEPT}
                write_record(path, descriptor, {**kept, _CHECKED: name})
        finally:
            os.close(descriptor)

    def make(self, selection: Selection, template: BinaryIO, on_event: Reporter, unpack: Unpacker) -> None:
        """Unpack a template; the caller holds the lock of the entry."""
        entry = selection.entry
        on_event(Step(f"Uncompressing: {entry.os_version}"))
        final = self.path(entry)
        with temporary_file(final.parent, digest_of(entry)) as (descriptor, temporary):
            where = f"{entry.os_version} of {selection.source.name}"
            content = unpack(template, temporary, entry, on_event, where=where)
            check_image(temporary, _format(entry), entry.size)
            os.fchmod(descriptor, 0o400)
            publish(descriptor, temporary, final)
            write_record(final, descriptor, {**about(selection), "content": content})

    def update(
        self,
        selection: Selection,
        fetcher: Fetcher,
        on_event: Reporter,
        *,
        whole: int,
        elsewhere: Elsewhere,
        make_room: Callable[[int, Reporter], None],
    ) -> bool:
        """Make the disk of a template from blocks of older ones; the caller holds the lock of the entry.

        ``whole`` is the size in bytes of the smallest file with the whole disk; ``make_room`` is called with
        the bytes that will be needed. The result is False if the template's file is to be fetched and
        unpacked instead.
        """
        entry, final = selection.entry, self.path(selection.entry)
        with contextlib.ExitStack() as opened:
            part = self._folder.partial / final.name
            seeds = self._seeds(selection, elsewhere, on_event, opened)
            if not (seeds or elsewhere.peers or part.exists()):
                return False
            place = opened.enter_context(tempfile.TemporaryFile(dir=part.parent))
            blocks = fetch_list(selection, fetcher, place, on_event)
            if blocks is None:
                return False
            on_event(Step(f"Updating: {entry.os_version}"))
            make_room(len(blocks) * blocks.block_size, on_event)
            target = open_partial(part)
            opened.callback(os.close, target)
            keep = True
            try:
                work = Update(selection, blocks, whole, fetcher, on_event, elsewhere.peers)
                keep = work.fill(target, seeds)
                if not keep:
                    return False
                check_image(part, _format(entry), entry.size)
                os.fchmod(target, 0o400)
                publish(target, part, final)
                write_record(final, target, {**about(selection), "content": content_of(blocks)})
                remove_file(part.with_suffix(""))  # an earlier run may have begun to fetch the whole file
            except Interrupted as error:
                error.hint = "run the command again: the blocks that are here are not fetched again"
                raise
            finally:
                if not keep or is_full(part.parent, sys.exception()):
                    remove_file(part)
        return True

    def foresee_update(
        self,
        selection: Selection,
        fetcher: Fetcher,
        on_event: Reporter,
        *,
        whole: int,
        elsewhere: Elsewhere,
        obstacle: str | None,
    ) -> Foreseen | None:
        """Return what ``update`` would fetch; None if no disk here may have blocks of the template.

        ``obstacle`` is a known reason why it would not be blocks.
        """
        with contextlib.ExitStack() as opened:
            seeds = self._seeds(selection, elsewhere, on_event, opened)
            part = self._folder.partial / self.path(selection.entry).name
            with contextlib.suppress(OSError):  # there is none
                seeds.append(opened.enter_context(open_file(part, os.O_NOFOLLOW)).fileno())
            if not seeds and not older_disks(self._folder.disks, selection.entry):
                return None
            if obstacle is not None:
                return Foreseen(whole, None, obstacle)
            place = opened.enter_context(tempfile.TemporaryFile())
            blocks = fetch_list(selection, fetcher, place, on_event)
            if blocks is None:
                return Foreseen(whole, None, "the list of its blocks cannot be used (see -v)")
            return Update(selection, blocks, whole, fetcher, on_event).foresee(seeds)

    def _seeds(
        self, selection: Selection, elsewhere: Elsewhere, on_event: Reporter, opened: contextlib.ExitStack
    ) -> list[int]:
        """Open the disks that may have blocks of a template: its own damaged one first."""
        own, entry = self.path(selection.entry), selection.entry
        files: list[BinaryIO] = []
        with contextlib.suppress(OSError):
            files.append(open_file(own, os.O_NOFOLLOW))
        for folder in (self._folder.disks, *(root / "disks" for root in elsewhere.caches)):
            files += open_disks(older_disks(folder, entry, ".raw"))
        files += elsewhere.open_files(on_event)
        return [opened.enter_context(file).fileno() for file in files]

    def release(self) -> None:
        """Unlock the disks in use."""
        while self._in_use:
            with contextlib.suppress(OSError):  # nothing was written to it, so nothing can be lost
                os.close(self._in_use.pop())


def _format(entry: Entry) -> str:
    return entry.format or UNNAMED

"""Templates kept on this machine, named by what is in them.

::

    ROOT/templates/SHA512            as published, compressed
    ROOT/disks/SHA512.FORMAT         unpacked: sparse, read-only
    ROOT/partial/SHA512              not yet whole, see imgbuilder.cache.partial
    ROOT/.../*.json                  their records, see imgbuilder.cache.records
    ROOT/locks, ROOT/lock            see imgbuilder.cache.folder

Both layers bear the digest that the signed index names, so that a name can
never mean other bytes, whoever offers it (virt-builder's cache mixes sources
up, ``virt-builder.md`` SE-13). A file appears under its name only when it is
whole, verified and on disk (``reliability.md`` C1 to C5), and is looked at
again at each use (C12 to C14, T17).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from imgbuilder.appliance.instant.settings import state_folder
from imgbuilder.appliance.instant.store import StateStore
from imgbuilder.atomic import publish, temporary_file
from imgbuilder.cache.digest import sha512_of
from imgbuilder.cache.download import Intake, about
from imgbuilder.cache.folder import CacheFolder
from imgbuilder.cache.limit import default_limit, kept_files, remove_file, shrink, verify
from imgbuilder.cache.locks import try_shared
from imgbuilder.cache.records import is_unchanged, open_own, touch_record, write_record
from imgbuilder.cache.unpack import Unpacker
from imgbuilder.cache.unpack import unpack as unpack_template
from imgbuilder.disk.imageheader import UNNAMED, check_image
from imgbuilder.errors import WorkspaceError
from imgbuilder.events import Reporter, Step, debug, ignore, warn
from imgbuilder.sizes import human_size
from imgbuilder.workspace import private_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

    from imgbuilder.catalog.catalog import Selection
    from imgbuilder.fetch.transfer import Fetcher
    from imgindex.model import Entry


class TemplateCache:
    """The cache; a context manager that keeps its files from deletion while it is open.

    Args:
        root: Its folder.
        private: It is a temporary one: removed when closed, and templates go once they are unpacked.
        limit: Bytes that it may hold, the entry in hand apart; None for a share of the disk.
        shared: Other caches, which are only read, and whose templates are verified when they are taken.
    """

    def __init__(
        self, root: Path, *, private: bool = False, limit: int | None = None, shared: Sequence[Path] = ()
    ) -> None:
        self.root = root
        self.private = private
        self.owned = contextlib.ExitStack()
        """What ends with a private cache: the claim on its folder."""
        self._limit = limit
        self._folder = CacheFolder(root)
        self._intake = Intake(self._folder, tuple(shared), self._make_room)
        self._in_use: list[int] = []  # descriptors whose locks keep files from removal

    def __enter__(self) -> TemplateCache:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def open(self, report: Reporter = ignore) -> None:
        """Make the folder ready.

        Raises:
            WorkspaceError: It cannot be used.
        """
        self._folder.open(report)

    def close(self) -> None:
        """Give the cache free; remove a private one."""
        while self._in_use:
            os.close(self._in_use.pop())
        self._folder.close()
        if self.private:
            shutil.rmtree(self.root, ignore_errors=True)
        owned, self.owned = self.owned, contextlib.ExitStack()
        owned.close()

    def delete(self, report: Reporter = ignore, *, limit: float = 10.0) -> None:
        """Remove our files from the folder, and nobody else's.

        Args:
            report: Told when we must wait.
            limit: Seconds to wait for builds that use it.

        Raises:
            WorkspaceError: A build goes on using it, or a file cannot be removed.
        """
        self._folder.delete(report, limit=limit)

    def is_cached(self, entry: Entry) -> bool:
        """Say whether a template need not be downloaded; its bytes are not looked at."""
        if entry.sha512 is None:
            return False
        sizes: dict[Path, int | None] = {
            self._disk_path(entry): entry.size if _format(entry) == "raw" else None
        }
        for path in (self._template_path(entry), *self._intake.shared_paths(entry.sha512)):
            sizes[path] = entry.compressed_size
        for path, size in sizes.items():
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and size in (None, status.st_size):
                return True
        return False

    def has_disk(self, entry: Entry) -> bool:
        """Say whether a template is unpacked already; its bytes are not looked at."""
        return self.unpacked_disk(entry) is not None

    def unpacked_disk(self, entry: Entry) -> Path | None:
        """Return where a template is unpacked already, its bytes not looked at; None where it is not."""
        if entry.sha512 is None or not self._disk_path(entry).is_file():
            return None
        return self._disk_path(entry)

    def identify(self, selection: Selection, fetcher: Fetcher, report: Reporter = ignore) -> Selection:
        """Find the SHA-512 of a template whose source does not name it, by downloading it each time.

        Args:
            selection: The template; with a SHA-256, only the bytes that have it are taken.
            fetcher: Downloads it.
            report: Told what happens.

        Returns:
            The same with its SHA-512.

        Raises:
            FetchError: As ``get_template``.
            DigestMismatchError: As ``get_template``.
            WorkspaceError: As ``get_template``.
        """
        if selection.entry.sha512 is not None:
            return selection
        try:
            digest = self._intake.bring(selection, fetcher, report)
        except OSError as error:
            raise self._write_error(selection.entry, error) from error
        return replace(selection, entry=replace(selection.entry, sha512=digest))

    def get_template(self, selection: Selection, fetcher: Fetcher, report: Reporter = ignore) -> Path:
        """Return a template's file as published, downloaded if need be and verified.

        Args:
            selection: The template.
            fetcher: Downloads it.
            report: Told what happens.

        Raises:
            FetchError: It cannot be had.
            DigestMismatchError: The source sent other bytes than the index names.
            WorkspaceError: The cache cannot be written, or has no space, or holds something strange.
        """
        try:
            selection = self.identify(selection, fetcher, report)
            with self._folder.entry(_digest(selection.entry), report):
                self._open_template(selection, fetcher, report).close()
            return self._template_path(selection.entry)
        except OSError as error:
            raise self._write_error(selection.entry, error) from error

    def get_disk(
        self,
        selection: Selection,
        fetcher: Fetcher,
        report: Reporter = ignore,
        *,
        unpack: Unpacker = unpack_template,
    ) -> Path:
        """Return a template's unpacked disk: read-only, sparse, of the format and size that the index says.

        Args:
            selection: The template.
            fetcher: Downloads it.
            report: Told what happens.
            unpack: Unpacks it.

        Raises:
            RepositoryError: The template is damaged or not what the index promises.
            DiskError: Another entry with the same digest promises another size.
            FetchError: As ``get_template``.
            DigestMismatchError: As ``get_template``.
            WorkspaceError: As ``get_template``.
        """
        try:
            selection = self.identify(selection, fetcher, report)
            entry = selection.entry
            path = self._disk_path(entry)
            if self._use_disk(entry):
                return path
            with self._folder.entry(_digest(entry), report):
                if not self._use_disk(entry):
                    with self._open_template(selection, fetcher, report) as template:
                        self._make_disk(selection, template, report, unpack)
                    self._use_disk(entry)
                    if self.private:
                        remove_file(self._template_path(entry))
                    self._make_room(0, report)
        except OSError as error:
            raise self._write_error(selection.entry, error) from error
        return path

    @property
    def limit(self) -> int:
        """Bytes that the cache may hold, the entry in hand apart.

        Raises:
            OSError: The folder cannot be looked at.
        """
        return default_limit(self.root) if self._limit is None else self._limit

    def collect(self) -> list[tuple[str, int]]:
        """Remove what was not used for longest, until the limit is kept.

        Returns:
            Name and bytes of what was removed.

        Raises:
            WorkspaceError: The cache cannot be used.
        """
        try:
            return shrink(self._folder, self.limit)
        except OSError as error:
            raise self._unusable(error) from error

    def verify(self, report: Reporter = ignore) -> list[tuple[str, int]]:
        """Look at all bytes, and remove what is damaged.

        Returns:
            Name and bytes of what was removed.

        Raises:
            WorkspaceError: The cache cannot be used.
        """
        try:
            return verify(self._folder, report)
        except OSError as error:
            raise self._unusable(error) from error

    def used(self) -> int:
        """Return how many bytes the cache takes on the disk.

        Raises:
            WorkspaceError: The cache cannot be used.
        """
        try:
            states = StateStore(state_folder(self._folder.root))
            return sum(item.size for item in kept_files(self._folder)) + states.used_bytes()
        except OSError as error:
            raise self._unusable(error) from error

    def _make_room(self, needed: int, report: Reporter) -> None:
        """Keep the limit, with ``needed`` bytes to come; the entry in hand is locked, and so stays."""
        if self.private:
            return
        for name, size in shrink(self._folder, max(0, self.limit - needed)):
            debug(report, f"removed from the cache to keep its limit: {name}, {human_size(size)}")

    def _template_path(self, entry: Entry) -> Path:
        return self._folder.templates / _digest(entry)

    def _disk_path(self, entry: Entry) -> Path:
        return self._folder.disks / f"{_digest(entry)}.{_format(entry)}"

    def _open_template(self, selection: Selection, fetcher: Fetcher, report: Reporter) -> BinaryIO:
        """Open the template; what was verified is this very file, not what its name means later (C13)."""
        path = self._template_path(selection.entry)
        file = self._open_if_good(path, selection.entry, report)
        if file is None:
            self._intake.bring(selection, fetcher, report)
            file = self._open_if_good(path, selection.entry, report)
        if file is None:
            raise WorkspaceError(
                f"{path} changed right after it was written", hint="check this machine's disk and memory"
            )
        return file

    def _open_if_good(self, path: Path, entry: Entry, report: Reporter) -> BinaryIO | None:
        descriptor = open_own(path)
        if descriptor is None:
            return None
        file = os.fdopen(descriptor, "rb", buffering=0)
        try:
            if is_unchanged(path, descriptor):
                touch_record(path)
                return file
            if sha512_of(file) == entry.sha512:
                write_record(path, descriptor, {"template": entry.os_version, "arch": entry.arch})
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        warn(report, f"the cached template {path} is damaged and is fetched again")
        remove_file(path)
        return None

    def _use_disk(self, entry: Entry) -> bool:
        """Say whether the disk is there and good; if so, keep it from removal until the cache is closed."""
        path = self._disk_path(entry)
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

    def _make_disk(
        self, selection: Selection, template: BinaryIO, report: Reporter, unpack: Unpacker
    ) -> None:
        entry = selection.entry
        report(Step(f"Uncompressing: {entry.os_version}"))
        final = self._disk_path(entry)
        with temporary_file(final.parent, _digest(entry)) as (descriptor, temporary):
            where = f"{entry.os_version} of {selection.source.name}"
            unpack(template, temporary, entry, report, where=where)
            check_image(temporary, _format(entry), entry.size)
            os.fchmod(descriptor, 0o400)
            publish(descriptor, temporary, final)
            write_record(final, descriptor, about(selection))

    def _write_error(self, entry: Entry, error: OSError) -> WorkspaceError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return WorkspaceError(
                f"no space left in {self.root} for the template {entry.os_version}",
                hint="free some space there, or choose another folder with --cache DIR",
            )
        return self._unusable(error)

    def _unusable(self, error: OSError) -> WorkspaceError:
        return WorkspaceError(
            f"cannot use the cache {self.root}: {error.strerror or error}",
            hint="choose another folder with --cache DIR",
        )


def open_cache(
    root: Path | None,
    scratch: Path,
    report: Reporter = ignore,
    *,
    limit: int | None = None,
    shared: Sequence[Path] = (),
) -> TemplateCache:
    """Open the cache, or a temporary one where there is none to be had (``reliability.md`` C15, C16).

    Args:
        root: The cache's folder; None for a run without cache.
        scratch: Folder for the temporary one: the output's, or ``imgbuilder.paths.temporary_dir()``.
        report: Warned when the cache cannot be used.
        limit: Bytes that it may hold; None for a share of the disk.
        shared: Other caches to look into.

    Raises:
        WorkspaceError: No temporary folder can be made either.
    """
    if root is not None:
        cache = TemplateCache(root, limit=limit, shared=shared)
        try:
            cache.open(report)
        except WorkspaceError as error:
            warn(report, f"working without a cache: {error.message}")
        else:
            return cache
    with contextlib.ExitStack() as stack:
        private = stack.enter_context(private_folder(scratch))
        cache = TemplateCache(private, private=True, shared=shared)
        cache.open(report)
        cache.owned = stack.pop_all()
    return cache


def _format(entry: Entry) -> str:
    return entry.format or UNNAMED


def _digest(entry: Entry) -> str:
    assert entry.sha512 is not None
    return entry.sha512

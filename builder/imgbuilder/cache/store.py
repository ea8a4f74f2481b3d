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
whole, verified and on disk (``docs/threat-model.md`` C1 to C5), and is looked at
again at each use (C12 to C14, T17).
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from imgbuilder.appliance.instant.settings import state_folder
from imgbuilder.appliance.instant.store import StateStore
from imgbuilder.cache.disks import Disks
from imgbuilder.cache.folder import CacheFolder
from imgbuilder.cache.limit import default_limit, free_space, kept_files, remove_file, shrink, verify
from imgbuilder.cache.templates import Templates, digest_of
from imgbuilder.cache.unpack import Unpacker
from imgbuilder.cache.unpack import unpack as unpack_template
from imgbuilder.cache.variants import files_of, usable
from imgbuilder.catalog.catalog import Selection
from imgbuilder.errors import FileMissingError, WorkspaceError
from imgbuilder.events import Reporter, debug, ignore, warn
from imgbuilder.fetch.transfer import Fetcher
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.sizes import human_size
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
        self._templates = Templates(self._folder, shared, self._make_room)
        self._disks = Disks(self._folder)

    def __enter__(self) -> TemplateCache:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def open(self, on_event: Reporter = ignore) -> None:
        """Make the folder ready.

        Raises:
            WorkspaceError: It cannot be used.
        """
        self._folder.open(on_event)

    def close(self) -> None:
        """Give the cache free; remove a private one."""
        self._disks.release()
        self._folder.close()
        if self.private:
            shutil.rmtree(self.root, ignore_errors=True)
        owned, self.owned = self.owned, contextlib.ExitStack()
        owned.close()

    def delete(self, on_event: Reporter = ignore, *, limit: float = 10.0) -> None:
        """Remove our files from the folder, and nobody else's.

        Args:
            on_event: Reports a wait.
            limit: Seconds to wait for builds that use it.

        Raises:
            WorkspaceError: A build goes on using it, or a file cannot be removed.
        """
        self._folder.delete(on_event, limit=limit)

    def is_cached(self, entry: Entry) -> bool:
        """Say whether a template need not be downloaded; its bytes are not looked at."""
        return any(self._disks.has(file) or self._templates.has(file) for file in files_of(entry))

    def has_disk(self, entry: Entry) -> bool:
        """Say whether a template is unpacked already; its bytes are not looked at."""
        return self.unpacked_disk(entry) is not None

    def unpacked_disk(self, entry: Entry) -> Path | None:
        """Return where a template is unpacked already, its bytes not looked at; None where it is not."""
        return next((self._disks.path(file) for file in files_of(entry) if self._disks.has(file)), None)

    def preferred(self, selection: Selection) -> Selection:
        """Choose the file of a template that a build will start from, if the source has it.

        Raises:
            RepositoryError: The index gives a file an address outside the source.
        """
        return self._in_order(selection)[0]

    def identify(self, selection: Selection, fetcher: Fetcher, on_event: Reporter = ignore) -> Selection:
        """Find the SHA-512 of a template whose source does not name it, by downloading it each time.

        Args:
            selection: The template; with a SHA-256, only the bytes that have it are taken.
            fetcher: Downloads it.
            on_event: Called with each event.

        Returns:
            The same with its SHA-512.

        Raises:
            FetchError: As ``get_template``.
            DigestMismatchError: As ``get_template``.
            WorkspaceError: As ``get_template``.
        """
        with self._explained(selection.entry):
            return self._templates.identify(selection, fetcher, on_event)

    def get_template(self, selection: Selection, fetcher: Fetcher, on_event: Reporter = ignore) -> Path:
        """Return a template's file as published, downloaded if need be and verified.

        Args:
            selection: The template.
            fetcher: Downloads it.
            on_event: Called with each event.

        Raises:
            FetchError: It cannot be had.
            DigestMismatchError: The source sent other bytes than the index names.
            WorkspaceError: The cache cannot be written, or has no space, or holds something strange.
        """

        def get(chosen: Selection) -> Path:
            with self._folder.entry(digest_of(chosen.entry), on_event):
                self._templates.open(chosen, fetcher, on_event).close()
                self._keep_limit(on_event)
            return self._templates.path(chosen.entry)

        with self._explained(selection.entry):
            known = self._templates.identify(selection, fetcher, on_event)
            return _first_there(self._in_order(known), get, on_event)

    def get_disk(
        self,
        selection: Selection,
        fetcher: Fetcher,
        on_event: Reporter = ignore,
        *,
        unpack: Unpacker = unpack_template,
    ) -> Path:
        """Return a template's unpacked disk: read-only, sparse, of the format and size that the index says.

        Args:
            selection: The template.
            fetcher: Downloads it.
            on_event: Called with each event.
            unpack: Unpacks it.

        Raises:
            RepositoryError: The template is damaged or not what the index promises.
            DiskError: Another entry with the same digest promises another size.
            FetchError: As ``get_template``.
            DigestMismatchError: As ``get_template``.
            WorkspaceError: As ``get_template``.
        """

        def get(chosen: Selection) -> Path:
            entry = chosen.entry
            with self._folder.entry(digest_of(entry), on_event):
                self._disks.accept_again(entry, on_event)
                if not self._disks.use(entry):
                    with self._templates.open(chosen, fetcher, on_event) as template:
                        self._disks.make(chosen, template, on_event, unpack)
                    self._disks.use(entry)
                    if self.private:
                        remove_file(self._templates.path(entry))
                    self._keep_limit(on_event)
            return self._disks.path(entry)

        with self._explained(selection.entry):
            known = self._templates.identify(selection, fetcher, on_event)
            for file in files_of(known.entry):
                if self._disks.use(file):
                    return self._disks.path(file)
            return _first_there(self._in_order(known), get, on_event)

    def _in_order(self, selection: Selection) -> list[Selection]:
        """Return the files of a template, what is unpacked already first, then what was downloaded."""
        return sorted(
            usable(selection),
            key=lambda one: (not self._disks.has(one.entry), not self._templates.has(one.entry)),
        )

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
        with self._explained():
            return shrink(self._folder, self.limit)

    def verify(self, on_event: Reporter = ignore) -> tuple[list[tuple[str, int]], int]:
        """Look at all bytes, and remove what is damaged.

        Returns:
            Name and bytes of what was removed, and how many files are good.

        Raises:
            WorkspaceError: The cache cannot be used.
        """
        with self._explained():
            return verify(self._folder, on_event)

    def used(self) -> int:
        """Return how many bytes the cache takes on the disk.

        Raises:
            WorkspaceError: The cache cannot be used.
        """
        with self._explained():
            states = StateStore(state_folder(self._folder.root))
            return sum(item.size for item in kept_files(self._folder)) + states.used_bytes()

    def _keep_limit(self, on_event: Reporter) -> None:
        """Keep the limit, now that what came is whole; the entry in hand is locked, and so stays."""
        if self.private:
            return
        for name, size in shrink(self._folder, self.limit):
            debug(on_event, f"removed from the cache to keep its limit: {name}, {human_size(size)}")

    def _make_room(self, needed: int, on_event: Reporter) -> None:
        """Make sure of the space for a template (``docs/threat-model.md`` C5); nothing goes if it cannot fit.

        Raises:
            WorkspaceError: There is not enough, whatever is removed.
        """
        free = shutil.disk_usage(self._folder.templates).free
        if free >= needed:
            return
        removed = None if self.private else free_space(self._folder, needed - free)
        if removed is None:
            raise WorkspaceError(
                f"{self._folder.templates} has {human_size(free)} free, and the template needs "
                f"{human_size(needed)}",
                hint="free some space there, or choose another folder with --cache DIR",
            )
        for name, size in removed:
            debug(on_event, f"removed from the cache to have room: {name}, {human_size(size)}")

    @contextlib.contextmanager
    def _explained(self, entry: Entry | None = None) -> Iterator[None]:
        """Turn errors of the system into ours."""
        try:
            yield
        except OSError as error:
            what = "" if entry is None else f" for the template {entry.os_version}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise WorkspaceError(
                    f"no space left in {self.root}{what}",
                    hint="free some space there, or choose another folder with --cache DIR",
                ) from error
            raise WorkspaceError(
                f"cannot use the cache {self.root}{what}: {error.strerror or error}",
                hint="choose another folder with --cache DIR",
            ) from error


def _first_there(choices: Sequence[Selection], get: Callable[[Selection], Path], on_event: Reporter) -> Path:
    """Get the first file that its source has."""
    for chosen, other in pairwise(choices):
        try:
            return get(chosen)
        except FileMissingError as error:
            debug(on_event, f"{error.message}; {other.entry.file} is used instead")
    return get(choices[-1])


# Which cache a run works with: the user's, or a temporary one where that cannot be used.


def open_cache(
    root: Path | None,
    scratch: Path,
    on_event: Reporter = ignore,
    *,
    limit: int | None = None,
    shared: Sequence[Path] = (),
) -> TemplateCache:
    """Open the cache, or a temporary one where there is none to be had (``docs/threat-model.md`` C15, C16).

    A cache that cannot be written, or that belongs to somebody else, can still be read like a shared one:
    what is taken from there is verified first.

    Args:
        root: The cache's folder; None for a run without cache.
        scratch: Folder for the temporary one: the output's, or ``imgbuilder.host.paths.temporary_dir()``.
        on_event: Receives a warning when the cache cannot be used.
        limit: Bytes that it may hold; None for a share of the disk.
        shared: Other caches to look into.

    Raises:
        WorkspaceError: No temporary folder can be made either.
    """
    if root is not None:
        cache = TemplateCache(root, limit=limit, shared=shared)
        try:
            cache.open(on_event)
        except WorkspaceError as error:
            warn(on_event, f"working without a cache: {error.message}")
            shared = (root, *shared)
        else:
            return cache
    with contextlib.ExitStack() as stack:
        private = stack.enter_context(private_folder(scratch))
        cache = TemplateCache(private, private=True, shared=shared)
        cache.open(on_event)
        cache.owned = stack.pop_all()
    return cache

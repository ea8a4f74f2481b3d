"""The cache of templates on this machine; a file is named by the digest of its template.

::

    ROOT/templates/SHA512            as published, compressed
    ROOT/disks/SHA512.FORMAT         unpacked: sparse, read-only
    ROOT/partial/SHA512              incomplete, see imgbuilder.cache.partial
    ROOT/runs/KEY.qcow2              over an unpacked disk, see imgbuilder.cache.runs
    ROOT/.../*.json                  their records, see imgbuilder.cache.folder
    ROOT/locks, ROOT/lock            see imgbuilder.cache.folder

The digest is the one that the signed index names, so that a name never means different bytes, whichever
source offers it (virt-builder's cache mixes sources up, see docs/compatibility.md). A file appears under its
name only when it is complete, verified and on disk, and is checked again at each use
(``docs/threat-model.md`` C1 to C14).
"""

from __future__ import annotations

import contextlib
import errno
import shlex
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from imgbuilder.appliance.instant.store import StateStore, state_folder
from imgbuilder.cache.assemble import Foreseen, obstacle_to_blocks
from imgbuilder.cache.disks import Disks
from imgbuilder.cache.elsewhere import NOWHERE, Elsewhere
from imgbuilder.cache.folder import CacheFolder, remove_file
from imgbuilder.cache.limit import Verified, default_limit, free_space, kept_files, shrink, verify
from imgbuilder.cache.links import LinkedImage, add_link, all_links, remove_link
from imgbuilder.cache.runs import RunImage, RunImages
from imgbuilder.cache.templates import Templates, digest_of, usable, variants_of
from imgbuilder.cache.unpack import Unpacker
from imgbuilder.cache.unpack import unpack as unpack_template
from imgbuilder.catalog.catalog import Selection
from imgbuilder.errors import FileMissingError, WorkspaceError
from imgbuilder.events import Reporter, debug, ignore, warn
from imgbuilder.fetch.router import will_ask
from imgbuilder.fetch.transfer import Fetcher
from imgbuilder.fetch.urls import local_path
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.sizes import human_size
from imgindex.model import Entry


class TemplateCache:
    """The cache; a context manager that protects its files from deletion while it is open.

    Args:
        root: Its folder.
        private: True for a temporary cache: removed on close, each template as soon as it is unpacked.
        limit: Most bytes that the cache may hold; None for a share of the disk. The one in use stays.
        elsewhere: Other places that have templates or blocks of them; they are only read.
    """

    def __init__(
        self, root: Path, *, private: bool = False, limit: int | None = None, elsewhere: Elsewhere = NOWHERE
    ) -> None:
        self.root = root
        self.private = private
        self.owned = contextlib.ExitStack()
        """Closed with the cache: the lock on a private folder."""
        self._limit = limit
        self._elsewhere = elsewhere
        self._folder = CacheFolder(root)
        self._templates = Templates(self._folder, elsewhere, self._make_room)
        self._disks = Disks(self._folder)
        self._runs = RunImages(self._folder)

    def __enter__(self) -> TemplateCache:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def open(self, on_event: Reporter = ignore) -> None:
        """Make and lock the folder."""
        self._folder.open(on_event)

    def close(self) -> None:
        """Release the cache; remove a private one."""
        self._runs.release()
        self._disks.release()
        self._folder.close()
        if self.private:
            shutil.rmtree(self.root, ignore_errors=True)
        owned, self.owned = self.owned, contextlib.ExitStack()
        owned.close()

    def delete(self, on_event: Reporter = ignore, *, limit: float = 10.0) -> bool:
        """Remove the cache's files from the folder, and no others; return False if there is no cache.

        Raises:
            WorkspaceError: It is in use, images lie over its disks, or a file cannot be removed.
        """
        return self._folder.delete(on_event, limit=limit, check=self._refuse_linked)

    def _refuse_linked(self) -> None:
        if links := self.links():
            raise WorkspaceError(
                f"the cache {self.root} holds the disk of a linked image: {links[0].image}",
                hint=f"make it independent first: pybuilder unlink {shlex.quote(str(links[0].image))}",
            )

    def links(self) -> list[LinkedImage]:
        """Return the images that lie over disks of the cache.

        Raises:
            WorkspaceError: A record of them cannot be read.
        """
        return all_links(self._folder)

    def holds_disk(self, path: Path) -> bool:
        """Tell whether a path names an unpacked disk of this cache."""
        return any(
            item.path.samefile(path) for item in kept_files(self._folder) if item.path.name == path.name
        )

    def add_link(self, disk: Path, image: Path) -> None:
        """Keep an unpacked disk as long as an image lies over it, which may be made now."""
        if image.parent != self._folder.runs.resolve():  # an image of the cache goes with its disk
            add_link(self._folder, disk, image)

    def remove_link(self, link: LinkedImage) -> None:
        """Keep a disk no longer for an image."""
        remove_link(self._folder, link.disk, link.image)

    def is_cached(self, entry: Entry) -> bool:
        """Tell whether a template need not be downloaded; its bytes are not checked."""
        return any(self._disks.has(file) or self._templates.has(file) for file in variants_of(entry))

    def unpacked_disk(self, entry: Entry) -> Path | None:
        """Return a template's unpacked disk, whose bytes are not checked; None if there is none."""
        return next((self._disks.path(file) for file in variants_of(entry) if self._disks.has(file)), None)

    def check_once(self, disk: Path, name: str, check: Callable[[int], None]) -> None:
        """Run a check on an unpacked disk; if it succeeds, that is remembered until the disk changes."""
        self._disks.check_once(disk, name, check)

    def preferred(self, selection: Selection) -> Selection:
        """Choose the file of a template that a build will start from, if the source has it."""
        return self._in_order(selection)[0]

    def identify(self, selection: Selection, fetcher: Fetcher, on_event: Reporter = ignore) -> Selection:
        """Add the SHA-512 to a template; if its source names none, download the template to compute it."""
        with self._explained(selection.entry):
            return self._templates.identify(selection, fetcher, on_event)

    def get_template(self, selection: Selection, fetcher: Fetcher, on_event: Reporter = ignore) -> Path:
        """Return a template's file as published, downloaded if necessary and verified."""

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
        """Return a template's unpacked disk: read-only, sparse, of the format and size in the index."""

        def get(chosen: Selection) -> Path:
            entry = chosen.entry
            with self._folder.entry(digest_of(entry), on_event):
                self._disks.accept_again(entry, on_event)
                if not self._disks.use(entry):
                    if self._update(chosen, selection, fetcher, on_event):
                        self._disks.use(entry)
                        self._keep_limit(on_event)
                        return self._disks.path(entry)
                    with self._templates.open(chosen, fetcher, on_event) as template:
                        self._disks.make(chosen, template, on_event, unpack)
                    self._disks.use(entry)
                    if self.private:
                        remove_file(self._templates.path(entry))
                    self._keep_limit(on_event)
            return self._disks.path(entry)

        with self._explained(selection.entry):
            known = self._templates.identify(selection, fetcher, on_event)
            for file in variants_of(known.entry):
                if self._disks.use(file):
                    return self._disks.path(file)
            return _first_there(self._in_order(known), get, on_event)

    def run_image_path(self, key: str) -> Path:
        """Return the place of an image of ``pybuilder run``, which need not exist."""
        return self._runs.path(key)

    def describe_run_images(self) -> list[str]:
        """Return a line for each image of ``pybuilder run``."""
        return self._runs.describe()

    def get_run_image(
        self, key: str, disk: Path, build: Callable[[Path], dict[str, str]], on_event: Reporter = ignore
    ) -> RunImage:
        """Return an image over an unpacked disk that is in use, made by ``build`` if there is none."""
        with self._explained(), self._folder.entry(key, on_event):
            image = self._runs.use(key, disk)
            if image is None:
                image = self._runs.make(key, disk, build)
                self._keep_limit(on_event)
            return image

    def _update(self, chosen: Selection, selection: Selection, fetcher: Fetcher, on_event: Reporter) -> bool:
        """Make a disk from blocks of older ones; False if it has to be unpacked from a file."""
        return self._can_update(chosen, fetcher) and self._disks.update(
            chosen,
            fetcher,
            on_event,
            whole=_smallest(selection.entry),
            elsewhere=self._elsewhere,
            make_room=self._make_room,
        )

    def foresee_update(
        self, selection: Selection, fetcher: Fetcher, on_event: Reporter = ignore
    ) -> Foreseen | None:
        """Return what an update of a template's disk would fetch.

        None if there is nothing to fetch from a server, or no disk here that may have blocks of it.
        """
        chosen, whole = self.preferred(selection), _smallest(selection.entry)
        is_local = local_path(chosen.url) is not None
        if self.is_cached(selection.entry) or is_local or not will_ask(fetcher, chosen.url):
            return None
        if chosen.entry.sha512 is None:
            return None  # its name in the cache is only known once it is fetched
        obstacle = obstacle_to_blocks(chosen)
        if selection.entry.blocks is not None and chosen.entry.blocks is None:
            obstacle = "zstd is not installed"
        with self._explained(selection.entry):
            return self._disks.foresee_update(
                chosen, fetcher, on_event, whole=whole, elsewhere=self._elsewhere, obstacle=obstacle
            )

    def _can_update(self, chosen: Selection, fetcher: Fetcher) -> bool:
        """Tell whether a source offers blocks of a file that is not here as a whole."""
        return (
            obstacle_to_blocks(chosen) is None
            and not self._templates.has(chosen.entry)
            and will_ask(fetcher, chosen.url)
        )

    def _in_order(self, selection: Selection) -> list[Selection]:
        """Return the files of a template: unpacked ones first, then downloaded ones."""
        return sorted(
            usable(selection),
            key=lambda one: (not self._disks.has(one.entry), not self._templates.has(one.entry)),
        )

    @property
    def limit(self) -> int:
        """Bytes that the cache may hold besides the entry in use."""
        return default_limit(self.root) if self._limit is None else self._limit

    def collect(self) -> list[tuple[str, int]]:
        """Remove the least recently used files until the limit is kept; return their names and sizes."""
        with self._explained():
            return shrink(self._folder, self.limit)

    def verify(self, on_event: Reporter = ignore, *, repairable: Collection[str] = ()) -> Verified:
        """Check all bytes, and remove damaged files, except for disks that ``get_disk`` repairs afterwards.

        ``repairable`` are the digests of their templates.
        """
        with self._explained():
            return verify(self._folder, on_event, repairable=repairable)

    def used(self) -> int:
        """Return the number of bytes that the cache uses on disk."""
        with self._explained():
            states = StateStore(state_folder(self._folder.root))
            return sum(item.size for item in kept_files(self._folder)) + states.used_bytes()

    def _keep_limit(self, on_event: Reporter) -> None:
        """Remove old files after one was added, until the limit is met; the entry in use stays."""
        if self.private:
            return
        for name, size in shrink(self._folder, self.limit):
            debug(on_event, f"removed from the cache to keep its limit: {name}, {human_size(size)}")

    def _make_room(self, needed: int, on_event: Reporter) -> None:
        """Make room for a template; if it cannot fit, nothing is removed."""
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
            debug(on_event, f"removed from the cache to make room: {name}, {human_size(size)}")

    @contextlib.contextmanager
    def _explained(self, entry: Entry | None = None) -> Iterator[None]:
        """Turn system errors into errors of the cache."""
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
    """Try the files in order; return the first that the source has."""
    for chosen, other in pairwise(choices):
        try:
            return get(chosen)
        except FileMissingError as error:
            debug(on_event, f"{error.message}; {other.entry.file} is used instead")
    return get(choices[-1])


def _smallest(entry: Entry) -> int:
    """Return the bytes of the smallest file of a template."""
    return min(file.compressed_size or entry.size for file in variants_of(entry))


def open_cache(
    root: Path | None,
    scratch: Path,
    on_event: Reporter = ignore,
    *,
    limit: int | None = None,
    elsewhere: Elsewhere = NOWHERE,
) -> TemplateCache:
    """Open the cache, or a temporary one if it cannot be used (``docs/threat-model.md`` C15, C16).

    A cache that cannot be written, or that belongs to another user, is still read like a shared one: its
    templates are verified before they are used.
    """
    if root is not None:
        cache = TemplateCache(root, limit=limit, elsewhere=elsewhere)
        try:
            cache.open(on_event)
        except WorkspaceError as error:
            warn(on_event, f"working without a cache: {error.message}")
            elsewhere = replace(elsewhere, caches=(root, *elsewhere.caches))
        else:
            return cache
    with contextlib.ExitStack() as stack:
        private = stack.enter_context(private_folder(scratch))
        cache = TemplateCache(private, private=True, elsewhere=elsewhere)
        cache.open(on_event)
        cache.owned = stack.pop_all()
    return cache

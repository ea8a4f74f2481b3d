"""How a template comes into the cache: from its source, or from another cache.

Whatever the way, its digest is taken while it is written, and it gets its name
only when that is the one that the index names (``docs/threat-model.md`` T9).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from imgbuilder.cache.digest import HashingFile
from imgbuilder.cache.folder import CacheFolder
from imgbuilder.cache.partial import PartialFile, discard, partial_file
from imgbuilder.cache.records import write_record
from imgbuilder.catalog.catalog import Selection
from imgbuilder.errors import (
    DigestMismatchError,
    FetchError,
    OfflineError,
)
from imgbuilder.events import Reporter, Step, info, warn
from imgbuilder.fetch.local import fetch_local
from imgbuilder.fetch.router import will_ask
from imgbuilder.fetch.transfer import BETWEEN_TWO_VERSIONS, Download, Fetcher, download_verified
from imgbuilder.fetch.urls import BUNDLE_SUFFIX, INSIDE, template_url
from imgbuilder.host.interrupts import Interrupted
from imgbuilder.sizes import human_size
from imgindex.files import publish, temporary_file
from imgindex.model import Entry


class Intake:
    """Brings templates into a cache; the caller holds the entry's lock.

    Args:
        folder: The cache, open.
        shared: Other caches to look into before a source is asked; nothing in them is trusted.
        make_room: Called with the bytes that will be needed; raises when there is no room for them.
    """

    def __init__(
        self, folder: CacheFolder, shared: Sequence[Path], make_room: Callable[[int, Reporter], None]
    ) -> None:
        self._folder = folder
        self._shared = shared
        self._make_room = make_room

    def shared_paths(self, digest: str) -> list[Path]:
        """Return where the other caches would have a template."""
        return [root / "templates" / digest for root in self._shared]

    def bring(self, selection: Selection, fetcher: Fetcher, on_event: Reporter) -> str:
        """Bring a template, give it its place, and return its digest.

        Raises:
            FetchError: It cannot be had.
            DigestMismatchError: The source sent other bytes than the index names.
            WorkspaceError: There is no space for it.
            OSError: The cache cannot be written.
        """
        digest = selection.entry.sha512
        if digest is None:
            _announce(selection, fetcher, on_event)
            with temporary_file(self._folder.templates) as (descriptor, temporary):
                file = HashingFile(descriptor, sha256=selection.entry.sha256 is not None)
                fetcher.fetch(self._download_of(selection, file, on_event))
                return self._keep(selection, file, temporary)
        for path in self.shared_paths(digest):
            # Not Path.is_file: it fails where a folder above is closed to us.
            if os.path.isfile(path) and self._copy(selection, path, on_event):  # noqa: PTH113
                discard(self._folder.partial / digest)
                return digest
        *mirrors, last = _addresses(selection)
        with partial_file(self._folder.partial / digest) as part:
            for one in mirrors:
                try:
                    self._download(one, fetcher, on_event, part)
                except (FetchError, DigestMismatchError) as error:
                    if not isinstance(error, OfflineError):
                        warn(on_event, f"{error.message}; the source's next address is tried")
                else:
                    return digest
            self._download(last, fetcher, on_event, part)
            return digest

    def _download(
        self, selection: Selection, fetcher: Fetcher, on_event: Reporter, part: PartialFile
    ) -> None:
        """Get the rest of a template from one address, and give it its place."""
        _announce(selection, fetcher, on_event)
        if part.held:
            info(on_event, f"continuing after the {human_size(part.held)} that are here already")
        part.continue_from(selection.url)
        try:
            download = self._download_of(selection, part, on_event, part=part)
            download_verified(fetcher, download, lambda: self._keep(selection, part, part.path))
        except Interrupted as error:
            if part.resumable:
                error.hint = "run the command again: the download goes on where it was stopped"
            raise
        discard(part.path)  # its record

    def _copy(self, selection: Selection, path: Path, on_event: Reporter) -> bool:
        """Take a template out of another cache; say whether that worked.

        It is copied, not used in place: its owner could change it after it was verified (C13).
        """
        entry = selection.entry
        on_event(Step(f"Copying: {path}"))
        self._make_room(entry.compressed_size or 0, on_event)
        with temporary_file(self._folder.templates, entry.sha512 or "") as (descriptor, temporary):
            file = HashingFile(descriptor)
            try:
                fetch_local(
                    Download(
                        str(path),
                        file,
                        limit=_most(entry),
                        expected=entry.compressed_size,
                        on_event=on_event,
                        label=entry.os_version,
                    )
                )
                self._keep(selection, file, temporary, str(path))
            except (FetchError, DigestMismatchError) as error:
                warn(on_event, f"a shared cache is not used for {entry.os_version}: {error.message}")
                return False
        return True

    def _download_of(
        self, selection: Selection, file: HashingFile, on_event: Reporter, *, part: PartialFile | None = None
    ) -> Download:
        """Make room for a template, and return what the fetcher needs for it."""
        entry = selection.entry
        self._make_room((entry.compressed_size or 0) - file.tell(), on_event)
        return Download(
            selection.url,
            file,
            limit=_most(entry),
            expected=entry.compressed_size,
            on_event=on_event,
            label=entry.os_version,
            proxy=selection.source.proxy,
            digest_known=entry.sha512 is not None or entry.sha256 is not None,
            resume=part,
        )

    def _keep(self, selection: Selection, file: HashingFile, temporary: Path, where: str = "") -> str:
        """Give a finished file its name if it is what the index names, by SHA-512 or at least by SHA-256."""
        entry, digest = selection.entry, file.sha512()
        if entry.sha512 not in (None, digest):
            raise DigestMismatchError(
                f"{where or selection.url}: these are not the bytes that the index names: "
                f"SHA-512 is {digest[:16]}... instead of {str(entry.sha512)[:16]}...",
                hint=_advice(selection.url),
            )
        if file.sha256() not in (None, entry.sha256):
            raise DigestMismatchError(
                f"{where or selection.url}: these are not the bytes that the source names: "
                f"SHA-256 is {str(file.sha256())[:16]}... instead of {str(entry.sha256)[:16]}...",
                hint=_advice(selection.url),
            )
        final = self._folder.templates / digest
        os.fchmod(file.fileno(), 0o400)
        publish(file.fileno(), temporary, final)
        write_record(final, file.fileno(), about(selection))
        return digest


def _announce(selection: Selection, fetcher: Fetcher, on_event: Reporter) -> None:
    if will_ask(fetcher, selection.url):
        on_event(Step(f"Downloading: {selection.url}"))


def _advice(url: str) -> str:
    """Say what to do about wrong bytes from this address."""
    if f"{BUNDLE_SUFFIX}{INSIDE}" in url:
        return "the bundle is damaged: copy it again from where it was made"
    return BETWEEN_TWO_VERSIONS


def _addresses(selection: Selection) -> list[Selection]:
    """Return a template once for each address of its source, as far as those name a place for its file."""
    file, source = selection.entry.file, selection.source
    if not source.mirrors or selection.url != template_url(source.uri, file):
        return [selection]  # also a file that somebody brought along
    return [selection, *(replace(selection, url=template_url(uri, file)) for uri in source.mirrors)]


def about(selection: Selection) -> dict[str, str]:
    """Return what a record says about a template, for people."""
    entry = selection.entry
    return {"template": entry.os_version, "arch": entry.arch, "source": selection.source.shown_uri}


def _most(entry: Entry) -> int:
    """Return how many bytes a template may have; what cannot be compressed grows a little (P4)."""
    if entry.compressed_size is not None:
        return entry.compressed_size
    return entry.size + entry.size // 100 + (1 << 20)

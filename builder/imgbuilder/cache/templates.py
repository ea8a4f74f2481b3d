"""The compressed layer of the cache: templates as published, from their source or from another cache.

Wherever a template comes from, its digest is taken while it is written, and it gets its name only when that
is the digest that the index names. It is checked again before each use (``docs/threat-model.md`` T9, T17).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from imgbuilder.cache.elsewhere import Elsewhere
from imgbuilder.cache.folder import (
    CacheFolder,
    is_unchanged,
    open_own,
    remove_file,
    touch_record,
    write_record,
)
from imgbuilder.cache.partial import PartialFile, partial_file
from imgbuilder.catalog.catalog import Selection
from imgbuilder.errors import (
    DigestMismatchError,
    FetchError,
    FileMissingError,
    OfflineError,
    WorkspaceError,
)
from imgbuilder.events import Reporter, Step, debug, warn
from imgbuilder.fetch.local import fetch_local
from imgbuilder.fetch.router import will_ask
from imgbuilder.fetch.transfer import BETWEEN_TWO_VERSIONS, NO_PROXY, Download, Fetcher, download_verified
from imgbuilder.fetch.urls import BUNDLE_SUFFIX, INSIDE, template_url
from imgbuilder.host.hashing import HashingFile, hash_stream
from imgbuilder.host.interrupts import Interrupted
from imgbuilder.host.process import find_program
from imgindex.files import publish, temporary_file
from imgindex.model import Entry


class Templates:
    """The files in ``ROOT/templates``; the caller holds the lock of the entry.

    Args:
        folder: The cache.
        elsewhere: Where to look before a source is asked; nothing there is trusted.
        make_room: Called with the bytes that will be needed; raises when there is no room for them.
    """

    def __init__(
        self, folder: CacheFolder, elsewhere: Elsewhere, make_room: Callable[[int, Reporter], None]
    ) -> None:
        self._folder = folder
        self._elsewhere = elsewhere
        self._make_room = make_room

    def path(self, entry: Entry) -> Path:
        """Return the place of a template's file, which need not exist."""
        return self._folder.templates / digest_of(entry)

    def has(self, entry: Entry) -> bool:
        """Tell whether a template need not be downloaded; its bytes are not checked."""
        if entry.sha512 is None:
            return False
        return any(
            is_file(root / "templates" / entry.sha512, entry.compressed_size)
            for root in (self._folder.root, *self._elsewhere.caches)
        )

    def identify(self, selection: Selection, fetcher: Fetcher, on_event: Reporter) -> Selection:
        """Find the digest that an unsigned index may leave out, by downloading the template each time."""
        if selection.entry.sha512 is not None:
            return selection
        digest = self.add(selection, fetcher, on_event)
        return replace(selection, entry=replace(selection.entry, sha512=digest))

    def open(self, selection: Selection, fetcher: Fetcher, on_event: Reporter) -> BinaryIO:
        """Open a template, added first if it is missing or damaged.

        The caller reads the open file, which was verified: its name may come to mean another file.
        """
        path = self.path(selection.entry)
        file = self._open_if_good(path, selection.entry, on_event)
        if file is None:
            self.add(selection, fetcher, on_event)
            file = self._open_if_good(path, selection.entry, on_event)
        if file is None:
            raise WorkspaceError(
                f"{path} changed right after it was written", hint="check this machine's disk and memory"
            )
        return file

    def _open_if_good(self, path: Path, entry: Entry, on_event: Reporter) -> BinaryIO | None:
        descriptor = open_own(path)
        if descriptor is None:
            return None
        file = os.fdopen(descriptor, "rb", buffering=0)
        try:
            if is_unchanged(path, descriptor):
                touch_record(path)
                return file
            if hash_stream(file) == entry.sha512:
                write_record(path, descriptor, {"template": entry.os_version, "arch": entry.arch})
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        warn(on_event, f"the cached template {path} is damaged and is fetched again")
        remove_file(path)
        return None

    def add(self, selection: Selection, fetcher: Fetcher, on_event: Reporter) -> str:
        """Get a template, verify it, store it, and return its digest."""
        digest = selection.entry.sha512
        if digest is None:
            with temporary_file(self._folder.templates) as (descriptor, temporary):
                file = HashingFile(descriptor, sha256=selection.entry.sha256 is not None)
                download = self._download_of(selection, file, on_event)
                _announce(selection, fetcher, on_event)
                fetcher.fetch(download)
                return self._keep(selection, file, temporary)
        for path in (root / "templates" / digest for root in self._elsewhere.caches):
            # Not Path.is_file: it fails where a folder above is closed to us.
            if os.path.isfile(path) and self._copy(selection, path, on_event):  # noqa: PTH113
                remove_file(self._folder.partial / digest)
                return digest
        *mirrors, last = _addresses(selection)
        with partial_file(self._folder.partial / digest) as part:
            if self._ask_peers(selection, digest, on_event, part):
                return digest
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

    def _ask_peers(self, selection: Selection, digest: str, on_event: Reporter, part: PartialFile) -> bool:
        """Get a template from a neighbour; return False if none sends it."""
        peers = self._elsewhere.peers
        if peers is None:
            return False
        source = replace(selection.source, proxy=NO_PROXY)
        for url in peers.addresses(f"templates/{digest}"):
            debug(on_event, f"asking the neighbour {url}")
            try:
                self._download(
                    replace(selection, url=url, source=source), peers.fetcher, on_event, part, announce=False
                )
            except (FetchError, DigestMismatchError) as error:
                say = debug if isinstance(error, FileMissingError) else warn
                say(on_event, f"{error.message}; this neighbour is asked no more")
            else:
                return True
        return False

    def _download(
        self,
        selection: Selection,
        fetcher: Fetcher,
        on_event: Reporter,
        part: PartialFile,
        *,
        announce: bool = True,
    ) -> None:
        """Get the rest of a template from one address, and store it."""
        part.continue_from(selection.url)
        try:
            download = self._download_of(selection, part, on_event, part=part)
            if announce:
                _announce(selection, fetcher, on_event)
            download_verified(fetcher, download, lambda: self._keep(selection, part, part.path))
        except Interrupted as error:
            if part.resumable:
                error.hint = (
                    "run the command again: the download continues where it was stopped, if the server can"
                )
            raise
        part.discard()  # its record

    def _copy(self, selection: Selection, path: Path, on_event: Reporter) -> bool:
        """Copy a template from another cache; return False if that failed.

        It is not used in place: its owner could change it after it was verified.
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
        """Make room for a template, and return the request for the fetcher."""
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
        """Name a finished file if the index names its bytes, by SHA-512 or at least by SHA-256."""
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
        source = selection.source
        offered = {template_url(uri, selection.entry.file) for uri in (source.uri, *source.mirrors)}
        word = "Downloading" if selection.url in offered else "Copying"  # a file that the user gave
        on_event(Step(f"{word}: {selection.url}"))


def _advice(url: str) -> str:
    """Return the hint about wrong bytes from this address."""
    if f"{BUNDLE_SUFFIX}{INSIDE}" in url:
        return "the bundle is damaged: copy it again from where it was made"
    return BETWEEN_TWO_VERSIONS


def _addresses(selection: Selection) -> list[Selection]:
    """Return a template once for each address of its source that has a place for its file."""
    file, source = selection.entry.file, selection.source
    if not source.mirrors or selection.url != template_url(source.uri, file):
        return [selection]  # such as a file that the user gave
    return [selection, *(replace(selection, url=template_url(uri, file)) for uri in source.mirrors)]


def about(selection: Selection) -> dict[str, str]:
    """Return the fields of a record that describe a template to people."""
    entry = selection.entry
    return {"template": entry.os_version, "arch": entry.arch, "source": selection.source.shown_uri}


def _most(entry: Entry) -> int:
    """Return the most bytes of a template's file: incompressible content grows a little."""
    if entry.compressed_size is not None:
        return entry.compressed_size
    return entry.size + entry.size // 100 + (1 << 20)


def digest_of(entry: Entry) -> str:
    """Return the digest that names the files of an entry."""
    assert entry.sha512 is not None, "identify() comes first"
    return entry.sha512


def is_file(path: Path, size: int | None) -> bool:
    """Tell whether a regular file of this size exists; None is any size."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and size in (None, status.st_size)


# A publisher may offer the same disk twice: as .xz for every client, and as zstd, which unpacks several times
# faster. Each file has a digest and counts as a template, so that the cache need not know about the pair.


def variants_of(entry: Entry) -> tuple[Entry, ...]:
    """Return an entry once for each of its files, the quickest to unpack first."""
    if entry.zstd is None:
        return (entry,)
    packed = entry.zstd
    quick = replace(
        entry,
        file=packed.file,
        sha512=packed.sha512,
        compressed_size=packed.compressed_size,
        sig=None,
        zstd=None,
    )
    return (quick, replace(entry, zstd=None, blocks=None))


def for_everybody(selection: Selection) -> Selection:
    """Return a template with the file that every client can unpack, including virt-builder."""
    return replace(selection, entry=replace(selection.entry, zstd=None, blocks=None))


def usable(selection: Selection) -> tuple[Selection, ...]:
    """Return a template once for each of its files that this machine can unpack, in the same order."""
    files = variants_of(selection.entry)
    if len(files) == 1:
        return (selection,)
    quick, plain = files
    others = (replace(selection, entry=plain),)
    if find_program("zstd") is None:
        return others
    return (replace(selection, entry=quick, url=template_url(selection.source.uri, quick.file)), *others)

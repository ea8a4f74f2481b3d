"""Lends the files of the cache to neighbours, by http: what they ask for is named by its digest.

::

    /templates/SHA512       a template's file, as published
    /disks/SHA512.raw       its unpacked disk, of which neighbours request blocks

A path is never looked up on the disk as it came: it must be one of these two, with the digest of a file that
may be lent (``docs/threat-model.md`` T25).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

from imgbuilder.cache.folder import CacheFolder, is_unchanged, open_own
from imgbuilder.cache.templates import variants_of
from imgbuilder.catalog.catalog import Catalog
from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.fetch.urls import Address
from imgbuilder.host.fileserver import FileHandler, FileServer

_PATH = re.compile(r"/(?:templates/(?P<file>[0-9a-f]{128})|disks/(?P<disk>[0-9a-f]{128})\.raw)")
_MOST = 128
"""Connections at the same time."""
_AGAIN = 60.0
"""Seconds after which a digest that is not lent makes us look again."""


def lendable(catalog: Catalog) -> set[str]:
    """Return the digests of files that may be lent: signed sources name them, and ask for no password."""
    return {
        file.sha512
        for item in catalog.loaded
        if item.signed is not None and not any(Address(uri).has_secret for uri in item.source.addresses)
        for entry in item.index.entries
        for file in variants_of(entry)
        if file.sha512 is not None
    }


class CacheServer(FileServer):
    """Serves templates and unpacked disks of a cache, which it does not keep from being removed.

    Args:
        root: The folder of the cache.
        lent: Digests of the files that may be lent.
        look_again: Returns them as they are now.
        address: Host and port to listen on.
        on_request: Called with a line about each request.
    """

    def __init__(
        self,
        root: Path,
        lent: Collection[str],
        look_again: Callable[[], Collection[str]],
        address: tuple[str, int],
        on_request: Callable[[str], object],
    ) -> None:
        self._folder, self._lent, self._look_again = CacheFolder(root), lent, look_again
        self._looking = threading.Lock()
        self._looked = time.monotonic()
        super().__init__(address, _Handler, on_request, most=_MOST, hint="choose another ADDRESS:PORT")

    def lend(self, path: str) -> BinaryIO | None:
        """Open the file that a path means; None if there is none, if it changed, or if it may not be lent."""
        match = _PATH.fullmatch(path)
        if match is None or not self._is_lent(match["file"] or match["disk"]):
            return None
        name = match["file"] or f"{match['disk']}.raw"
        file = (self._folder.templates if match["file"] else self._folder.disks) / name
        try:
            descriptor = open_own(file)
        except PybuilderError as error:
            self.report(error.in_one_line)
            return None
        if descriptor is None:
            return None
        if not is_unchanged(file, descriptor):
            os.close(descriptor)
            return None
        return os.fdopen(descriptor, "rb")

    def _is_lent(self, digest: str) -> bool:
        with self._looking:
            if digest not in self._lent and time.monotonic() - self._looked > _AGAIN:
                self._looked = time.monotonic()
                try:
                    self._lent = self._look_again()
                except PybuilderError as error:
                    self.report(error.in_one_line)
            return digest in self._lent


class _Handler(FileHandler):
    server: CacheServer

    def find(self) -> BinaryIO | None:
        """Open a file of the cache."""
        return self.server.lend(self.path)


def parse_place(text: str) -> tuple[str, int]:
    """Read ``ADDRESS:PORT``; an IPv6 address is in brackets."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bad_host = not bare or (":" in bare) != (bare != host)
    if bad_host or not port.isascii() or not port.isdigit() or not int(port) <= 65535:
        raise UsageError(
            f"{text!r} is not an address with a port", hint="such as 192.0.2.7:8320, or [2001:db8::7]:8320"
        )
    return bare, int(port)

"""A small web server for a published folder: to try it, and for a LAN.

Its headers let caches keep a file with its digest in its name for ever, and make them ask for the index each
time. Hidden files, which are the publisher's own, are not found. Pages of a catalogue have their types, and
a folder is its ``index.html``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote, unquote, urlsplit

from imgbuilder.errors import UsageError
from imgbuilder.host.fileserver import FileHandler, FileServer
from imgrepo.webroot.entries import stem_of_published
from imgrepo.webroot.signing import SIGNED_INDEX

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".xml": "application/atom+xml; charset=utf-8",
}
"""Types of a catalogue's files; any other file gets a type that browsers do not open."""
_START = "index.html"

FOREVER = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"


def content_type(name: str) -> str:
    """Return the Content-Type of a file of a catalogue."""
    return _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")


def cache_rule(name: str) -> str:
    """Return the Cache-Control of a file."""
    return REVALIDATE if stem_of_published(name) is None else FOREVER


class PublishedFolderServer(FileServer):
    """Serves one folder; ``on_request`` is called with a line about each request."""

    def __init__(self, folder: Path, address: tuple[str, int], on_request: Callable[[str], object]) -> None:
        if not (folder / SIGNED_INDEX).is_file():
            raise UsageError(f"nothing is published in {folder}", hint="see: pybuilder-repo publish --help")
        self.folder = folder.absolute()
        super().__init__(address, _Handler, on_request, hint="choose another one with --bind and --port")


class _Handler(FileHandler):
    server: PublishedFolderServer
    server_version = "pybuilder-repo"

    def answer(self, *, body: bool) -> None:
        """Send a client that leaves out the slash after a folder to the address with it."""
        if not self._is_folder():
            super().answer(body=body)
            return
        self.send_response(HTTPStatus.MOVED_PERMANENTLY)
        # By its last part alone: of which address we are seen, a proxy before us knows, and not we.
        self.send_header("Location", f"{quote(self._parts()[-1])}/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def find(self) -> BinaryIO | None:
        """Open the file that the path names, unless it is hidden, a link or outside the folder."""
        parts = self._parts()
        if any(part.startswith(".") or "\0" in part for part in parts):
            return None
        if not parts or urlsplit(self.path).path.endswith("/"):
            parts.append(_START)
        path = self.server.folder.joinpath(*parts)
        try:
            if path.parent.resolve() != self.server.folder.resolve().joinpath(*parts[:-1]):
                return None
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return os.fdopen(descriptor, "rb")

    def send_about(self) -> None:
        """Send the type of a file, and how long it may be kept."""
        name = unquote(urlsplit(self.path).path).rpartition("/")[2]
        self.send_header("Content-Type", content_type(name or _START))
        self.send_header("Cache-Control", cache_rule(name))

    def _parts(self) -> list[str]:
        return [part for part in unquote(urlsplit(self.path).path).split("/") if part]

    def _is_folder(self) -> bool:
        """Return whether the path names a folder with a page, without the slash that its links need."""
        parts = self._parts()
        if not parts or urlsplit(self.path).path.endswith("/"):
            return False
        if any(part.startswith(".") or "\0" in part for part in parts):
            return False
        path = self.server.folder.joinpath(*parts)
        try:
            inside = path.resolve() == self.server.folder.resolve().joinpath(*parts)
            return inside and path.is_dir() and (path / _START).is_file()
        except (OSError, ValueError):
            return False

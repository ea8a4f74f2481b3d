"""A small web server for a published folder: to try it, and for a LAN.

It answers GET and HEAD, with one range of bytes (RFC 9110 section 14), so that
downloads can be resumed. Its headers let caches keep a file with its digest in
its name for ever, and make them ask for the index each time. Hidden files, which
are the publisher's own, are not found. Pages of a catalogue have their types, and
a folder is its ``index.html``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote, unquote, urlsplit

from imgbuilder.errors import UsageError, WorkspaceError
from imgrepo.webroot.entries import stem_of_published
from imgrepo.webroot.signing import SIGNED_INDEX

_PIECE = 1 << 18
_RANGE = re.compile(r"bytes=(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))")
_IDLE = 60.0
"""Seconds after which the connection of a silent client is closed."""

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


@dataclass(frozen=True)
class Part:
    """The bytes to send: the position of the first one, and that after the last one."""

    start: int
    end: int


def wanted_part(header: str | None, size: int) -> Part | None:
    """Read a ``Range`` header; None for a part that lies outside the file. A pure function.

    Without a header, or with one that we do not understand, it is the whole file, as the standard requires.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return Part(0, size)
    first, last, suffix = match.groups()
    if suffix is not None:
        return Part(max(0, size - int(suffix)), size) if int(suffix) and size else None
    start, end = int(first), int(last) + 1 if last else size
    if last and end <= start:
        return Part(0, size)
    return Part(start, min(end, size)) if start < size else None


def content_type(name: str) -> str:
    """Return the Content-Type of a file of a catalogue."""
    return _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")


def cache_rule(name: str) -> str:
    """Return the Cache-Control of a file."""
    return REVALIDATE if stem_of_published(name) is None else FOREVER


class PublishedFolderServer(ThreadingHTTPServer):
    """Serves one folder; ``on_request`` is called with a line about each request."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: Path, address: tuple[str, int], on_request: Callable[[str], object]) -> None:
        if not (folder / SIGNED_INDEX).is_file():
            raise UsageError(f"nothing is published in {folder}", hint="see: pybuilder-repo publish --help")
        self.folder, self.on_request = folder.absolute(), on_request
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise WorkspaceError(
                f"cannot listen on {address[0]} port {address[1]}: {error.strerror}",
                hint="choose another one with --bind and --port",
            ) from error

    def handle_error(self, _request: object, client_address: object) -> None:
        """Report a client that went away, which is not an error of ours."""
        self.on_request(f"{client_address}: the connection broke")


class _Handler(BaseHTTPRequestHandler):
    server: PublishedFolderServer
    protocol_version = "HTTP/1.1"
    server_version = "pybuilder-repo"
    sys_version = ""
    timeout = _IDLE
    disable_nagle_algorithm = True  # else the next answer on a connection waits 40 ms for the client

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def handle_one_request(self) -> None:
        """Answer, then report the request in the combined format of web servers' logs."""
        self._status = self._sent = 0
        try:
            super().handle_one_request()
        finally:
            if self._status:
                # Only what is printable: a client chooses both texts.
                agent = self.headers.get("User-Agent", "-") if hasattr(self, "headers") else "-"
                line, agent = (_quotable(text) for text in (self.requestline, agent))
                now = datetime.now(UTC)
                moment = f"{now.day:02}/{self.monthname[now.month]}/{now:%Y:%H:%M:%S} +0000"
                answer = f'"{line}" {self._status} {self._sent} "-" "{agent}"'
                self.server.on_request(f"{self.client_address[0]} - - [{moment}] {answer}")

    def log_request(self, code: int | str = "-", _size: int | str = "-") -> None:
        self._status = int(code)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Leave out the reasons of errors: the line about the request has their number."""

    def _answer(self, *, body: bool) -> None:
        if self._is_folder():
            self.send_response(HTTPStatus.MOVED_PERMANENTLY)
            # By its last part alone: of which address we are seen, a proxy before us knows, and not we.
            self.send_header("Location", f"{quote(self._parts()[-1])}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        opened = self._open()
        if opened is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with opened as file:
            facts = os.fstat(file.fileno())
            etag = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
            if self._is_known(etag, facts.st_mtime):
                self._start(HTTPStatus.NOT_MODIFIED, facts, etag)
                self.end_headers()
                return
            asked = self.headers.get("Range") if self._range_counts(etag, facts.st_mtime) else None
            part = wanted_part(asked, facts.st_size)
            if part is None:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{facts.st_size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            whole = part == Part(0, facts.st_size)
            self._start(HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT, facts, etag)
            if not whole:
                self.send_header("Content-Range", f"bytes {part.start}-{part.end - 1}/{facts.st_size}")
            self.send_header("Content-Length", str(part.end - part.start))
            self.end_headers()
            if body:
                self._send(file, part)

    def _open(self) -> BinaryIO | None:
        """Open the file that the path names, unless it is hidden, a link or outside the folder."""
        parts = self._parts()
        if not parts or any(part.startswith(".") or "\0" in part for part in parts):
            return None
        if urlsplit(self.path).path.endswith("/"):
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

    def _is_known(self, etag: str, modified: float) -> bool:
        tags = self.headers.get("If-None-Match")
        if tags is not None:
            return tags.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in tags.split(",")]
        since = _time(self.headers.get("If-Modified-Since"))
        return since is not None and int(modified) <= since

    def _range_counts(self, etag: str, modified: float) -> bool:
        """Return whether ``If-Range`` names the file as it is now."""
        condition = self.headers.get("If-Range")
        return condition is None or condition.strip() == etag or _time(condition) == int(modified)

    def _start(self, status: HTTPStatus, facts: os.stat_result, etag: str) -> None:
        name = unquote(urlsplit(self.path).path).rpartition("/")[2]
        self.send_response(status)
        self.send_header("Content-Type", content_type(name or _START))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", formatdate(facts.st_mtime, usegmt=True))
        self.send_header("ETag", etag)
        self.send_header("Cache-Control", cache_rule(name))

    def _send(self, file: BinaryIO, part: Part) -> None:
        file.seek(part.start)
        left = part.end - part.start
        while left:
            piece = file.read(min(_PIECE, left))
            if not piece:  # it became shorter: the client sees that the body is cut off
                self.close_connection = True
                return
            self.wfile.write(piece)
            self._sent += len(piece)
            left -= len(piece)


def _quotable(text: str) -> str:
    return (
        "".join(char if char.isprintable() else "?" for char in text)
        .replace("\\", "\\\\")
        .replace('"', '\\"')
    )


def _time(header: str | None) -> int | None:
    try:
        return int(parsedate_to_datetime(header).timestamp()) if header else None
    except (TypeError, ValueError, OverflowError):
        return None

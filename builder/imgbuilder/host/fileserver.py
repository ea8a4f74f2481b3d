"""A small web server for files: it answers GET and HEAD, with one range of bytes (RFC 9110, section 14).

Which file a path means is for its users to say, see ``FileHandler.find``. A client can hold a connection, but
neither for long in silence nor more of them than the server's limit.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO

from imgbuilder.errors import WorkspaceError
from imgbuilder.host.interrupts import Interrupted

_PIECE = 1 << 18
_RANGE = re.compile(r"bytes=(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))")
_IDLE = 60.0
"""Seconds within which a request has to come, and the client to take each piece of an answer."""


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


class FileServer(ThreadingHTTPServer):
    """Answers requests, each connection in its own thread.

    Args:
        address: Host and port to listen on.
        handler: Finds the files.
        on_request: Called with a line about each request, by one thread at a time.
        most: Connections that may be open at the same time; a further one is closed.
        hint: Advice for when the address cannot be listened on.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[FileHandler],
        on_request: Callable[[str], object],
        *,
        most: int = 512,
        hint: str,
    ) -> None:
        self._on_request, self._most = on_request, most
        self._reporting = threading.Lock()
        self._waiting: dict[socket.socket, float] = {}
        self._open: set[socket.socket] = set()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            super().__init__(address, handler)
        except OSError as error:
            raise WorkspaceError(
                f"cannot listen on {address[0]} port {address[1]}: {error.strerror}", hint=hint
            ) from error

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def serve(self) -> None:
        """Answer requests until the program is stopped by a signal."""
        try:
            self.serve_forever()
        except Interrupted as stop:
            stop.quiet = True
            raise
        finally:
            self._reporting.acquire()  # a thread that reports while the interpreter ends would abort it

    def report(self, line: str) -> None:
        """Pass a line on."""
        with self._reporting:
            self._on_request(line)

    def handle_error(self, _request: object, client_address: object) -> None:
        """Report a client that went away, which is not an error of ours."""
        self.report(f"{client_address}: the connection broke")

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Start a thread for a connection, unless there are too many."""
        if len(self._open) >= self._most:
            self.report(f"{client_address}: closed, because {self._most} connections are open")
            self.shutdown_request(request)
            return
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Close a connection."""
        self._open.discard(request)
        self._waiting.pop(request, None)
        super().shutdown_request(request)

    def waits(self, connection: socket.socket, *, waits: bool) -> None:
        """Note that a connection waits for a request, or no longer does."""
        if waits:
            self._waiting[connection] = time.monotonic()
        else:
            self._waiting.pop(connection, None)

    def service_actions(self) -> None:
        """Break off connections whose request takes too long: a timeout bounds only each gap in it."""
        for connection, since in list(self._waiting.items()):
            if time.monotonic() - since > _IDLE:
                self._waiting.pop(connection, None)
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # its thread has closed it


class FileHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: FileServer
    protocol_version = "HTTP/1.1"
    server_version = "pybuilder"
    sys_version = ""
    timeout = _IDLE
    disable_nagle_algorithm = True  # else the next answer on a connection waits 40 ms for the client

    def find(self) -> BinaryIO | None:
        """Open the file that the path of the request means; None if there is none."""
        raise NotImplementedError

    def send_about(self) -> None:
        """Send the headers that tell a client what to do with the file."""
        self.send_header("Content-Type", "application/octet-stream")

    def do_GET(self) -> None:
        """Answer a GET request."""
        self.answer(body=True)

    def do_HEAD(self) -> None:
        """Answer a HEAD request."""
        self.answer(body=False)

    def handle_one_request(self) -> None:
        """Answer, then report the request in the combined format of web servers' logs."""
        self._status = self._sent = 0
        self.server.waits(self.connection, waits=True)
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
                self.server.report(f"{self.client_address[0]} - - [{moment}] {answer}")

    def log_request(self, code: int | str = "-", _size: int | str = "-") -> None:
        """Note the status for the line about the request."""
        self._status = int(code)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Leave out the reasons of errors: the line about the request has their number."""

    def answer(self, *, body: bool) -> None:
        """Answer a request for a file."""
        self.server.waits(self.connection, waits=False)
        opened = self.find()
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
        self.send_response(status)
        self.send_about()
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", formatdate(facts.st_mtime, usegmt=True))
        self.send_header("ETag", etag)

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

"""A server on loopback that misbehaves exactly as the script says, one script per connection.

A script is a list of steps: bytes to send, a function that makes them from the
head of the request, or one of the objects below. Each
connection takes the next script; the last one serves all further connections.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pause:
    """Send nothing for some seconds."""

    seconds: float


class Reset:
    """Break the connection off with RST instead of FIN."""


class Hang:
    """Send nothing until the client goes away."""


@dataclass(frozen=True)
class Drip:
    """Send bytes one by one, with a pause before each, until the client goes away."""

    data: bytes
    seconds: float


@dataclass(frozen=True)
class Endless:
    """Send a piece again and again until the client goes away."""

    piece: bytes


Reply = Callable[[bytes], bytes]
Step = bytes | Reply | Pause | Reset | Hang | Drip | Endless


def answer(body: bytes, *headers: str, status: str = "200 OK", length: bool = True) -> bytes:
    """Return a whole HTTP answer; without ``length`` the end of the connection ends the body."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body


def honest(body: bytes, *headers: str, etag: str = '"v1"', upto: int | None = None) -> Reply:
    """Answer as a good server does, ranges included (RFC 9110, 13.1.5 and 14).

    Args:
        body: The file.
        headers: Further headers.
        etag: Its entity tag; empty for none.
        upto: Bytes of the file after which the answer breaks off; None for none.
    """
    tags = [f"ETag: {etag}"] if etag else []

    def reply(head: bytes) -> bytes:
        text = head.decode("latin-1")
        first = re.search(r"^Range: bytes=([0-9]+)-([0-9]*)\r$", text, re.MULTILINE)
        condition = re.search(r"^If-Range: (.*)\r$", text, re.MULTILINE)
        start, last, status = 0, len(body), "200 OK"
        end = last if upto is None else upto
        ranges: list[str] = []
        if first and (condition is None or (etag.startswith('"') and condition[1] == etag)):
            start, status = int(first[1]), "206 Partial Content"
            last = min(int(first[2] or len(body)) + 1, len(body))
            end = min(end, last)
            ranges = [f"Content-Range: bytes {start}-{last - 1}/{len(body)}"]
            if start >= len(body):
                return answer(b"", f"Content-Range: bytes */{len(body)}", status="416 No")
        whole = answer(body[start:last], *tags, *ranges, *headers, status=status)
        return whole[: len(whole) - (last - max(start, end))]

    return reply


class FaultServer:
    """The server; a context manager.

    With ``at_once`` it speaks first, whatever the client has to say. With ``tls`` it shakes hands first. With
    ``keep``, a connection serves several requests, each by the same script.

    Attributes:
        url: Its address, without a slash at the end.
        connections: The number of connections so far.
        requests: The head of each request that came, in order.
        sent: Bytes that the client was given in all, as far as the kernel took them.
    """

    def __init__(
        self,
        *scripts: Sequence[Step],
        at_once: bool = False,
        keep: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._at_once = at_once
        self._keep = keep
        self._tls = tls
        self._scripts = [list(script) for script in scripts]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._kept: list[socket.socket] = []
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.sent = 0
        self.connections = 0

    def behave(self, script: Sequence[Step]) -> None:
        """Serve all further connections by this script."""
        self._scripts[:] = [list(script)]

    def __enter__(self) -> FaultServer:
        self._start(self._accept)
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._kept:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            place = min(self.connections, len(self._scripts) - 1)
            self.connections += 1
            self._start(self._serve, connection, self._scripts[place])

    def _serve(self, plain: socket.socket, script: list[Step]) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(plain)
            stack.enter_context(contextlib.suppress(OSError))
            plain.settimeout(20)
            connection = plain
            if self._tls is not None:
                connection = stack.enter_context(self._tls.wrap_socket(plain, server_side=True))
            if self._keep:
                self._kept.append(connection)
            while self._answer(connection, script) and self._keep:
                pass

    def _answer(self, connection: socket.socket, script: list[Step]) -> bool:
        """Play a script for one request; return False if the connection is to be closed."""
        head = b""
        while not self._at_once and b"\r\n\r\n" not in head:
            piece = connection.recv(4096)
            if not piece:
                return False
            head += piece
        self.requests.append(head)
        for step in script:
            if isinstance(step, Reset):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            played = step(head) if callable(step) else step
            if self._keep and isinstance(played, bytes):
                played = played.replace(b"Connection: close\r\n", b"", 1)
            self._play(connection, played)
        return True

    def _play(self, connection: socket.socket, step: Step) -> None:
        if isinstance(step, bytes):
            connection.sendall(step)
            self.sent += len(step)
        elif isinstance(step, Pause):
            self._over.wait(step.seconds)
        elif isinstance(step, Hang):
            connection.recv(1)
        elif isinstance(step, Drip):
            for value in step.data:
                if self._over.wait(step.seconds):
                    return
                connection.sendall(bytes([value]))
                self.sent += 1
        elif isinstance(step, Endless):
            while not self._over.is_set():
                self.sent += connection.send(step.piece)

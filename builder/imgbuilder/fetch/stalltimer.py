"""The time limit of one response, which breaks its connection off."""

from __future__ import annotations

import math
import socket
import threading
import time
from contextlib import suppress


class StallTimer:
    """Breaks a connection off when one response or one read takes too long in all.

    The timeout of a socket bounds only the gap between two bytes, so that headers sent one byte per
    second would hold us for days (``docs/threat-model.md`` D7).

    Args:
        limit: Seconds for one response, or one read.
        total: Seconds for all of them.
    """

    def __init__(self, limit: float, total: float = math.inf) -> None:
        self._limit = limit
        self._end = time.monotonic() + total
        self._over = threading.Event()
        self._socket: socket.socket | None = None
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.fired = False

    def attach(self, connection: socket.socket) -> None:
        """Guard this connection from now on."""
        self._socket = connection
        self.progress()

    def detach(self) -> None:
        """End this connection, and guard nothing until the next."""
        self._break()
        self._socket = None

    def release(self) -> None:
        """Guard a connection no longer, which stays open for the next request."""
        self._socket = None
        self.pause()

    def progress(self) -> None:
        """Start the time limit again."""
        now = time.monotonic()
        self._deadline = min(now + self._limit, self._end)
        if now >= self._end and self._socket is not None:
            self.fired = True
            self._break()

    def pause(self) -> None:
        """Stop the timer while nothing is expected from the server, such as during a write to a slow disk."""
        self._deadline = math.inf

    def __enter__(self) -> StallTimer:
        self.progress()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        self._break()  # a response that could not even be parsed keeps its connection open

    def _run(self) -> None:
        while not self._over.wait(min(self._limit, max(0.01, self._deadline - time.monotonic()))):
            if time.monotonic() < self._deadline:
                continue
            if self._socket is None:  # still connecting, which has its own limit
                self.progress()
                continue
            self.fired = True
            self._break()
            return

    def _break(self) -> None:
        connection = self._socket
        if connection is not None:
            with suppress(OSError):  # closed already
                # Past the TLS layer, whose state belongs to the reading thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

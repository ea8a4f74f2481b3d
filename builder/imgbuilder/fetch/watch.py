"""A time limit for blocking reads, which no server can outwit by dripping."""

from __future__ import annotations

import math
import socket
import threading
import time
from contextlib import suppress


class Watch:
    """Breaks a connection off when one answer or one read takes too long in all.

    A socket's timeout bounds the gap between two bytes only, so that headers sent one byte per second
    would hold us for days (``docs/threat-model.md`` D7).

    Args:
        limit: Seconds for one answer, or one read.
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
        self.pet()

    def detach(self) -> None:
        """End this connection, and guard nothing until the next."""
        self._break()
        self._socket = None

    def pet(self) -> None:
        """Start the time limit anew."""
        now = time.monotonic()
        self._deadline = min(now + self._limit, self._end)
        if now >= self._end and self._socket is not None:
            self.fired = True
            self._break()

    def rest(self) -> None:
        """Stop the time while nothing is asked of the server, such as during a write to a slow disk."""
        self._deadline = math.inf

    def __enter__(self) -> Watch:
        self.pet()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        self._break()  # an answer that could not even be parsed keeps its connection open

    def _run(self) -> None:
        while not self._over.wait(min(self._limit, max(0.01, self._deadline - time.monotonic()))):
            if time.monotonic() < self._deadline:
                continue
            if self._socket is None:  # still connecting, which has its own limit
                self.pet()
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

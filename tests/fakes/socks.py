"""A SOCKS 5 proxy (RFC 1928) that takes everything to one server, and remembers what it was asked for."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from typing import cast


class SocksProxy(socketserver.ThreadingTCPServer):
    """Listens on a port of its own.

    Args:
        target: Port of this machine that all connections go to.
    """

    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.target = target
        self.asked: list[str] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Client(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        proxy = cast("SocksProxy", self.server)
        _version, methods = self.rfile.read(2)
        self.rfile.read(methods)
        self.wfile.write(b"\5\0")
        _version, _connect, _reserved, kind = self.rfile.read(4)
        host = self.rfile.read(4 if kind == 1 else self.rfile.read(1)[0])
        (port,) = struct.unpack(">H", self.rfile.read(2))
        proxy.asked.append(f"{socket.inet_ntoa(host) if kind == 1 else host.decode()}:{port}")
        with socket.create_connection(("127.0.0.1", proxy.target)) as server:
            self.wfile.write(b"\5\0\0\1" + bytes(6))
            back = threading.Thread(target=_pump, args=(server, self.connection), daemon=True)
            back.start()
            _pump(self.connection, server)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def socks_proxy(target: int) -> Iterator[SocksProxy]:
    """Run a proxy while the block runs."""
    with SocksProxy(target) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        yield proxy
        proxy.shutdown()

"""A published folder behind a running server."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.client import HTTPMessage

import pytest

from imgrepo.sharing.serve import PublishedFolderServer
from tests.unit.imgrepo.repository import Repository


class Site:
    """A published folder behind a running server."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.lines: list[str] = []
        self.server = PublishedFolderServer(repository.web, ("127.0.0.1", 0), self.lines.append)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=20)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=names)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, response.headers, body

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def site(repository: Repository) -> Iterator[Site]:
    repository.add("a.img")
    repository.publish(zstd_level=1)
    site = Site(repository)
    yield site
    site.close()

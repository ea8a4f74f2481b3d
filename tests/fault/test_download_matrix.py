"""Rows D1 to D22 of ``docs/threat-model.md``: each fault by http, by https, and on resuming.

Whatever a server does, what comes out is the right file or an error of ours, never other bytes, and never a
hang; and as soon as the server is good again, so is the next run, with whatever the fault left behind.
"""

from __future__ import annotations

import gzip
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbuilder.cache.store import TemplateCache
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.errors import PybuilderError
from imgbuilder.fetch.transfer import Limits
from imgbuilder.fetch.web import RequestsFetcher
from imgindex.model import Entry
from tests.fakes.faultserver import Drip, Endless, FaultServer, Hang, Pause, Reset, Step, answer, honest

BODY = bytes(range(256)) * 40
HALF = len(BODY) // 2
SHA = hashlib.sha512(BODY).hexdigest()
ENTRY = Entry("x", "d.xz", "x86_64", 1 << 20, sha512=SHA, format="raw", compressed_size=len(BODY))
LIMITS = Limits(timeout=0.3, connect=2, retries=1, resumes=2, backoff=0.0, slow_window=0.5, slow_rate=10**6)


class Good:
    """The answer of a good server, in parts."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        self.head = head + b"\r\n\r\n"
        self.raw = raw

    def length(self, value: str) -> bytes:
        """Return it with another Content-Length, or one more."""
        old = f"Content-Length: {len(self.body)}".encode()
        assert old in self.head
        return self.head.replace(old, value.encode().replace(b"OLD", old)) + self.body

    def chunked(self, chunks: bytes) -> bytes:
        return self.length("Transfer-Encoding: chunked")[: -len(self.body)] + chunks

    def replaced(self, body: bytes) -> bytes:
        return self.head + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


FAULTS: dict[str, Callable[[Good], list[Step]]] = {
    "reset at once": lambda _good: [Reset()],
    "end at once": lambda _good: [],
    "reset in the headers": lambda good: [good.raw[:20], Pause(0.02), Reset()],
    "end in the headers": lambda good: [good.raw[:20]],
    "reset after the headers": lambda good: [good.head, Pause(0.02), Reset()],
    "end after the headers": lambda good: [good.head],
    "reset in the body": lambda good: [good.raw[:-1000], Pause(0.02), Reset()],
    "end in the body": lambda good: [good.raw[:-1000]],
    "end before the last byte": lambda good: [good.raw[:-1]],
    "no answer": lambda _good: [Hang()],
    "stall in the headers": lambda good: [good.raw[:20], Hang()],
    "stall in the body": lambda good: [good.raw[:-1000], Hang()],
    "headers that drip": lambda good: [Drip(good.raw, 0.02)],
    "a body that drips": lambda good: [good.head, Drip(good.body, 0.02)],
    "headers without end": lambda _good: [b"HTTP/1.1 200 OK\r\n", Endless(b"X: y\r\n" * 50)],
    "more than was promised": lambda good: [good.raw + bytes(1000)],
    "a smaller length": lambda good: [good.length(f"Content-Length: {len(good.body) - 1}")],
    "a larger length": lambda good: [good.length(f"Content-Length: {len(good.body) + 1}"), Hang()],
    "a negative length": lambda good: [good.length("Content-Length: -1")],
    "a length that is text": lambda good: [good.length("Content-Length: ten")],
    "two lengths": lambda good: [good.length("OLD\r\nContent-Length: 7")],
    "a giant length": lambda good: [good.length(f"Content-Length: {1 << 63}"), Hang()],
    "no length": lambda good: [good.length("X: y")],
    "no length, and short": lambda good: [good.length("X: y")[:-1000]],
    "no length, and endless": lambda good: [good.length("X: y"), Endless(bytes(1 << 16))],
    "chunks": lambda good: [good.chunked(chunk(good.body) + b"0\r\n\r\n")],
    "chunks without end": lambda good: [good.chunked(chunk(good.body))],
    "bad chunks": lambda good: [good.chunked(b"zz\r\n" + good.body)],
    "a broken chunk": lambda good: [good.chunked(chunk(good.body)[:-1000])],
    "an encoded body": lambda good: [answer(gzip.compress(good.body), "Content-Encoding: gzip")],
    "status 500": lambda _good: [answer(b"oops", status="500 Oops")],
    "status 503 for an hour": lambda _good: [answer(b"", "Retry-After: 3600", status="503 Busy")],
    "status 404": lambda _good: [answer(b"gone", status="404 Not Found")],
    "status 416": lambda _good: [answer(b"", "Content-Range: bytes */5", status="416 No")],
    "redirects without end": lambda _good: [answer(b"", "Location: /d.xz", status="302 Moved")],
    "a redirect to a file": lambda _good: [answer(b"", "Location: file:///etc/passwd", status="302 Moved")],
    "no HTTP": lambda _good: [b"SSH-2.0-x\r\n"],
    "an error page": lambda _good: [answer(b"<html>sorry</html>")],
    "other bytes": lambda good: [good.replaced(bytes(len(good.body)))],
    "one bit flipped": lambda good: [good.replaced(bytes([good.body[0] ^ 1]) + good.body[1:])],
    "the wrong part": lambda _good: [
        answer(BODY[1:], f"Content-Range: bytes 1-{len(BODY) - 1}/{len(BODY)}", status="206 Partial")
    ],
    "a part of another file": lambda good: [good.raw.replace(b'ETag: "v1"', b'ETag: "v2"')],
    "everything, and of another file": lambda _good: [answer(bytes(len(BODY)), 'ETag: "v2"')],
}


def test_there_are_as_many_as_the_goal_asks_for() -> None:
    assert len(FAULTS) * 3 >= 90


@pytest.mark.timeout(90)
@pytest.mark.parametrize("way", ["http", "https", "resume"])
@pytest.mark.parametrize("fault", FAULTS)
def test_right_bytes_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: tuple[ssl.SSLContext, str], fault: str, way: str
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    fetcher = RequestsFetcher(LIMITS, sleep=lambda _seconds: None, environ={"CURL_CA_BUNDLE": tls[1]})
    head = b"GET /d.xz HTTP/1.1\r\n\r\n"
    with (
        FaultServer([], tls=tls[0] if way == "https" else None) as server,
        TemplateCache(tmp_path / "cache") as cache,
    ):
        url = f"{server.url}/d.xz"
        chosen = Selection(Source("s", url), ENTRY, url)
        cache.open()
        path = cache.root / "templates" / SHA
        if way == "resume":
            server.behave([honest(BODY, upto=HALF)])
            once = RequestsFetcher(Limits(timeout=5, retries=0, resumes=0))
            with pytest.raises(PybuilderError):
                cache.get_template(chosen, once)
            assert (cache.root / "partial" / SHA).stat().st_size == HALF
            head = f'GET /d.xz HTTP/1.1\r\nRange: bytes={HALF}-\r\nIf-Range: "v1"\r\n\r\n'.encode()
        server.behave(FAULTS[fault](Good(honest(BODY)(head))))
        problem = ""
        try:
            cache.get_template(chosen, fetcher)
        except PybuilderError as error:
            problem = "" if error.hint else f"no advice: {error.message}"
        assert problem == ""
        assert not path.exists() or path.read_bytes() == BODY
        server.behave([honest(BODY)])
        assert cache.get_template(chosen, fetcher).read_bytes() == BODY
        assert list((cache.root / "partial").iterdir()) == []

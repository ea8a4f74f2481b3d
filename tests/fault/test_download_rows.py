"""Values of the rows D6 to D29 of ``threat-model.md`` that ``test_fetch`` and ``test_resume`` leave out."""

from __future__ import annotations

import hashlib
import io
import os
import re
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.cache.store import TemplateCache
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.errors import FetchError
from imgbuilder.fetch.local import fetch_local
from imgbuilder.fetch.session import Response
from imgbuilder.fetch.transfer import Download, Limits
from imgbuilder.fetch.web import RequestsFetcher
from imgindex.model import Entry
from tests.fakes.faultserver import Endless, FaultServer, Reply, Step, answer

BODY = bytes(range(256)) * 40
HALF = len(BODY) // 2
NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
IMPATIENT = Limits(timeout=0.4, connect=0.4, backoff=0.0)


pytestmark = pytest.mark.usefixtures("no_proxies")


def fetcher(waits: list[float], limits: Limits | None = None, **options: Any) -> RequestsFetcher:
    return RequestsFetcher(
        limits or Limits(timeout=10, backoff=0.5),
        sleep=waits.append,
        jitter=lambda: 0.0,
        wall_clock=NOW.timestamp,
        **options,
    )


def refused(*scripts: list[Step], url: str = "", limits: Limits = IMPATIENT, **options: Any) -> FetchError:
    with FaultServer(*scripts) as server, pytest.raises(FetchError) as caught:
        address = url.replace("SERVER", server.url.partition("//")[2]) or f"{server.url}/f"
        fetcher([], limits).fetch(Download(address, io.BytesIO(), **{"limit": 1 << 20, **options}))
    return caught.value


@pytest.mark.row("D6")
@pytest.mark.parametrize("known", [True, False], ids=["signed size", "only a limit"])
def test_little_is_read_beyond_the_end(monkeypatch: pytest.MonkeyPatch, *, known: bool) -> None:
    """At most one byte more than may be stored is asked for: what the kernel buffers is not ours."""
    got: list[int] = []
    real = Response.read

    def counted(self: Response, count: int) -> bytes:
        piece = real(self, count)
        got.append(len(piece))
        return piece

    monkeypatch.setattr(Response, "read", counted)
    endless: list[Step] = [answer(b"", length=False), Endless(bytes(1 << 16))]
    size = 1_000_000
    error = refused(endless, limit=size, expected=size if known else None)
    assert f"longer than the {size} bytes" in error.message
    assert sum(got) <= size + 1


@pytest.mark.row("D7", "D8", "D9")
def test_how_long_people_are_made_to_wait() -> None:
    """The tests are less patient than the program; these are its own limits."""
    usual = Limits()
    assert usual.timeout == 30
    assert usual.resumes == 5
    assert usual.slow_window + usual.timeout <= 90
    assert usual.slow_rate == 1024


def dated(body: bytes, changed: str, upto: int | None = None) -> Reply:
    """Serve ranges as a server does that knows only dates (RFC 9110, 13.1.5)."""

    def reply(head: bytes) -> bytes:
        text = head.decode()
        begin = re.search(r"^Range: bytes=([0-9]+)-\r$", text, re.MULTILINE)
        condition = re.search(r"^If-Range: (.*)\r$", text, re.MULTILINE)
        dates = (f"Last-Modified: {changed}", "Date: Mon, 01 Jan 2024 12:00:00 GMT")
        if begin and condition and condition[1] == changed:
            start = int(begin[1])
            part = f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}"
            return answer(body[start:], part, *dates, status="206 Partial")
        whole = answer(body, *dates)
        return whole if upto is None else whole[: len(whole) - len(body) + upto]

    return reply


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TemplateCache]:
    with TemplateCache(tmp_path / "cache") as opened:
        opened.open()
        yield opened


def template(cache: TemplateCache, server: FaultServer) -> bytes:
    sha512 = hashlib.sha512(BODY).hexdigest()
    entry = Entry("x", "d.xz", "x86_64", 1 << 20, sha512=sha512, format="raw", compressed_size=len(BODY))
    url = f"{server.url}/d.xz"
    return cache.get_template(Selection(Source("s", url), entry, url), fetcher([])).read_bytes()


@pytest.mark.row("D12")
def test_last_modified_changed_between_two_parts(cache: TemplateCache) -> None:
    """The server sends all of the new file, and the beginning of the old one is dropped at once."""
    before, after = "Sun, 31 Dec 2023 10:00:00 GMT", "Sun, 31 Dec 2023 11:00:00 GMT"
    with FaultServer([dated(bytes(len(BODY)), before, HALF)], [dated(BODY, after)]) as server:
        assert template(cache, server) == BODY
    assert len(server.requests) == 2, "nothing was spliced, and so nothing was fetched a third time"
    assert f"If-Range: {before}".encode() in server.requests[1]


@pytest.mark.row("D12")
def test_last_modified_that_stayed_is_continued(cache: TemplateCache) -> None:
    date = "Sun, 31 Dec 2023 10:00:00 GMT"
    with FaultServer([dated(BODY, date, HALF)], [dated(BODY, date)]) as server:
        assert template(cache, server) == BODY
    assert server.sent < len(BODY) + 1000


@pytest.mark.row("D16")
@pytest.mark.parametrize("status", ["401 No", "403 No", "404 Not Found", "410 Gone"])
def test_the_message_has_the_address_without_its_user(status: str) -> None:
    error = refused([answer(b"", status=status)], url="http://me:canary@SERVER/dir/f")
    assert "canary" not in f"{error.message} {error.hint}"
    assert "me@" not in error.message
    assert "/dir/f: HTTP status code" in error.message


AFTER = {
    "1": [1.0] * 3,
    "3600": [],
    format_datetime(NOW.replace(second=7), usegmt=True): [7.0] * 3,
    format_datetime(NOW.replace(hour=11), usegmt=True): [0.0] * 3,
    format_datetime(NOW.replace(hour=14), usegmt=True): [],
    "soon": [0.5, 1.0, 2.0],
    "": [0.5, 1.0, 2.0],
}


@pytest.mark.row("D17")
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("status", ["429 Slow Down", "500 Oops", "502 Bad", "503 Busy"])
def test_all_kinds_of_retry_after(status: str, after: str) -> None:
    waits: list[float] = []
    with (
        FaultServer([answer(b"", f"Retry-After: {after}", status=status)]) as server,
        pytest.raises(FetchError) as caught,
    ):
        fetcher(waits).fetch(Download(f"{server.url}/f", io.BytesIO(), limit=9))
    assert waits == AFTER[after]
    assert len(server.requests) == len(waits) + 1 <= 5
    assert status[:3] in caught.value.message
    if not waits:
        assert "rate limited; retry in" in (caught.value.hint or "")


HTML = "Content-Type: text/html"


@pytest.mark.row("D18")
@pytest.mark.parametrize(
    "page",
    [
        answer(b"<html>sorry</html>", HTML),
        answer(b"<html>sorry</html>".ljust(len(BODY)), HTML),
        answer(b"<html>sorry</html>", HTML, length=False),
        answer(b"<html>sorry</html>", HTML, status="503 Busy"),
    ],
    ids=["200", "200 of the right size", "200 without a length", "503"],
)
def test_an_error_page_is_never_cached(cache: TemplateCache, page: bytes) -> None:
    with (
        FaultServer([page]) as server,
        pytest.raises(Exception, match=r"promise|digest|index names|503|ended"),
    ):
        template(cache, server)
    assert all(head.startswith(b"GET ") for head in server.requests), "a HEAD would prove nothing"
    assert list((cache.root / "templates").iterdir()) == []
    with FaultServer([answer(BODY)]) as server:
        assert template(cache, server) == BODY, "and the next run is not in its way"


@pytest.mark.row("D19")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_absolute_addresses(status: int) -> None:
    def moved(head: bytes) -> bytes:
        host = re.search(rb"Host: (\S+)", head)
        assert host is not None
        return answer(b"", f"Location: http://{host[1].decode()}/there", status=f"{status} Moved")

    body = io.BytesIO()
    with FaultServer([moved], [answer(BODY)]) as server:
        fetcher([]).fetch(Download(f"{server.url}/here", body, limit=1 << 20))
    assert body.getvalue() == BODY
    assert server.requests[1].startswith(b"GET /there ")


@pytest.mark.row("D19")
def test_a_loop_between_two_addresses_ends() -> None:
    def moved(head: bytes) -> bytes:
        return answer(b"", f"Location: /{'b' if b'GET /a ' in head else 'a'}", status="302 Moved")

    with FaultServer([moved]) as server, pytest.raises(FetchError, match="more than 5 redirects"):
        fetcher([]).fetch(Download(f"{server.url}/a", io.BytesIO(), limit=9))
    assert len(server.requests) == 6


@pytest.mark.row("D20")
def test_over_real_connections(tls: tuple[ssl.SSLContext, str]) -> None:
    """Up to https on another server, for what has a digest; down from it never."""
    trusting = {"CURL_CA_BUNDLE": tls[1]}
    with FaultServer([answer(BODY)], tls=tls[0]) as good:
        up = answer(b"", f"Location: {good.url}/x", status="302 Moved")
        body = io.BytesIO()
        with FaultServer([up]) as first:
            web = fetcher([], environ=trusting)
            web.fetch(Download(f"{first.url}/f", body, limit=1 << 20, digest_known=True))
            assert body.getvalue() == BODY
            with pytest.raises(FetchError, match="refused"):
                web.fetch(Download(f"{first.url}/f", body, limit=1 << 20))
        assert len(good.requests) == 1
    with FaultServer([answer(BODY)]) as plain:
        down = answer(b"", f"Location: {plain.url}/x", status="302 Moved")
        for digest_known in (True, False):
            with FaultServer([down], tls=tls[0]) as first, pytest.raises(FetchError, match="refused"):
                fetcher([], environ=trusting).fetch(
                    Download(f"{first.url}/f", io.BytesIO(), limit=1 << 20, digest_known=digest_known)
                )
        assert plain.requests == []


@pytest.mark.row("D20")
def test_from_a_public_name_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server must not make us talk to what listens on loopback only."""
    with FaultServer([answer(b"secret")]) as inner:
        moved = answer(b"", f"Location: {inner.url}/admin", status="302 Moved")
        with FaultServer([moved]) as outer:
            address = outer.url.rpartition(":")[2]
            real = socket.getaddrinfo
            monkeypatch.setattr(
                socket, "getaddrinfo", lambda _host, port, *a, **n: real("127.0.0.1", port, *a, **n)
            )
            for digest_known in (True, False):
                with pytest.raises(FetchError, match="refused"):
                    fetcher([]).fetch(
                        Download(
                            f"http://mirror.example:{address}/f",
                            io.BytesIO(),
                            limit=99,
                            digest_known=digest_known,
                        )
                    )
        assert inner.requests == []


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n"


@pytest.mark.row("D22")
@pytest.mark.parametrize("trailer", [b"X: y\r\n", b"x" * 5000])
def test_trailers_without_end(trailer: bytes) -> None:
    """A few are allowed by RFC 9112 and ignored; these would keep us for ever, or fill our memory."""
    refused([CHUNKED, Endless(trailer)])


@pytest.mark.row("D26")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(BODY)
    file.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(FetchError, match=r"cannot read .*: Permission denied"):
            fetch_local(Download(str(file), io.BytesIO(), limit=1 << 20))
    finally:
        os.seteuid(user)

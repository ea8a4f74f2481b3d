"""Rows D, T12, T22 and T23 of ``docs/threat-model.md`` that need no resume, against real sockets."""

from __future__ import annotations

import gzip
import io
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from imgbuilder.errors import FetchError
from imgbuilder.events import Event, Progress, ProgressEnd
from imgbuilder.fetch.session import trusted_authorities
from imgbuilder.fetch.transfer import Download, Limits
from imgbuilder.fetch.web import RequestsFetcher
from imgbuilder.fetch.webrules import WebRequest
from tests.fakes.faultserver import Drip, Endless, FaultServer, Hang, Pause, Reset, Step, answer

BODY = bytes(range(256)) * 40
LIMITS = Limits(timeout=10, backoff=0.0)
IMPATIENT = Limits(timeout=0.3, backoff=0.0)


class Patient:
    """Stands for the sleep between two tries."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


pytestmark = pytest.mark.usefixtures("no_proxies")


def get(url: str, *, limits: Limits = LIMITS, sleep: Patient | None = None, **options: Any) -> bytes:
    body = io.BytesIO()
    fetcher = RequestsFetcher(limits, jitter=lambda: 0.0, sleep=sleep or Patient())
    fetched = fetcher.fetch(Download(url, body, **{"limit": 1 << 20, **options}))
    assert fetched.size == len(body.getvalue())
    return body.getvalue()


def refused(*scripts: Sequence[Step], url: str = "/f", **options: Any) -> tuple[FetchError, FaultServer]:
    """Fetch from a faulty server: only FetchError may come out, and nothing beyond the limit be stored."""
    body = io.BytesIO()
    limit = options.setdefault("limit", 1 << 20)
    limits, sleep = options.pop("limits", IMPATIENT), options.pop("sleep", Patient())
    with FaultServer(*scripts) as server, pytest.raises(FetchError) as caught:
        RequestsFetcher(limits, jitter=lambda: 0.0, sleep=sleep).fetch(
            Download(server.url + url, body, **options)
        )
    assert len(body.getvalue()) <= limit
    return caught.value, server


def test_good_server(events: list[Event], httpserver: HTTPServer) -> None:
    httpserver.expect_request("/d.xz").respond_with_data(BODY)
    assert get(httpserver.url_for("/d.xz"), expected=len(BODY), on_event=events.append, label="d") == BODY
    assert events[-2:] == [Progress("d", len(BODY), len(BODY)), ProgressEnd()]
    (log,) = httpserver.log
    headers = log[0].headers
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"].startswith("pybuilder/")
    assert "Authorization" not in headers


def test_the_length_becomes_the_total_of_the_progress(events: list[Event]) -> None:
    with FaultServer([answer(BODY)]) as server:
        get(server.url, on_event=events.append)
    assert Progress(server.url, len(BODY), len(BODY)) in events


@pytest.mark.row("D1")
@pytest.mark.parametrize("kept", [0, 1, len(BODY) // 2, len(BODY) - 1])
def test_reset_in_the_body(kept: int) -> None:
    whole = answer(BODY)
    refused([whole[: len(whole) - len(BODY) + kept], Pause(0.02), Reset()])


@pytest.mark.row("D2", "F15")
@pytest.mark.parametrize("kept", [0, 1, len(BODY) - 1])
def test_short_body(kept: int) -> None:
    """Some libraries report no error here."""
    whole = answer(BODY)
    refused([whole[: len(whole) - len(BODY) + kept]])


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


def test_chunked() -> None:
    with FaultServer([CHUNKED, b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: x\r\n\r\n"]) as server:
        assert get(server.url) == b"hello world"


@pytest.mark.row("D3")
@pytest.mark.parametrize("rest", [b"", b"5\r\nhello\r\n", b"5\r\nhel", b"5\r\nhello"])
def test_chunked_without_an_end(rest: bytes) -> None:
    refused([CHUNKED, rest])


@pytest.mark.row("D22")
@pytest.mark.parametrize(
    "rest",
    [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5;" + b"x" * 10_000_000,
        b"f" * 40 + b"\r\nhello",
    ],
)
def test_bad_chunks(rest: bytes) -> None:
    refused([CHUNKED, rest])


@pytest.mark.row("D4")
def test_no_length_is_judged_by_the_signed_size() -> None:
    with FaultServer([answer(BODY, length=False)]) as server:
        assert get(server.url, expected=len(BODY)) == BODY
    for expected in (len(BODY) - 1, len(BODY) + 1):
        refused([answer(BODY, length=False)], expected=expected)


@pytest.mark.row("D5")
@pytest.mark.parametrize(
    "length",
    [
        str(len(BODY) - 1), str(len(BODY) + 1), "-1", "ten", "", "+5", "0x10", "1 0", str(1 << 63),
        f"{len(BODY)}, 5",
    ],
)  # fmt: skip
def test_length_disagrees_with_the_signed_size(length: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()
    error, _server = refused([head + BODY, Hang()], expected=len(BODY))
    assert "nothing came" not in error.message  # it did not wait for a body


@pytest.mark.row("D5")
def test_length_twice_and_with_chunks() -> None:
    refused([answer(BODY, f"Content-Length: {len(BODY)}", "Content-Length: 7")], expected=len(BODY))
    refused([answer(BODY, f"Content-Length: {len(BODY)}")], expected=len(BODY))
    both = CHUNKED.replace(b"Connection", b"Content-Length: 5\r\nConnection")
    refused([both + b"5\r\nhello\r\n0\r\n\r\n"], expected=5)


def test_an_announced_length_over_the_limit_is_refused_before_the_body() -> None:
    error, _server = refused([b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", Hang()], limit=10)
    assert "11 bytes" in error.message


@pytest.mark.row("D6")
def test_extra_and_endless_bytes() -> None:
    with FaultServer([answer(BODY), b"extra"]) as server:
        assert get(server.url, expected=len(BODY)) == BODY
    refused([answer(BODY, length=False), b"x"], expected=len(BODY))
    error, server = refused([answer(b"", length=False), Endless(bytes(1 << 16))], limit=100_000)
    assert "100000" in error.message
    # What was sent beyond the limit stayed in the sockets' buffers.
    assert server.sent < 64 << 20


@pytest.mark.parametrize(
    "status", ["100 Continue", "204 No Content", "206 Partial Content", "304 Not Modified"]
)
def test_only_a_plain_200_is_stored(status: str) -> None:
    refused([answer(b"", status=status), Hang()])


@pytest.mark.row("D7")
def test_no_answer() -> None:
    error, server = refused([Hang()])
    assert "0 seconds" in error.message
    assert len(server.requests) == 1  # a timeout has cost enough already


@pytest.mark.row("D7")
def test_headers_that_drip() -> None:
    error, server = refused([Drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000, 0.02)])
    assert "longer than" in error.message
    assert server.sent < 500  # it was broken off, not waited for


@pytest.mark.row("D7")
def test_headers_that_never_end() -> None:
    refused([b"HTTP/1.1 200 OK\r\n", Endless(b"X: y\r\n" * 100)])
    refused([b"HTTP/1.1 200 OK\r\n", Endless(b"X" * 70_000)])


@pytest.mark.row("D7")
def test_a_chunk_header_that_drips() -> None:
    drip = Drip(b"5" + b"0" * 1000, 0.02)
    scripts: list[list[Step]] = [[CHUNKED, drip], [CHUNKED, b"5\r\nhello\r\n", drip]]
    for script in scripts:
        error, server = refused(script)
        assert "longer than" in error.message
        assert server.sent < 500


def test_a_slow_disk_is_not_the_server_s_fault() -> None:
    class Slow(io.BytesIO):
        def write(self, data: object, /) -> int:
            time.sleep(0.5)
            return super().write(data)  # type: ignore[arg-type]

    body = Slow()
    with FaultServer([answer(BODY)]) as server:
        RequestsFetcher(Limits(timeout=0.4)).fetch(Download(server.url, body, limit=1 << 20))
    assert body.getvalue() == BODY


@pytest.mark.row("D8")
def test_stall_in_the_body() -> None:
    error, _server = refused([answer(BODY)[:-5], Hang()])
    assert "0 seconds" in error.message


@pytest.mark.row("D9")
def test_slow_drip() -> None:
    ticks = iter(range(0, 1000, 10))
    body = io.BytesIO()
    with FaultServer([answer(b"", length=False), Drip(b"x" * 1000, 0.01)]) as server:
        fetcher = RequestsFetcher(LIMITS, clock=lambda: float(next(ticks)))
        with pytest.raises(FetchError, match="60 seconds"):
            fetcher.fetch(Download(server.url, body, limit=1 << 20))
    assert len(body.getvalue()) < 100  # a busy machine may read several at once


@pytest.mark.row("D16")
@pytest.mark.parametrize("status", ["400 Bad", "401 No", "403 No", "404 Not Found", "410 Gone", "501 What"])
def test_no_retry(status: str) -> None:
    error, server = refused([answer(b"error page", status=status)])
    assert status[:3] in error.message
    assert error.hint
    assert len(server.requests) == 1


@pytest.mark.row("D17")
@pytest.mark.parametrize(
    "status", ["408 Late", "429 Slow Down", "500 Oops", "502 Bad", "503 Busy", "504 Late"]
)
def test_retry_then_success(status: str) -> None:
    bad = answer(b"error page", status=status)
    sleep = Patient()
    with FaultServer([bad], [bad], [answer(BODY)]) as server:
        assert get(server.url, limits=Limits(timeout=1, backoff=0.5), sleep=sleep) == BODY
    assert sleep.waits == [0.5, 1.0]


@pytest.mark.row("D17")
@pytest.mark.parametrize(
    ("header", "waits"),
    [
        ("1", [1.0, 1.0, 1.0]),
        ("60", [60.0] * 3),
        ("61", []),
        ("3600", []),
        ("soon", [0.5, 1.0, 2.0]),
        ("-1", [0.5, 1.0, 2.0]),
    ],
)
def test_retry_after(header: str, waits: list[float]) -> None:
    sleep = Patient()
    busy = answer(b"", f"Retry-After: {header}", status="503 Busy")
    error, server = refused([busy], sleep=sleep, limits=Limits(timeout=1, backoff=0.5))
    assert "503" in error.message
    assert sleep.waits == waits
    assert len(server.requests) == len(waits) + 1


@pytest.mark.row("D17")
def test_waiting_longer_than_the_timeout_breaks_nothing() -> None:
    """The time limit of one answer must not go on running between two tries."""
    with FaultServer([answer(b"", status="503 Busy")], [Pause(0.1), answer(BODY)]) as server:
        fetcher = RequestsFetcher(Limits(timeout=0.3, backoff=0.4))
        body = io.BytesIO()
        fetcher.fetch(Download(server.url, body, limit=1 << 20))
    assert body.getvalue() == BODY


def test_connection_faults_before_the_answer_are_tried_again() -> None:
    sleep = Patient()
    with FaultServer([Reset()], [], [answer(BODY)]) as server:
        assert get(server.url, sleep=sleep) == BODY
    assert len(sleep.waits) == 2


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sleep = Patient()
    with pytest.raises(FetchError, match="refused"):
        get(f"http://127.0.0.1:{port}/", sleep=sleep)
    assert len(sleep.waits) == 3


@pytest.mark.row("D18")
def test_error_page_is_never_stored() -> None:
    error, _server = refused([answer(b"<html>sorry</html>", "Content-Type: text/html", status="503 Busy")])
    assert "503" in error.message


def redirect(location: str, status: int = 302) -> bytes:
    return answer(b"moved", f"Location: {location}", status=f"{status} Moved")


@pytest.mark.row("D19")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(status: int) -> None:
    with FaultServer([redirect("../b?x=1#f", status)], [answer(BODY)]) as server:
        fetched = RequestsFetcher(LIMITS).fetch(Download(server.url + "/a/a", io.BytesIO(), limit=1 << 20))
    assert server.requests[1].startswith(b"GET /b?x=1 HTTP/1.1\r\n")
    assert fetched.url == server.url + "/b?x=1"


@pytest.mark.row("D19")
def test_five_hops_and_no_more() -> None:
    hops = [[redirect("/x")] for _ in range(5)]
    with FaultServer(*hops, [answer(BODY)]) as server:
        assert get(server.url) == BODY
    error, server = refused([redirect("/x")])
    assert "5 redirects" in error.message
    assert len(server.requests) == 6


@pytest.mark.row("D19")
@pytest.mark.parametrize(
    "location",
    [
        "", "http://h/\r\n evil", "http://a b/", "http://[::1", "http://h:99999/", "/x\r\nLocation: /y",
    ],
)  # fmt: skip
def test_malformed_locations(location: str) -> None:
    error, server = refused([redirect(location)], digest_known=True)
    assert "redirect" in error.message
    assert len(server.requests) == 1


@pytest.mark.row("D19")
def test_no_location() -> None:
    refused([answer(b"", status="302 Moved")])


SCHEMES = ("file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://h/", "javascript:x", "data:text/plain,x")
SERVERS = ("http://localhost/x", "http://127.0.0.1:1/x", "//localhost/x", "http://127.0.0.2/x")


@pytest.mark.row("D20", "T12")
@pytest.mark.parametrize(
    ("location", "digest_known"),
    [*((one, True) for one in SCHEMES), *((one, False) for one in (*SCHEMES, *SERVERS))],
)
def test_refused_redirects(location: str, digest_known: bool) -> None:
    """To another server only for what has a digest, to another scheme never."""
    error, server = refused([redirect(location)], digest_known=digest_known)
    assert "refused" in error.message
    assert len(server.requests) == 1


def follow(first: str, location: str, *, digest_known: bool = False) -> WebRequest:
    request = WebRequest(first, digest_known=digest_known)
    request.follow([location])
    return request


HERE = (
    *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "localhost", "a.localhost.", "[::1]"),
    *("[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0", "[fe80::1%25lo]"),
)


def test_a_mirror_by_http_for_bytes_whose_digest_is_known() -> None:
    """From http to http nothing is lost: who could change the second could have changed the first."""
    with FaultServer([answer(BODY)]) as mirror:
        address = f"{mirror.url.replace('127.0.0.1', 'localhost')}/x"
        with FaultServer([redirect(address)]) as first:
            assert get(f"{first.url}/f", digest_known=True) == BODY
    assert follow("http://h/x", "http://10.0.0.1/y", digest_known=True).url == "http://10.0.0.1/y"


@pytest.mark.row("D20")
def test_https() -> None:
    assert follow("http://h/x", "https://h/y").url == "https://h/y"
    assert follow("https://h/x", "https://other/y", digest_known=True).url == "https://other/y"
    assert follow("http://h/x", "https://other/y", digest_known=True).url == "https://other/y"
    for first, location, digest_known in [
        ("https://h/x", "http://h/y", True),
        ("https://h/x", "http://h/y", False),
        ("https://h/x", "https://other/y", False),
        ("http://h:8080/x", "https://h/y", False),
        ("http://h/x", "http://other/y", False),
        *(("http://h/x", f"http://{host}/y", True) for host in HERE),
        *(("https://h/x", f"https://{host}/y", True) for host in HERE),
        ("https://h/x", "https://u:secret@h/y", True),
        ("https://h/x", "ftp://h/y", True),
    ]:
        with pytest.raises(FetchError, match="refused") as caught:
            follow(first, location, digest_known=digest_known)
        assert "secret" not in caught.value.message


@pytest.mark.row("D30", "T22")
def test_credentials_go_to_their_server_only() -> None:
    request = WebRequest("http://me:p%40ss@h/x", digest_known=True)
    assert request.auth == ("me", "p@ss")
    assert request.url == "http://h/x"
    request.follow(["/y"])
    assert request.auth == ("me", "p@ss")
    request.follow(["https://h/y"])
    assert request.auth == ("me", "p@ss")  # the same server, now encrypted
    request.follow(["https://other/z"])
    assert request.auth is None


@pytest.mark.row("T22")
def test_credentials_are_sent_and_never_shown() -> None:
    with FaultServer([redirect("/y")], [answer(b"", status="404 Not Found")]) as server:
        url = server.url.replace("http://", "http://me:canary@")
        events: list[Event] = []
        with pytest.raises(FetchError) as caught:
            get(url, on_event=events.append)
    assert all(b"Authorization: Basic bWU6Y2FuYXJ5" in request for request in server.requests)
    assert "canary" not in f"{caught.value.message} {caught.value.hint} {events}"


@pytest.mark.row("T22")
def test_the_canary_is_not_shown_when_the_connection_fails() -> None:
    with pytest.raises(FetchError) as caught:
        get("http://me:canary@127.0.0.1:1/x")
    assert "canary" not in caught.value.message


@pytest.mark.row("D30", "T22")
def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password canary\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with FaultServer([answer(BODY)]) as server:
        get(server.url)
    assert b"uthorization" not in server.requests[0]


def test_cookies_are_not_kept() -> None:
    moved = answer(b"", "Set-Cookie: a=b", "Location: /y", status="302 Moved")
    busy = answer(b"", "Set-Cookie: a=b", status="503 Busy")
    with FaultServer([moved], [busy], [answer(BODY)]) as server:
        get(server.url)
    assert len(server.requests) == 3
    assert not any(b"ookie" in request for request in server.requests)


@pytest.mark.row("D21", "T23")
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x", "identity, gzip"])
def test_encoded_bodies(encoding: str) -> None:
    error, _server = refused([answer(gzip.compress(BODY), f"Content-Encoding: {encoding}")])
    assert "encoded" in error.message


def test_a_label_does_not_matter_where_the_digest_is_known() -> None:
    """Servers label files by their name (``AddEncoding x-xz .xz``): taken as they come, never decoded."""
    packed = gzip.compress(BODY)
    with FaultServer([answer(packed, "Content-Encoding: gzip")]) as server:
        assert get(server.url, digest_known=True, expected=len(packed)) == packed
    error, _server = refused(
        [answer(packed, "Content-Encoding: gzip")], digest_known=True, expected=len(packed) + 1
    )
    assert "encoded" in error.message


class Clock:
    """Moves on by what is slept."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_all_tries_together_have_a_time_limit() -> None:
    """Answers that ask to wait, each within its own limit, do not add up to more."""
    clock = Clock()
    wait = answer(b"", "Retry-After: 25", status="503 Busy")
    with FaultServer([wait]) as server:
        web = RequestsFetcher(clock=clock, sleep=clock.sleep)
        with pytest.raises(FetchError, match="503"):
            web.fetch(Download(server.url, io.BytesIO(), limit=99, seconds=60))
    assert clock.now - 1000 <= 60
    assert len(server.requests) == 3


def test_a_body_that_drips_quicker_than_the_slowest_rate_has_a_time_limit() -> None:
    with FaultServer([answer(b"", length=False), Drip(b"x" * 1000, 0.02)]) as server:
        web = RequestsFetcher(Limits(slow_window=0.1, slow_rate=1))
        with pytest.raises(FetchError, match="not complete after 1 seconds"):
            web.fetch(Download(server.url, io.BytesIO(), limit=9999, seconds=1))


def test_identity_is_no_encoding() -> None:
    with FaultServer([answer(BODY, "Content-Encoding: identity")]) as server:
        assert get(server.url) == BODY


@pytest.mark.row("D21", "T23")
def test_the_body_of_a_redirect_is_not_read() -> None:
    """Requests would decode it into memory."""
    head = answer(b"", "Location: /y", "Content-Encoding: gzip", status="302 Moved", length=False)
    with FaultServer([head, Hang()], [answer(BODY)]) as server:
        assert get(server.url) == BODY


@pytest.mark.parametrize("garbage", [b"", b"\0" * 50, b"HTTP/9.9 abc\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_no_http_at_all(garbage: bytes) -> None:
    refused([garbage])


def test_tls_with_a_plain_server() -> None:
    with (
        FaultServer([answer(BODY)], at_once=True) as server,
        pytest.raises(FetchError, match="TLS"),
    ):
        get(server.url.replace("http:", "https:"))


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://h:x/", "http://a..b/", "http://\udcff/", "http:///x"]
)
def test_malformed_urls(url: str) -> None:
    with pytest.raises(FetchError):
        get(url)


@pytest.mark.row("D25")
def test_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer([answer(BODY)]) as proxy, FaultServer([answer(b"direct")]) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert get("http://nowhere.invalid/x") == BODY
        assert get(server.url, proxy="no") == b"direct"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert get(server.url) == b"direct"
        monkeypatch.delenv("http_proxy")
        assert get("http://nowhere.invalid/x", proxy=proxy.url) == BODY
    assert proxy.requests[0].startswith(b"GET http://nowhere.invalid/x ")


@pytest.mark.row("D25")
def test_proxy_password_is_not_shown() -> None:
    with FaultServer([answer(b"", status="407 Who")]) as proxy:
        for url in ("http://nowhere.invalid/x", "https://nowhere.invalid/x"):
            with pytest.raises(FetchError) as caught:
                get(url, proxy=proxy.url.replace("http://", "http://me:canary@"))
            assert "canary" not in f"{caught.value.message} {caught.value.hint}"


def test_authorities_of_the_user_come_first() -> None:
    assert trusted_authorities({"REQUESTS_CA_BUNDLE": "/a", "CURL_CA_BUNDLE": "/b"}) == "/a"
    assert trusted_authorities({"CURL_CA_BUNDLE": "/b"}) == "/b"
    assert trusted_authorities({}) is not False


def test_a_name_that_cannot_be_resolved_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is it tried again after a pause, nor for the next file of that server."""
    asked: list[object] = []

    def nothing(host: object, *_rest: object, **_options: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    sleep = Patient()
    fetcher = RequestsFetcher(LIMITS, jitter=lambda: 0.0, sleep=sleep)
    for name in ("index.asc", "debian-12.xz"):
        url = f"http://nowhere.test/{name}"
        with pytest.raises(FetchError) as caught:
            fetcher.fetch(Download(url, io.BytesIO(), limit=1000))
        assert caught.value.message == f"{url}: the server's name cannot be resolved"
    with pytest.raises(FetchError):
        fetcher.fetch(Download("http://other.test/index.asc", io.BytesIO(), limit=1000))
    assert asked == ["nowhere.test", "other.test"]
    assert sleep.waits == []

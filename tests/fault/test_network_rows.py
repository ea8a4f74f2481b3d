"""Rows D23 to D25, D27 and D29 of ``docs/threat-model.md``: TLS, names, proxies, and what old copies do."""

from __future__ import annotations

import io
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from imgbuilder.errors import FetchError
from imgbuilder.fetch.transfer import Download, Limits
from imgbuilder.fetch.web import RequestsFetcher
from tests.fakes.faultserver import Drip, FaultServer, Hang, Pause, Reset, Step, answer

BODY = bytes(range(256)) * 40
LIMITS = Limits(timeout=10, backoff=0.0)
IMPATIENT = Limits(timeout=0.4, connect=0.4, backoff=0.0)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


pytestmark = pytest.mark.usefixtures("no_proxies")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    made = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    made.cert_pem.write_to_path(file)
    return made, file


Authority = tuple[trustme.CA, Path]


def context(authority: trustme.CA, *names: str, **validity: datetime) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("127.0.0.1",)), **validity).configure_cert(made)  # type: ignore[arg-type]
    return made


def get(url: str, ca: Path | None = None, limits: Limits = LIMITS, **options: Any) -> bytes:
    body = io.BytesIO()
    environ = {} if ca is None else {"CURL_CA_BUNDLE": str(ca)}
    fetcher = RequestsFetcher(limits, sleep=lambda _seconds: None, environ=environ)
    fetcher.fetch(Download(url, body, **{"limit": 1 << 20, **options}))
    return body.getvalue()


def refused(
    server: FaultServer, ca: Path | None = None, limits: Limits = LIMITS, **options: Any
) -> FetchError:
    with pytest.raises(FetchError) as caught:
        get(f"{server.url}/f", ca, limits)
    assert "insecure" not in f"{caught.value.message} {caught.value.hint}".lower()
    return caught.value


@pytest.mark.row("D23")
def test_a_private_authority_is_trusted_when_it_is_named(authority: Authority) -> None:
    ca, file = authority
    with FaultServer([answer(BODY)], tls=context(ca)) as server:
        assert get(f"{server.url}/f", file) == BODY


@pytest.mark.row("D23")
@pytest.mark.parametrize(
    ("names", "validity", "words", "advice"),
    [
        ((), {"not_before": LONG_AGO, "not_after": LONG_AGO + timedelta(days=9)}, "expired", "clock"),
        (("other.example",), {}, "mismatch", "another server"),
        ((), {"not_before": datetime.now(UTC) + timedelta(days=900)}, "not yet valid", "clock"),
    ],
    ids=["expired", "wrong name", "not yet valid"],
)
def test_certificates(
    authority: Authority, names: Sequence[str], validity: dict[str, datetime], words: str, advice: str
) -> None:
    ca, file = authority
    with FaultServer([answer(BODY)], tls=context(ca, *names, **validity)) as server:
        error = refused(server, file)
    assert "TLS: " in error.message
    assert words in error.message
    assert advice in (error.hint or "")
    assert server.requests == []


@pytest.mark.row("D23")
def test_unknown_authority(authority: Authority) -> None:
    ca, _file = authority
    with FaultServer([answer(BODY)], tls=context(ca)) as server:
        error = refused(server)
    assert "TLS: " in error.message
    assert "update-ca-certificates" in (error.hint or "")
    assert server.requests == []


@pytest.mark.row("D23")
def test_tls_1_0(authority: Authority) -> None:
    ca, file = authority
    old = context(ca)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1
    with FaultServer([answer(BODY)], tls=old) as server:
        error = refused(server, file)
    assert "TLS: " in error.message
    assert server.requests == []


@pytest.mark.row("D23")
@pytest.mark.parametrize("script", [[], [Reset()], [b"\x15\x03\x01"], [b"HTTP/1.1 200 OK\r\n\r\n"]])
def test_broken_handshake(authority: Authority, script: list[Step]) -> None:
    with FaultServer(script, at_once=True) as server, pytest.raises(FetchError):
        get(server.url.replace("http:", "https:"), authority[1])


@pytest.mark.row("D23")
@pytest.mark.parametrize("script", [[Hang()], [Drip(b"\x16\x03\x01\x40\x00" + bytes(9999), 0.1)]])
def test_stalled_handshake(authority: Authority, script: list[Step]) -> None:
    """Also one that drips for a quarter of an hour: the limit is for all of it."""
    with FaultServer(script, at_once=True) as server, pytest.raises(FetchError):
        get(server.url.replace("http:", "https:"), authority[1], IMPATIENT)


@pytest.mark.row("D24")
def test_no_such_name() -> None:
    with pytest.raises(FetchError, match="cannot be resolved") as caught:
        get("http://nowhere.invalid/f")
    assert "check the network" in (caught.value.hint or "")


_DEAD_NAMES = """
import io, os, socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["mount", "--bind", sys.argv[1], os.path.realpath("/etc/resolv.conf")], check=True)
deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
deaf.bind(("127.0.0.1", 53))
from imgbuilder.errors import FetchError
from imgbuilder.fetch.transfer import Download, Limits
from imgbuilder.fetch.web import RequestsFetcher
try:
    RequestsFetcher(Limits(retries=0)).fetch(Download("http://mirror.example/f", io.BytesIO(), limit=9))
except FetchError as error:
    print(error.message, deaf.recv(512)[12:18])
"""


@pytest.mark.row("D24")
def test_a_name_server_that_does_not_answer(tmp_path: Path) -> None:
    """A real resolver, and a real server that is deaf, in a network of their own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("D24: a network namespace needs root and unshare")
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    words = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-c", _DEAD_NAMES]
    repository = Path(__file__).parents[2]
    folders = os.pathsep.join(str(repository / name) for name in ("builder", "index"))
    environ = {**os.environ, "PYTHONPATH": folders, "no_proxy": "*"}
    done = subprocess.run([*words, str(resolver)], capture_output=True, text=True, env=environ, timeout=50)
    if "Operation not permitted" in done.stderr:
        pytest.skip("D24: no network namespaces here")
    assert "the server's name cannot be resolved b'\\x06mirro" in done.stdout, done.stderr


@contextmanager
def deaf_address(family: socket.AddressFamily, host: str) -> Iterator[tuple[Any, ...]]:
    """An address where no server ever accepts: the kernel leaves what does not fit the queue unanswered."""
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(0)
        waiting = [socket.socket(family) for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for client in waiting:
            client.close()


@pytest.mark.row("D24")
def test_the_first_address_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 that leads nowhere, and an IPv4 that works."""
    real = socket.getaddrinfo
    with FaultServer([answer(BODY)]) as server, deaf_address(socket.AF_INET6, "::1") as dead:
        alive = server.url.rpartition(":")[2]
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda *_a, **_n: [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", dead),
                *real("127.0.0.1", int(alive), type=socket.SOCK_STREAM),
            ],
        )
        assert get("http://two.example/f", limits=Limits(connect=0.5)) == BODY
    assert Limits().connect < 15, "a dead address must not take longer than people wait"


@pytest.mark.row("D24")
def test_all_addresses_are_dead() -> None:
    with (
        deaf_address(socket.AF_INET, "127.0.0.1") as dead,
        pytest.raises(FetchError, match="no connection within 0 seconds"),
    ):
        get(f"http://127.0.0.1:{dead[1]}/f", limits=IMPATIENT)


@pytest.mark.row("D25")
def test_a_proxy_that_dies_in_the_body() -> None:
    half = answer(BODY)[: -len(BODY) // 2]
    for end in ([Reset()], []):
        with FaultServer([half, *end]) as proxy, pytest.raises(FetchError):
            get("http://nowhere.invalid/x", proxy=proxy.url)


@pytest.mark.row("D25")
@pytest.mark.parametrize("script", [[Hang()], [b"HTTP/1.1 200 OK\r\n", Drip(b"x" * 9999, 0.1)]])
def test_connect_stalls(script: list[Step]) -> None:
    """Also when it drips: a socket's own limit would never be reached."""
    with FaultServer(script) as proxy, pytest.raises(FetchError) as caught:
        get("https://nowhere.invalid/x", limits=IMPATIENT, proxy=proxy.url.replace("//", "//me:canary@"))
    assert "canary" not in f"{caught.value.message} {caught.value.hint}"
    assert proxy.requests[0].startswith(b"CONNECT nowhere.invalid:443 ")


@pytest.mark.row("D25")
def test_a_proxy_refuses_the_tunnel() -> None:
    with FaultServer([answer(b"", status="403 No")]) as proxy, pytest.raises(FetchError) as caught:
        get("https://nowhere.invalid/x", proxy=proxy.url)
    assert f"proxy {proxy.url}: " in caught.value.message
    assert "proxy=" in (caught.value.hint or "")


@pytest.mark.row("D25")
def test_credentials_of_the_proxy_go_to_the_proxy_only() -> None:
    with FaultServer([answer(BODY)]) as proxy:
        assert get("http://nowhere.invalid/x", proxy=proxy.url.replace("//", "//me:canary@")) == BODY
    assert b"Proxy-Authorization: Basic " in proxy.requests[0]
    assert b"\r\nAuthorization" not in proxy.requests[0]


@pytest.mark.row("D17")
def test_a_server_that_asks_for_an_hour_says_so() -> None:
    with FaultServer([answer(b"", "Retry-After: 3600", status="503 Busy")]) as server:
        error = refused(server)
    assert "3600 seconds" in (error.hint or "")
    assert len(server.requests) == 1


@pytest.mark.row("D8")
def test_waits_grow_and_differ() -> None:
    """Many clients that lost one server must not come back all at once."""
    spread = []
    for share in (0, 1):
        waits: list[float] = []
        fetcher = RequestsFetcher(Limits(backoff=1.0), sleep=waits.append, jitter=share.__float__, environ={})
        with FaultServer([answer(b"", status="500 Oops")]) as server, pytest.raises(FetchError):
            fetcher.fetch(Download(f"{server.url}/f", io.BytesIO(), limit=9))
        spread.append(waits)
    assert spread == [[1.0, 2.0, 4.0], [1.5, 3.0, 6.0]]


@pytest.mark.row("D9")
def test_a_fast_start_does_not_pay_for_a_slow_rest() -> None:
    limits = Limits(timeout=10, slow_window=0.3, slow_rate=100_000)
    body = bytes(50_000)
    script: list[Step] = [answer(body * 9)[: len(body) * 8], Pause(0.35), Drip(body, 0.05)]
    with FaultServer(script) as server:
        error = refused(server, limits=limits)
    assert "only" in error.message

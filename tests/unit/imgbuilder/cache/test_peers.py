"""Neighbours lend files of their caches: what comes from them, and what they give away."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.cache import share
from imgbuilder.cache.elsewhere import PEER_LIMITS, Elsewhere, Peers
from imgbuilder.cache.share import CacheServer, lendable, parse_place
from imgbuilder.cache.store import TemplateCache
from imgbuilder.catalog.catalog import Catalog, Selection
from imgbuilder.catalog.loader import LoadedSource
from imgbuilder.catalog.sources import Source
from imgbuilder.errors import UsageError
from imgbuilder.events import Event, Notice, Severity
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.host import fileserver
from imgindex.model import Entry, Index
from imgindex.trust import VerifiedText
from tests.fakes.blocks import BLOCK, Site, disk
from tests.fakes.faultserver import FaultServer, Hang, Step, answer, honest

OLD, NEW = disk(), disk(changed=5)
CANARY = "hunter2-canary"

pytestmark = [
    pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed"),
    pytest.mark.row("T25"),
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "new", NEW)


@pytest.fixture
def source(site: Site) -> Iterator[FaultServer]:
    with FaultServer([site.reply]) as server:
        yield server


@pytest.fixture
def selection(site: Site, source: FaultServer) -> Selection:
    """The template, of a source that asks for a password."""
    return site.at(source.url.replace("://", f"://user:{CANARY}@"))


class Neighbour(CacheServer):
    """A cache that has the template, and lends it."""

    def __init__(self, root: Path, selection: Selection, *, look_again: Callable[[], set[str]] = set) -> None:
        with TemplateCache(root) as cache:
            cache.open()
            self.disk = cache.get_disk(selection, SourceFetcher())
        self.lines: list[str] = []
        super().__init__(root, {self.disk.stem}, look_again, ("127.0.0.1", 0), self.lines.append)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            found = connection.getresponse()
            return found.status, found.read()


@contextlib.contextmanager
def served(server: CacheServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def neighbour(tmp_path: Path, selection: Selection, site: Site) -> Iterator[Neighbour]:
    found = Neighbour(tmp_path / "neighbour", selection)
    site.requests.clear()
    with served(found):
        yield found


def ask(*urls: str) -> Elsewhere:
    limits = PEER_LIMITS._replace(timeout=0.5, connect=0.5)
    return Elsewhere(peers=Peers(urls, SourceFetcher(limits)))


def build(root: Path, selection: Selection, elsewhere: Elsewhere, *, content: bytes = NEW) -> list[str]:
    """Get the disk, which must be right; return the warnings."""
    events: list[Event] = []
    with TemplateCache(root, elsewhere=elsewhere) as cache:
        cache.open()
        assert cache.get_disk(selection, SourceFetcher(), events.append).read_bytes() == content
        assert list((root / "partial").iterdir()) == []
    notices = [event for event in events if isinstance(event, Notice)]
    return [event.text for event in notices if event.severity is Severity.WARNING]


def test_an_update_comes_from_a_neighbour(
    tmp_path: Path, selection: Selection, site: Site, neighbour: Neighbour
) -> None:
    old = Site(tmp_path / "old", OLD)
    with FaultServer([old.reply]) as first:
        build(tmp_path / "own", old.at(first.url), Elsewhere(), content=OLD)
    assert build(tmp_path / "own", selection, ask(neighbour.url)) == []
    assert site.asked == ["d.blocklist"]
    sent = sum(int(line.split('" 206 ')[1].split()[0]) for line in neighbour.lines)
    assert 0 < sent <= 5 * BLOCK


def test_a_first_download_comes_from_a_neighbour(
    tmp_path: Path, selection: Selection, site: Site, neighbour: Neighbour
) -> None:
    assert build(tmp_path / "own", selection, ask(neighbour.url)) == []
    assert site.asked == ["d.blocklist"]


def test_a_template_without_blocks_comes_from_a_neighbour(
    tmp_path: Path, selection: Selection, site: Site, neighbour: Neighbour
) -> None:
    plain = replace(selection, entry=replace(selection.entry, blocks=None))
    assert build(tmp_path / "own", plain, ask(neighbour.url)) == []
    assert site.requests == []


def lie(head: bytes) -> bytes:
    """Answer any request, for a part as well, with bytes of the right length and range."""
    found = re.search(rb"Range: bytes=(\d+)-(\d+)", head)
    if found is None:
        return answer(b"x" * 100)
    return honest(b"x" * len(NEW))(head)


PEERS: dict[str, list[Step]] = {
    "lies": [lie],
    "is silent": [Hang()],
    "is cut off": [lambda head: lie(head)[:-10]],
    "has no such file": [answer(b"", status="404 Not Found")],
    "sends whole files": [lambda _head: answer(NEW)],
    "redirects": [answer(b"", "Location: http://127.0.0.1:1/x", status="302 Found")],
    "is busy": [answer(b"", "Retry-After: 50", status="503 Busy")],
    "speaks no HTTP": [b"hello\n"],
}
USUAL = {"has no such file", "sends whole files"}


@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("by_blocks", [True, False])
def test_a_neighbour_that_is_no_good(
    tmp_path: Path, selection: Selection, kind: str, neighbour: Neighbour, *, by_blocks: bool
) -> None:
    """It is named, and asked no more; the next one is asked. No credentials were sent to any of them."""
    if not by_blocks:
        selection = replace(selection, entry=replace(selection.entry, blocks=None))
    with FaultServer(PEERS[kind]) as bad:
        warnings = build(tmp_path / "own", selection, ask(bad.url, neighbour.url))
        assert 0 < len(bad.requests) <= (8 if by_blocks else 2)
        named = [text for text in warnings if bad.url in text and "this neighbour is asked no more" in text]
        assert named == warnings
        assert bool(named) == (kind not in USUAL or (kind == "sends whole files" and not by_blocks))
        for head in bad.requests:
            assert CANARY.encode() not in head
            assert b"authorization" not in head.lower()


def test_without_a_good_neighbour_the_source_is_asked(
    tmp_path: Path, selection: Selection, site: Site
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with FaultServer(PEERS["lies"]) as bad:
        warnings = build(tmp_path / "own", selection, ask(dead, bad.url))
    assert {url for url in (dead, bad.url) for text in warnings if url in text} == {dead, bad.url}
    assert site.asked == ["d.blocklist", "d.zst"]


@pytest.mark.parametrize(
    "url", ["hv2:8320", "ftp://hv2", "http://user:secret@hv2", "http://hv2/?token=1", "http://", "/srv/cache"]
)
def test_an_address_that_is_not_a_neighbours(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        ask(url)
    assert "secret" not in str(caught.value)


def test_only_what_is_offered_is_lent(neighbour: Neighbour, tmp_path: Path) -> None:
    name = f"disks/{neighbour.disk.name}"
    assert neighbour.get(f"/{name}") == (200, NEW)
    assert neighbour.get(f"/{name}", Range="bytes=5-9") == (206, NEW[5:10])
    assert neighbour.get(f"/{name}", "HEAD") == (200, b"")
    record = f"{name}.json"
    other = neighbour.disk.with_name("a" * 128 + ".raw")
    shutil.copy(neighbour.disk, other)
    for path in (
        "/", f"/{record}", f"/disks/{other.name}", f"/{name}/", f"/{name}?x", f"/{name}%00",
        f"/x/../{name}", f"/disks/../{name}", f"/%2e%2e/{name}", f"/runs/{neighbour.disk.stem}", "/lock",
        f"/{name.upper()}", f"/templates/{neighbour.disk.stem}.raw", "/../../etc/passwd", f"http://x/{name}",
    ):  # fmt: skip
        assert neighbour.get(path)[0] == 404, path
    assert neighbour.get(f"/{name}", "POST")[0] == 501
    assert neighbour.get(f"/{name}", "DELETE")[0] == 501


@pytest.mark.parametrize("change", ["bytes", "link", "hard link", "gone"])
def test_a_file_that_is_not_as_it_was_checked_is_not_lent(
    neighbour: Neighbour, tmp_path: Path, change: str
) -> None:
    path = neighbour.disk
    if change == "bytes":
        path.chmod(0o600)
        path.write_bytes(bytes(len(NEW)))
    elif change == "hard link":
        os.link(path, tmp_path / "other")
    else:
        path.rename(tmp_path / "other")
        if change == "link":
            path.symlink_to(tmp_path / "other")
    assert neighbour.get(f"/disks/{path.name}")[0] == 404


def test_what_a_later_index_names_is_lent(
    tmp_path: Path, selection: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def look_again() -> set[str]:
        looks.append(1)
        return set() if len(looks) == 1 else {server.disk.stem}

    server = Neighbour(tmp_path / "neighbour", selection, look_again=look_again)
    path = f"/disks/{server.disk.name}"
    server._lent = ()
    with served(server):
        assert server.get(path)[0] == 404
        assert looks == [], "it looks at most once a minute"
        monkeypatch.setattr(share, "_AGAIN", 0)
        assert [server.get(path)[0] for _ in range(3)] == [404, 200, 200]
    assert len(looks) == 2


def test_only_signed_files_of_public_sources_are_lent() -> None:
    text = VerifiedText("", "F" * 40, "F" * 40, datetime(2026, 1, 1, tzinfo=UTC), None)

    def loaded(name: str, *uris: str, signed: bool = True) -> LoadedSource:
        entry = Entry(name, "d.xz", "x86_64", 512, sha512=name * 128)
        source = Source(name, uris[0], mirrors=uris[1:])
        return LoadedSource(source, Index((entry,)), text if signed else None)

    catalog = Catalog(
        (
            loaded("a", "http://a/index"),
            loaded("b", "http://b/index", signed=False),
            loaded("c", "http://user:password@c/index"),
            loaded("d", "http://d/index", "http://d/index?token=x"),
        )
    )
    assert lendable(catalog) == {"a" * 128}


def test_connections_have_limits(neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that drips for too long is broken off, and a connection too many is closed."""
    neighbour._most = 2
    address = ("127.0.0.1", neighbour.server_port)
    with socket.create_connection(address) as one, socket.create_connection(address) as two:
        one.sendall(b"GET /disks/")
        two.sendall(f"GET /disks/{neighbour.disk.name} HTTP/1.1\r\nRange: bytes=0-0\r\n\r\n".encode())
        assert two.recv(12) == b"HTTP/1.1 206"
        with socket.create_connection(address) as third:
            assert third.recv(1) == b""
        monkeypatch.setattr(fileserver, "_IDLE", 0.1)
        for connection in (one, two):
            connection.settimeout(10)
            while connection.recv(1000):
                pass
    assert any("2 connections are open" in line for line in neighbour.lines)


@given(st.text(max_size=30) | st.from_regex(r"\[?[0-9a-f:.]{0,12}\]?:\d{0,6}", fullmatch=True))
def test_a_place_is_read_or_refused(text: str) -> None:
    try:
        host, port = parse_place(text)
    except UsageError:
        return
    assert host
    assert 0 <= port <= 65535
    assert text == (f"[{host}]:" if ":" in host else f"{host}:") + text.rpartition(":")[2]

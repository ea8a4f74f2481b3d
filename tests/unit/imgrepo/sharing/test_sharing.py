"""Serving a published folder, and mirroring one: real HTTP, real clients."""

from __future__ import annotations

import dataclasses
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPMessage
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import (
    DigestMismatchError,
    RepositoryError,
    RolledBackError,
    TrustError,
    UsageError,
    WorkspaceError,
)
from imgbuilder.host.interrupts import Interrupted, interruptible
from imgindex.model import Index
from imgrepo.cli.main import run
from imgrepo.sharing import serve as module
from imgrepo.sharing.mirror import MirrorRequest, MirrorResult, mirror
from imgrepo.sharing.serve import Part, PublishedFolderServer, wanted_part
from tests.fakes.keys import KeyMaker
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


@given(
    st.none() | st.text(max_size=20) | st.from_regex(r"bytes=\d{0,4}-\d{0,4}", fullmatch=True),
    st.integers(0, 999),
)
def test_a_part_lies_within_the_file(header: str | None, size: int) -> None:
    part = wanted_part(header, size)
    assert part is None or 0 <= part.start <= part.end <= size


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, Part(0, 100)), ("bytes=0-9", Part(0, 10)), ("bytes=90-", Part(90, 100)),
        ("bytes=-7", Part(93, 100)), ("bytes=90-999", Part(90, 100)), ("bytes=-999", Part(0, 100)),
        ("bytes=100-", None), ("bytes=-0", None), ("bytes=9-3", Part(0, 100)),
        ("bytes=0-1,5-6", Part(0, 100)), ("lines=1-2", Part(0, 100)),
        ("bytes=-", Part(0, 100)),
    ],
)  # fmt: skip
def test_ranges_are_read_as_the_standard_says(header: str | None, part: Part | None) -> None:
    assert wanted_part(header, 100) == part


def test_files_come_whole_and_in_parts(site: Site) -> None:
    file = site.repository.entry("a").file
    data = (site.repository.web / file).read_bytes()
    status, headers, body = site.get(f"/{file}")
    assert (status, body, headers["Content-Length"]) == (200, data, str(len(data)))
    assert headers["Cache-Control"].endswith("immutable")
    status, ranged, body = site.get(f"/{file}", Range="bytes=10-19", If_Range=headers["ETag"])
    assert (status, body) == (206, data[10:20])
    assert ranged["Content-Range"] == f"bytes 10-19/{len(data)}"
    status, _headers, body = site.get(f"/{file}", Range="bytes=10-19", If_Range='"another"')
    assert (status, body) == (200, data)
    status, _headers, body = site.get(f"/{file}", Range="bytes=10-19", If_Range=headers["Last-Modified"])
    assert (status, body) == (206, data[10:20])
    status, ranged, _body = site.get(f"/{file}", Range=f"bytes={len(data)}-")
    assert (status, ranged["Content-Range"]) == (416, f"bytes */{len(data)}")
    status, ranged, body = site.get(f"/{file}", "HEAD")
    assert (status, body, ranged["Content-Length"]) == (200, b"", str(len(data)))


def test_the_index_is_always_asked_for_again_and_seldom_sent(site: Site) -> None:
    status, headers, _body = site.get("/index.asc")
    assert (status, headers["Cache-Control"]) == (200, "no-cache")
    assert site.get("/index.asc", If_None_Match=headers["ETag"])[0] == 304
    assert site.get("/index.asc", If_Modified_Since=headers["Last-Modified"])[0] == 304
    site.repository.add("a.img", b"new")
    site.repository.publish()
    assert site.get("/index.asc", If_None_Match=headers["ETag"])[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/.pybuilder-repo.lock", "/../images/a.img", "/%2e%2e/images/a.img", "/link", "/folder",
     "/folder/link/a.img", "/none", "/.hidden/x", "/a%00b", "//etc/passwd", "/..%2fimages%2fa.img"],
)  # fmt: skip
def test_only_what_is_published_is_there(site: Site, path: str) -> None:
    web = site.repository.web
    (web / "link").symlink_to(site.repository.images / "a.img")
    (web / "folder").mkdir()
    (web / "folder" / "link").symlink_to(site.repository.images)
    (web / ".hidden").mkdir()
    (web / ".hidden" / "x").write_text("x")
    assert site.get(path)[0] == 404
    assert site.get("/index")[0] == 200


def test_other_methods_are_refused(site: Site) -> None:
    assert site.get("/index", "DELETE")[0] == 501
    assert (site.repository.web / "index").exists()


def test_places_where_nothing_can_be_served(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is published"):
        PublishedFolderServer(tmp_path, ("127.0.0.1", 0), print)
    with pytest.raises(WorkspaceError, match="cannot listen"):
        PublishedFolderServer(site.repository.web, ("127.0.0.1", site.server.server_port), print)


def test_the_command_serves_until_it_is_told_to_stop(repository: Repository) -> None:
    repository.add("a.img")
    repository.publish()
    command = [sys.executable, "-m", "imgrepo", "serve", str(repository.web), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/index\.asc", running.stdout.readline())
            assert found is not None
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
            connection.request("GET", "/index.asc")
            assert connection.getresponse().read() == (repository.web / "index.asc").read_bytes()
            connection.close()
            running.send_signal(signal.SIGTERM)
            _out, err = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 143
    assert "GET /index.asc" in err
    assert "Traceback" not in err


def test_a_signal_in_the_middle_of_a_request_ends_the_serving(repository: Repository) -> None:
    """It was taken for a broken connection when it came while the main thread started the answering one."""
    repository.add("a.img")
    repository.publish()

    class Signalled(PublishedFolderServer):
        def process_request(self, *_request: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    with (
        Signalled(repository.web, ("127.0.0.1", 0), print) as server,
        socket.create_connection(("127.0.0.1", server.server_port), timeout=20),
        pytest.raises(Interrupted, match="SIGTERM"),
        interruptible(),
    ):
        server.serve_forever(0.05)


def copy(site: Site, folder: Path, **changes: object) -> MirrorResult:
    folder.mkdir(exist_ok=True)
    repository = site.repository
    request = MirrorRequest(site.url, folder, repository.web / "index.gpg", **changes)  # type: ignore[arg-type]
    services = repository.services()
    return mirror(request, services, services.fetcher, repository.events.append)


def served(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_mirror_is_a_copy_byte_by_byte(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    result = copy(site, folder)
    assert served(folder) == served(site.repository.web)
    assert len(result.fetched) == 2
    assert {
        path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file() and path.name[0] != "."
    } == {0o644}
    requests = len(site.lines)
    assert copy(site, folder).fetched == ()
    assert len(site.lines) == requests + 1  # the index
    site.repository.add("a.img", b"new")
    site.repository.publish()
    old = result.fetched
    assert len(copy(site, folder).fetched) == 2
    assert all((folder / name).exists() for name in old)
    site.repository.later = timedelta(days=8)
    copy(site, folder, prune=True)
    assert not any((folder / name).exists() for name in old)
    assert (folder / "index.asc").read_bytes() == (site.repository.web / "index.asc").read_bytes()


def test_a_mirror_without_room_fetches_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    copy(site, folder)
    before = served(folder)
    site.repository.add("b.img", b"new")
    site.repository.publish()
    missing = sum(
        len(content)
        for name, content in served(site.repository.web).items()
        if name not in before and "." in name
    )
    requests = len(site.lines)
    facts = os.statvfs(folder)

    def no_room(_path: Path) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=missing - 1, f_frsize=1)

    monkeypatch.setattr("imgbuilder.host.workspace.os.statvfs", no_room)
    with pytest.raises(WorkspaceError, match="not enough space"):
        copy(site, folder)
    assert len(site.lines) == requests + 1, "the index"
    assert served(folder) == before
    monkeypatch.setattr("imgbuilder.host.workspace.os.statvfs", lambda _path: facts)
    copy(site, folder)
    assert served(folder) == served(site.repository.web)


def test_a_broken_connection_is_continued(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[str] = []
    real = module._Handler._send

    def send(handler: module._Handler, file: object, part: Part) -> None:
        name = handler.path
        if name.endswith(".xz") and not broken:
            broken.append(name)
            real(handler, file, Part(part.start, part.end // 2))  # type: ignore[arg-type]
            handler.close_connection = True
            return
        real(handler, file, part)  # type: ignore[arg-type]

    monkeypatch.setattr(module._Handler, "_send", send)
    copy(site, tmp_path / "copy")
    assert broken
    assert any("206" in line for line in site.lines)
    assert served(tmp_path / "copy") == served(site.repository.web)


def test_a_damaged_file_never_gets_its_name_and_the_old_index_stays(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    copy(site, folder)
    before = served(folder)
    site.repository.add("a.img", b"new")
    site.repository.publish()
    path = site.repository.web / site.repository.entry("a").file
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatchError):
        copy(site, folder)
    assert served(folder) == before


def test_a_file_that_was_damaged_here_is_fetched_again(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    name = copy(site, folder).fetched[0]
    data = bytearray((folder / name).read_bytes())
    data[50] ^= 1
    (folder / name).write_bytes(data)
    assert copy(site, folder).fetched == (name,)


def test_an_index_by_somebody_else_is_not_copied(site: Site, tmp_path: Path, keys: KeyMaker) -> None:
    stranger = keys.make("Stranger <s@example.org>")
    text = (site.repository.web / "index").read_bytes()
    (site.repository.web / "index.asc").write_bytes(keys.sign(text, stranger))
    with pytest.raises(TrustError):
        copy(site, tmp_path / "copy")
    assert served(tmp_path / "copy") == {}


def test_an_older_index_does_not_replace_a_newer_copy(site: Site, tmp_path: Path) -> None:
    folder, old = tmp_path / "copy", (site.repository.web / "index.asc").read_bytes()
    site.repository.add("b.img", b"b")
    site.repository.publish()
    copy(site, folder)
    (site.repository.web / "index.asc").write_bytes(old)
    with pytest.raises(RolledBackError):
        copy(site, folder)


@pytest.mark.parametrize("name", ["index.asc", "index.gpg", "index", ".hidden/a.xz"])
def test_a_template_with_the_name_of_something_else_is_not_copied(
    site: Site, tmp_path: Path, name: str
) -> None:
    (entry,) = site.repository.read().entries
    site.repository.rewrite(Index((dataclasses.replace(entry, file=name, zstd=None),)))
    with pytest.raises(RepositoryError, match="not copied"):
        copy(site, tmp_path / "copy")
    assert served(tmp_path / "copy") == {}


def test_an_expired_index_is_not_copied(site: Site, tmp_path: Path) -> None:
    month = site.repository.signing(valid_for=timedelta(days=30))
    site.repository.publish(signing=month)
    site.repository.later = timedelta(days=31)
    with pytest.raises(TrustError):
        copy(site, tmp_path / "copy")


def test_the_commands_as_they_are_typed(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, key = tmp_path / "copy", str(site.repository.web / "index.gpg")
    services = site.repository.services()
    words = ["mirror", f"{site.url}/index.asc", str(folder), "--key", key]
    assert run(words, services) == 2
    folder.mkdir()
    assert run(words, services) == 0
    assert "1 template; new files: a-" in capsys.readouterr().out
    assert run(["mirror", str(site.repository.web), str(folder), "--key", key], services) == 0
    assert "new files: none" in capsys.readouterr().out
    assert run(["mirror", f"{site.url}/none", str(folder), "--key", key], services) == 1
    assert run(["mirror", site.url, str(folder), "--key", "/nonexistent"], services) == 2
    assert run(["mirror", "ftp://x/", str(folder), "--key", key], services) == 2
    assert run(["serve", str(tmp_path)], services) == 2


def test_a_catalogue_is_shown(site: Site) -> None:
    pages = site.repository.web / "catalogue"
    (pages / "t").mkdir(parents=True)
    (pages / "empty").mkdir()
    for name, kind in {
        "index.html": "text/html; charset=utf-8",
        "style.css": "text/css; charset=utf-8",
        "catalogue.js": "text/javascript; charset=utf-8",
        "t/x.png": "image/png",
        "icon.svg": "image/svg+xml",
        "atom.xml": "application/atom+xml; charset=utf-8",
        "catalogue.json": "application/json",
        "sources.tar": "application/octet-stream",
    }.items():
        (pages / name).write_text(name)
        status, headers, body = site.get(f"/catalogue/{name}")
        assert (status, headers["Content-Type"], body) == (200, kind, name.encode())
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-cache"
    status, headers, body = site.get("/catalogue/")
    assert (status, headers["Content-Type"], body) == (200, "text/html; charset=utf-8", b"index.html")
    status, headers, _body = site.get("/catalogue")
    assert (status, headers["Location"]) == (301, "catalogue/")
    for path in (
        "/",
        "/catalogue/t/",
        "/catalogue/t",
        "/catalogue/empty",
        "/catalogue/../catalogue",
        "//catalogue/..",
    ):
        assert site.get(path)[0] == 404, path
    (site.repository.web / "link").symlink_to(pages)
    for path in ("/link", "/link/", "/link/index.html"):
        assert site.get(path)[0] == 404, path

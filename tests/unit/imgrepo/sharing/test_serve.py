"""Serving a published folder: real HTTP, real clients."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.host.fileserver import Part, wanted_part
from imgbuilder.host.interrupts import Interrupted, interruptible
from imgrepo.sharing.serve import PublishedFolderServer
from imgrepo.stats import count_downloads, files_of, parse_line
from tests.unit.imgrepo.repository import Repository
from tests.unit.imgrepo.sharing.conftest import Site


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


@pytest.mark.parametrize("words", [(), ("--json",)], ids=" ".join)
def test_the_command_serves_until_it_is_stopped(published: Repository, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "imgrepo", "serve", str(published.web), "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            said = "".join(running.stdout.readline() for _line in range(5 if words else 1))
            found = re.search(r"http://127\.0\.0\.1:(\d+)/index\.asc", said)
            assert found is not None
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
            connection.request("GET", "/index.asc")
            assert connection.getresponse().read() == (published.web / "index.asc").read_bytes()
            connection.close()
            assert running.stderr is not None
            request = "" if words else running.stderr.readline()
            running.send_signal(signal.SIGTERM)
            _out, err = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 143
    if words:
        assert json.loads(said) == {
            "version": 1, "url": f"http://127.0.0.1:{found[1]}/", "index": found[0],
        }  # fmt: skip
    else:
        assert "GET /index.asc" in request
    assert "Traceback" not in err
    assert "error" not in err, "a signal is the normal end of the server"


def test_a_signal_in_the_middle_of_a_request_ends_the_serving(published: Repository) -> None:
    """It was taken for a broken connection when it came while the main thread started the answering one."""

    class Signalled(PublishedFolderServer):
        def process_request(self, *_request: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    with (
        Signalled(published.web, ("127.0.0.1", 0), print) as server,
        socket.create_connection(("127.0.0.1", server.server_port), timeout=20),
        pytest.raises(Interrupted, match="SIGTERM"),
        interruptible(),
    ):
        server.serve_forever(0.05)


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
    (site.repository.web / "index.html").write_text("the first page")
    for path in ("/", "/?from=elsewhere"):
        status, headers, body = site.get(path)
        assert (status, headers["Content-Type"], body) == (200, "text/html; charset=utf-8", b"the first page")
        assert headers["Cache-Control"] == "no-cache"
    (site.repository.web / "link").symlink_to(pages)
    for path in ("/link", "/link/", "/link/index.html"):
        assert site.get(path)[0] == 404, path


def test_stats_understands_the_log(site: Site) -> None:
    file = site.repository.entry("a").file
    size = (site.repository.web / file).stat().st_size
    site.get(f"/{file}", User_Agent='a "quoted" one')
    site.get(f"/{file}", Range="bytes=0-9")
    site.get("/missing")
    with socket.create_connection(("127.0.0.1", site.server.server_port), timeout=20) as raw:
        raw.sendall(b"\x1b[31m nonsense\r\n\r\n")
        raw.recv(4096)
    until = time.monotonic() + 20
    while len(site.lines) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    assert all(line.isprintable() for line in site.lines)
    found = count_downloads(map(parse_line, site.lines), files_of(site.repository.read()))
    assert (found.lines, found.downloads, found.sent) == (4, 1, size + 10)
    assert found.skipped <= 1  # the one without a request

"""Broken downloads continue where they ended."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from imgbuilder.cache.partial import open_partial, partial_file
from imgbuilder.cache.store import TemplateCache
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.errors import DigestMismatchError, FetchError, WorkspaceError
from imgbuilder.events import Event, Notice, Progress, Severity
from imgbuilder.fetch.transfer import Limits
from imgbuilder.fetch.web import RequestsFetcher
from imgbuilder.host.interrupts import Interrupted
from imgindex.model import Entry
from tests.fakes.faultserver import FaultServer, Hang, Pause, Reset, Step, answer, honest

BODY = bytes(range(256)) * 40
SIZE = len(BODY)
HALF = SIZE // 2
SHA = hashlib.sha512(BODY).hexdigest()
ENTRY = Entry("debian-12", "d.xz", "x86_64", 1 << 20, sha512=SHA, format="raw", compressed_size=SIZE)


pytestmark = pytest.mark.usefixtures("no_proxies")


def part_of(cache: TemplateCache) -> Path:
    return cache.root / "partial" / SHA


def leftovers(cache: TemplateCache) -> list[str]:
    return sorted(path.name for path in (cache.root / "partial").iterdir())


def selection(url: str, entry: Entry = ENTRY) -> Selection:
    return Selection(Source("s", url, ("F" * 40,)), entry, url)


def get(
    cache: TemplateCache,
    server: FaultServer,
    *,
    entry: Entry = ENTRY,
    limits: Limits | None = None,
    waits: list[float] | None = None,
    events: list[Event] | None = None,
) -> bytes:
    chosen = limits or Limits(timeout=10, backoff=0.0)
    fetcher = RequestsFetcher(chosen, jitter=lambda: 0.0, sleep=(waits if waits is not None else []).append)
    on_event = (events if events is not None else []).append
    return cache.get_template(selection(f"{server.url}/d.xz", entry), fetcher, on_event).read_bytes()


def broken(cache: TemplateCache, *scripts: list[Step], entry: Entry = ENTRY) -> str:
    """Run into a server that is broken for good; return its URL."""
    with FaultServer(*scripts) as server, pytest.raises(FetchError):
        get(cache, server, entry=entry, limits=Limits(timeout=10, backoff=0.0, resumes=0))
    return server.url


def seed(cache: TemplateCache, server: FaultServer, held: bytes, validator: str = '"v1"') -> None:
    """Leave a part as an earlier run would have."""
    part_of(cache).write_bytes(held)
    record = {"version": 1, "url": f"{server.url}/d.xz", "validator": validator}
    part_of(cache).with_name(f"{SHA}.json").write_text(json.dumps(record))


def asked(server: FaultServer) -> list[int | None]:
    """Return where the range of each request began; None for requests without one."""
    found: list[int | None] = []
    for head in server.requests:
        match = re.search(rb"^Range: bytes=([0-9]+)-\r$", head, re.MULTILINE)
        assert (match is None) == (b"If-Range" not in head)
        found.append(int(match[1]) if match else None)
    return found


@pytest.mark.row("D1")
@pytest.mark.parametrize("kept", [0, 1, HALF, SIZE - 1])
def test_reset_in_the_body(cache: TemplateCache, kept: int) -> None:
    with FaultServer([honest(BODY, upto=kept), Pause(0.05), Reset()], [honest(BODY)]) as server:
        assert get(cache, server) == BODY
    first, second = asked(server)
    assert first is None
    assert (second or 0) <= kept  # a reset may throw away what was on the way
    assert leftovers(cache) == []


@pytest.mark.row("D2")
@pytest.mark.parametrize("kept", [0, 1, HALF, SIZE - 1])
def test_short_body_is_continued(events: list[Event], cache: TemplateCache, kept: int) -> None:
    with FaultServer([honest(BODY, upto=kept)], [honest(BODY)]) as server:
        assert get(cache, server, events=events) == BODY
    assert asked(server) == [None, kept or None]
    assert server.sent < SIZE + 1000
    assert [event for event in events if isinstance(event, Progress)][-1].done == SIZE
    assert leftovers(cache) == []


@pytest.mark.row("D8")
def test_stall_in_the_body_is_continued(cache: TemplateCache) -> None:
    with FaultServer([honest(BODY, upto=HALF), Hang()], [honest(BODY)]) as server:
        assert get(cache, server, limits=Limits(timeout=0.4, backoff=0.0)) == BODY
    assert asked(server) == [None, HALF]


@pytest.mark.row("D8")
def test_five_times_with_growing_pauses_then_kept_for_the_next_run(cache: TemplateCache) -> None:
    waits: list[float] = []
    cuts = [[honest(BODY, upto=kept)] for kept in (1, 2, 3, 4, 5, 6)]
    with FaultServer(*cuts, [honest(BODY)]) as server:
        with pytest.raises(FetchError, match=r"ended (before the file did|after 6 of 10240 bytes)"):
            get(cache, server, limits=Limits(timeout=10, backoff=0.5), waits=waits)
        assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]
        assert leftovers(cache) == [SHA, f"{SHA}.json"]
        assert part_of(cache).read_bytes() == BODY[:6]
        assert part_of(cache).stat().st_mode & 0o777 == 0o600
        assert get(cache, server) == BODY
    assert asked(server) == [None, 1, 2, 3, 4, 5, 6]
    assert leftovers(cache) == []


def test_kept_after_a_signal(cache: TemplateCache) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progress):
            raise Interrupted(2)

    with FaultServer([honest(BODY, upto=HALF), Hang()], [honest(BODY)]) as server:
        with pytest.raises(Interrupted):
            cache.get_template(selection(f"{server.url}/d.xz"), RequestsFetcher(), stop)
        held = part_of(cache).stat().st_size
        assert held > 0
        assert get(cache, server) == BODY
    assert asked(server) == [None, held]


CHILD = """
import sys
from pathlib import Path
from imgbuilder.cache.store import TemplateCache
from imgbuilder.fetch.web import RequestsFetcher
from tests.unit.imgbuilder.cache.test_resume import selection
with TemplateCache(Path(sys.argv[1])) as cache:
    cache.open()
    cache.get_template(selection(sys.argv[2]), RequestsFetcher())
"""


@pytest.mark.row("C2")
def test_kept_after_sigkill(cache: TemplateCache) -> None:
    with FaultServer([honest(BODY, upto=HALF), Hang()], [honest(BODY)]) as server:
        child = subprocess.Popen([sys.executable, "-c", CHILD, cache.root, f"{server.url}/d.xz"])
        try:
            while not part_of(cache).exists() or part_of(cache).stat().st_size < HALF:
                assert child.poll() is None
                time.sleep(0.01)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert get(cache, server) == BODY
    assert asked(server) == [None, HALF]


@pytest.mark.row("D10")
def test_a_file_that_was_about_to_get_its_name_can_be_opened(tmp_path: Path) -> None:
    """Its mode is that of a finished file by then, and a killed run leaves it so."""
    path = tmp_path / "part"
    path.write_bytes(b"x")
    path.chmod(0o400)
    os.close(open_partial(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == b"x"


def test_all_of_it_instead_of_the_rest(cache: TemplateCache) -> None:
    with FaultServer([answer(BODY, 'ETag: "v1"')]) as server:
        seed(cache, server, b"x" * HALF)
        assert get(cache, server) == BODY
    assert asked(server) == [HALF]


REST = BODY[HALF:]


@pytest.mark.row("D11")
@pytest.mark.parametrize(
    "wrong",
    [
        answer(REST, f"Content-Range: bytes {HALF + 1}-{SIZE - 1}/{SIZE}", status="206 Partial"),
        answer(BODY, f"Content-Range: bytes 0-{SIZE - 1}/{SIZE}", status="206 Partial"),
        answer(REST, f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE + 1}", status="206 Partial"),
        answer(REST, f"Content-Range: bytes {HALF}-{SIZE - 2}/{SIZE}", status="206 Partial"),
        answer(REST + b"x", f"Content-Range: bytes {HALF}-{SIZE}/{SIZE + 1}", status="206 Partial"),
        answer(REST[:-1], f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE}", status="206 Partial"),
        answer(REST, f"Content-Range: bytes */{SIZE}", status="206 Partial"),
        answer(REST, "Content-Range: bytes what", status="206 Partial"),
        answer(REST, *[f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE}"] * 2, status="206 Partial"),
        answer(REST, status="206 Partial"),
        answer(b"--x\r\n", "Content-Type: multipart/byteranges; boundary=x", status="206 Partial"),
        answer(REST, f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE}", 'ETag: "v2"', status="206 Partial"),
    ],
)
def test_wrong_ranges_mean_all_of_it_once(cache: TemplateCache, wrong: bytes) -> None:
    with FaultServer([wrong], [honest(BODY, upto=5)], [honest(BODY)]) as server:
        seed(cache, server, BODY[:HALF])
        assert get(cache, server) == BODY
    assert asked(server) == [HALF, None, None]  # such a server is not asked for a range again


@pytest.mark.row("D11")
def test_a_range_that_nobody_asked_for_is_an_error(cache: TemplateCache) -> None:
    wrong = answer(BODY, f"Content-Range: bytes 0-{SIZE - 1}/{SIZE}", status="206 Partial")
    with FaultServer([wrong]) as server, pytest.raises(FetchError, match="206"):
        get(cache, server)


@pytest.mark.row("D12")
def test_a_changed_file_is_not_spliced(cache: TemplateCache) -> None:
    other = bytes(SIZE)
    with FaultServer([honest(other, upto=HALF)], [honest(BODY, etag='"v2"')]) as server:
        assert get(cache, server) == BODY
    assert asked(server) == [None, HALF]
    assert b'If-Range: "v1"' in server.requests[1]


@pytest.mark.row("D12")
def test_a_splice_that_the_server_hides_begins_anew_once(cache: TemplateCache) -> None:
    other = bytes(SIZE)
    with FaultServer([honest(other, upto=HALF)], [honest(BODY)]) as server:
        assert get(cache, server) == BODY
    assert asked(server) == [None, HALF, None]
    with FaultServer([honest(other)]) as server:
        part = replace(ENTRY, sha512="0" * 128)
        with pytest.raises(DigestMismatchError):
            get(cache, server, entry=part)
        assert asked(server) == [None]  # nothing was spliced: trying again would change nothing
    assert leftovers(cache) == []


DATES = ("Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT", "Date: Mon, 01 Jan 2024 00:00:01 GMT")


@pytest.mark.row("D13")
@pytest.mark.parametrize(
    ("etag", "headers"),
    [
        ('W/"v1"', ()),
        ("v1", ()),
        ('"v1"', ('ETag: "v2"',)),
        ("", ()),
        ("", (DATES[0],)),
        ("", (DATES[0], "Date: Mon, 01 Jan 2024 00:00:00 GMT")),
        ("", ("Last-Modified: yesterday GMT", DATES[1])),
        ('W/"v1"', DATES),
    ],
)
def test_without_a_strong_validator_it_begins_anew(
    cache: TemplateCache, etag: str, headers: tuple[str, ...]
) -> None:
    with FaultServer([honest(BODY, *headers, etag=etag, upto=HALF)], [honest(BODY)]) as server:
        assert get(cache, server) == BODY
    assert asked(server) == [None, None]
    broken(cache, [honest(BODY, *headers, etag=etag, upto=HALF)], entry=replace(ENTRY, sha512="0" * 128))
    assert leftovers(cache) == []


@pytest.mark.row("D13")
def test_a_strong_date_is_a_validator(cache: TemplateCache) -> None:
    rest = answer(REST, f"Content-Range: bytes {HALF}-{SIZE - 1}/{SIZE}", status="206 Partial")
    with FaultServer([honest(BODY, *DATES, etag="", upto=HALF)], [rest]) as server:
        assert get(cache, server) == BODY
    assert b"If-Range: Mon, 01 Jan 2024 00:00:00 GMT\r\n" in server.requests[1]


@pytest.mark.row("D14", "D15")
@pytest.mark.parametrize(
    ("held", "size", "requests"),
    [
        (BODY, SIZE, []),
        (bytes(SIZE), SIZE, [None]),  # it is wrong: another beginning
        (BODY + b"x", SIZE, [None]),
        (BODY, None, [SIZE]),  # 416 proves it
        (BODY + b"x", None, [SIZE + 1, None]),
    ],
)
def test_a_part_that_may_be_complete(
    cache: TemplateCache, held: bytes, size: int | None, requests: list[int | None]
) -> None:
    with FaultServer([honest(BODY)]) as server:
        seed(cache, server, held)
        assert get(cache, server, entry=replace(ENTRY, compressed_size=size)) == BODY
    assert asked(server) == requests


@pytest.mark.row("D15")
@pytest.mark.parametrize(
    "record",
    [
        None, "", "{}", "[]", '{"version": 99, "url": "URL", "validator": "\\"v1\\""}',
        '{"version": 1, "validator": "\\"v1\\""}', '{"version": 1, "url": 5, "validator": "\\"v1\\""}',
        '{"version": 1, "url": "URL", "validator": 5}', '{"version": 1, "url": "URL"}',
    ],
)  # fmt: skip
def test_a_part_without_a_usable_record_is_dropped(cache: TemplateCache, record: str | None) -> None:
    with FaultServer([honest(BODY)]) as server:
        part_of(cache).write_bytes(b"junk")
        if record is not None:
            text = record.replace("URL", f"{server.url}/d.xz")
            part_of(cache).with_name(f"{SHA}.json").write_text(text)
        assert get(cache, server) == BODY
    assert asked(server) == [None]


@pytest.mark.row("D15")
@pytest.mark.parametrize("kind", ["symlink", "fifo", "hard link"])
def test_strange_parts_are_removed_and_not_written_through(
    cache: TemplateCache, tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    with FaultServer([honest(BODY)]) as server:
        seed(cache, server, b"")
        part_of(cache).unlink()
        match kind:
            case "symlink":
                part_of(cache).symlink_to(victim)
            case "fifo":
                os.mkfifo(part_of(cache))
            case _:
                part_of(cache).hardlink_to(victim)
        assert get(cache, server) == BODY
    assert victim.read_bytes() == b"precious"
    assert leftovers(cache) == []


@pytest.mark.row("D15")
def test_a_folder_as_part_is_an_error(cache: TemplateCache) -> None:
    part_of(cache).mkdir()
    with FaultServer([honest(BODY)]) as server, pytest.raises(WorkspaceError, match="is a folder"):
        get(cache, server)


def mirrored(first: FaultServer, *others: FaultServer) -> Selection:
    """The template in a source with several addresses."""
    source = Source("s", f"{first.url}/index", mirrors=tuple(f"{other.url}/index" for other in others))
    return Selection(source, ENTRY, f"{first.url}/d.xz")


def once() -> RequestsFetcher:
    return RequestsFetcher(Limits(timeout=10, backoff=0.0, resumes=0, retries=0), sleep=lambda _seconds: None)


def test_a_mirror_continues_what_another_began(events: list[Event], cache: TemplateCache) -> None:
    with (
        FaultServer([honest(BODY, upto=HALF)]) as first,
        FaultServer([answer(b"", status="404 No")]) as second,
        FaultServer([honest(BODY, etag='"another"')]) as third,
    ):
        path = cache.get_template(mirrored(first, second, third), once(), events.append)
    assert path.read_bytes() == BODY
    assert [len(server.requests) for server in (first, second, third)] == [1, 1, 1]
    assert b"Range: bytes=%d-\r\n" % HALF in third.requests[0]
    assert b"If-Range" not in third.requests[0], "its tag is not that of the first"
    notices = [
        event.text for event in events if isinstance(event, Notice) and event.severity is Severity.WARNING
    ]
    assert len(notices) == 2
    assert all("next address" in text for text in notices)
    assert leftovers(cache) == []


@pytest.mark.row("D12")
def test_what_two_mirrors_do_not_share_begins_anew(cache: TemplateCache) -> None:
    """The first one lies: that shows when all is there, and the second is asked for the whole."""
    with FaultServer([honest(bytes(SIZE), upto=9000)]) as first, FaultServer([honest(BODY)]) as second:
        assert cache.get_template(mirrored(first, second), once()).read_bytes() == BODY
    assert [b"Range:" in head for head in second.requests] == [True, False]


@pytest.mark.row("T1")
def test_a_mirror_with_other_bytes_does_not_block_the_next(cache: TemplateCache) -> None:
    evil = honest(bytes(SIZE))
    with FaultServer([evil]) as first, FaultServer([evil]) as second, pytest.raises(DigestMismatchError):
        cache.get_template(mirrored(first, second), once())
    assert leftovers(cache) == []
    with FaultServer([evil]) as first, FaultServer([honest(BODY)]) as second:
        assert cache.get_template(mirrored(first, second), once()).read_bytes() == BODY


def test_a_later_run_continues_at_another_address(cache: TemplateCache) -> None:
    with FaultServer([honest(BODY, upto=5000)]) as first, pytest.raises(FetchError):
        cache.get_template(mirrored(first), once())
    with FaultServer([honest(BODY)]) as second:
        assert cache.get_template(mirrored(second), once()).read_bytes() == BODY
    assert b"Range: bytes=5000-" in second.requests[0]


@pytest.mark.row("T22")
def test_the_record_holds_no_password(cache: TemplateCache) -> None:
    with FaultServer([honest(BODY, upto=HALF)]) as server:
        url = server.url.replace("://", "://user:canary@") + "/d.xz"
        with pytest.raises(FetchError):
            cache.get_template(selection(url), RequestsFetcher(Limits(resumes=0)))
    assert "canary" not in part_of(cache).with_name(f"{SHA}.json").read_text()


def test_a_part_goes_with_the_cache(cache: TemplateCache) -> None:
    broken(cache, [honest(BODY, upto=HALF)])
    cache.close()
    cache.delete()
    assert not cache.root.exists()


@pytest.mark.parametrize(
    ("error", "free", "kept"),
    [
        (FetchError("the connection broke"), 1 << 30, True),
        (OSError(errno.EIO, "bad disk"), 1 << 30, True),
        (OSError(errno.ENOSPC, "full"), 1 << 30, False),
        (OSError(errno.EDQUOT, "quota"), 1 << 30, False),
        (FetchError("the connection broke"), 4096, False),
    ],
)
def test_a_part_that_filled_the_disk_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, free: int, kept: bool
) -> None:
    facts = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096)
    monkeypatch.setattr("imgbuilder.host.workspace.os.statvfs", lambda _path: facts)
    with pytest.raises(type(error)), partial_file(tmp_path / SHA, "http://x/d.xz") as part:
        part.restart('"v1"')
        part.write(BODY)
        raise error
    assert sorted(path.name for path in tmp_path.iterdir()) == ([SHA, f"{SHA}.json"] if kept else [])


@pytest.mark.parametrize("agrees", [True, False])
def test_continuing_is_said_when_the_server_agreed(
    events: list[Event], cache: TemplateCache, agrees: bool
) -> None:
    """Python's own server sends a date, by which the next run asks for the rest, and then the whole file."""
    with FaultServer([honest(BODY) if agrees else answer(BODY, 'ETag: "v1"')]) as server:
        seed(cache, server, BODY[:HALF])
        assert get(cache, server, events=events) == BODY
    assert asked(server) == [HALF]
    said = [event.text for event in events if isinstance(event, Notice) and event.severity is Severity.INFO]
    assert said == ([f"continuing after the {HALF / 1024:.1f}K that are here already"] if agrees else [])

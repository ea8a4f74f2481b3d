from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from imgbuilder.errors import DigestMismatchError, FetchError
from imgbuilder.events import Event, Progress, ProgressEnd
from imgbuilder.fetch.local import fetch_local
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.transfer import Download, Fetched, Limits, MinimumSpeed, download_verified


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a b"
    path.write_bytes(b"x" * 100_000)
    return path


def test_local_file_with_progress(events: list[Event], file: Path) -> None:
    body = io.BytesIO()
    fetched = SourceFetcher().fetch(
        Download(str(file), body, limit=100_000, on_event=events.append, label="L")
    )
    assert body.getvalue() == file.read_bytes()
    assert (fetched.size, fetched.url) == (100_000, str(file))
    assert events == [Progress("L", 65536, 100_000), Progress("L", 100_000, 100_000), ProgressEnd()]


def test_file_uri_is_decoded(file: Path) -> None:
    body = io.BytesIO()
    uri = f"file://{str(file).replace(' ', '%20')}"
    assert SourceFetcher().fetch(Download(uri, body, limit=1 << 20, expected=100_000)).size == 100_000


def test_links_are_followed_for_local_sources(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    assert fetch_local(Download(str(tmp_path / "link"), io.BytesIO(), limit=1 << 20)).size == 100_000


@pytest.mark.row("T10")
@pytest.mark.parametrize("limit", [0, 1, 99_999])
def test_too_long_is_refused_at_the_limit(file: Path, limit: int) -> None:
    """Not one byte more is stored."""
    body = io.BytesIO()
    with pytest.raises(FetchError, match="longer"):
        fetch_local(Download(str(file), body, limit=limit))
    assert len(body.getvalue()) <= limit


@pytest.mark.parametrize("expected", [99_999, 100_001])
def test_other_size_is_refused_before_copying(file: Path, expected: int) -> None:
    body = io.BytesIO()
    with pytest.raises(FetchError, match=f"promises {expected}"):
        fetch_local(Download(str(file), body, limit=1 << 20, expected=expected))
    assert body.getvalue() == b""


@pytest.mark.row("D26")
def test_not_an_ordinary_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("fifo", "missing", ".", "loop", "a\0b"):
        with pytest.raises(FetchError):
            fetch_local(Download(str(tmp_path / name), io.BytesIO(), limit=1 << 20))
    with pytest.raises(FetchError, match="it is a folder") as caught:
        fetch_local(Download(str(tmp_path), io.BytesIO(), limit=1 << 20))
    assert f"{tmp_path}/index.asc" in str(caught.value.hint)
    with pytest.raises(FetchError, match="ordinary"):
        SourceFetcher().fetch(Download("/dev/zero", io.BytesIO(), limit=1 << 20))


class Meddler(io.BytesIO):
    """Changes the file that is being copied."""

    def __init__(self, path: Path, extra: bytes) -> None:
        super().__init__()
        self.path, self.extra = path, extra

    def write(self, data: object, /) -> int:
        with self.path.open("ab") as file:
            file.write(self.extra)
        os.utime(self.path, ns=(1, 1))
        return super().write(data)  # type: ignore[arg-type]


@pytest.mark.row("D26")
@pytest.mark.parametrize("extra", [b"", b"more"])
def test_change_while_copied(file: Path, extra: bytes) -> None:
    with pytest.raises(FetchError, match=r"changed|longer than the 100000 bytes"):
        fetch_local(Download(str(file), Meddler(file, extra), limit=1 << 30))


def test_destination_s_errors_pass(file: Path) -> None:
    class Full(io.BytesIO):
        def write(self, _data: object, /) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fetch_local(Download(str(file), Full(), limit=1 << 20))


def test_short_writes_are_completed(file: Path) -> None:
    class Short(io.BytesIO):
        def write(self, data: object, /) -> int:
            return super().write(bytes(data)[:777])  # type: ignore[call-overload]

    body: BinaryIO = Short()
    fetch_local(Download(str(file), body, limit=1 << 20))
    assert body.getvalue() == file.read_bytes()  # type: ignore[attr-defined]


@pytest.mark.row("T11")
def test_a_transfer_that_drips_is_given_up() -> None:
    now = 0.0
    guard = MinimumSpeed(Limits(slow_window=60, slow_rate=1024), lambda: now)
    now = 59.9
    guard.progress(1, "x")  # the window is not over
    now = 60.0
    guard.progress(60 * 1024 - 1, "x")  # exactly enough
    now = 100.0
    guard.progress(1_000_000, "x")
    now = 120.0
    guard.progress(1, "x")
    now = 180.0
    with pytest.raises(FetchError, match="60 seconds"):
        guard.progress(60 * 1024 - 1, "x")


class Part(io.BytesIO):
    """A partial file in memory."""

    validator, elsewhere = "", False

    def __init__(self, *, spliced: bool) -> None:
        super().__init__()
        self.spliced = spliced
        self.restarts = 0

    @property
    def held(self) -> int:
        return self.tell()

    def restart(self, validator: str = "") -> None:
        self.validator, self.spliced = validator, False
        self.restarts += 1
        self.seek(0)
        self.truncate()

    def splice(self) -> None:
        self.spliced = True


class Serving:
    """Delivers one content after the other."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = list(contents)

    def fetch(self, download: Download) -> Fetched:
        size = download.destination.write(self.contents.pop(0))
        return Fetched(download.url, size)


def verified(part: Part, *contents: bytes) -> bytes:
    def check() -> bytes:
        if part.getvalue() != b"right":
            raise DigestMismatchError("wrong")
        return part.getvalue()

    serving = Serving(*contents)
    result = download_verified(serving, Download("u", part, limit=9, resume=part), check)
    assert not serving.contents
    return result


def test_a_right_file_is_fetched_once() -> None:
    part = Part(spliced=True)
    assert verified(part, b"right") == b"right"
    assert part.restarts == 0


def test_a_continued_file_that_is_wrong_is_fetched_again() -> None:
    part = Part(spliced=True)
    assert verified(part, b"mixed", b"right") == b"right"
    assert part.restarts == 1


@pytest.mark.parametrize(("spliced", "contents"), [(False, [b"wrong"]), (True, [b"wrong", b"wrong"])])
def test_nothing_of_a_wrong_file_is_kept(spliced: bool, contents: list[bytes]) -> None:
    part = Part(spliced=spliced)
    with pytest.raises(DigestMismatchError):
        verified(part, *contents)
    assert part.getvalue() == b""

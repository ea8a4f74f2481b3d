from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgbuilder.catalog import state
from imgbuilder.catalog.state import KnownImages, SourceStates, identity
from imgbuilder.errors import ConflictingIndexError, SourceStateError
from imgbuilder.events import Event
from imgindex.accept import Accepted
from imgindex.model import UNKNOWN_SIZE, Entry, Index

URI = "https://example.org/index.asc"
NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
FIRST = Accepted(NOW - timedelta(days=1), "ab" * 32, "A" * 40, NOW + timedelta(days=9), NOW)
HOUR = timedelta(hours=1)


@pytest.fixture
def states(tmp_path: Path) -> SourceStates:
    return SourceStates(tmp_path / "state" / "sources")


def record(states: SourceStates) -> Path:
    (path,) = states.folder.glob("*.json")
    return path


@pytest.mark.row("S37")
def test_missing_is_first_use_and_creates_nothing(states: SourceStates) -> None:
    assert states.read(URI) is None
    assert not states.folder.exists()


def test_what_was_remembered_is_read(states: SourceStates) -> None:
    states.remember(URI, FIRST, b"signed")
    assert states.read(URI) == FIRST
    other = replace(FIRST, expires_at=None, signed_at=NOW)
    states.remember(URI, other, b"signed")
    assert states.read(URI) == other
    assert states.read(URI + "2") is None
    assert record(states).stat().st_mode & 0o777 == 0o600
    assert states.folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.suffix for path in states.folder.iterdir()) == [".asc", ".json", ".lock"]


def test_an_older_one_never_replaces_a_newer_one(states: SourceStates) -> None:
    states.remember(URI, FIRST, b"signed")
    states.remember(
        URI, replace(FIRST, signed_at=FIRST.signed_at - HOUR, accepted_at=NOW + 99 * HOUR), b"signed"
    )
    assert states.read(URI) == FIRST


def test_the_same_one_is_written_anew_only_after_a_day(states: SourceStates) -> None:
    states.remember(URI, FIRST, b"signed")
    states.remember(URI, replace(FIRST, accepted_at=NOW + 24 * HOUR), b"signed")
    assert states.read(URI) == FIRST
    later = replace(FIRST, accepted_at=NOW + 25 * HOUR)
    states.remember(URI, later, b"signed")
    assert states.read(URI) == later


@pytest.mark.row("S34")
def test_two_processes_that_accepted_different_texts(states: SourceStates) -> None:
    states.remember(URI, FIRST, b"signed")
    with pytest.raises(ConflictingIndexError):
        states.remember(URI, replace(FIRST, digest="cd" * 32), b"signed")
    assert states.read(URI) == FIRST


def test_listings_work_where_nothing_can_be_written(states: SourceStates) -> None:
    states.remember(URI, FIRST, b"signed")
    before = {path: path.stat().st_mtime_ns for path in states.folder.iterdir()}
    states.remember(URI, FIRST, b"signed")
    assert {path: path.stat().st_mtime_ns for path in states.folder.iterdir()} == before


@pytest.mark.row("S37")
@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x00" * 200, b"junk", b"[]", b"{}", b"[" * 9000, b"null", b'{"version": 1}', b'\xff"',
        b'"\xed\xa0\x80"',
    ],
)  # fmt: skip
def test_corrupt_is_an_error_with_the_repair_command(states: SourceStates, content: bytes) -> None:
    states.remember(URI, FIRST, b"signed")
    record(states).write_bytes(content)
    acts: list[Callable[[], object]] = [
        lambda: states.read(URI),
        lambda: states.remember(URI, FIRST, b"signed"),
    ]
    for act in acts:
        with pytest.raises(SourceStateError) as caught:
            act()
        assert caught.value.exit_code == 3
        assert str(record(states)) in caught.value.message
        assert f"pybuilder source forget '{URI}'" in (caught.value.hint or "")
    assert record(states).read_bytes() == content
    assert states.forget(URI)
    assert states.read(URI) is None


WRONG: dict[str, list[object]] = {
    "version": [2, None],
    "uri": ["https://example.org/other"],
    "digest": ["ab", "AB" * 32, None],
    "signer": ["short", 7],
    "signed_at": ["yesterday", "2026-06-14T12:00:00", 1750000000, None, "9999-12-31T23:59:59-23:59"],
    "expires_at": [""],
    "accepted_at": ["2026-13-14T12:00:00+00:00"],
}


@pytest.mark.row("S37")
@pytest.mark.parametrize(("field", "value"), [(field, value) for field in WRONG for value in WRONG[field]])
def test_wrong_fields(states: SourceStates, field: str, value: object) -> None:
    states.remember(URI, FIRST, b"signed")
    fields = json.loads(record(states).read_text())
    record(states).write_text(json.dumps(fields))
    assert states.read(URI) == FIRST
    record(states).write_text(json.dumps({**fields, field: value}))
    with pytest.raises(SourceStateError):
        states.read(URI)


@pytest.mark.row("S37")
@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_other_things_than_files(states: SourceStates, tmp_path: Path, kind: str) -> None:
    states.remember(URI, FIRST, b"signed")
    path = record(states)
    kept = tmp_path / "kept"
    path.rename(kept)
    if kind == "link":
        path.symlink_to(kept)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(SourceStateError):
        states.read(URI)


@pytest.mark.row("S37")
def test_nowhere_to_write(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(SourceStateError, match="state"):
        SourceStates(tmp_path / "state").remember(URI, FIRST, b"signed")


def test_forgetting_what_is_not_there(states: SourceStates) -> None:
    assert not states.forget(URI)
    assert not states.folder.exists()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/srv/index", "file:///srv/index", True),
        ("/srv/./a/../index", "/srv/index", True),
        ("HTTPS://Example.org/i", "https://example.org/i", True),
        ("https://user:secret@example.org/i", "https://example.org/i", True),
        ("https://example.org/i", "https://example.org/I", False),
        ("https://example.org/i", "http://example.org/i", False),
        ("https://example.org/i", "https://example.org:8443/i", False),
        ("https://example.org/i?a", "https://example.org/i?b", False),
    ],
)
def test_which_addresses_are_one_source(one: str, other: str, same: bool) -> None:
    assert (identity(one) == identity(other)) is same


def test_relative_paths_mean_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert identity("./i") == identity(f"{tmp_path}/i")


def test_no_password_is_kept(states: SourceStates) -> None:
    states.remember("https://user:canary@example.org/i", FIRST, b"signed")
    assert "canary" not in record(states).read_text()


WRITER = """
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from imgbuilder.catalog import state
from imgbuilder.catalog.state import SourceStates
from tests.unit.imgbuilder.catalog.test_state import FIRST, URI
for step in range(40):
    newer = replace(FIRST, signed_at=FIRST.signed_at + timedelta(seconds=3 * step + int(sys.argv[2])))
    SourceStates(Path(sys.argv[1])).remember(URI, newer, b"signed")
"""


def test_concurrent_writers_lose_no_newer_record(states: SourceStates) -> None:
    root = str(Path(__file__).parents[4])
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(states.folder), str(number)], cwd=root)
        for number in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    last = states.read(URI)
    assert last is not None
    assert last.signed_at == FIRST.signed_at + timedelta(seconds=3 * 39 + 2)


def test_the_record_is_judged_again_under_the_lock(
    states: SourceStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes a newer one between our first look and our lock."""
    newest = replace(FIRST, signed_at=NOW)
    locked = SourceStates._locked

    def late(self: SourceStates, uri: str, on_event: object) -> object:
        monkeypatch.setattr(SourceStates, "_locked", locked)
        self.remember(URI, newest, b"signed")
        return locked(self, uri, on_event)  # type: ignore[arg-type]

    monkeypatch.setattr(SourceStates, "_locked", late)
    states.remember(URI, FIRST, b"signed")
    assert states.read(URI) == newest


def test_the_index_is_kept_with_its_record(states: SourceStates) -> None:
    assert states.last_index([URI]) is None
    states.remember(URI, FIRST, b"first")
    states.remember(URI, replace(FIRST, signed_at=FIRST.signed_at - HOUR), b"older")
    assert states.last_index([URI]) == b"first"
    states.remember(URI, replace(FIRST, signed_at=NOW), b"newer")
    assert states.last_index([URI]) == b"newer"
    assert states.forget(URI)
    assert states.last_index([URI]) is None
    assert [path.suffix for path in states.folder.iterdir()] == [".lock"]


def test_the_index_is_written_before_its_record(
    states: SourceStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash in between, the index is newer than the record, which is harmless."""
    states.remember(URI, FIRST, b"first")
    written: list[str] = []
    monkeypatch.setattr(state, "write_file", lambda path, _data: written.append(path.suffix))
    monkeypatch.setattr(state, "write_json", lambda path, *_fields, **_options: written.append(path.suffix))
    states.remember(URI, replace(FIRST, signed_at=NOW), b"newer")
    assert written == [".asc", ".json"]


BARE = Entry("x", "x.img", "amd64", UNKNOWN_SIZE, sha256="ab" * 32, compressed_size=9)
FULL = replace(BARE, sha512="cd" * 64, format="qcow2", size=1 << 20)


def test_facts_come_back_for_the_same_bytes_only(tmp_path: Path) -> None:
    images = KnownImages(tmp_path / "images")
    other = replace(BARE, sha256="00" * 32)
    assert images.completed(Index((BARE,))).entries == (BARE,)
    images.remember(FULL)
    renamed = replace(BARE, os_version="y", file="z")
    assert images.completed(Index((BARE, other, renamed))).entries == (
        FULL,
        other,
        replace(renamed, sha512=FULL.sha512, format="qcow2", size=1 << 20),
    )
    contradicting = replace(BARE, sha512="ee" * 64)
    assert images.completed(Index((contradicting,))).entries == (contradicting,)


def test_what_is_not_complete_is_not_remembered(tmp_path: Path) -> None:
    images = KnownImages(tmp_path / "images")
    for entry in (
        BARE,
        replace(FULL, size=UNKNOWN_SIZE),
        replace(FULL, sha512=None),
        replace(FULL, sha256=None, sha512=None),
    ):
        images.remember(entry)
    assert not images.folder.exists()
    only_512 = replace(FULL, sha256=None)
    images.remember(only_512)
    assert images.completed(Index((replace(only_512, format=None, size=UNKNOWN_SIZE),))).entries == (
        only_512,
    )


def test_a_folder_that_cannot_be_written_is_no_failure(events: list[Event], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    KnownImages(tmp_path / "file" / "images").remember(FULL, events.append)
    assert len(events) == 1

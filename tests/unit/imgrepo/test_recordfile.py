"""Records in JSON: both forms of a time, and files that strangers made."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import RepositoryError
from imgbuilder.host.hashing import Fingerprint
from imgrepo.library.records import (
    BOOT_FILE,
    CHECK_FILE,
    CONTENTS_FILE,
    SOURCES_FILE,
    Account,
    BootRecord,
    CheckRecord,
    CompressedSize,
    ContentsRecord,
    ImageMark,
    Inside,
    Leftover,
    Package,
    PasswordState,
    RunTrial,
    Seen,
    SourceGap,
    SourcesRecord,
    Verdict,
)
from imgrepo.recordfile import Many, Moment, RecordFile

MARK = ImageMark("ab" * 64, Fingerprint(1, 2, 3, 4))
STARTED = datetime(2026, 7, 1, 12, 30, tzinfo=UTC)
BOOT = BootRecord(MARK, Verdict.FAILED, "no root", "7.2.11", "tcg", STARTED, 12.5, ("Oops",), (22, 80), True)
CHECK = CheckRecord(
    MARK,
    Inside(
        True, "", (Seen(Leftover.LOG, ("/var/log/a",), 3),), (Account("root", PasswordState.COMMON),), "cd"
    ),
    CompressedSize(10, None),
    RunTrial("ef", ""),
    MARK,
)


@dataclass(frozen=True)
class Note:
    at: Moment
    words: Many[str] = ()


NOTES = RecordFile(Note, "note.json", limit=1000, hint="throw it away")


def test_every_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    contents = ContentsRecord(
        MARK, "Debian 12", "debian", "12", "dpkg",
        (Package("a", "1", "amd64", "b", "2", ("MIT",), None, (("c", "3"),)),),
    )  # fmt: skip
    sources = SourcesRecord(MARK, "a.tar", "12" * 64, 5, (("b", "2"),), (SourceGap("c", "3", "gone"),))
    BOOT_FILE.write(tmp_path, BOOT)
    CONTENTS_FILE.write(tmp_path, contents)
    SOURCES_FILE.write(tmp_path, sources)
    CHECK_FILE.write(tmp_path, CHECK)
    assert BOOT_FILE.read(tmp_path) == BOOT
    assert CONTENTS_FILE.read(tmp_path) == contents
    assert SOURCES_FILE.read(tmp_path) == sources
    assert CHECK_FILE.read(tmp_path) == CHECK


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert BOOT_FILE.read(tmp_path) is None
    assert CHECK_FILE.read(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "text", ["2026-07-01T12:30:00Z", "2026-07-01T12:30:00+00:00", "2026-07-01T14:30:00+02:00"]
)
def test_a_time_is_read_in_every_form(text: str) -> None:
    read = NOTES.parse(json.dumps({"version": 1, "at": text}).encode(), where="x")
    assert read.at == STARTED
    assert read.at.tzinfo is UTC


def test_a_name_that_is_not_utf8_stays_readable(tmp_path: Path) -> None:
    NOTES.write(tmp_path, Note(STARTED, (os.fsdecode(b"a\xff"), "é")))
    assert NOTES.read(tmp_path) == Note(STARTED, ("a?", "é"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"{}", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[" * 500, "cannot be read"),
        (b'{"version": 2}', "a different version"),
        (b'{"version": 1}', "at: field required"),
        (b'{"version": 1, "at": "0001-01-01T00:00:00+23:00"}', "at: out of range"),
        (b'{"version": 1, "at": 1e999}', "cannot be read"),
        (b'{"version": 1, "at": "2026-07-01T12:30:00Z", "words": ["\\ud800"]}', "cannot be read"),
        (b'{"version": 1, "at": "2026-07-01T12:30:00Z", "words": {}}', "words: input should be"),
        (b" " * 1001, "larger than 1000 bytes"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(content)
    with pytest.raises(RepositoryError, match=message) as caught:
        NOTES.read(tmp_path)
    assert caught.value.hint == "throw it away"
    assert str(path) in caught.value.message


def test_a_pipe_in_place_of_a_record_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "boot.json")
    with pytest.raises(RepositoryError, match="not an ordinary file"):
        BOOT_FILE.read(tmp_path)


def test_names_in_the_message_cannot_drive_a_terminal() -> None:
    @dataclass(frozen=True)
    class Table:
        numbers: dict[str, int]

    with pytest.raises(RepositoryError) as caught:
        RecordFile(Table, "x").parse(b'{"version": 1, "numbers": {"\\u001b[2J": "x"}}', where="x")
    assert "\x1b" not in caught.value.message
    assert "[2J" in caught.value.message


# In a process of its own, whose peak is measured from the moment when all modules are loaded.
MEASURE = """
import sys
from pathlib import Path
from imgbuilder.errors import PybuilderError
from imgrepo.library.records import SOURCES_FILE
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
try:
    SOURCES_FILE.parse(b"{}", where="warm-up")
except PybuilderError:
    pass
Path("/proc/self/clear_refs").write_text("5")
before = peak()
try:
    SOURCES_FILE.read(Path(sys.argv[1]))
except PybuilderError as error:
    assert "cannot be read" in error.message, error.message
    print(peak() - before)
"""


@pytest.mark.parametrize(
    ("item", "count"),
    [
        (b"0", 1_000_000),
        (b"{}", 1_000_000),
        (b"[[]]", 1_000_000),
        # As many as may be read.
        (b"{}", 130_000),
        (b'["a"]', 130_000),
        (b"[[]]", 65_000),
    ],
)
def test_a_million_wrong_values_cost_little_memory(tmp_path: Path, item: bytes, count: int) -> None:
    head = json.dumps({"version": 1, "image": {"sha512": "", "fingerprint": [1, 2, 3, 4]}}).encode()[:-1]
    rest = b', "archive": "", "sha512": "", "size": 1, "covered": ['
    (tmp_path / "sources.json").write_bytes(head + rest + b",".join([item] * count) + b"]}")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 150 << 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("version", "image", "inside", "packed", "run", "archive")


@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_record_raises_only_our_errors(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("check")
    CHECK_FILE.write(folder, CHECK)
    path = folder / "check.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with contextlib.suppress(RepositoryError):
        assert isinstance(CHECK_FILE.read(folder), CheckRecord)

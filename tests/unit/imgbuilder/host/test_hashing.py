"""Digests and fingerprints of files."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import time
from pathlib import Path

import pytest

from imgbuilder.events import Event, Progress, ProgressEnd
from imgbuilder.host.hashing import PIECE, Fingerprint, hash_file, hash_stream, hashed_blocks

DATA = os.urandom(2 * PIECE + 5)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_digest_of_a_file(events: list[Event], tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    right = hashlib.new(algorithm, DATA).hexdigest()
    assert hash_file(path, algorithm, events.append, label="reading") == right
    assert events[-2:] == [Progress("reading", len(DATA), len(DATA)), ProgressEnd()]


def test_the_digest_of_the_rest_of_a_stream() -> None:
    stream = io.BytesIO(DATA)
    stream.seek(7)
    assert hash_stream(stream) == hashlib.sha512(DATA[7:]).hexdigest()


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").touch()
    for name in ("fifo", ".", "missing"):
        with pytest.raises(OSError):  # noqa: PT011 - of several kinds
            hash_file(tmp_path / name)
    with pytest.raises(OSError, match="symbolic links"):
        hash_file(tmp_path / "link", flags=os.O_NOFOLLOW)


def test_a_fingerprint_shows_a_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a")
    before = Fingerprint.of(path.stat())
    assert before == Fingerprint.of(path.stat())
    os.utime(path, ns=(1, 1))
    assert before != Fingerprint.of(path.stat())


def test_blocks_are_hashed_ahead_and_given_in_order(tmp_path: Path) -> None:
    """Each block is whole while the caller has it, although others are read meanwhile."""
    pieces = [bytes([number % 251 + 1]) * 4096 for number in range(3000)] + [b"end"]
    path = tmp_path / "disk"
    path.write_bytes(b"".join(pieces))
    with path.open("rb") as file:
        found = hashed_blocks(file.fileno(), 4096, path.stat().st_size)
        for number, digest, piece in found:
            if number % 500 == 0:
                time.sleep(0.01)
            assert piece == pieces[number]
            assert digest == hashlib.sha256(pieces[number]).digest()
    assert number == 3000


def test_a_disk_that_becomes_shorter_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 10_000_000)
    with path.open("r+b") as file:
        found = hashed_blocks(file.fileno(), 4096, 10_000_000)
        next(found)
        file.truncate(4096)
        assert [len(piece) for _number, _digest, piece in found][-1] == 0


def test_an_error_of_the_disk_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 10_000_000)

    def failing(_descriptor: int, _buffers: list[memoryview], place: int) -> int:
        if place > 5_000_000:
            raise OSError(errno.EIO, "bad")
        return 4096

    monkeypatch.setattr(os, "preadv", failing)
    with path.open("rb") as file, pytest.raises(OSError, match="bad"):
        list(hashed_blocks(file.fileno(), 4096, 10_000_000))

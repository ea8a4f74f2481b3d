"""Digests and fingerprints of files."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from imgbuilder.events import Event, Progress, ProgressEnd
from imgbuilder.host.hashing import PIECE, Fingerprint, hash_file, hash_stream

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

"""Unpacking of hostile and damaged zstd templates, with the real program."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.cache.unpack import FrameError, check_frames
from tests.unit.imgbuilder.cache.test_unpack import DISK, MIB, needs_zstd, refused, run, zstd

EMPTY = b"\x28\xb5\x2f\xfd\x24\x00\x01\x00\x00\x99\xe9\xd8\x51"
"""A frame of nothing, as ``zstd`` makes it."""
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"

pytestmark = needs_zstd


@pytest.mark.row("X7")
@pytest.mark.parametrize("options", [["-19"], ["--long=27"], ["--no-check"], ["--ultra", "-22"], ["-1"]])
def test_levels_and_checks(tmp_path: Path, options: list[str]) -> None:
    assert run(tmp_path, zstd(DISK, *options)).read_bytes() == DISK


@pytest.mark.row("X5")
def test_several_frames(tmp_path: Path) -> None:
    packed = SKIPPABLE + zstd(DISK[:MIB]) + SKIPPABLE + zstd(DISK[MIB:]) + EMPTY + SKIPPABLE
    assert run(tmp_path, packed).read_bytes() == DISK


@pytest.mark.row("X6")
@pytest.mark.parametrize(
    "tail",
    [bytes(1), bytes(4), bytes(8), b"junkjunk", gzip.compress(b"", mtime=0), lzma.compress(b""), b"\x28\xb5"],
)
def test_junk_after_the_frames(tmp_path: Path, tail: bytes) -> None:
    """Left to itself the program would go on with gzip and xz, without a limit of memory."""
    assert "damaged although its digest is right" in refused(tmp_path, zstd(DISK) + tail)


@pytest.mark.row("X8")
def test_window_that_needs_too_much_memory(tmp_path: Path) -> None:
    packed = zstd(DISK, "--long=31")  # of a stream of unknown size, so that the window is not cut down
    assert packed[4] & 0x20 == 0
    assert "memory" in refused(tmp_path, packed).lower()


@pytest.mark.row("X10")
@pytest.mark.parametrize("packed", [b"\x28\xb5\x2f\xfd", SKIPPABLE, SKIPPABLE[:9], EMPTY])
def test_next_to_nothing(tmp_path: Path, packed: bytes) -> None:
    refused(tmp_path, packed)


def test_a_dictionary_cannot_be_had(tmp_path: Path) -> None:
    dictionary = tmp_path / "d"
    dictionary.write_bytes(os.urandom(5000))
    refused(tmp_path, zstd(DISK, "-D", str(dictionary))[:-4] + b"abcd")


def walk(tmp_path: Path, packed: bytes) -> str | None:
    path = tmp_path / "walked"
    path.write_bytes(packed)
    with path.open("rb", buffering=0) as file:
        try:
            check_frames(file)
        except FrameError as error:
            return str(error)
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("walk")


@settings(deadline=None, max_examples=30)
@given(size=st.integers(0, 300_000), seed=st.integers(0, 255), cut=st.integers(1, 50))
def test_whole_frames_pass_and_cut_ones_do_not(folder: Path, size: int, seed: int, cut: int) -> None:
    packed = zstd(bytes(value * seed & 255 for value in range(size)))
    assert walk(folder, packed) is None
    assert walk(folder, packed[:-cut]) is not None


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_only_raises_our_error(folder: Path, junk: bytes) -> None:
    assert walk(folder, junk)
    walk(folder, b"\x28\xb5\x2f\xfd" + junk)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x28\xb5\x2f\xfd\x08\x00" + b"\x01\0\0",  # a reserved bit
        b"\x28\xb5\x2f\xfd\x00\x00" + b"\x07\0\0",  # a reserved kind of block
        b"\x28\xb5\x2f\xfd\x00\x00" + (((128 << 10) + 1) << 3 | 1).to_bytes(3, "little") + bytes(1 << 18),
    ],
)
def test_impossible_frames(tmp_path: Path, frame: bytes) -> None:
    assert walk(tmp_path, frame)


def test_the_largest_block_is_possible(tmp_path: Path) -> None:
    length = 128 << 10
    frame = b"\x28\xb5\x2f\xfd\x00\x40" + (length << 3 | 1).to_bytes(3, "little") + bytes(length)
    assert walk(tmp_path, frame) is None
    assert subprocess.run(["zstd", "-qdc"], input=frame, capture_output=True).stdout == bytes(length)


def test_plain_stream_reader_is_enough(tmp_path: Path) -> None:
    """The position of the file that is walked does not matter."""
    path = tmp_path / "f"
    path.write_bytes(zstd(DISK))
    with path.open("rb", buffering=0) as file:
        file.seek(0, io.SEEK_END)
        check_frames(file)

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import WorkspaceError
from imgbuilder.events import Event, Progress, ProgressEnd
from imgbuilder.host import sparse
from imgbuilder.host.sparse import (
    BLOCK,
    SparseWriter,
    clear,
    copy_and_hash,
    copy_sparse,
    data_ranges,
    disk_usage,
)

MIB = 1 << 20


def make_image(path: Path) -> Path:
    """64 MiB with data at the start, in the middle and just before a hole at the end."""
    with path.open("wb") as file:
        file.write(b"boot" * 1000)
        file.seek(20 * MIB)
        file.write(os.urandom(MIB))
        file.seek(50 * MIB + 12345)
        file.write(b"end")
        file.truncate(64 * MIB)
    return path


def same_content(left: Path, right: Path) -> bool:
    return left.read_bytes() == right.read_bytes()


def refuse(number: int) -> Any:
    def call(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def by_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", refuse(errno.EOPNOTSUPP))


def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    by_kernel(monkeypatch)
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.EXDEV))


def by_hand_when_the_kernel_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    by_kernel(monkeypatch)
    monkeypatch.setattr(os, "copy_file_range", lambda *_arguments: 0)


def as_it_comes(_monkeypatch: pytest.MonkeyPatch) -> None:
    pass


@pytest.mark.row("X22")
@pytest.mark.parametrize("way", [as_it_comes, by_kernel, by_hand, by_hand_when_the_kernel_copies_nothing])
def test_copies_keep_content_and_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Any) -> None:
    way(monkeypatch)
    old, new = make_image(tmp_path / "old"), tmp_path / "new"
    events: list[Event] = []
    copy_sparse(old, new, events.append, label="L")
    assert same_content(old, new)
    assert new.stat().st_size == 64 * MIB
    assert disk_usage(new) <= disk_usage(old) + 4 * BLOCK < 4 * MIB
    assert new.stat().st_mode & 0o777 == 0o600
    with old.open("rb") as file:
        data = sum(end - start for start, end in data_ranges(file.fileno(), 64 * MIB))
    assert 0 < data < 4 * MIB
    assert events[-2:] == [Progress("L", data, data), ProgressEnd()], "holes take no time and do not count"
    done = [event.done for event in events if isinstance(event, Progress)]
    assert done == sorted(done)


def test_written_zeros_become_holes_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"x" + bytes(8 * MIB))
    copy_sparse(old, new)
    assert same_content(old, new)
    assert disk_usage(new) <= 2 * BLOCK


def test_empty_file_and_file_of_one_hole(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    copy_sparse(tmp_path / "empty", tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size == 0
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(MIB + 1)
    copy_sparse(tmp_path / "hole", tmp_path / "hole2")
    assert (tmp_path / "hole2").stat().st_size == MIB + 1
    assert disk_usage(tmp_path / "hole2") == 0


def test_existing_destination_is_not_touched(tmp_path: Path) -> None:
    old, new = make_image(tmp_path / "old"), tmp_path / "new"
    new.write_bytes(b"mine")
    with pytest.raises(WorkspaceError):
        copy_sparse(old, new)
    assert new.read_bytes() == b"mine"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkspaceError):
        copy_sparse(old, link)
    assert not (tmp_path / "elsewhere").exists()


def test_an_empty_file_may_stand_ready(tmp_path: Path) -> None:
    old, new = make_image(tmp_path / "old"), tmp_path / "new"
    new.touch(0o640)
    copy_sparse(old, new)
    assert same_content(old, new)


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError):
        copy_sparse(tmp_path / "missing", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_failed_copies_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    by_kernel(monkeypatch)
    monkeypatch.setattr(os, "copy_file_range", refuse(number))
    old = make_image(tmp_path / "old")
    with pytest.raises(WorkspaceError) as caught:
        copy_sparse(old, tmp_path / "new")
    assert ("no space" in caught.value.message) == (number == errno.ENOSPC)
    assert not (tmp_path / "new").exists()


def test_a_source_that_shrinks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)
    old = make_image(tmp_path / "old")

    def shrink(_event: Event) -> None:
        os.truncate(old, 0)

    with pytest.raises(WorkspaceError, match="changed its size"):
        copy_sparse(old, tmp_path / "new", shrink)


def test_data_ranges(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image")
    with image.open("rb") as file:
        ranges = list(data_ranges(file.fileno(), 64 * MIB))
    assert len(ranges) == 3
    assert ranges[0][0] == 0
    assert ranges[1][0] == 20 * MIB
    assert sum(end - start for start, end in ranges) == disk_usage(image)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5), st.integers(-1, 1)), max_size=8))
def test_sparse_writer_writes_what_it_is_given(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[bool, int, int]]
) -> None:
    pieces = [(b"\1" if data else b"\0") * max(0, blocks * BLOCK // 2 + off) for data, blocks, off in parts]
    path = tmp_path_factory.mktemp("w") / "f"
    with path.open("wb") as file:
        writer = SparseWriter(file.fileno())
        for piece in pieces:
            writer.write(piece)
        writer.finish()
    assert path.read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("content", ["image", "all holes", "empty"])
def test_a_copy_with_its_digest(events: list[Event], tmp_path: Path, content: str) -> None:
    image = tmp_path / "image"
    if content == "image":
        make_image(image)
    else:
        image.touch()
        os.truncate(image, 3 * MIB + 7 if content == "all holes" else 0)
    copy = tmp_path / "copy"
    with image.open("rb") as source, copy.open("xb") as output:
        digest = copy_and_hash(source.fileno(), output.fileno(), events.append, label="copying")
    assert digest == hashlib.sha512(image.read_bytes()).hexdigest()
    assert same_content(image, copy)
    assert disk_usage(copy) <= disk_usage(image)
    assert events[-1] == ProgressEnd()


@pytest.mark.parametrize("way", [by_kernel, by_hand])
def test_a_copy_is_on_its_way_to_the_disk_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Any
) -> None:
    way(monkeypatch)
    begun: list[tuple[int, int]] = []

    class Kernel:
        def sync_file_range(self, _file: int, start: Any, count: Any, _flags: int) -> int:
            begun.append((start.value, start.value + count.value))
            return 0

    monkeypatch.setattr(sparse, "_libc", Kernel())
    with (tmp_path / "old").open("wb") as file:
        for _ in range(40):
            file.write(os.urandom(MIB))
            file.seek(BLOCK, os.SEEK_CUR)
    copy_sparse(tmp_path / "old", tmp_path / "new")
    assert len(begun) >= 2
    assert begun[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(begun))
    assert all(end - start >= 16 * MIB for start, end in begun)


@pytest.mark.parametrize("punches", [True, False])
def test_a_part_that_is_cleared_is_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, punches: bool
) -> None:
    if not punches:
        monkeypatch.setattr(sparse, "_fallocate", lambda *_arguments: -1)
    path = tmp_path / "disk"
    content = os.urandom(4 * BLOCK)
    path.write_bytes(content)
    with path.open("r+b") as file:
        clear(file.fileno(), BLOCK, 3 * BLOCK)
    assert path.read_bytes() == content[:BLOCK] + bytes(2 * BLOCK) + content[3 * BLOCK :]
    assert (disk_usage(path) < 4 * BLOCK) == punches

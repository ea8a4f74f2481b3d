"""Results that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imgbuilder.errors import GuestError, UsageError, WorkspaceError
from imgbuilder.host import workspace
from imgbuilder.host.interrupts import Interrupted, interruptible


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_file_appears_only_when_complete(tmp_path: Path) -> None:
    final = tmp_path / "disk.img"
    final.write_text("old")
    with workspace.new_file(final) as image:
        image.write_text("new")
        assert final.read_text() == "old"
        assert stat.S_IMODE(image.stat().st_mode) == 0o600
    assert final.read_text() == "new"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(final.stat().st_mode) == 0o666 & ~mask
    assert hidden(tmp_path) == []


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    final = tmp_path / "disk.img"
    final.write_text("old")
    with pytest.raises(RuntimeError), workspace.new_file(final) as image:
        image.write_text("half")
        raise RuntimeError
    assert final.read_text() == "old"
    assert hidden(tmp_path) == []


@pytest.mark.row("B16")
def test_a_name_that_cannot_be_synced_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the rename there is no way back to the old file, and the new one is complete."""

    def broken(_folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(workspace, "sync_folder", broken)
    final = tmp_path / "disk.img"
    final.write_text("old")
    with pytest.raises(WorkspaceError, match="is complete, but"), workspace.new_file(final) as image:
        image.write_text("new")
    assert final.read_text() == "new"
    assert hidden(tmp_path) == []


def test_a_failure_keeps_what_there_is_when_asked(tmp_path: Path) -> None:
    final = tmp_path / "disk.img"
    with pytest.raises(RuntimeError), workspace.new_file(final, keep_on_failure=lambda: True) as image:
        image.write_text("half")
        raise RuntimeError
    assert final.read_text() == "half"
    assert hidden(tmp_path) == []


def test_a_signal_leaves_nothing(tmp_path: Path) -> None:
    final = tmp_path / "disk.img"
    with pytest.raises(Interrupted) as caught, interruptible(), workspace.new_file(final) as image:
        image.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_left_overs_of_killed_runs_are_swept_and_living_ones_are_not(tmp_path: Path) -> None:
    dead = tmp_path / ".pybuilder-disk.img.0123456789ab.part"
    dead.write_text("x")
    living = tmp_path / ".pybuilder-other.img.0123456789ab.part"
    foreign = tmp_path / ".pybuilder-note.txt"
    foreign.write_text("not ours")
    with living.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        workspace.sweep(tmp_path)
    assert not dead.exists()
    assert living.exists()
    assert foreign.exists()


def test_a_file_is_locked_while_it_is_made(tmp_path: Path) -> None:
    with workspace.new_file(tmp_path / "disk.img") as image:
        workspace.sweep(tmp_path)
        assert image.exists()


def test_looking_at_a_folder_meets_no_sweep(tmp_path: Path) -> None:
    over = threading.Event()

    def sweep() -> None:
        while not over.is_set():
            workspace.sweep(tmp_path)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(sweep)
        try:
            for _ in range(500):
                workspace.try_folder(tmp_path / "disk.img")
        finally:
            over.set()
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = workspace.hold_shared
    swept: list[int] = []

    def hold(descriptor: int) -> None:
        if not swept:
            swept.append(descriptor)
            workspace.sweep(tmp_path)  # of another run, in the very moment
        plain(descriptor)

    monkeypatch.setattr(workspace, "_unnamed_file", lambda _folder: None)  # as on NFS
    monkeypatch.setattr(workspace, "hold_shared", hold)
    with workspace.new_file(tmp_path / "disk.img") as image:
        image.write_text("new")
    assert swept
    assert [path.name for path in tmp_path.iterdir()] == ["disk.img"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_replaced_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    final = tmp_path / "disk.img"
    final.write_text("old")
    final.chmod(mode)
    with workspace.new_file(final) as image:
        image.write_text("new")
    assert stat.S_IMODE(final.stat().st_mode) == mode


def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    final = tmp_path / "disk.img"
    final.write_text("old")
    os.chown(final, 1234, 5678)
    with workspace.new_file(final) as image:
        image.write_text("new")
    assert (final.stat().st_uid, final.stat().st_gid) == (1234, 5678)


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "\U0001f600" * 63, "a:b,c\nd"])
def test_any_name_can_be_written(tmp_path: Path, name: str) -> None:
    with workspace.new_file(tmp_path / name) as image:
        image.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_too_little_space_is_found_before(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="not enough space"):
        workspace.check_space(tmp_path, 1 << 62, "the image")
    workspace.check_space(tmp_path, 1, "the image")


@pytest.mark.parametrize("free", [0, 1 << 20, 1 << 40])
def test_a_full_disk_is_named_as_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    real = os.statvfs(tmp_path)
    facts = os.statvfs_result((real.f_bsize, 1, 0, 0, free, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _path: facts)
    expected = GuestError if free == 1 << 40 else WorkspaceError
    with pytest.raises(expected, match="lost") as caught, workspace.blaming_full_disk(tmp_path):
        raise GuestError("a write was lost")
    if expected is WorkspaceError:
        assert "no space left" in caught.value.message
        assert caught.value.hint
    with pytest.raises(UsageError), workspace.blaming_full_disk(tmp_path):
        raise UsageError("another matter")

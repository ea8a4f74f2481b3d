"""Results that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imgbuilder.errors import GuestError, UsageError, WorkspaceError
from imgbuilder.host import claims, workspace
from imgbuilder.host.interrupts import Interrupted, interruptible, uninterrupted


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


def test_a_name_that_cannot_be_made_durable_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B16: after the rename there is no way back to the old file, and the new one is whole."""

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
    plain = workspace._hold
    swept: list[int] = []

    def hold(descriptor: int) -> None:
        if not swept:
            swept.append(descriptor)
            workspace.sweep(tmp_path)  # of another run, in the very moment
        plain(descriptor)

    monkeypatch.setattr(workspace, "_unnamed_file", lambda _folder: None)  # as on NFS
    monkeypatch.setattr(workspace, "_hold", hold)
    with workspace.new_file(tmp_path / "disk.img") as image:
        image.write_text("new")
    assert swept
    assert [path.name for path in tmp_path.iterdir()] == ["disk.img"]


def test_private_folders_are_short_private_and_swept() -> None:
    with workspace.private_folder() as living:
        assert stat.S_IMODE(living.stat().st_mode) == 0o700
        assert len(str(living / "libguestfsXXXXXX" / "guestfsd.sock")) < 107
        dead = living.with_name(".pybuilder-run-dead0000")
        dead.mkdir()
        (dead / "left").touch()
        with workspace.private_folder() as other:
            assert other != living
        assert living.exists()
        assert not dead.exists()
    assert not living.exists()


def test_what_a_run_left_that_was_killed_at_once_is_swept(tmp_path: Path) -> None:
    """Killed between making a folder and locking it; what is locked or not ours stays."""
    dead, living = tmp_path / ".pybuilder-new-dead0000", tmp_path / ".pybuilder-new-living00"
    foreign, full = tmp_path / ".pybuilder-new-foreign0", tmp_path / ".pybuilder-new-full0000"
    for folder in (dead, living, foreign, full):
        folder.mkdir(mode=0o700)
    (full / "precious").touch()
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
    holder = os.open(living, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_SH)
    with workspace.private_folder(tmp_path):
        pass
    os.close(holder)
    assert not dead.exists()
    assert living.exists()
    assert (full / "precious").exists()
    assert os.geteuid() != 0 or foreign.exists()
    with workspace.private_folder(tmp_path):
        assert not living.exists()


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked", "and another is there"])
def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run takes it for a dead one's; whoever puts one of that name there gets nothing of ours."""
    first: list[Path] = []

    def sweep(folder: Path) -> None:
        if not first:
            first.append(folder)
            folder.rmdir()
            if moment == "and another is there":
                folder.mkdir()

    if moment == "before it is opened":
        make = tempfile.mkdtemp

        def made(**options: str) -> str:
            folder = make(**options)
            sweep(Path(folder))
            return folder

        monkeypatch.setattr(tempfile, "mkdtemp", made)
    else:
        lock = fcntl.flock

        def locked(descriptor: int, how: int) -> None:
            if how == fcntl.LOCK_SH:
                sweep(Path(f"/proc/self/fd/{descriptor}").readlink())
            lock(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", locked)
    with workspace.private_folder(tmp_path) as folder:
        assert first
        assert not folder.name.endswith(first[0].name.removeprefix(".pybuilder-new-"))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_many_runs_at_once_sweep_nothing_that_lives(tmp_path: Path) -> None:
    def use(number: int) -> bool:
        with workspace.private_folder(tmp_path) as folder:
            (folder / "mine").write_text(str(number))
            return (folder / "mine").read_text() == str(number)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(use, range(400)))
    assert not list(tmp_path.iterdir())


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


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder as libguestfs makes it for root."""
    made = Path(f"/tmp/libguestfs{secrets.token_hex(3)}")
    made.mkdir()
    (made / "guestfsd.sock").touch()
    yield made
    shutil.rmtree(made, ignore_errors=True)


def claim(folder: Path, *paths: Path | str) -> None:
    (folder / claims.CLAIMS).write_text("".join(f"{path}\n" for path in paths))


def test_what_a_private_folder_claims_goes_with_it(sockets: Path) -> None:
    with workspace.private_folder() as folder:
        claim(folder, sockets, sockets, "/tmp/libguestfs000000")
    assert not sockets.exists()
    assert not folder.exists()


def test_what_a_killed_run_claimed_is_swept(sockets: Path, tmp_path: Path) -> None:
    left = tmp_path / ".pybuilder-run-dead0000"
    left.mkdir()
    claim(left, sockets)
    with workspace.private_folder(tmp_path):
        assert not left.exists()
        assert not sockets.exists()


def test_a_claimed_folder_in_use_stays_for_a_later_sweep(sockets: Path, tmp_path: Path) -> None:
    """Its processes are not gone: their sockets still have names there."""
    left = tmp_path / ".pybuilder-run-dead0000"
    left.mkdir()
    claim(left, sockets)
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(f"{sockets}/console.sock")
        with workspace.private_folder(tmp_path):
            assert sockets.exists()
            assert left.exists()
    with workspace.private_folder(tmp_path):
        assert not sockets.exists()
        assert not left.exists()


def test_only_folders_of_ours_can_be_claimed(tmp_path: Path, sockets: Path) -> None:
    precious = tmp_path / "libguestfsAbCdEf"
    precious.mkdir()
    link = Path(f"/tmp/libguestfs{secrets.token_hex(3)}")
    link.symlink_to(precious)
    foreign = Path(f"/tmp/libguestfs{secrets.token_hex(3)}")
    foreign.mkdir()
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
    try:
        with workspace.private_folder() as folder:
            there = [precious, link, f"{link}/", f"{sockets}/..", f"/tmp/../{precious}", "/tmp", "", "\0"]
            claim(folder, *map(str, there), *([foreign] if os.geteuid() == 0 else []))
        assert not folder.exists()
        assert precious.is_dir()
        assert link.is_symlink()
        assert sockets.is_dir()
        assert os.geteuid() != 0 or foreign.is_dir()
    finally:
        link.unlink()
        foreign.rmdir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_become_exceptions_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    cleaned = False
    with pytest.raises(Interrupted) as caught, interruptible():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # a second one, while cleaning up
            cleaned = True
    assert cleaned
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_signals_wait_for_what_must_not_be_torn() -> None:
    done = False
    with pytest.raises(Interrupted), interruptible():
        with uninterrupted():
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGINT)
            done = True
        pytest.fail("the signal was lost")
    assert done


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.row("B15")
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

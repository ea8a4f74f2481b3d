"""Private folders: removed afterwards, or by the next run at the latest."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imgbuilder.errors import WorkspaceError
from imgbuilder.host import privatefolder
from imgbuilder.host.privatefolder import private_folder, scratch_folder

_HOLD = """
import sys, time
from imgbuilder.host.privatefolder import scratch_folder
with scratch_folder() as folder:
    (folder / "large").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_private_folders_are_short_private_and_swept() -> None:
    with private_folder() as living:
        assert stat.S_IMODE(living.stat().st_mode) == 0o700
        assert len(str(living / "libguestfsXXXXXX" / "guestfsd.sock")) < 107
        dead = living.with_name(".pybuilder-run-dead0000")
        dead.mkdir()
        (dead / "left").touch()
        with private_folder() as other:
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
    with private_folder(tmp_path):
        pass
    os.close(holder)
    assert not dead.exists()
    assert living.exists()
    assert (full / "precious").exists()
    assert os.geteuid() != 0 or foreign.exists()
    with private_folder(tmp_path):
        assert not living.exists()


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked", "and another is there"])
def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run takes it for a dead one's; a folder of the same name that appears then is not used."""
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
    with private_folder(tmp_path) as folder:
        assert first
        assert not folder.name.endswith(first[0].name.removeprefix(".pybuilder-new-"))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_many_runs_at_once_sweep_nothing_that_lives(tmp_path: Path) -> None:
    def use(number: int) -> bool:
        with private_folder(tmp_path) as folder:
            (folder / "mine").write_text(str(number))
            return (folder / "mine").read_text() == str(number)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(use, range(400)))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder as libguestfs makes it for root."""
    made = Path(f"/tmp/libguestfs{secrets.token_hex(3)}")
    made.mkdir()
    (made / "guestfsd.sock").touch()
    yield made
    shutil.rmtree(made, ignore_errors=True)


def claim(folder: Path, *paths: Path | str) -> None:
    (folder / privatefolder.LIST).write_text("".join(f"{path}\n" for path in paths))


def test_what_a_private_folder_claims_goes_with_it(sockets: Path) -> None:
    with private_folder() as folder:
        claim(folder, sockets, sockets, "/tmp/libguestfs000000")
    assert not sockets.exists()
    assert not folder.exists()


def test_what_a_killed_run_claimed_is_swept(sockets: Path, tmp_path: Path) -> None:
    left = tmp_path / ".pybuilder-run-dead0000"
    left.mkdir()
    claim(left, sockets)
    with private_folder(tmp_path):
        assert not left.exists()
        assert not sockets.exists()


def test_a_claimed_folder_in_use_stays_for_a_later_sweep(sockets: Path, tmp_path: Path) -> None:
    """Its processes are not gone: their sockets still have names there."""
    left = tmp_path / ".pybuilder-run-dead0000"
    left.mkdir()
    claim(left, sockets)
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(f"{sockets}/console.sock")
        with private_folder(tmp_path):
            assert sockets.exists()
            assert left.exists()
    with private_folder(tmp_path):
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
        with private_folder() as folder:
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


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_scratch_folder_is_gone_afterwards(temporary: Path) -> None:
    seen: list[Path] = []
    with pytest.raises(RuntimeError), scratch_folder(mode=0o711, before_removal=seen.append) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o711
        (folder / "x").mkdir()
        raise RuntimeError
    assert seen == [folder]
    assert list(temporary.iterdir()) == []


def test_a_scratch_folder_needs_space(temporary: Path) -> None:
    with pytest.raises(WorkspaceError, match="not enough space"), scratch_folder(needed=1 << 62):
        pytest.fail("there is not that much space")
    assert list(temporary.iterdir()) == []


def test_a_killed_run_leaves_a_scratch_folder_to_the_next_one(temporary: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    left = holder.stdout.readline().strip()
    try:
        with scratch_folder() as folder:
            assert {str(path) for path in temporary.iterdir()} == {left, str(folder)}, "in use: not touched"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with scratch_folder() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_links_and_files_and_folders_of_others_stay(temporary: Path) -> None:
    precious = temporary / "precious"
    precious.mkdir()
    (temporary / ".pybuilder-run-link").symlink_to(precious)
    (temporary / ".pybuilder-run-file").touch()
    foreign = temporary / ".pybuilder-run-foreign"
    if os.geteuid() == 0:
        foreign.mkdir()
        os.chown(foreign, 65534, 65534)
    with scratch_folder():
        pass
    assert precious.exists()
    assert (temporary / ".pybuilder-run-link").is_symlink()
    assert (temporary / ".pybuilder-run-file").exists()
    assert foreign.exists() == (os.geteuid() == 0)


def test_a_temporary_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with (
        pytest.raises(WorkspaceError, match="missing: it is not a folder") as caught,
        scratch_folder(),
    ):
        pass
    assert "TMPDIR" in str(caught.value.hint)

"""Temporary folders of publishers: gone afterwards, and after the next start at the latest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgrepo.images import scratch
from imgrepo.images.scratch import scratch_folder, sweep

_HOLD = """
import sys, time
from imgrepo.images.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "large").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(scratch, "_NEWBORN", 0.0)
    return tmp_path


def test_it_is_gone_afterwards(place: Path) -> None:
    with pytest.raises(RuntimeError), scratch_folder() as folder:
        (folder / "x").mkdir()
        raise RuntimeError
    assert list(place.iterdir()) == []


def test_what_a_killed_publisher_left_goes_with_the_next_start(place: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    left = holder.stdout.readline().strip()
    try:
        with scratch_folder() as folder:
            assert {str(path) for path in place.iterdir()} == {left, str(folder)}, "in use: not touched"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with scratch_folder() as folder:
        assert list(place.iterdir()) == [folder]


def test_others_and_links_and_newborns_stay(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = place / "precious"
    precious.mkdir()
    (place / "pybuilder-repo.link").symlink_to(precious)
    (place / "pybuilder-repo.file").touch()
    old = place / "pybuilder-repo.old"
    old.mkdir()
    os.utime(old, (0, 0))
    new = place / "pybuilder-repo.new"
    new.mkdir()
    monkeypatch.setattr(scratch, "_NEWBORN", 60.0)
    foreign = place / "pybuilder-repo.foreign"
    if os.geteuid() == 0:
        foreign.mkdir()
        os.chown(foreign, 65534, 65534)
        os.utime(foreign, (0, 0))
    sweep(place)
    assert not old.exists()
    assert new.exists()
    assert precious.exists()
    assert (place / "pybuilder-repo.link").is_symlink()
    assert foreign.exists() == (os.geteuid() == 0)
    assert time.time() - new.stat().st_mtime < 60

"""Each command under hostile guests: it ends in words, in little memory, and leaves little on the host."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tests.attack.hostile import FRIENDLY, GUESTS, run

MEMORY = 300 << 20
NEW_BYTES = 10 << 20
# Each guest has a process of its own, a copy of one that has imported everything.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.attack.hostile"])


def _run(name: str, folder: Path) -> tuple[dict[str, str], int, int]:
    """Return how each command ended, the most memory that was used, and new bytes on the host."""
    home, images = folder / "home", folder / "images"
    home.mkdir()
    images.mkdir()
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"), str(home))
    results, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=run, args=(name, images, places, sender), daemon=True)
    process.start()
    sender.close()
    ended, peak = results.recv()
    process.join(10)
    return ended, peak, sum(path.lstat().st_blocks * 512 for path in home.rglob("*"))


@pytest.mark.parametrize("name", GUESTS)
def test_every_command_under_a_hostile_guest(name: str, tmp_path: Path) -> None:
    ended, peak, new_bytes = _run(name, tmp_path)
    assert not {what: how for what, how in ended.items() if how.startswith("CRASHED")}
    assert peak <= MEMORY
    assert new_bytes <= NEW_BYTES


def test_every_command_reaches_a_guest_that_means_no_harm(tmp_path: Path) -> None:
    ended, _peak, _new_bytes = _run(FRIENDLY, tmp_path)
    assert set(ended.values()) == {"done"}, "else the table above tries nothing"

"""Each command under hostile guests: it ends in words, in little memory, and leaves little on the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.hostile import FRIENDLY, GUESTS

MEMORY = 300 << 20
NEW_BYTES = 10 << 20
ROOT = Path(__file__).parents[2]


def _run(name: str, folder: Path) -> tuple[dict[str, str], int, int]:
    """Return how each command ended, the most memory that was used, and new bytes on the host."""
    home, images = folder / "home", folder / "images"
    home.mkdir()
    images.mkdir()
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"), str(home))
    ran = subprocess.run(
        [sys.executable, "-m", "tests.attack.hostile", name, images],
        cwd=ROOT, env=os.environ | places, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    printed = json.loads(ran.stdout)
    return printed["ended"], printed["peak"], sum(path.lstat().st_blocks * 512 for path in home.rglob("*"))


@pytest.mark.parametrize("name", GUESTS)
def test_every_command_under_a_hostile_guest(name: str, tmp_path: Path) -> None:
    ended, peak, new_bytes = _run(name, tmp_path)
    assert not {what: how for what, how in ended.items() if how.startswith("CRASHED")}
    assert peak <= MEMORY
    assert new_bytes <= NEW_BYTES


def test_every_command_reaches_a_guest_that_means_no_harm(tmp_path: Path) -> None:
    ended, _peak, _new_bytes = _run(FRIENDLY, tmp_path)
    assert set(ended.values()) == {"done"}, "else the table above tries nothing"

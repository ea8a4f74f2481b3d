"""The keys of the tests leave nothing behind, even when the tests are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.fakes.keys import KeyMaker

_TESTS = """
import os
from tests.fakes.keys import KeyMaker
keys = KeyMaker()
keys.make()
print(keys.home, flush=True)
os.kill(os.getpid(), 9)
"""


def agents(home: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(home) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def test_killed_tests_leave_no_agent() -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", _TESTS], cwd=root, env=environ, stdout=subprocess.PIPE, text=True
    )
    assert killed.returncode == -9
    home = Path(killed.stdout.strip())
    assert home.parent == Path("/tmp")
    end = time.monotonic() + 30
    while (home.exists() or agents(home)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not home.exists()
    assert agents(home) == []


def test_closed_keys_leave_no_agent() -> None:
    keys = KeyMaker()
    keys.make()
    assert len(agents(keys.home)) >= 1
    keys.close()
    keys.close()
    assert not keys.home.exists()
    assert agents(keys.home) == []

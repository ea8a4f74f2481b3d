"""ENOSPC and EIO where builds and lists write: the memory of sources, the output, temporary files.

The cache has its own rows (C4). Here the real command runs under strace, which makes one call after the other
fail. Whatever happens, nothing wrong is reported as done, what was there before is intact, the next run is
right. Each run of the tests takes other calls; with ``PYBUILDER_TEST_LONG=1`` all of them are taken.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.keys import KeyMaker
from tests.fakes.template import SIZE
from tests.fault.test_cache_kills import needs_strace, some
from tests.fault.test_environment import Place
from tests.fault.worker import count_calls

pytestmark = pytest.mark.timeout(3600 if os.environ.get("PYBUILDER_TEST_LONG") else 240)

FAULTS = {
    "fsync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "EXDEV"),
    "pwrite64": ("ENOSPC", "EIO"),
    "ftruncate": ("EIO",),
}
BUILD = ("tiny", "-o", "x.img", "--no-instant")
LIST = ("--list",)


@pytest.fixture
def place(tmp_path: Path, keys: KeyMaker) -> Place:
    needs_strace()
    return Place(tmp_path, keys)


def traced(place: Place, words: tuple[str, ...], *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        "strace",
        "-f",
        "--quiet=all",
        "--seccomp-bpf",
        *options,
        sys.executable,
        "-m",
        "imgbuilder",
        *words,
    ]
    return subprocess.run(
        command, cwd=place.base / "out", env=place.environment, capture_output=True, text=True, timeout=100
    )


def forget(place: Place) -> None:
    subprocess.run(["rm", "-rf", place.base / "home/.cache", place.base / "home/.local"], check=True)


@pytest.mark.row("C4")
@pytest.mark.parametrize("words", [LIST, BUILD], ids=["list", "build"])
def test_each_write_of_a_whole_run_fails(place: Place, words: tuple[str, ...]) -> None:
    trace, image = place.base / "trace", place.base / "out" / "x.img"
    done = traced(place, words, f"--trace={','.join(FAULTS)}", "--output", str(trace))
    assert done.returncode == 0, done.stderr
    counts = count_calls(trace.read_text(), tuple(FAULTS))
    assert counts.keys() >= {"fsync", "rename"}
    points = [
        (name, str(number), error)
        for name, count in counts.items()
        for number in range(1, count + 1)
        for error in FAULTS[name]
    ]
    failed = 0
    for name, number, error in some(points, 5):
        forget(place)
        image.write_text("precious")
        where = f"{error} of {name} number {number}"
        done = traced(
            place, words, f"--trace={name}", f"--inject={name}:error={error}:when={number}",
            "--output", "/dev/null",
        )  # fmt: skip
        # A helper such as gpg may have been hit instead, and then our word about its result is the error.
        assert done.returncode in (0, 1, 2, 3), f"{where}: {done.stderr}"
        assert "Traceback" not in done.stderr, f"{where}: {done.stderr}"
        if done.returncode:
            failed += 1
            assert "error: " in done.stderr, where
            # After the rename there is no way back; then the new image is whole, and that is said.
            whole = image.stat().st_size == SIZE and "is complete, but" in done.stderr
            assert whole or image.read_bytes() == b"precious", where
        elif words is BUILD:
            assert image.stat().st_size == SIZE, where
        assert [path.name for path in (place.base / "out").iterdir()] == ["x.img"], where
        assert list((place.base / "tmp").iterdir()) == [], where
        again = place.run(*words)
        assert again.returncode == 0, f"after {where}: {again.stderr}"
        assert words is LIST or image.stat().st_size == SIZE
    print(f"{words[0]}: {len(points)} points, {failed} runs failed with an error")

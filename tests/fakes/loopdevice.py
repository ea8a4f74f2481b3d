"""Helpers for tests with real block devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgbuilder.host import process

ROOM = 24 << 20
"""Bytes of a loop device."""
OLD = b"what was on the device before " * 1000


def system(*words: str | Path) -> str:
    return process.run(list(words)).stdout.decode().strip()


def usable(path: Path) -> bool:
    """Return whether a device can be opened; a container may have the programs but not the devices."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


@contextmanager
def loop_device(backing: Path) -> Iterator[Path]:
    """Yield a loop device over a file; the test is skipped where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("only root can make loop devices")
    done = process.run(["losetup", "--find", "--show", "--partscan", backing], check=False)
    if done.status != 0:
        pytest.skip(f"loop devices do not work here: {done.stderr.strip()}")
    path = Path(done.stdout.decode().strip())
    try:
        if not usable(path):
            pytest.skip(f"{path} cannot be opened here")
        yield path
    finally:
        system("losetup", "--detach", path)

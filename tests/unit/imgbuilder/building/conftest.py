"""Fixtures of the tests of builds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.host import process
from tests.fakes.loopdevice import OLD, ROOM, system, usable


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device with old content from its start to its end."""
    if os.geteuid() != 0:
        pytest.skip("only root can make loop devices")
    backing = tmp_path / "backing"
    backing.write_bytes((OLD * (ROOM // len(OLD) + 1))[:ROOM])
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

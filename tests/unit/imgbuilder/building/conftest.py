"""Fixtures of the tests of builds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.loopdevice import OLD, ROOM, loop_device


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device with old content from its start to its end."""
    backing = tmp_path / "backing"
    backing.write_bytes((OLD * (ROOM // len(OLD) + 1))[:ROOM])
    with loop_device(backing) as path:
        yield path

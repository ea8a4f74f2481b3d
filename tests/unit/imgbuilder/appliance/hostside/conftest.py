"""Images with a real ext4 filesystem, made and checked by e2fsprogs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.appliance.hostside.connection import open_hostside
from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.appliance.options import Attachment

NOW = 1_700_000_000_123_456_789


def make_image(path: Path, *options: str, size: str = "16M") -> Path:
    """Make an image that is one filesystem; the options are those of mke2fs."""
    subprocess.run(["truncate", "-s", size, path], check=True)
    subprocess.run(["mke2fs", "-q", "-F", *(options or ("-t", "ext4")), path], check=True)
    return path


def check(image: Path) -> None:
    done = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def debugfs(image: Path, request: str) -> str:
    done = subprocess.run(["debugfs", "-R", request, image], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    path = make_image(tmp_path / "disk.img")
    yield path
    check(path)


@pytest.fixture
def guest(image: Path) -> Iterator[LibguestfsAppliance]:
    """The filesystem of ``image``, mounted; e2fsck checks it after the test."""
    with open_hostside(Attachment(image, "raw"), clock=lambda: NOW, entropy=_Counter()) as appliance:
        appliance.mount("/dev/sda", "/")
        yield appliance
        appliance.shutdown()


class _Counter:
    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, size: int) -> bytes:
        self._calls += 1
        return bytes((self._calls + place) % 256 for place in range(size))

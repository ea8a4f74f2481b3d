"""A qcow2 image shown as a raw file by qemu-storage-daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from imgbuilder.disk.rawview import raw_view
from imgbuilder.errors import UnfitError

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse cannot be used here"
)

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    below = tmp_path / "below, with a comma"
    below.write_bytes(b"below" + bytes(SIZE - 5))
    image = tmp_path / "image, with one"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "raw", image], check=True)
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a, b"
    made.mkdir()
    return made


def content(image: Path) -> bytes:
    raw = image.with_name("raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw], check=True)
    return raw.read_bytes()


def daemons(image: Path) -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"qemu-storage-daemon.*{image.parent}"], capture_output=True)
    return [int(line) for line in found.stdout.split()]


def is_mounted(folder: Path) -> bool:
    name = str(folder).replace(" ", "\\040")
    return name in Path("/proc/self/mounts").read_text()


def test_changes_are_in_the_image_afterwards(image: Path, folder: Path) -> None:
    with raw_view(image, folder) as view:
        assert view.read_bytes()[:5] == b"below"
        with view.open("r+b") as file:
            file.seek(SIZE - 3)
            file.write(b"end")
    assert content(image) == b"below" + bytes(SIZE - 8) + b"end"
    assert not is_mounted(folder)
    assert daemons(image) == []


def test_an_error_in_the_block_leaves_nothing_mounted(image: Path, folder: Path) -> None:
    with pytest.raises(KeyError), raw_view(image, folder):
        raise KeyError
    assert not is_mounted(folder)
    assert daemons(image) == []


def test_a_daemon_that_dies_is_noticed(image: Path, folder: Path) -> None:
    with pytest.raises(UnfitError, match="did not write all changes"), raw_view(image, folder):
        (pid,) = daemons(image)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    assert not is_mounted(folder)


def test_what_is_not_an_image(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(bytes(SIZE))
    with pytest.raises(UnfitError, match="cannot show"), raw_view(wrong, folder):
        pass
    assert not is_mounted(folder)

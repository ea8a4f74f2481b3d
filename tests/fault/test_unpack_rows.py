"""Unpacking: memory limits, bombs, and files that contradict themselves."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbuilder.cache.unpack import unpack
from imgbuilder.errors import RepositoryError
from imgindex.model import Entry
from tests.fault.worker import ROOT

MIB = 1 << 20
MOST = 150 * MIB
BIG = 104 * MIB

pytestmark = pytest.mark.skipif(
    shutil.which("xz") is None or shutil.which("zstd") is None, reason="xz or zstd is not installed"
)

_MEASURE = """
import json, resource, sys
from pathlib import Path
from imgbuilder.cache.unpack import unpack
from imgbuilder.errors import PybuilderError
from imgindex.model import Entry
source, size, image = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
message = ""
try:
    with open(source, "rb", buffering=0) as file:
        unpack(file, image, Entry("x", "x", "x86_64", size, format="raw"), where="x")
except PybuilderError as error:
    message = error.message
others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
# Not ru_maxrss, which begins with that of the process that started this one.
own = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
disk = image.stat().st_blocks * 512 if image.exists() else None
print(json.dumps({"own": own, "others": others, "message": message, "disk": disk}))
"""


def measure(packed: Path, size: int, folder: Path) -> dict[str, object]:
    """Unpack in a process of its own; return the most memory that it and its helpers held, and its error."""
    folders = os.pathsep.join(str(ROOT / name) for name in ("builder", "index"))
    words = [sys.executable, "-c", _MEASURE, str(packed), str(size), str(folder / "image")]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": folders})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["own"] < MOST, found
    assert found["others"] < MOST, found
    assert isinstance(found, dict)
    return found


def noise(folder: Path) -> Path:
    """Write a disk of zeros with some noise, so that windows and buffers are really filled."""
    path = folder / "disk"
    with path.open("wb") as file:
        for start in range(0, BIG, 8 * MIB):
            file.seek(start)
            file.write(os.urandom(MIB // 8))
        file.truncate(BIG)
    return path


PACKERS = {
    "xz with the dictionary of -9": ["xz", "--lzma2=preset=0,dict=64MiB", "-T1"],
    "xz in blocks": ["xz", "-0", "-T2", "--block-size=16MiB"],
    "xz in huge blocks": ["xz", "-0", "-T2", "--block-size=60MiB"],
    "zstd --long": ["zstd", "-q", "-1", "--long=27"],
}


@pytest.mark.row("X8")
@pytest.mark.parametrize("how", PACKERS)
def test_memory_is_bounded(tmp_path: Path, how: str) -> None:
    packed = tmp_path / "packed"
    with noise(tmp_path).open("rb") as disk, packed.open("wb") as file:
        subprocess.run([*PACKERS[how], "-c"], stdin=disk, stdout=file, check=True)
    found = measure(packed, BIG, tmp_path)
    assert found["message"] == ""
    (tmp_path / "disk").unlink()
    (tmp_path / "image").unlink()


@pytest.mark.row("X8")
@pytest.mark.parametrize(
    "packer", [["xz", "-T1", "--lzma2=preset=0,dict=96MiB"], ["zstd", "-q", "-1", "--long=31"]]
)
def test_what_needs_more_is_refused(tmp_path: Path, packer: list[str]) -> None:
    packed = tmp_path / "packed"
    with packed.open("wb") as file:
        subprocess.run([*packer, "-c"], input=os.urandom(MIB), stdout=file, check=True)
    found = measure(packed, MIB, tmp_path)
    assert "would take more memory" in str(found["message"])
    assert found["disk"] is None


@pytest.mark.row("X3")
@pytest.mark.parametrize("packer", [["xz", "-0"], ["zstd", "-q", "-1"]])
def test_a_bomb_stops_at_the_promised_size(tmp_path: Path, packer: list[str]) -> None:
    """256 MiB of zeros that call themselves one."""
    packed = tmp_path / "packed"
    zeros = subprocess.Popen(["head", "-c", str(256 * MIB), "/dev/zero"], stdout=subprocess.PIPE)
    with packed.open("wb") as file:
        subprocess.run([*packer, "-c"], stdin=zeros.stdout, stdout=file, check=True)
    zeros.communicate()
    found = measure(packed, MIB, tmp_path)
    assert "larger than" in str(found["message"])
    assert found["disk"] is None


DISK = os.urandom(100_000).ljust(MIB, b"\0") + os.urandom(5000).ljust(MIB, b"\0")


def blocks() -> bytearray:
    """Return a file of several blocks whose headers name their sizes, as xz -T writes it."""
    words = ["xz", "-0", "-T2", "--block-size=512KiB", "-c"]
    return bytearray(subprocess.run(words, input=DISK, capture_output=True, check=True).stdout)


def unpacked(folder: Path, packed: bytes) -> bytes:
    source = folder / "packed"
    source.write_bytes(packed)
    with source.open("rb", buffering=0) as file:
        unpack(file, folder / "image", Entry("x", "x", "x86_64", len(DISK), format="raw"), where="x")
    data = (folder / "image").read_bytes()
    (folder / "image").unlink()
    return data


def index_of(packed: bytearray) -> tuple[int, int]:
    """Return start and end of the index, by the size in the footer (xz file format 2.1.2)."""
    size = (int.from_bytes(packed[-8:-4], "little") + 1) * 4
    return len(packed) - 12 - size, len(packed) - 12


def wrong_index(packed: bytearray) -> None:
    """Give the first block another uncompressed size in the index, with the right checksum."""
    start, end = index_of(packed)
    at = start + 2
    while packed[at] & 0x80:  # over the unpadded size
        at += 1
    packed[at + 1] ^= 1
    packed[end - 4 : end] = zlib.crc32(packed[start : end - 4]).to_bytes(4, "little")


def wrong_block_header(packed: bytearray) -> None:
    """The same in the header of the first block."""
    assert packed[13] & 0xC0 == 0xC0, "both sizes are there"
    at = 14
    while packed[at] & 0x80:
        at += 1
    packed[at + 1] ^= 1
    end = 12 + (packed[12] + 1) * 4
    packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(4, "little")


def wrong_footer(packed: bytearray) -> None:
    """Another check type in the footer than in the header."""
    packed[-3] ^= 5
    packed[-12:-8] = zlib.crc32(packed[-8:-2]).to_bytes(4, "little")


def wrong_data(packed: bytearray) -> None:
    """Bytes of one block changed so that only its own check can tell."""
    packed[len(packed) // 4] ^= 1


@pytest.mark.row("X2", "X11")
@pytest.mark.parametrize("tamper", [wrong_index, wrong_block_header, wrong_footer, wrong_data])
def test_files_that_contradict_themselves(tmp_path: Path, tamper: Callable[[bytearray], None]) -> None:
    packed = blocks()
    tamper(packed)
    with pytest.raises(RepositoryError, match="damaged"):
        unpacked(tmp_path, bytes(packed))
    assert not (tmp_path / "image").exists()


@pytest.mark.row("X11")
def test_parallel_and_serial_decoding_are_the_same(tmp_path: Path) -> None:
    assert unpacked(tmp_path, bytes(blocks())) == DISK
    assert unpacked(tmp_path, lzma.compress(DISK)) == DISK
    assert (
        unpacked(tmp_path, bytes(blocks()[:0]) + lzma.compress(DISK[:MIB]) + lzma.compress(DISK[MIB:]))
        == DISK
    )

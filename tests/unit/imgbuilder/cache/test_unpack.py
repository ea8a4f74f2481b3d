from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from imgbuilder.cache import unpack
from imgbuilder.errors import RepositoryError, ToolError, WorkspaceError
from imgbuilder.events import Event, Progress, ProgressEnd
from imgbuilder.host import process
from imgbuilder.host.sparse import disk_usage
from imgindex.model import Entry

MIB = 1 << 20
SIZE = 3 * MIB + 512
DISK = b"start" + bytes(MIB) + os.urandom(100_000)
DISK = DISK.ljust(SIZE - 3, b"\0") + b"end"

pytestmark = pytest.mark.skipif(shutil.which("xz") is None, reason="the program xz is not installed")
needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="the program zstd is not installed")


def entry(size: int = SIZE, image_format: str | None = "raw") -> Entry:
    return Entry("x", "x.xz", "x86_64", size, format=image_format)


def run(
    tmp_path: Path, packed: bytes, wanted: Entry | None = None, events: list[Event] | None = None
) -> Path:
    source, image = tmp_path / "source", tmp_path / "image"
    source.write_bytes(packed)
    with source.open("rb", buffering=0) as file:
        file.read(100)  # its position does not matter
        on_event = events.append if events is not None else (lambda _event: None)
        unpack.unpack(file, image, wanted or entry(), on_event, where="x of s")
    return image


def refused(tmp_path: Path, packed: bytes, wanted: Entry | None = None) -> str:
    with pytest.raises(RepositoryError) as caught:
        run(tmp_path, packed, wanted)
    assert "x of s" in caught.value.message
    assert not (tmp_path / "image").exists()
    return caught.value.message


def xz(data: bytes, check: int = lzma.CHECK_CRC64) -> bytes:
    return lzma.compress(data, check=check, preset=0)


def zstd(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, capture_output=True, check=True).stdout


Pack = Callable[[bytes], bytes]
PACKED = [xz, pytest.param(zstd, marks=needs_zstd)]


@pytest.mark.parametrize("pack", PACKED)
def test_a_template_becomes_a_sparse_disk(events: list[Event], tmp_path: Path, pack: Pack) -> None:
    packed = pack(DISK)
    image = run(tmp_path, packed, events=events)
    assert image.read_bytes() == DISK
    assert disk_usage(image) <= 4 * 65536 + 100_000
    # By what was read of the file: of its zeros, gigabytes come out at once.
    assert events[-2:] == [Progress("Unpacking x", len(packed), len(packed)), ProgressEnd()]


def test_plain_disk(tmp_path: Path) -> None:
    assert run(tmp_path, DISK, entry(image_format=None)).read_bytes() == DISK


@pytest.mark.row("X7")
@pytest.mark.parametrize("check", [lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256])
def test_all_checks(tmp_path: Path, check: int) -> None:
    assert run(tmp_path, xz(DISK, check)).read_bytes() == DISK


@pytest.mark.row("X5")
@pytest.mark.parametrize("padding", [0, 4, 8])
def test_streams_and_padding(tmp_path: Path, padding: int) -> None:
    packed = xz(DISK[:MIB]) + bytes(padding) + xz(DISK[MIB:]) + bytes(padding)
    assert run(tmp_path, packed).read_bytes() == DISK


@pytest.mark.row("X5", "X6")
@pytest.mark.parametrize("tail", [bytes(6), b"junkjunk", gzip.compress(b"x", mtime=0), b"\xfd7zXZ\0"])
def test_junk_after_the_stream(tmp_path: Path, tail: bytes) -> None:
    assert "damaged although its digest is right" in refused(tmp_path, xz(DISK) + tail)


@pytest.mark.row("X1")
@pytest.mark.parametrize("pack", PACKED)
def test_truncated(tmp_path: Path, pack: Pack) -> None:
    packed = pack(DISK)
    end = len(packed)
    for cut in (4, 5, 6, 7, 8, 12, *range(1024, end, 4096), *range(end - 32, end, 3), end - 1):
        refused(tmp_path, packed[:cut])


@pytest.mark.row("X2")
@pytest.mark.parametrize(
    ("pack", "positions"),
    [(xz, (7, 9, 14, 50_000, -20, -8, -1)), pytest.param(zstd, (4, 50_000, -20, -2), marks=needs_zstd)],
)
def test_one_bit_flipped(tmp_path: Path, pack: Pack, positions: tuple[int, ...]) -> None:
    packed = pack(DISK)
    for position in positions:
        flipped = bytearray(packed)
        flipped[position] ^= 4
        refused(tmp_path, bytes(flipped))


@pytest.mark.row("X3")
@pytest.mark.parametrize("extra", [1, 512, 9 * SIZE])
@pytest.mark.parametrize("pack", [*PACKED, bytes])
def test_longer_than_promised(tmp_path: Path, extra: int, pack: Pack) -> None:
    assert "larger" in refused(tmp_path, pack(DISK + bytes(extra)))
    assert "larger" in refused(tmp_path, pack(DISK) + pack(bytes(extra)))


@pytest.mark.row("X3")
@pytest.mark.parametrize("pack", PACKED)
def test_bomb_is_stopped_at_the_promised_size(events: list[Event], tmp_path: Path, pack: Pack) -> None:
    with pytest.raises(RepositoryError, match="larger"):
        run(tmp_path, pack(bytes(64 * MIB)), events=events)
    assert max(event.done for event in events if isinstance(event, Progress)) <= SIZE


@pytest.mark.row("X4")
@pytest.mark.parametrize("pack", [*PACKED, bytes])
@pytest.mark.parametrize("length", [512, SIZE - 1])
def test_shorter_than_promised(tmp_path: Path, length: int, pack: Pack) -> None:
    assert f"{length} bytes" in refused(tmp_path, pack(DISK[:length]))


def with_dictionary(size: int) -> bytes:
    """Return the packed disk; its header says how much memory a decoder needs for the dictionary."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    packed = bytearray(lzma.compress(DISK, filters=filters, check=lzma.CHECK_NONE))
    # The block header at 12: size, flags, filter id, size of properties, dictionary size, padding, CRC32.
    assert packed[14:16] == b"\x21\x01"
    packed[16] = size
    end = 12 + (packed[12] + 1) * 4
    packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(4, "little")
    return bytes(packed)


@pytest.mark.row("X8")
def test_dictionary_that_needs_too_much_memory(tmp_path: Path) -> None:
    assert "memory" in refused(tmp_path, with_dictionary(37)).lower()  # 1.5 GiB


def test_largest_dictionary_of_the_presets(tmp_path: Path) -> None:
    assert run(tmp_path, with_dictionary(28)).read_bytes() == DISK  # 64 MiB


def tar() -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("disk"), io.BytesIO())
    return body.getvalue()


def zipped() -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("disk", b"x")
    return body.getvalue()


@pytest.mark.row("X9")
@pytest.mark.parametrize(
    ("packed", "name"),
    [
        (gzip.compress(DISK), "gzip"),
        (bz2.compress(DISK), "bzip2"),
        (tar(), "tar"),
        (zipped(), "zip"),
        (lzma.compress(DISK, format=lzma.FORMAT_ALONE), "lzma"),
    ],
    ids=["gzip", "bzip2", "tar", "zip", "lzma"],
)
def test_unsupported_kinds_are_named(tmp_path: Path, packed: bytes, name: str) -> None:
    assert f"a {name} file" in refused(tmp_path, packed)


@pytest.mark.row("X9")
@needs_zstd
def test_zstd_named_xz_is_unpacked_as_what_it_is(tmp_path: Path) -> None:
    assert entry().file == "x.xz"
    assert run(tmp_path, zstd(DISK)).read_bytes() == DISK


@pytest.mark.row("X10")
@pytest.mark.parametrize("packed", [b"", b"\xfd7zXZ\0", b"\xfd"])
def test_next_to_nothing(tmp_path: Path, packed: bytes) -> None:
    refused(tmp_path, packed)


@pytest.mark.row("X12")
@pytest.mark.parametrize(
    "magic",
    [b"QFI\xfb\0\0\0\3", b"KDMV", b"# Disk DescriptorFile", b"LUKS\xba\xbe", b"vhdxfile", b"conectix"],
)
def test_raw_stays_raw_whatever_it_looks_like(tmp_path: Path, magic: bytes) -> None:
    disk = magic + DISK[len(magic) :]
    assert run(tmp_path, xz(disk), entry(image_format="raw")).read_bytes() == disk
    (tmp_path / "image").unlink()
    refused(tmp_path, xz(disk), entry(image_format=None))  # where no format is named, no guess is made


def test_undeclared_raw_disk_is_raw(tmp_path: Path) -> None:
    assert run(tmp_path, xz(DISK), entry(image_format=None)).read_bytes() == DISK
    for other in (DISK + b"x", DISK[:-1]):
        (tmp_path / "image").unlink(missing_ok=True)
        refused(tmp_path, xz(other), entry(image_format=None))


@pytest.mark.row("X17")
def test_raw_file_declared_as_qcow2(tmp_path: Path) -> None:
    assert "qcow2" in refused(tmp_path, xz(DISK), entry(image_format="qcow2"))


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_qcow2(tmp_path: Path) -> None:
    made = tmp_path / "made.qcow2"
    (tmp_path / "raw").write_bytes(DISK)
    process.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", tmp_path / "raw", made])
    wanted = entry(image_format="qcow2")
    for packed in (made.read_bytes(), xz(made.read_bytes())):
        image = run(tmp_path, packed, wanted)
        assert image.read_bytes() == made.read_bytes()
        image.unlink()
    message = refused(tmp_path, xz(made.read_bytes()), entry(SIZE + 512, "qcow2"))
    assert "index promises" in message  # X18
    refused(tmp_path, xz(made.read_bytes()), entry())  # X17: says raw


def test_existing_destination_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"mine")
    with pytest.raises(WorkspaceError):
        run(tmp_path, xz(DISK))
    assert (tmp_path / "image").read_bytes() == b"mine"


def test_links_are_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "image").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkspaceError):
        run(tmp_path, xz(DISK))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("pack", "package"), [(xz, "xz-utils"), pytest.param(zstd, "zstd", marks=needs_zstd)]
)
def test_a_missing_program_is_not_the_publisher_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Pack, package: str
) -> None:
    packed = pack(DISK)
    monkeypatch.setattr(process, "find_program", lambda _name: None)
    with pytest.raises(ToolError) as caught:
        run(tmp_path, packed)
    assert package in (caught.value.hint or "")
    assert not (tmp_path / "image").exists()


def test_a_decompressor_that_was_killed_is_not_the_publisher_s_fault(tmp_path: Path) -> None:
    """As the kernel does when memory runs out; it was called a damaged template."""
    killed: list[int] = []

    def kill(_event: Event) -> None:
        if not killed:
            # It waits: more is left than the pipe holds.
            (child,) = [one for one in psutil.Process().children() if one.name() == "xz"]
            killed.append(child.pid)
            child.kill()

    with pytest.raises(ToolError, match=r"x of s: .*xz was killed by SIGKILL") as caught:
        source = tmp_path / "source"
        source.write_bytes(xz(DISK))
        with source.open("rb", buffering=0) as file:
            unpack.unpack(file, tmp_path / "image", entry(), kill, where="x of s")
    assert killed
    assert "memory" in (caught.value.hint or "")
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize(("program", "options"), [("xz", ["-T1", "-9"]), ("zstd", ["-q", "--long=27"])])
def test_a_system_without_memory_is_not_the_publisher_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, options: list[str]
) -> None:
    if shutil.which(program) is None or shutil.which("prlimit") is None:
        pytest.skip(f"{program} or prlimit is not installed")
    real = process.streaming
    limited = ["prlimit", f"--as={32 << 20}"]
    monkeypatch.setattr(process, "streaming", lambda words, **named: real([*limited, *words], **named))
    packed = subprocess.run([program, *options, "-c"], input=DISK, capture_output=True, check=True).stdout
    with pytest.raises(ToolError, match="x of s: ") as caught:
        run(tmp_path, packed)
    assert "damaged" not in caught.value.message
    assert "memory" in (caught.value.hint or "")
    assert not (tmp_path / "image").exists()


def test_no_space_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(WorkspaceError, match="no space left") as caught:
        run(tmp_path, xz(DISK))
    assert str(tmp_path) in caught.value.message
    assert not (tmp_path / "image").exists()

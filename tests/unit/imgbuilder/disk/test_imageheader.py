"""The pure rules; hostile files that qemu-img makes are in ``tests/attack/test_image_headers.py``."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.disk.imageheader import UNNAMED, check_image, check_other, check_qcow2, check_raw, find_format
from imgbuilder.disk.magic import foreign_format
from imgbuilder.disk.qcow2 import Qcow2Facts, parse_qcow2
from imgbuilder.errors import DiskError

CLUSTER = 1 << 16
FILE_SIZE = 4 * CLUSTER
FIELDS = {
    "magic": (0, ">4s", b"QFI\xfb"),
    "version": (4, ">I", 3),
    "backing_offset": (8, ">Q", 0),
    "backing_length": (16, ">I", 0),
    "cluster_bits": (20, ">I", 16),
    "size": (24, ">Q", 1 << 30),
    "encryption": (32, ">I", 0),
    "l1_entries": (36, ">I", 2),
    "l1_offset": (40, ">Q", CLUSTER),
    "refcount_offset": (48, ">Q", 2 * CLUSTER),
    "refcount_clusters": (56, ">I", 1),
    "snapshots": (60, ">I", 0),
    "snapshots_offset": (64, ">Q", 0),
    "incompatible": (72, ">Q", 0),
    "compatible": (80, ">Q", 0),
    "autoclear": (88, ">Q", 0),
    "refcount_order": (96, ">I", 4),
    "header_length": (100, ">I", 112),
    "compression": (104, ">B", 0),
}


def header(extensions: bytes = bytes(8), **changes: object) -> bytes:
    data = bytearray(CLUSTER)
    for name, (offset, layout, value) in FIELDS.items():
        struct.pack_into(layout, data, offset, changes.get(name, value))
    start = struct.unpack_from(">I", data, 100)[0]
    if start + len(extensions) <= CLUSTER:
        data[start : start + len(extensions)] = extensions
    return bytes(data)


def parse(data: bytes, file_size: int = FILE_SIZE) -> Qcow2Facts:
    return parse_qcow2(data, file_size, where="x")


def test_good_headers() -> None:
    assert parse(header()) == Qcow2Facts(3, 1 << 30, CLUSTER, "zlib")
    assert parse(header(version=2)).version == 2
    assert parse(header(incompatible=8, compression=1)).compression == "zstd"
    assert parse(header(incompatible=16, l1_entries=4)).virtual_size == 1 << 30  # extended L2
    assert parse(header(header_length=104)).version == 3
    names = struct.pack(">II", 0x6803F857, 48) + bytes(48)
    assert parse(header(extensions=names + bytes(8))).version == 3


def test_the_last_cluster_may_be_short() -> None:
    assert parse(header(), 2 * CLUSTER + 1)
    with pytest.raises(DiskError, match="refcount table lies outside"):
        parse(header(), 2 * CLUSTER)


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">II", kind, len(body)) + body + bytes(-len(body) % 8)


WRONG: list[tuple[str, str, list[object]]] = [
    ("magic", "begin", [b"QFI\xfa"]),
    ("version", "version [14]", [1, 4]),
    ("backing_offset", "backing file", [512]),
    ("backing_length", "backing file", [13]),
    ("encryption", "encrypted", [1, 2]),
    ("snapshots", "snapshots", [1]),
    ("cluster_bits", "cluster size", [8, 22, 63, 0xFFFFFFFF]),
    ("size", "virtual size", [0, 1 << 60, (1 << 64) - 1]),
    ("incompatible", "dirty", [1]),
    ("incompatible", "corrupt", [2]),
    ("incompatible", "another file", [4]),
    ("incompatible", "unknown features", [32, 1 << 63]),
    ("incompatible", "compression", [8]),
    ("refcount_order", "refcount order", [7, 9]),
    ("header_length", "header length", [0xFFFFFFFF, 103, 113, CLUSTER + 8]),
    ("compression", "compression", [1]),
    ("l1_entries", "too small", [1]),
    ("l1_entries", "L1 table", [1 << 31, 8 * CLUSTER]),
    ("l1_offset", "L1 table", [0, CLUSTER + 8, 1 << 62]),
    ("refcount_clusters", "refcount table", [0, 0xFFFFFFFF, 3]),
    ("refcount_offset", "refcount table", [0]),
    ("extensions", "data file", [extension(0x44415441, b"/etc/passwd")]),
    ("extensions", "data file", [extension(1, b"x") + extension(0x44415441, b"")]),
    ("extensions", "encrypted", [extension(0x0537BE77, bytes(16))]),
    ("extensions", "longer than the header", [struct.pack(">II", 1, size) for size in (0xFFFFFFFF, CLUSTER)]),
]


@pytest.mark.row("X13", "X14", "X15", "X16")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(({field: value}, words) for field, words, values in WRONG for value in values),
        ({"compression": 2, "incompatible": 8}, "compression"),
        ({"l1_entries": 3, "incompatible": 16}, "too small"),
    ],
)
def test_refused_headers(changes: dict[str, object], words: str) -> None:
    with pytest.raises(DiskError, match=words):
        parse(header(**changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 3, 4, 71, 72, 103])
def test_too_short(length: int) -> None:
    with pytest.raises(DiskError):
        parse(header()[:length], length)


def test_version_2_reads_no_further_than_its_header() -> None:
    data = header(version=2)[:72] + b"\xff" * 32
    with pytest.raises(DiskError, match="longer than the header"):  # what follows are extensions
        parse(data)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    for file in (data, b"QFI\xfb\0\0\0\3" + data, b"QFI\xfb\0\0\0\2" + data):
        with pytest.raises(DiskError):
            parse(file, len(file))


@given(st.dictionaries(st.integers(4, 120), st.integers(0, 255), max_size=6), st.integers(0, 1 << 40))
def test_any_mutation(changes: dict[int, int], file_size: int) -> None:
    data = bytearray(header())
    for position, value in changes.items():
        data[position] = value
    try:
        facts = parse(bytes(data), file_size)
    except DiskError:
        return
    assert not any(data[8:20])  # no backing file
    assert not any(data[32:36])  # no encryption
    assert not any(data[60:64])  # no snapshots
    assert not data[79] & 0b111
    assert 0 < facts.virtual_size <= 16 << 40


@pytest.mark.row("X17")
def test_check_raw(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(1024))
    check_raw(path, 1024)
    check_image(path, "raw", 1024)
    for size in (512, 1023, 1025):
        with pytest.raises(DiskError, match="1024 bytes"):
            check_raw(path, size)


@pytest.mark.row("X18")
def test_check_qcow2_compares_sizes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(header() + bytes(FILE_SIZE - CLUSTER))
    assert check_qcow2(path, 1 << 30) == check_qcow2(path)
    with pytest.raises(DiskError, match="promises"):
        check_qcow2(path, (1 << 30) + 512)
    with pytest.raises(DiskError, match="not supported"):
        check_image(path, "vmdk", 1 << 30)


def test_other_things_than_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ".", "missing"):
        with pytest.raises(DiskError):
            check_raw(tmp_path / name, 0)
        with pytest.raises(DiskError):
            check_qcow2(tmp_path / name)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"QFI\xfb", "qcow2"),
        (b"KDMV", "vmdk"),
        (b"COWD", "vmdk"),
        (b"# Disk DescriptorFile", "vmdk"),
        (b"\n  # disk descriptorfile", "vmdk"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vpc"),
        (b"LUKS\xba\xbe", "luks"),
        (b"QED\0", "qed"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "vdi"),
        (b"WithoutFreeSpace", "parallels"),
        (b"", None),
        (bytes(512), None),
        (b"\xeb\x63\x90", None),
        (b" " * 200, None),
    ],
)
def test_what_a_file_looks_like(tmp_path: Path, head: bytes, name: str | None) -> None:
    assert foreign_format(head) == name
    path = tmp_path / "x"
    path.write_bytes(head.ljust(4096, b"\0"))
    if name is None and len(head) < 200:
        assert find_format(path) == find_format(path, 4096) == "raw"
        check_image(path, UNNAMED, 4096)
        with pytest.raises(DiskError, match="promises"):
            find_format(path, 8192)
    elif name is not None:
        with pytest.raises(DiskError):
            find_format(path)


def test_an_unnamed_qcow2_image_is_found_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(header() + bytes(FILE_SIZE - CLUSTER))
    assert find_format(path) == find_format(path, 1 << 30) == "qcow2"
    with pytest.raises(DiskError, match="promises"):
        find_format(path, FILE_SIZE)


@given(st.binary(max_size=200))
def test_any_head_has_an_answer(head: bytes) -> None:
    assert foreign_format(head) in {
        None, "qcow2", "qed", "vmdk", "vhdx", "vpc", "vdi", "parallels", "bochs", "cloop", "luks",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("vmdk", [], ""),
        ("vmdk", ["-o", "subformat=streamOptimized"], ""),
        ("vdi", [], ""),
        ("vhdx", [], ""),
        ("vmdk", ["-o", "subformat=monolithicFlat"], "only describes other files"),
        ("vmdk", ["-o", "subformat=twoGbMaxExtentSparse"], "only describes other files"),
        ("vmdk", ["-b", "PARENT", "-F", "vmdk"], "has a parent"),
        ("qcow2", [], "is not a vmdk image"),
    ],
)
def test_images_that_only_qemu_reads_name_no_other_files(
    tmp_path: Path, kind: str, options: list[str], says: str
) -> None:
    parent, image = tmp_path / "parent", tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", parent, "4M"], check=True)
    words = [str(parent) if word == "PARENT" else word for word in options]
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, *words, image, "4M"], check=True)
    if not says:
        check_other(image, kind)
        return
    with pytest.raises(DiskError, match=says):
        check_other(image, "vmdk")

"""Rows X12 to X18: no hostile image reaches a program of qemu, and real ones pass.

``qemu-img`` makes the hostile images, and is the oracle for the harmless ones.
"""

from __future__ import annotations

import json
import resource
import shutil
import struct
from pathlib import Path

import pytest

from imgbuilder.disk.imageheader import check_qcow2, check_raw
from imgbuilder.errors import DiskError
from imgbuilder.host import process

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")

SIZE = 64 << 20


def create(path: Path, *options: str, size: int = SIZE, image_format: str = "qcow2") -> Path:
    process.run(["qemu-img", "create", "-q", "-f", image_format, *options, path, str(size)])
    return path


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-o", "compat=0.10"),
        ("-o", "cluster_size=512"),
        ("-o", "cluster_size=2M"),
        ("-o", "preallocation=metadata"),
        ("-o", "lazy_refcounts=on"),
        ("-o", "refcount_bits=1"),
        ("-o", "refcount_bits=64"),
        ("-o", "extended_l2=on"),
        ("-o", "compression_type=zstd"),
    ],
    ids=lambda options: options[-1] if options else "default",
)
@pytest.mark.parametrize("size", [512, SIZE, 10 << 30])
def test_harmless_images_pass(tmp_path: Path, options: tuple[str, ...], size: int) -> None:
    image = create(tmp_path / "x", *options, size=size)
    facts = check_qcow2(image, size)
    printed = json.loads(process.run(["qemu-img", "info", "-f", "qcow2", "--output=json", image]).stdout)
    assert facts.virtual_size == printed["virtual-size"]
    assert facts.cluster_size == printed["cluster-size"]
    assert facts.compression == printed["format-specific"]["data"].get("compression-type", "zlib")


@pytest.mark.row("X18")
def test_other_virtual_size(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="promises"):
        check_qcow2(create(tmp_path / "x"), SIZE + 512)


@pytest.mark.row("X13")
@pytest.mark.parametrize(
    "backing",
    [
        "/etc/hostname",
        "../../etc/hostname",
        'json:{"driver":"file","filename":"/etc/hostname"}',
        "nbd://127.0.0.1/",
        "/dev/zero",
    ],
)
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_backing_file(tmp_path: Path, backing: str, compat: str) -> None:
    image = create(tmp_path / "x", "-u", "-b", backing, "-F", "raw", "-o", f"compat={compat}")
    with pytest.raises(DiskError, match="backing file"):
        check_qcow2(image, SIZE)


@pytest.mark.row("X14")
@pytest.mark.parametrize("raw", ["on", "off"])
def test_data_file(tmp_path: Path, raw: str) -> None:
    canary = tmp_path / "canary"
    image = create(tmp_path / "x", "-o", f"data_file={canary},data_file_raw={raw}")
    canary.write_bytes(b"secret of the host")
    before = canary.stat()
    with pytest.raises(DiskError, match="another file"):
        check_qcow2(image, SIZE)
    after = canary.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    # Without the feature bit, but with the name still there.
    with image.open("r+b") as file:
        file.seek(72)
        file.write(bytes(8))
    with pytest.raises(DiskError, match="data file"):
        check_qcow2(image, SIZE)


@pytest.mark.row("X15")
def test_internal_snapshot(tmp_path: Path) -> None:
    image = create(tmp_path / "x")
    process.run(["qemu-img", "snapshot", "-c", "one", image])
    with pytest.raises(DiskError, match="snapshots"):
        check_qcow2(image, SIZE)


@pytest.mark.row("X15")
def test_encryption(tmp_path: Path) -> None:
    secret = ("--object", "secret,id=s,data=password")
    # The old AES encryption, because qemu-img measures the CPU for LUKS, which fails on a busy machine.
    image = create(tmp_path / "x", *secret, "-o", "encrypt.format=aes,encrypt.key-secret=s")
    with pytest.raises(DiskError, match="encrypted"):
        check_qcow2(image, SIZE)


@pytest.mark.row("X15")
@pytest.mark.parametrize("image_format", ["qcow", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"])
def test_other_formats(tmp_path: Path, image_format: str) -> None:
    image = create(tmp_path / "x", image_format=image_format)
    with pytest.raises(DiskError):
        check_qcow2(image, SIZE)


@pytest.mark.row("X17")
def test_raw_disk_declared_as_qcow2(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(1 << 20))
    with pytest.raises(DiskError, match="begin"):
        check_qcow2(tmp_path / "x", 1 << 20)


@pytest.mark.row("X12")
@pytest.mark.parametrize(
    "magic", [b"QFI\xfb", b"KDMV", b"# Disk DescriptorFile", b"LUKS\xba\xbe", b"vhdxfile"]
)
def test_raw_disks_are_raw_whatever_they_look_like(tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "x").write_bytes(magic + bytes(4096 - len(magic)))
    check_raw(tmp_path / "x", 4096)


@pytest.mark.row("X15", "X16")
@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (24, ">Q", 1 << 60),
        (36, ">I", 1 << 31),
        (20, ">I", 63),
        (96, ">I", 9),
        (100, ">I", 0xFFFFFFFF),
        (56, ">I", 0xFFFFFFFF),
        (4, ">I", 1),
        (4, ">I", 4),
        (72, ">Q", 1 << 5),
    ],
)
def test_header_bombs(tmp_path: Path, offset: int, layout: str, value: int) -> None:
    image = create(tmp_path / "x")
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack(layout, value))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DiskError):
        check_qcow2(image, SIZE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_sparse_giant_is_not_read(tmp_path: Path) -> None:
    image = create(tmp_path / "x")
    with image.open("r+b") as file:
        file.truncate(8 << 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_qcow2(image, SIZE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000

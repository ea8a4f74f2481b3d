"""A user's own images: named by what they are, overlays over images that the user named, and no others."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shlex
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from imgbuilder.disk.imageheader import check_own, check_qcow2, find_format
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import DiskError
from tests.fakes.machine import locked

DISK = bytes(1 << 16) + b"disk"


def packed(folder: Path, kind: str, name: str) -> Path:
    path = folder / name
    match kind:
        case "xz":
            path.write_bytes(lzma.compress(DISK))
        case "gzip":
            path.write_bytes(gzip.compress(DISK))
        case "bzip2":
            path.write_bytes(bz2.compress(DISK))
        case "zstd":
            path.write_bytes(
                subprocess.run(["zstd", "-qc"], input=DISK, capture_output=True, check=True).stdout
            )
        case "lz4":
            path.write_bytes(b"\x04\x22\x4d\x18" + DISK)
        case "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("disk.img", DISK)
        case "tar":
            (folder / "disk.vmdk").write_bytes(DISK)
            with tarfile.open(path, "w") as tar:
                tar.add(folder / "disk.vmdk", "disk.vmdk")
    return path


@pytest.mark.parametrize("named", [None, "qcow2"])
@pytest.mark.parametrize("kind", ["xz", "gzip", "bzip2", "zstd", "lz4", "zip", "tar"])
@pytest.mark.parametrize("name", ["my disk.img.x", "disk.img", "vm.ova", "disk.qcow2"])
def test_packed_files_are_named_with_the_command_that_unpacks_them(
    tmp_path: Path, kind: str, name: str, named: str | None
) -> None:
    path = packed(tmp_path, kind, name)
    for role in (Role.OWN, Role.GUEST):
        with pytest.raises(DiskError, match=f"is packed with {kind}") as caught:
            check_own(path, named, role)
        assert "publisher" not in str(caught.value.hint)
    command = str(caught.value.hint).partition(": ")[2].partition(";")[0]
    if kind in ("xz", "gzip", "bzip2", "zstd"):
        before = path.read_bytes()
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        assert Path(shlex.split(command)[-1].lstrip(">")).read_bytes() == DISK
        assert path.read_bytes() == before


def test_the_advice_replaces_no_file(tmp_path: Path) -> None:
    path = packed(tmp_path, "xz", "disk.img.xz")
    for there, target in ((False, "disk.img"), (True, "disk.img.xz.unpacked")):
        if there:
            (tmp_path / "disk.img").touch()
        with pytest.raises(DiskError) as caught:
            check_own(path, None, Role.GUEST)
        assert str(caught.value.hint).endswith(f">{tmp_path / target}")


@pytest.mark.parametrize(
    ("offset", "signature", "words"),
    [
        (0, b"hsqs", "squashfs"), (32769, b"CD001", "ISO image"), (1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
        (0, b"\x45\x3d\xcd\x28", "cramfs"),
    ],
)  # fmt: skip
def test_what_is_read_only_cannot_be_customized(
    tmp_path: Path, offset: int, signature: bytes, words: str
) -> None:
    path = tmp_path / "x.img"
    path.write_bytes(bytes(offset) + signature + bytes(1 << 16))
    for named in (None, "raw"):
        with pytest.raises(DiskError, match=words):
            check_own(path, named, Role.GUEST)
    assert check_own(path, None, Role.OWN) == ("raw", ()), "it can be attached"


def overlay(path: Path, over: str, kind: str | None = "qcow2") -> Path:
    form = [] if kind is None else ["-F", kind]
    subprocess.run(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", over, *form, path, "1M"], check=True
    )
    return path


def base(path: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return path


def test_a_chain_is_used_when_all_of_it_was_named(tmp_path: Path) -> None:
    low, raw = base(tmp_path / "low.qcow2"), tmp_path / "raw.img"
    raw.write_bytes(bytes(1 << 20))
    middle = overlay(tmp_path / "middle.qcow2", "low.qcow2")
    top = overlay(tmp_path / "top.qcow2", str(middle))
    assert check_own(top, None, Role.GUEST, backing=(low, middle)) == ("qcow2", (middle, low))
    over_raw = overlay(tmp_path / "over-raw.qcow2", "raw.img", "raw")
    assert check_own(over_raw, "qcow2", Role.GUEST, backing=(raw,)) == ("qcow2", (raw,))
    for known in ((), (middle,), (low,)):
        with pytest.raises(DiskError, match="overlay") as caught:
            check_own(top, None, Role.GUEST, backing=known)
        missing = low if middle in known else middle
        assert f"--backing {missing}" in str(caught.value.hint)
        assert "publisher" not in f"{caught.value}{caught.value.hint}"


def test_a_chain_may_hide_nothing(tmp_path: Path) -> None:
    """Every member is checked like an image from another person."""
    low = overlay(tmp_path / "low.qcow2", "/etc/hostname", "raw")
    top = overlay(tmp_path / "top.qcow2", "low.qcow2")
    with pytest.raises(DiskError, match="/etc/hostname"):
        check_own(top, None, Role.GUEST, backing=(low,))
    with pytest.raises(DiskError, match="overlay"):  # the raw file in its place was not named
        check_own(overlay(tmp_path / "a.qcow2", "/etc/hostname", "raw"), None, Role.GUEST, backing=(low,))
    with pytest.raises(DiskError, match="not a local file"):
        check_own(overlay(tmp_path / "b.qcow2", "nbd://x/y"), None, Role.GUEST, backing=(low,))
    loop = overlay(tmp_path / "c.qcow2", "c.qcow2")
    with pytest.raises(DiskError, match="overlay"):
        check_own(loop, None, Role.GUEST, backing=(loop,))
    kind = overlay(tmp_path / "d.qcow2", "e.qcow2", "qcow2")
    with pytest.raises(DiskError):
        check_own(kind, None, Role.GUEST, backing=(tmp_path / "e.qcow2",))
    base(tmp_path / "e.qcow2")
    data = bytearray(kind.read_bytes())
    at = data.index(struct.pack(">II", 0xE2792ACA, 5))
    data[at + 8 : at + 13] = b"vmdk\0"
    kind.write_bytes(data)
    with pytest.raises(DiskError, match="format") as caught:
        check_own(kind, None, Role.GUEST, backing=(tmp_path / "e.qcow2",))
    assert "qemu-img rebase -u" in str(caught.value.hint)
    with locked(tmp_path / "e.qcow2"), pytest.raises(DiskError, match="use"):
        check_own(overlay(tmp_path / "f.qcow2", "e.qcow2"), None, Role.GUEST, backing=(tmp_path / "e.qcow2",))


@pytest.mark.parametrize(
    ("role", "publisher"), [(Role.OWN, False), (Role.GUEST, False), (Role.TEMPLATE, True)]
)
def test_words_fit_whose_image_it_is(tmp_path: Path, role: Role, publisher: bool) -> None:
    image = base(tmp_path / "x.qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "one", image], check=True)
    vmdk = tmp_path / "x.vmdk"
    vmdk.write_bytes(b"KDMV" + bytes(4092))
    hints = []
    for judge in (lambda: check_qcow2(image, role=role), lambda: find_format(vmdk, role=role)):
        with pytest.raises(DiskError) as caught:
            judge()
        hints.append(str(caught.value.hint))
    assert ("publisher" in hints[0]) == publisher
    assert ("qemu-img convert" in hints[0]) == ("qemu-img convert -f vmdk" in hints[1]) == (not publisher)

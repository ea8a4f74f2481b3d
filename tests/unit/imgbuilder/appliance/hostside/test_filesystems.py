"""Filesystems that are full, old, large or strange: changed as the kernel would, or left to an appliance."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgbuilder.appliance.hostside.connection import open_hostside
from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.appliance.options import Attachment
from imgbuilder.errors import GuestCallError, UnfitError
from tests.unit.imgbuilder.appliance.hostside.conftest import check, debugfs, make_image

_MIB = 1 << 20


@contextmanager
def _mounted(image: Path) -> Iterator[LibguestfsAppliance]:
    with open_hostside(Attachment(image, "raw")) as appliance:
        appliance.mount("/dev/sda", "/")
        yield appliance
        appliance.shutdown()


def _change(image: Path, request: str) -> None:
    subprocess.run(["debugfs", "-w", "-R", request, image], check=True, capture_output=True)


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ext2"),
        ("-t", "ext3"),
        ("-t", "ext4", "-b", "1024"),
        ("-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^64bit"),
        ("-t", "ext4", "-I", "128"),
        ("-t", "ext4", "-I", "512", "-O", "metadata_csum_seed"),
        ("-t", "ext4", "-O", "^dir_index,^flex_bg,^huge_file"),
    ],
)
def test_kinds_of_filesystems(tmp_path: Path, options: tuple[str, ...]) -> None:
    image = make_image(tmp_path / "disk", *options)
    with _mounted(image) as guest:
        guest.mkdir_p("/a/b")
        for number in range(60):
            guest.write(f"/a/b/{number:03}-{'n' * 150}", b"x" * number)
        guest.write("/large", bytes(range(256)) * 4000)
        guest.replace("/large", bytes(range(255)) * 4001)
        guest.symlink("x" * 100, "/link")
        guest.copy("/a", "/c")
        guest.move("/c/b", "/moved")
        guest.remove("/a")
        assert guest.read("/large") == bytes(range(255)) * 4001
        assert len(guest.ls("/moved")) == 60
        use = guest.filesystem_use()[0]
        assert 0 < use.free < use.total < 16 * _MIB
    check(image)


def test_a_folder_with_an_index(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "many").mkdir(parents=True)
    for number in range(300):
        (source / "many" / f"{number:04}-{'n' * 100}").touch()
    image = make_image(tmp_path / "disk", "-t", "ext4", "-b", "1024", "-d", str(source), size="32M")
    subprocess.run(["e2fsck", "-fyD", image], capture_output=True)  # it makes the index
    assert "0x81000" in debugfs(image, "stat /many")
    with _mounted(image) as guest:
        for number in range(300):
            guest.write(f"/many/more-{number:04}-{'n' * 100}", b"")
        for number in range(0, 300, 2):
            guest.remove(f"/many/{number:04}-{'n' * 100}")
        guest.move("/many", "/lost+found/many")
        assert len(guest.ls("/lost+found/many")) == 450
        assert guest.exists(f"/lost+found/many/more-0299-{'n' * 100}")
    check(image)


def test_a_full_filesystem(image: Path, tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        for number in range(40):
            file.write(bytes([number + 1]) * _MIB)
    with open_hostside(Attachment(image, "raw")) as guest:
        guest.mount("/dev/sda", "/")
        with pytest.raises((GuestCallError, UnfitError)) as failure:
            guest.upload(tmp_path / "big", "/big")
        assert "No space left on device" in str(failure.value) or "nearly full" in str(failure.value)
        guest.unmount_all()
    check(image)


def test_a_request_for_more_than_is_free(image: Path) -> None:
    with open_hostside(Attachment(image, "raw")) as guest:
        guest.mount("/dev/sda", "/")
        guest.write("/f", b"x" * (10 * _MIB))
        with pytest.raises(GuestCallError) as failure:
            guest._call("write", "/g", b"x" * (8 * _MIB))
        assert failure.value.errno_name == "ENOSPC"
        guest.unmount_all()
    check(image)


def test_attributes_stay_when_a_file_is_replaced(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_bytes(b"old")
    os.setxattr(source / "f", "user.big", b"v" * 900)
    image = make_image(tmp_path / "disk", "-t", "ext4", "-d", str(source))
    with _mounted(image) as guest:
        guest.replace("/f", b"new")
        guest.copy("/f", "/copy")
    for path in ("/f", "/copy"):
        assert "v" * 900 in debugfs(image, f"ea_get {path} user.big")
    check(image)


@pytest.mark.parametrize(
    "flags", ["immutable 0x80010", "append 0x80020", "encrypt 0x80800", "casefold 0x40080000"]
)
def test_files_with_rare_flags(image: Path, flags: str) -> None:
    with _mounted(image) as guest:
        guest.write("/f", b"")
    number = flags.split()[1]
    _change(image, f"set_inode_field /f flags {number}")
    requests: tuple[Callable[[LibguestfsAppliance], object], ...] = (
        lambda guest: guest.write("/f", b"x"),
        lambda guest: guest.remove("/f"),
        lambda guest: guest.move("/f", "/g"),
        lambda guest: guest.copy("/f", "/g"),
    )
    with open_hostside(Attachment(image, "raw")) as guest:
        guest.mount("/dev/sda", "/")
        for request in requests:
            with pytest.raises(UnfitError):
                request(guest)
    _change(image, "set_inode_field /f flags 0x80000")


def test_a_folder_that_hands_down_an_acl(image: Path, tmp_path: Path) -> None:
    with _mounted(image) as guest:
        guest.mkdir_p("/d")
    # Version 2, then tags, permissions and unused numbers: the owner, the group, others.
    entries = [struct.pack("<HHI", tag, 5, 0xFFFFFFFF) for tag in (0x1, 0x4, 0x20)]
    (tmp_path / "acl").write_bytes(struct.pack("<I", 2) + b"".join(entries))
    _change(image, f"ea_set -f {tmp_path}/acl /d system.posix_acl_default")
    with open_hostside(Attachment(image, "raw")) as guest:
        guest.mount("/dev/sda", "/")
        assert guest.ls("/d") == []
        with pytest.raises(UnfitError):
            guest.write("/d/f", b"")
    _change(image, "ea_rm /d system.posix_acl_default")


def test_folders_in_a_loop(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk", "-t", "ext4", "-O", "^metadata_csum")
    with _mounted(image) as guest:
        guest.mkdir_p("/a/b")
    _change(image, "link /a /a/b/again")
    with open_hostside(Attachment(image, "raw")) as guest:
        guest.mount("/dev/sda", "/")
        assert guest.realpath("/a/b/again/b/again/..") == "/a/b/again/b"
        for request in (
            lambda: guest.files_below("/"),
            lambda: guest.remove("/a"),
            lambda: guest.copy("/a", "/c"),
        ):
            with pytest.raises(UnfitError):
                request()


def test_names_without_end(tmp_path: Path) -> None:
    """More bytes of names than a list may have are an error, as with an appliance."""
    source = tmp_path / "source"
    deep = "/".join(["d" * 250] * 12)
    (source / deep).mkdir(parents=True)
    (source / "f").touch()
    for number in range(1400):
        os.link(source / "f", source / deep / f"{number:0250}")
    image = make_image(tmp_path / "disk", "-t", "ext4", "-d", str(source), size="32M")
    with _mounted(image) as guest:
        assert len(guest.ls(f"/{deep}")) == 1400
        with pytest.raises(GuestCallError) as failure:
            guest.files_below("/")
        assert failure.value.errno_name == "EFBIG"


def test_a_file_of_many_pieces(image: Path) -> None:
    with _mounted(image) as guest:
        for number in range(300):  # by turns, so that each gets many extents
            guest.append("/one", bytes([number % 256]) * 5000)
            guest.append("/two", bytes([number % 255]) * 5000)
        assert guest.read("/one") == b"".join(bytes([number % 256]) * 5000 for number in range(300))
        guest.remove("/two")
        guest.truncate("/one")
        free = guest.filesystem_use()[0].free
    with _mounted(image) as guest:
        assert guest.filesystem_use()[0].free == free


def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    images = []
    for name in ("one", "two"):
        options = ("-t", "ext4", "-U", "clear", "-E", "hash_seed=01234567-89ab-cdef-0123-456789abcdef")
        image = make_image(tmp_path / name, *options)
        _change(image, "set_super_value mkfs_time 1")
        _change(image, "set_super_value lastcheck 1")
        images.append(image)
    images[1].write_bytes(images[0].read_bytes())
    for image in images:
        with open_hostside(
            Attachment(image, "raw"), clock=lambda: 10**18 + 5, entropy=lambda size: b"e" * size
        ) as guest:
            guest.mount("/dev/sda", "/")
            guest.mkdir_p("/a/b")
            guest.write("/a/b/f", b"content" * 1000)
            guest.replace("/a/b/f", b"other")
            guest.copy("/a", "/c")
            guest.remove("/a")
            guest.shutdown()
    assert images[0].read_bytes() == images[1].read_bytes()

"""The check of a disk that the user names."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment
from imgbuilder.building.preflight import check_disk
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import DiskError, UsageError
from tests.fakes.machine import READER, locked


def make(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", *options, path, "1M"], check=True)
    return path


def checked(path: Path, disk_format: DiskFormat | None = None) -> Attachment:
    return check_disk(Attachment(path, disk_format, readonly=True))


def test_formats_are_decided_by_the_header(tmp_path: Path) -> None:
    image = make(tmp_path / "a")
    for asked in (None, DiskFormat.QCOW2):
        found = checked(image, asked)
        assert (found.path, found.format, found.readonly) == (image, "qcow2", True)
    assert checked(image, DiskFormat.RAW).format == "raw"
    (tmp_path / "b").write_bytes(bytes(4096))
    assert checked(tmp_path / "b").format == "raw"


def test_hostile_images_are_refused(tmp_path: Path) -> None:
    image = make(tmp_path / "a", "-b", "/etc/hostname", "-F", "raw")
    for asked in (None, DiskFormat.QCOW2):
        with pytest.raises(DiskError, match="backing file"):
            checked(image, asked)
    (tmp_path / "b").write_text('# Disk DescriptorFile\nRW 1 FLAT "/etc/hostname" 0\n')
    with pytest.raises(DiskError, match="vmdk"):
        checked(tmp_path / "b")


def test_a_text_is_a_disk_only_if_its_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(UsageError, match="not a disk image"):
        checked(tmp_path / "text")
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="not a disk image"):
        checked(tmp_path / "empty")
    assert checked(tmp_path / "text", DiskFormat.RAW).format == "raw"


def test_a_missing_image_is_reported_with_advice(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        checked(tmp_path / "missing")
    assert "pybuilder TEMPLATE" in str(caught.value.hint)


def test_folders_and_pipes_are_not_disks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "missing", tmp_path / "x" / "y"):
        with pytest.raises(UsageError, match=re.escape(str(path))):
            checked(path)


@pytest.mark.row("T24")
def test_a_backing_image_that_a_machine_writes_to_is_refused(tmp_path: Path) -> None:
    below = tmp_path / "below.img"
    below.write_bytes(bytes(4096))
    over = Attachment(make(tmp_path / "over", "-b", str(below), "-F", "raw"))
    assert check_disk(over, Role.GUEST, backing=[below]).backing == (below,)
    with locked(below, READER):
        check_disk(over, Role.GUEST, backing=[below])
    with locked(below), pytest.raises(DiskError, match=r"below\.img is used by another program"):
        check_disk(over, Role.GUEST, backing=[below])

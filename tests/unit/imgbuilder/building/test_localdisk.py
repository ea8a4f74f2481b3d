"""Disks of the user's own: read only, and judged like templates."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from imgbuilder.building.localdisk import local_disk
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import DiskError, UsageError


def make(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", *options, path, "1M"], check=True)
    return path


def test_formats_are_decided_by_the_header(tmp_path: Path) -> None:
    image = make(tmp_path / "a")
    for asked in (None, DiskFormat.QCOW2):
        found = local_disk(image, asked, "--attach")
        assert (found.path, found.format, found.readonly) == (image, "qcow2", True)
    assert local_disk(image, DiskFormat.RAW, "--attach").format == "raw"
    (tmp_path / "b").write_bytes(bytes(4096))
    assert local_disk(tmp_path / "b", None, "--attach").format == "raw"


def test_hostile_images_are_refused(tmp_path: Path) -> None:
    image = make(tmp_path / "a", "-b", "/etc/hostname", "-F", "raw")
    for asked in (None, DiskFormat.QCOW2):
        with pytest.raises(DiskError, match="backing file"):
            local_disk(image, asked, "--attach")
    (tmp_path / "b").write_text('# Disk DescriptorFile\nRW 1 FLAT "/etc/hostname" 0\n')
    with pytest.raises(DiskError, match="vmdk"):
        local_disk(tmp_path / "b", None, "--attach")


def test_a_text_is_taken_for_no_disk_unless_somebody_says_so(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(UsageError, match="no disk image"):
        local_disk(tmp_path / "text", None, "--attach")
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="no disk image"):
        local_disk(tmp_path / "empty", None, "--attach")
    assert local_disk(tmp_path / "text", DiskFormat.RAW, "--attach").format == "raw"


def test_a_missing_image_is_told_with_advice(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        local_disk(tmp_path / "missing", None, "--run-script")
    assert "pybuilder TEMPLATE" in str(caught.value.hint)


def test_what_is_no_disk(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "missing", tmp_path / "x" / "y"):
        with pytest.raises(UsageError, match="--attach"):
            local_disk(path, None, "--attach")

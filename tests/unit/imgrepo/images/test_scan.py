"""Finding images by name, and checking their headers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import DiskError, UsageError
from imgrepo.images.scan import SourceImage, check_unchanged, measure, scan
from tests.unit.imgrepo.repository import image


def only(folder: Path) -> SourceImage:
    (found,), skipped = scan(folder)
    assert skipped == ()
    return found


@pytest.mark.row("R11")
def test_only_regular_files_with_the_right_ending_are_images(tmp_path: Path) -> None:
    for name in (
        "b.img",
        "a.raw",
        "c.qcow2",
        "d.xz",
        "e.IMG",
        "index",
        "f.img.part",
        ".g.img",
        "h.bak",
        "img",
    ):
        image(tmp_path / name)
    (tmp_path / "sub.img").mkdir()
    (tmp_path / "link.img").symlink_to("b.img")
    (tmp_path / "dangling.raw").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.img")
    images, skipped = scan(tmp_path)
    assert [(one.name, one.stem, one.format) for one in images] == [
        ("a.raw", "a", DiskFormat.RAW),
        ("b.img", "b", DiskFormat.RAW),
        ("c.qcow2", "c", DiskFormat.QCOW2),
    ]
    assert [name for name, _reason in skipped] == ["dangling.raw", "link.img", "pipe.img", "sub.img"]


@pytest.mark.row("R11")
@pytest.mark.parametrize(
    "name",
    ["json:x.img", "a b.img", "-x.img", "new\nline.img", "ä.img", "a,b.img", "x" * 90 + ".img", "a%.img"],
)
def test_odd_names_are_refused_by_name(tmp_path: Path, name: str) -> None:
    image(tmp_path / name)
    images, skipped = scan(tmp_path)
    assert images == ()
    assert [one.name for one in skipped] == [name]


@pytest.mark.row("R11")
def test_ten_thousand_files_are_no_matter(tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number}.txt").touch()
    image(tmp_path / "a.img")
    assert only(tmp_path).name == "a.img"


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        scan(tmp_path / "none")


def test_a_raw_image_is_as_large_as_its_file(tmp_path: Path) -> None:
    image(tmp_path / "a.img", size=1 << 20)
    assert measure(only(tmp_path)) == 1 << 20


def test_a_qcow2_image_is_as_large_as_its_disk(tmp_path: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "a.qcow2", "3M"], check=True)
    assert measure(only(tmp_path)) == 3 << 20


@pytest.mark.parametrize("size", [0, 511, 4097])
def test_a_raw_image_has_whole_sectors(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.img").write_bytes(bytes(size))
    with pytest.raises(DiskError, match="sectors"):
        measure(only(tmp_path))


def test_a_qcow2_image_named_raw_is_refused_with_advice(tmp_path: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "a.img", "3M"], check=True)
    with pytest.raises(DiskError) as refused:
        measure(only(tmp_path))
    assert refused.value.hint == "rename it to a.qcow2"


@pytest.mark.row("R14")
@pytest.mark.parametrize(
    "options", [["-b", "canary", "-F", "raw"], ["-o", "data_file=canary,data_file_raw=on"]]
)
def test_an_image_that_refers_to_a_file_is_refused_and_the_file_untouched(
    tmp_path: Path, options: list[str]
) -> None:
    canary = image(tmp_path / "canary")
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, "a.qcow2", "1M"]
    subprocess.run(command, check=True, cwd=tmp_path)
    image(canary)
    before = canary.stat()
    with pytest.raises(DiskError, match=r"refused as a qcow2 image: it (has a backing|keeps its data)"):
        measure(only(tmp_path))
    after = canary.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.row("R6")
def test_writing_replacing_and_removing_are_noticed(tmp_path: Path) -> None:
    path = image(tmp_path / "a.img")
    found = only(tmp_path)
    check_unchanged(found)
    image(tmp_path / "other", b"y").rename(path)
    with pytest.raises(DiskError, match="changed"):
        check_unchanged(found)
    path.unlink()
    with pytest.raises(DiskError, match="changed"):
        check_unchanged(found)


def test_a_compressed_image_under_the_name_of_a_raw_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(b"\xfd7zXZ\x00" + bytes(1 << 16))
    ((image,), _skipped) = scan(tmp_path)
    with pytest.raises(DiskError, match="packed with xz") as caught:
        measure(image)
    assert "xz -dc" in str(caught.value.hint)


def test_words_about_an_overlay_are_for_its_publisher(tmp_path: Path) -> None:
    words = ["-b", "base.img", "-F", "raw", str(tmp_path / "a.qcow2"), "1M"]
    subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", *words], check=True)
    ((image,), _skipped) = scan(tmp_path)
    with pytest.raises(DiskError) as caught:
        measure(image)
    assert "publisher" not in str(caught.value.hint)
    assert "qemu-img convert" in str(caught.value.hint)
    assert "--backing" not in str(caught.value.hint)

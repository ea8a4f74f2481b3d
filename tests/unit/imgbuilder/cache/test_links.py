"""Linked images, and the disks of the cache that stay for them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from imgbuilder.cache.folder import CacheFolder
from imgbuilder.cache.links import add_link, links_of, remove_link
from tests.fakes.commands import Ran
from tests.fakes.template import SIZE, Site, TinyAppliances

BUILD = ("tiny", "--linked", "--root-password", "disabled")
LINKED = Path("tiny.qcow2")


@pytest.fixture
def disk(site: Site, home: Path, appliances: TinyAppliances, capsys: pytest.CaptureFixture[str]) -> Path:
    """The unpacked disk below ``tiny.qcow2``, which was built as a linked image."""
    ran = Ran(capsys, *BUILD)
    assert ran.code == 0, ran.err
    (disk,) = (home / "pybuilder/disks").glob("*.raw")
    return disk


def info(image: Path) -> dict[str, object]:
    done = subprocess.run(["qemu-img", "info", "-U", "--output=json", image], check=True, capture_output=True)
    facts: dict[str, object] = json.loads(done.stdout)
    return facts


def test_a_linked_image_is_small_and_lies_over_the_disk(disk: Path, appliances: TinyAppliances) -> None:
    facts = info(LINKED)
    assert (facts["backing-filename"], facts["backing-filename-format"]) == (str(disk), "raw")
    assert facts["virtual-size"] == SIZE
    assert LINKED.stat().st_blocks * 512 < 1 << 20
    assert [link.image for link in links_of(disk)] == [LINKED.absolute()]
    (launch,) = appliances.launches
    assert (launch[0].format, launch[0].backing) == ("qcow2", (disk,)), "the appliance edits the image itself"


def test_nothing_removes_the_disk_of_a_linked_image(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(capsys, "cache", "gc", "--cache-size", "1K").code == 0
    assert disk.exists()
    for words in (("cache", "delete"), ("--delete-cache",)):
        ran = Ran(capsys, *words)
        assert ran.code == 1
        assert f"pybuilder unlink {LINKED.absolute()}" in ran.err
        assert disk.exists()
    LINKED.rename("moved.qcow2")
    assert Ran(capsys, "cache", "gc", "--cache-size", "1K").code == 0
    assert disk.exists(), "the image may have been moved"
    listed = Ran(capsys, "cache", "list", "-v").out
    assert f"linked image: {LINKED.absolute()} (missing; see pybuilder unlink)" in listed


def test_another_file_in_its_place_ends_the_link(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(capsys, "tiny", "-o", str(LINKED), "--root-password", "disabled").code == 0
    assert links_of(disk) == []
    assert Ran(capsys, "cache", "gc", "--cache-size", "1K").code == 0
    assert not disk.exists()


def test_unlink_makes_the_image_independent(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "unlink", str(LINKED))
    assert (ran.code, ran.err) == (0, "")
    assert f"{LINKED} needs the cache no longer" in ran.out
    assert "backing-filename" not in info(LINKED)
    subprocess.run(["qemu-img", "compare", "-F", "raw", "-f", "qcow2", LINKED, disk], check=True)
    assert not list(disk.parent.glob("*.links.json"))
    again = Ran(capsys, "unlink", str(LINKED))
    assert again.code == 2
    assert "is not linked to a disk in the cache" in again.err


def test_unlink_of_another_kind_of_file(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    Path("README").write_text("not an image")
    assert Ran(capsys, "cache", "all").code == 0
    ran = Ran(capsys, "unlink", "README")
    assert ran.code == 2
    assert "README is not linked to a disk in the cache" in ran.err


def test_unlink_forgets_a_missing_image(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LINKED.unlink()
    ran = Ran(capsys, "unlink", str(LINKED))
    assert (ran.code, ran.err) == (0, "")
    assert "no disk is kept for it any more" in ran.out
    assert links_of(disk) == []
    ran = Ran(capsys, "unlink", str(LINKED))
    assert ran.code == 2
    assert f"there is no image {LINKED}" in ran.err


def test_a_linked_image_is_used_like_any_other(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Ran(capsys, "machine", "script", str(LINKED), "-o", "run").code == 0
    other = Path("other.qcow2")
    Path("secret").write_bytes(bytes(SIZE))
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", Path("secret").absolute(), "-F", "raw", other],
        check=True,
    )
    assert Ran(capsys, "machine", "script", str(other), "-o", "run").code == 1, "that is another file"


def test_unlink_follows_no_name_out_of_the_cache(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image from another person could name any file of this host."""
    Path("secret").write_bytes(bytes(SIZE))
    foreign = Path("foreign.qcow2").absolute()
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", Path("secret").absolute(), "-F", "raw", foreign],
        check=True,
    )
    before = foreign.read_bytes()
    ran = Ran(capsys, "unlink", str(foreign))
    assert ran.code == 2
    assert foreign.read_bytes() == before


def test_verify_keeps_a_damaged_disk_and_a_build_restores_it(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = disk.read_bytes()
    disk.chmod(0o600)
    disk.write_bytes(bytes(SIZE))
    ran = Ran(capsys, "cache", "verify")
    assert ran.code == 1
    assert "build from this template again to restore it" in ran.err
    assert "1 damaged and kept for linked images" in ran.out
    assert Ran(capsys, "tiny", "--root-password", "disabled").code == 0
    assert disk.read_bytes() == good


@pytest.mark.parametrize("text", ["{", '{"version": 1}', '{"version": 1, "images": [3]}', "[]"])
def test_a_record_that_cannot_be_read_keeps_the_disk(
    disk: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = disk.parent.glob("*.links.json")
    record.write_text(text)
    assert Ran(capsys, "cache", "gc", "--cache-size", "1K").code == 0
    assert disk.exists()
    ran = Ran(capsys, "cache", "delete")
    assert ran.code == 1
    assert str(record) in ran.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--format", "raw"), "a linked image is a qcow2 file"),
        (("--compress",), "a linked image is a qcow2 file"),
        (("--no-cache",), "a linked image needs the template's disk in the cache"),
    ],
)
def test_what_cannot_be_linked(
    site: Site, words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(capsys, *BUILD, *words)
    assert ran.code == 2
    assert expected in ran.err
    assert list(Path().iterdir()) == []


def test_an_unfinished_image_that_is_kept_keeps_its_disk(
    site: Site, home: Path, appliances: TinyAppliances, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Ran(capsys, *BUILD, "--no-delete-on-failure", "--copy", "/nosuch:/there").code == 1
    (disk,) = (home / "pybuilder/disks").glob("*.raw")
    assert [link.image for link in links_of(disk)] == [LINKED.absolute()]
    assert Ran(capsys, "cache", "gc", "--cache-size", "1K").code == 0
    assert disk.exists()


def test_a_link_that_is_about_to_be_made_survives_another(disk: Path, home: Path) -> None:
    """Its path still holds another file when another build records a link."""
    pending, other = Path("pending").absolute(), Path("other").absolute()
    pending.write_text("an older file")
    folder = CacheFolder(home / "pybuilder")
    for image in (pending, other):
        add_link(folder, disk, image)
    remove_link(folder, disk, other)
    LINKED.replace(pending)
    assert pending in [link.image for link in links_of(disk)]


def test_a_failed_build_leaves_no_link(
    site: Site, home: Path, appliances: TinyAppliances, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Ran(capsys, *BUILD, "--delete", "relative").code != 0
    assert Ran(capsys, *BUILD, "--copy", "/nosuch:/there").code == 1
    assert not list((home / "pybuilder/disks").glob("*.links.json"))

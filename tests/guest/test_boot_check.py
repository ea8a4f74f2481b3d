"""The boot check with real guests: one that boots, and three that do not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.guest.conftest import long
from tests.guest.images import copy
from tests.guest.person import Person, leftovers

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


@pytest.fixture
def library(person: Person) -> Path:
    folder = person.home / "boot-library"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def entry(person: Person, library: Path, name: str, image: Path | None, boot: str = "") -> Path:
    """Make an entry with a copy of an image, or with an empty disk; the image is read-only."""
    folder = library / name
    folder.mkdir()
    (folder / "entry.toml").write_text(f'title = "{name}"\n[boot]\n{boot}')
    target = folder / f"{name}.img"
    if image is None:
        with target.open("wb") as file:
            file.truncate(64 << 20)
    else:
        copy(image, target)
    return folder


def checked(person: Person, folder: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check an entry as the person; return what was printed and the record."""
    person.owns(folder)
    image = folder / f"{folder.name}.img"
    image.chmod(0o444)
    before = image.stat()
    done = person.run("pybuilder-repo", "boot-check", folder, "--json", *words, timeout=500, check=False)
    assert done.stdout, done.stderr
    printed = json.loads(done.stdout)["checks"][0]
    assert done.returncode == (0 if printed["verdict"] == "booted" else 1), done.stderr
    after = image.stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    assert leftovers(person, [folder, folder / "boot"]) == []
    record: dict[str, Any] = json.loads((folder / "boot" / "boot.json").read_text())
    return printed, record


def debugfs(image: Path, order: str) -> None:
    table = json.loads(subprocess.check_output(["/sbin/sfdisk", "--json", image]))["partitiontable"]
    root = max(table["partitions"], key=lambda partition: partition["size"])["start"] * 512
    subprocess.run(
        ["/sbin/debugfs", "-w", "-R", order, f"{image}?offset={root}"], check=True, capture_output=True
    )


def test_a_debian_boots_and_its_ssh_server_answers(person: Person, library: Path, template: Path) -> None:
    folder = entry(person, library, "debian", template, "ports = [22]\n")
    printed, record = checked(person, folder, "--keep-screenshot")
    assert record["verdict"] == "booted", printed
    assert record["ports"] == [22]
    assert record["reason"] == ""
    assert record["concerns"] == []
    log = (folder / "boot" / "serial.log").read_text()
    assert "Linux version 6." in log
    assert "login:" in log
    with Image.open(folder / "screenshot.png") as screen:
        assert screen.width >= 640
        assert len(screen.getcolors(1 << 16) or []) > 1, "the picture is blank"
    with Image.open(folder / "boot" / "thumbnail.png") as small:
        assert small.size == (320, 240)


def test_an_empty_disk_does_not_boot(person: Person, library: Path) -> None:
    printed, record = checked(person, entry(person, library, "empty", None))
    assert record["verdict"] == "failed"
    assert record["reason"] == "the firmware found nothing to boot", printed
    assert record["seconds"] < 60


def test_a_boot_loader_without_its_files_does_not_boot(person: Person, library: Path, template: Path) -> None:
    folder = entry(person, library, "loader", template)
    debugfs(folder / "loader.img", "unlink /boot/grub/i386-pc")
    printed, record = checked(person, folder)
    assert record["verdict"] == "failed"
    assert "rescue mode" in record["reason"], printed
    assert record["pictures"]


@long
def test_a_root_that_is_not_there_does_not_boot(person: Person, library: Path, template: Path) -> None:
    folder = entry(person, library, "root", template)
    debugfs(folder / "root.img", "ssv uuid 11111111-2222-3333-4444-555555555555")
    printed, record = checked(person, folder)
    assert record["verdict"] == "failed"
    assert "root was not found" in record["reason"], printed

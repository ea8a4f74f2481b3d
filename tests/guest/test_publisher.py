"""Publishing with the real appliance: what the fakes of the unit tests can only claim."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest.conftest import Publisher
from tests.guest.person import Person

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

_DELETED = 24 << 20
_OS_RELEASE = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="A Debian with a past"\n'


def image_with_a_past(folder: Path, path: Path) -> str:
    """Make a disk that is one ext4, in whose free blocks a deleted file is left; return its digest."""
    tree = folder / "tree"
    for name in ("etc", "bin"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/os-release").write_text(_OS_RELEASE)
    shutil.copyfile("/bin/sh", tree / "bin/sh")
    (tree / "deleted").write_bytes(os.urandom(_DELETED))
    with path.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", tree, path], check=True)
    subprocess.run(["/usr/sbin/debugfs", "-w", "-R", "rm /deleted", path], check=True, capture_output=True)
    shutil.rmtree(tree)
    return hashlib.sha512(path.read_bytes()).hexdigest()


def test_deleted_files_are_not_published_and_the_same_image_comes_out_the_same(
    person: Person, publisher: Publisher, tmp_path: Path
) -> None:
    images, web = person.home / "past", person.home / "past-web"
    for folder in (images, web):
        folder.mkdir()
    image = images / "past.img"
    before = image_with_a_past(tmp_path, image)
    image.chmod(0o644)
    for place in (images, web):
        person.owns(place)

    def publish() -> None:
        person.run(
            "pybuilder-repo", "publish", images, "--output", web, "--gpg-key", publisher.fingerprint,
            "--xz-preset", "0", env={"GNUPGHOME": str(publisher.gnupg)},
        )  # fmt: skip

    publish()
    assert hashlib.sha512(image.read_bytes()).hexdigest() == before
    (packed,) = web.glob("past-*.xz")
    assert packed.stat().st_size < _DELETED // 8
    index = (web / "index").read_text()
    assert "osinfo=debian12\n" in index
    assert "expand=" not in index
    for record in web.glob(".pybuilder-repo-*.json"):  # without them it looks again, and finds the same
        record.unlink()
    publish()
    assert (web / "index").read_text() == index
    assert list(web.glob("past-*.xz")) == [packed]
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        subprocess.run(["xz", "-dc", packed], stdout=file, check=True)
    subprocess.run(["/usr/sbin/e2fsck", "-fn", disk], check=True, capture_output=True)

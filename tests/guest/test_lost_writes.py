"""B15, B11: a full disk of the host, under a real appliance and a real ext4; its name is odd (X21)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment, open_appliance
from imgbuilder.errors import GuestError, WorkspaceError
from imgbuilder.host.workspace import blaming_full_disk

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder], check=False)
    if done.returncode:
        pytest.skip("mount does not work here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.row("B11", "B15")
def test_a_full_disk_is_no_success_and_no_hang(small: Path) -> None:
    image = small / "a:b,c=d\ne.img"
    with image.open("wb") as file:
        file.truncate(200 << 20)
    with (
        pytest.raises(WorkspaceError, match="no space left") as caught,
        blaming_full_disk(small),
        open_appliance([Attachment(image, "raw")]) as appliance,
    ):
        appliance.make_gpt("/dev/sda", [(2048, 400000, "0FC63DAF-8483-4772-8E79-3D69D8477DE4")])
        appliance.make_filesystem("ext4", "/dev/sda1")
        appliance.mount("/dev/sda1", "/")
        for number in range(20):
            appliance.write(f"/{number}", os.urandom(2 << 20))
        appliance.unmount_all()
        appliance.shutdown()
    assert isinstance(caught.value.__cause__, GuestError)
    assert caught.value.hint

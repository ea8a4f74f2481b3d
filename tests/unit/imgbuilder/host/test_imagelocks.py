"""Disks that a running machine uses: neither changed nor copied, whichever way leads to them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment, open_appliance
from imgbuilder.building.preflight import check_disk
from imgbuilder.building.target import find_target
from imgbuilder.cli import customize_main
from imgbuilder.errors import DiskError, PybuilderError
from imgbuilder.events import ignore
from imgbuilder.fetch.local import fetch_local
from imgbuilder.fetch.transfer import Download
from imgbuilder.host import imagelocks, sparse
from imgbuilder.host.workspace import new_file
from imgrepo.images.compress import copy_image, hash_image
from imgrepo.images.scan import measure, scan
from tests.fakes.machine import READER, locked

CONTENT = b"\0" * 4096 + b"what the machine wrote".ljust(512, b"\0")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


def _new_file(disk: Path) -> None:
    with new_file(disk) as temporary:
        temporary.write_bytes(b"new")


def _appliance(disk: Path, *, readonly: bool) -> None:
    with open_appliance([Attachment(disk, "raw", readonly)]):
        pass


def _publish(disk: Path, step: Callable[..., object]) -> None:
    (image,), _ = scan(disk.parent)
    step(image)


READERS: dict[str, Callable[[Path], object]] = {
    "copy": lambda disk: sparse.copy_sparse(disk, disk.with_name("copy")),
    "attach": lambda disk: check_disk(Attachment(disk, readonly=True)),
    "appliance": lambda disk: _appliance(disk, readonly=True),
    "import": lambda disk: fetch_local(Download(str(disk), io.BytesIO(), limit=1 << 20)),
    "publish": lambda disk: _publish(disk, measure),
    "publish: digest": lambda disk: _publish(disk, lambda image: hash_image(image, ignore)),
    "publish: copy": lambda disk: _publish(disk, lambda image: copy_image(image, _folder(disk), ignore)),
}
WRITERS: dict[str, Callable[[Path], object]] = {
    "output": find_target,
    "appliance": lambda disk: _appliance(disk, readonly=False),
}


def _folder(disk: Path) -> Path:
    folder = disk.parent / "folder"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("way", [*READERS.values(), *WRITERS.values(), _new_file], ids=[
    *(f"read: {name}" for name in READERS), *(f"write: {name}" for name in WRITERS), "replace"])  # fmt: skip
def test_the_disk_of_a_running_machine_is_refused(disk: Path, way: Callable[[Path], object]) -> None:
    with locked(disk), pytest.raises(PybuilderError, match=r"disk\.img is used by another program") as caught:
        way(disk)
    assert "virtual machine" in str(caught.value.hint)
    assert "doctor" not in str(caught.value.hint)
    assert disk.read_bytes() == CONTENT
    assert sorted(path.name for path in disk.parent.iterdir() if path.is_file()) == ["disk.img"]


@pytest.mark.parametrize("way", WRITERS.values(), ids=WRITERS)
def test_a_disk_that_others_read_is_not_changed(disk: Path, way: Callable[[Path], object]) -> None:
    with locked(disk, READER), pytest.raises(DiskError, match="is used by another program"):
        way(disk)


@pytest.mark.parametrize("name", [name for name in READERS if name != "appliance"])
def test_many_may_read_a_disk(disk: Path, name: str) -> None:
    with locked(disk, READER), imagelocks.held(disk):
        READERS[name](disk)


@pytest.mark.parametrize("words", [[], ["--work-on-copy"], ["--dry-run"], ["--check"]])
def test_customize_says_so_before_it_starts_anything(
    disk: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    operations = [] if words == ["--check"] else ["--write", "/etc/x:1"]
    with locked(disk):
        assert customize_main.run(["-a", str(disk), *words, *operations]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("pybuilder-customize: error: ")
    assert f"{disk} is used by another program" in shown.err.splitlines()[0]
    assert "Examining" not in shown.out
    assert disk.read_bytes() == CONTENT


def test_the_program_is_named(disk: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.fakes.machine import locked\n"
        "with locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as machine:
        assert machine.stdout is not None
        machine.stdout.readline()
        with pytest.raises(DiskError, match=rf"\(python[\w.]*, pid {machine.pid}\)"):
            imagelocks.refuse_if_in_use(disk, changing=False)
        machine.communicate()
    imagelocks.refuse_if_in_use(disk, changing=True)


def test_qemu_and_we_see_each_other(disk: Path) -> None:
    read = ["qemu-io", "-r", "-f", "raw", "-c", "read 0 512", str(disk)]
    write = ["qemu-io", "-f", "raw", "-c", "write 0 512", str(disk)]
    with new_file(disk) as temporary:
        temporary.write_bytes(b"new")
        subprocess.run(read, check=True, capture_output=True)
        refused = subprocess.run(
            ["qemu-img", "resize", "-f", "raw", disk, "1M"], capture_output=True, check=False
        )
        assert refused.returncode
        assert b"lock" in refused.stderr
    subprocess.run(write, check=True, capture_output=True)
    held = subprocess.Popen(["qemu-io", "-f", "raw", disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with held:
        assert held.stdout is not None
        held.stdout.read(8)  # its prompt: the disk is open
        with pytest.raises(DiskError, match="used by another program"):
            imagelocks.refuse_if_in_use(disk, changing=True)
        held.communicate(b"quit\n")


def test_what_is_no_disk_is_nobodys(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "missing", "."):
        imagelocks.refuse_if_in_use(tmp_path / name, changing=True)

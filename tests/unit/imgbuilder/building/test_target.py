"""Outputs that may be written or replaced, real block devices among them, and others that are refused."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment
from imgbuilder.building.build import build
from imgbuilder.building.customize_image import customize_disks
from imgbuilder.building.preflight import check_disk, prepare
from imgbuilder.building.request import BuildRequest, CustomizeRequest
from imgbuilder.building.target import find_file_target, find_target
from imgbuilder.disk import diskimage, partition
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.errors import DiskError, OperationError, PybuilderError, UsageError, WorkspaceError
from imgbuilder.events import Event, Notice, Severity
from imgbuilder.guests.ports import CommandResult
from imgbuilder.host import process
from imgbuilder.host.workspace import new_file
from imgbuilder.services import Services, Settings
from tests.fakes.appliance import FakeDisk
from tests.fakes.loopdevice import OLD, ROOM, system, usable
from tests.fakes.machine import locked
from tests.fakes.operations import parse_operation
from tests.fakes.template import MIB, SIZE, Site, TinyAppliances, tiny_request


def refused(place: Path, message: str) -> WorkspaceError:
    with pytest.raises(WorkspaceError, match=message) as caught:
        find_target(place)
    assert caught.value.hint
    return caught.value


@pytest.mark.row("B12")
def test_outputs_that_are_not_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "fifo", "is a pipe")
    refused(tmp_path / "socket", "is a socket")
    refused(Path("/dev/null"), "is a character device")
    refused(tmp_path / "a", "circle")
    refused(Path("/proc/disk.img"), "/proc/disk.img")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "fifo", "socket"]


@pytest.mark.row("B12")
def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("old")
    (tmp_path / "link").symlink_to("folder/file")
    (tmp_path / "dangling").symlink_to("folder/new")
    (tmp_path / "to-null").symlink_to("/dev/null")
    assert find_target(tmp_path / "link").path == tmp_path / "folder/file"
    assert find_target(tmp_path / "dangling").path == tmp_path / "folder/new"
    refused(tmp_path / "to-null", "character device")
    assert (tmp_path / "folder/file").read_text() == "old"


@pytest.mark.row("B14")
def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    refused(tmp_path / "missing" / "disk.img", "does not exist")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "disk.img", r"does not exist|Not a directory")
    refused(tmp_path / ("x" * 256), "name too long")
    with pytest.raises(WorkspaceError):
        find_target(Path("a\0b"))


@pytest.mark.row("B14")
def test_immutable_folder(tmp_path: Path) -> None:
    done = subprocess.run(["chattr", "+i", tmp_path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("chattr +i does not work here")
    try:
        refused(tmp_path / "disk.img", "not permitted")
    finally:
        subprocess.run(["chattr", "-i", tmp_path], check=True)


@pytest.mark.row("X21")
@pytest.mark.parametrize("name", ["json:x", "a:b", "-x", "x,y=z", "new\nline", "nbd:127.0.0.1:1", "fat:rw:."])
def test_any_name_is_a_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_target(Path(name)).path == find_file_target(Path(name)) == tmp_path / name
    assert list(tmp_path.iterdir()) == []


OTHER_USER = 4711


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder such as /tmp."""
    if os.geteuid() != 0:
        pytest.skip("only root can make files of another user")
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.mark.parametrize("mode", [0o1777, 0o777])
@pytest.mark.parametrize("target", ["../precious", "../new"])
def test_a_other_users_link_in_a_folder_for_everyone_is_not_followed(
    tmp_path: Path, shared: Path, mode: int, target: str
) -> None:
    (tmp_path / "precious").write_text("precious")
    shared.chmod(mode)
    link = shared / "disk.img"
    link.symlink_to(target)
    os.lchown(link, OTHER_USER, OTHER_USER)
    refused(link, "the link .* belongs to another user")
    os.lchown(link, 0, 0)
    assert find_target(link).path == (tmp_path / target.removeprefix("../"))


def test_a_other_users_link_to_a_folder_or_behind_another_link_is_not_followed_either(
    tmp_path: Path, shared: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (shared / "way").symlink_to(tmp_path / "folder")
    os.lchown(shared / "way", OTHER_USER, OTHER_USER)
    (tmp_path / "mine").symlink_to("shared/way/disk.img")
    refused(shared / "way/disk.img", "the link .*way belongs to another user")
    refused(tmp_path / "mine", "the link .*way belongs to another user")


def test_a_other_users_file_in_a_folder_for_everyone_is_not_replaced(shared: Path) -> None:
    """The image would belong to the other user, as the replaced file did."""
    (shared / "disk.img").touch()
    os.chown(shared / "disk.img", OTHER_USER, OTHER_USER)
    refused(shared / "disk.img", "belongs to another user, in a folder where everyone may write")
    os.chown(shared / "disk.img", 0, 0)
    assert find_target(shared / "disk.img").path == shared / "disk.img"


def test_the_owner_of_a_folder_may_have_links_in_it(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "file").touch()
    (shared / "disk.img").symlink_to("../file")
    for path in (shared, shared / "disk.img"):
        os.lchown(path, OTHER_USER, OTHER_USER)
    assert find_target(shared / "disk.img").path == tmp_path / "file"


def test_no_file_is_written_through_a_other_users_link_to_a_folder(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "folder").mkdir()
    (shared / "way").symlink_to(tmp_path / "folder")
    with new_file(shared / "way/kernel") as file:
        file.write_text("mine")
    os.lchown(shared / "way", OTHER_USER, OTHER_USER)
    with pytest.raises(WorkspaceError, match="belongs to another user"), new_file(shared / "way/initrd"):
        pass
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["kernel"]


class Marking(TinyAppliances):
    """Appliances that change the disk, and check that the device is not written to yet."""

    MARK = b"changed!" * 64

    def __init__(self, output: Path) -> None:
        super().__init__()
        self._output = output

    def _disk(self, path: Path) -> FakeDisk:
        assert path.name == "overlay.qcow2"
        assert self._output.read_bytes().startswith(OLD[:4096]), "written to before the image was complete"
        diskimage.write_range(path, DiskFormat.QCOW2, 4 * MIB, self.MARK)
        return super()._disk(path)


@pytest.fixture
def services(tmp_path: Path, site: Site, device: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return Services(Settings(), open_appliance=Marking(device))


def request(output: Path, **fields: object) -> BuildRequest:
    return tiny_request(output=output, **fields)


def warnings(events: list[Event]) -> list[str]:
    return [
        event.text for event in events if isinstance(event, Notice) and event.severity is Severity.WARNING
    ]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def nothing_left(tmp_path: Path) -> bool:
    return not list((tmp_path / "tmp").iterdir())


@pytest.mark.row("B13")
def test_a_raw_image_fills_its_device(services: Services, device: Path, tmp_path: Path, site: Site) -> None:
    events: list[Event] = []
    result = build(request(device), services, events.append)
    assert (result.path, result.size) == (device, ROOM)
    assert warnings(events) == []
    system("sync")
    table = partition.read_table(device, DiskFormat.RAW)
    assert table is not None
    assert table.partitions[1].size * 512 > 20 * MIB
    content, template = device.read_bytes(), (site.folder / "disk.raw").read_bytes()
    assert content[4 * MIB :].startswith(Marking.MARK)
    assert content[2 * MIB : 4 * MIB] == template[2 * MIB : 4 * MIB]
    assert OLD[:64] not in content, "what the device held before is gone where the image has zeroes"
    assert nothing_left(tmp_path)
    assert device.is_block_device()


@pytest.mark.row("B13")
def test_a_size_of_its_own(services: Services, device: Path) -> None:
    assert build(request(device, size=SIZE), services, lambda _event: None).size == SIZE
    content = device.read_bytes()
    assert OLD[:64] not in content[:SIZE]
    assert OLD[:64] in content[SIZE:], "behind the image nothing is written"


@pytest.mark.row("B13")
@pytest.mark.parametrize("compressed", [False, True])
def test_qcow2_on_a_device(
    services: Services, device: Path, tmp_path: Path, compressed: bool, site: Site
) -> None:
    asked = request(device, format=OutputFormat.QCOW2, compressed=compressed, size=64 * MIB)
    build(asked, services, lambda _event: None)
    assert system("qemu-img", "check", "-q", "-f", "qcow2", device) == ""
    back = tmp_path / "back"
    system("qemu-img", "convert", "-f", "qcow2", "-O", "raw", device, back)
    assert back.stat().st_size == 64 * MIB
    assert back.read_bytes()[4 * MIB :].startswith(Marking.MARK)


@pytest.mark.row("B13")
def test_what_does_not_fit_is_refused_first(services: Services, device: Path) -> None:
    before = digest(device)
    wrong: list[tuple[dict[str, object], type[PybuilderError], str]] = [
        ({"size": ROOM + 1}, UsageError, "too large for the block device"),
        ({"size": SIZE - 512}, UsageError, "cannot be shrunk"),
        ({"format": OutputFormat.VMDK}, UsageError, "cannot be written onto a block device"),
    ]
    for fields, error, words in wrong:
        with pytest.raises(error, match=words):
            prepare(request(device, **fields), services, lambda _event: None)
    assert digest(device) == before


class Filling(Marking):
    """Appliances that write more than the device can hold."""

    def _disk(self, path: Path) -> FakeDisk:
        found = super()._disk(path)
        for start in range(8 * MIB, 40 * MIB, MIB):
            diskimage.write_range(path, DiskFormat.QCOW2, start, os.urandom(MIB))
        return found


@pytest.mark.row("B13")
def test_a_qcow2_image_that_became_too_large(services: Services, device: Path, tmp_path: Path) -> None:
    before = digest(device)
    with pytest.raises(DiskError, match="was not written to"):
        build(
            request(device, format=OutputFormat.QCOW2, size=64 * MIB),
            replace(services, open_appliance=Filling(device)),
            lambda _event: None,
        )
    assert digest(device) == before
    assert nothing_left(tmp_path)


@pytest.mark.row("B13")
@pytest.mark.parametrize("keep", [False, True])
def test_a_failed_build_leaves_the_device_alone(
    services: Services, device: Path, tmp_path: Path, keep: bool
) -> None:
    before = digest(device)
    assert isinstance(services.open_appliance, Marking)
    services.open_appliance.answers["false"] = CommandResult(1, "")
    asked = request(device, operations=(parse_operation("run-command", "false"),), delete_on_failure=not keep)
    with pytest.raises(OperationError):
        build(asked, services, lambda _event: None)
    assert digest(device) == before
    assert device.is_block_device()
    assert nothing_left(tmp_path)


@pytest.mark.row("B13")
def test_a_mounted_device_is_refused(services: Services, device: Path, tmp_path: Path) -> None:
    system("mkfs.ext4", "-q", "-F", device)
    place = tmp_path / "mounted"
    place.mkdir()
    done = process.run(["mount", device, place], check=False)
    if done.status != 0:
        pytest.skip(f"mount does not work here: {done.stderr.strip()}")
    try:
        with pytest.raises(WorkspaceError, match="in use") as caught:
            prepare(request(device), services, lambda _event: None)
        assert "unmount" in (caught.value.hint or "")
        disks = (Attachment(device),)
        for asked in (CustomizeRequest(disks), CustomizeRequest(disks, dry_run=True)):
            with pytest.raises(DiskError, match="in use") as found:
                customize_disks(asked, services, lambda _event: None)
            assert "unmount" in (found.value.hint or "")
        with pytest.raises(DiskError, match="in use"):
            check_disk(Attachment(device, DiskFormat.RAW, readonly=True))
    finally:
        system("umount", place)
    assert prepare(request(device), services, lambda _event: None)


def test_a_device_of_a_running_machine_is_refused(services: Services, device: Path) -> None:
    with locked(device):
        with pytest.raises(DiskError, match="used by another program"):
            prepare(request(device), services, lambda _event: None)
        with pytest.raises(DiskError, match="used by another program"):
            check_disk(Attachment(device, DiskFormat.RAW, readonly=True))


def test_a_file_behind_a_loop_device_is_refused(device: Path) -> None:
    backing = Path(Path("/sys/block", device.name, "loop/backing_file").read_text().strip())
    with pytest.raises(DiskError, match=f"used by the loop device {device}") as caught:
        find_target(backing)
    assert f"losetup -d {device}" in (caught.value.hint or "")


def test_a_machine_cannot_start_with_a_device_while_it_is_written(services: Services, device: Path) -> None:
    class Starting(Marking):
        def _disk(self, path: Path) -> FakeDisk:
            words: list[str | Path] = ["qemu-io", "-f", "raw", "-c", "write 0 512", device]
            assert "lock" in process.run(words, check=False).stderr
            return super()._disk(path)

    build(request(device), replace(services, open_appliance=Starting(device)), lambda _event: None)


@pytest.mark.row("B13")
def test_a_device_is_claimed_while_it_is_built_for(services: Services, device: Path) -> None:
    class Trying(Marking):
        def _disk(self, path: Path) -> FakeDisk:
            with pytest.raises(WorkspaceError, match="in use"):
                find_target(device)
            return super()._disk(path)

    build(request(device), replace(services, open_appliance=Trying(device)), lambda _event: None)
    assert find_target(device).device is not None


@pytest.mark.row("B13")
def test_a_link_to_a_device(services: Services, device: Path, tmp_path: Path) -> None:
    link = tmp_path / "by-name"
    link.symlink_to(device)
    result = build(request(link), services, lambda _event: None)
    assert result.path == link
    assert link.is_symlink()
    assert device.read_bytes()[4 * MIB :].startswith(Marking.MARK)


@pytest.mark.row("B13")
def test_a_partition_is_warned_of(services: Services, device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process.run(["sfdisk", "-q", device], stdin=b"label: gpt\nstart=2048, size=40960\n")
    part = Path(f"{device}p1")
    system("blockdev", "--rereadpt", device)
    node = Path("/sys/class/block", part.name, "dev")
    if not node.exists():
        pytest.skip("this kernel makes no partitions of loop devices")
    made = not part.exists()
    if made:  # no udev makes device nodes here
        major, minor = (int(number) for number in node.read_text().split(":"))
        os.mknod(part, 0o60600, os.makedev(major, minor))
    try:
        if not usable(part):
            pytest.skip(f"{part} cannot be opened here")
        events: list[Event] = []
        plan = prepare(request(part), services, events.append).plan
        assert plan.size == 20 * MIB
        assert ["is a partition" in text for text in warnings(events)] == [True]
        events.clear()
        prepare(request(part, warn_if_partition=False), services, events.append)
        assert warnings(events) == []
        monkeypatch.setattr(Marking, "_disk", TinyAppliances._disk)
        build(request(part), services, events.append)
        assert partition.read_table(part, DiskFormat.RAW) is not None
    finally:
        if made:
            part.unlink()


@pytest.mark.row("B13")
def test_a_logical_volume(services: Services, device: Path) -> None:
    group = f"pybuilder{uuid.uuid4().hex[:8]}"
    try:
        system("pvcreate", "-ffy", device)
        system("vgcreate", group, device)
        system("lvcreate", "-y", "-W", "n", "-L", "16M", "-n", "disk", group)
    except PybuilderError as error:
        process.run(["vgremove", "-f", group], check=False)
        pytest.skip(f"LVM does not work here: {error.message.splitlines()[0]}")
    try:
        volume = Path("/dev", group, "disk")
        assert isinstance(services.open_appliance, TinyAppliances)
        result = build(
            request(volume), replace(services, open_appliance=TinyAppliances()), lambda _event: None
        )
        assert result.size == 16 * MIB
        assert partition.read_table(volume, DiskFormat.RAW) is not None
    finally:
        process.run(["vgremove", "-f", group])


@pytest.mark.row("B26")
def test_a_device_of_others_is_refused_to_an_ordinary_user() -> None:
    nodes = [path for path in sorted(Path("/dev").glob("loop[0-9]*")) if path.is_block_device()]
    if not nodes:
        pytest.skip("there is no block device")
    program = (
        "import sys; from pathlib import Path; from imgbuilder.building.target import find_target\n"
        "from imgbuilder.errors import WorkspaceError\n"
        "try: find_target(Path(sys.argv[1]))\n"
        "except WorkspaceError as error: print(error.message, '|', error.hint)\n"
    )
    words = ["-I", "-c", f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}\n{program}"]
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    done = process.run([*drop, "/usr/bin/python3", *words, nodes[0]], check=False)
    if "ModuleNotFoundError" in done.stderr or "Permission denied: " in done.stderr:
        pytest.skip("another user cannot read this checkout")
    assert b"Permission denied" in done.stdout, done
    assert b"-o FILE" in done.stdout

"""Windows guests in memory: paths, files, first boot, names and drivers."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.customize.run import check_guest, customize
from imgbuilder.customize.virtiowin import is_driver
from imgbuilder.customize.windowsboot import crlf
from imgbuilder.errors import GuestCallError, GuestError, OperationError, PybuilderError, UsageError
from imgbuilder.events import Event, Notice
from imgbuilder.guests.registry import is_settled, text
from imgbuilder.guests.windows import read_windows, split_path
from imgbuilder.guests.windowsfiles import WindowsGuest
from tests.fakes.appliance import FakeAppliance, FakeDisk, FakeFilesystem
from tests.fakes.debianguest import context_of
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation
from tests.fakes.windows import RUNNER, SYSTEM, WINDOWS_FACTS, empty_hive, fill_windows, virtio_win

BOOT = "/Program Files/Guestfs/Firstboot"
SERVICE = ("controlset001", "services", "firstboot")


@pytest.fixture
def windows() -> FakeGuest:
    return fill_windows(FakeGuest())


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "pvvxsvc.exe").write_bytes(RUNNER)
    monkeypatch.setenv("VIRT_TOOLS_DATA_DIR", str(folder))
    return folder / "pvvxsvc.exe"


def do(guest: FakeGuest, *options: tuple[str, str | Path], **changes: object) -> list[Event]:
    events: list[Event] = []
    operations = [parse_operation(keyword, str(argument)) for keyword, argument in options]
    customize(guest, operations, context_of(guest, **changes), events.append)
    return events


def refused(guest: FakeGuest, *options: tuple[str, str | Path], **changes: object) -> str:
    """Customize a guest, which must be refused before a change; return the message."""
    before = guest.tree()
    with pytest.raises(PybuilderError) as caught:
        do(guest, *options, **changes)
    assert guest.tree() == before
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    "path",
    ["C:\\users\\PUBLIC\\x.txt", "c:/Users/public/x.txt", "/USERS/Public/x.txt", "/Users\\public\\x.txt"],
)
def test_a_path_is_what_windows_reads_it_as(windows: FakeGuest, path: str) -> None:
    do(windows, ("write", f"{path}:a:b"), ("append-line", f"{path}:c"))
    assert windows.read("/Users/Public/x.txt") == b"a:b\r\nc\r\n"
    do(windows, ("delete", path.replace("x.txt", "X.*")))
    assert windows.ls("/Users/Public") == []


def test_trees_land_in_folders_that_are_there_in_another_spelling(windows: FakeGuest, tmp_path: Path) -> None:
    tree = tmp_path / "PUBLIC"
    (tree / "Docs").mkdir(parents=True)
    (tree / "Docs" / "a").write_text("new")
    windows.add("/Users/Public/docs/A", "old")
    do(windows, ("copy-in", f"{tree}:/users"), ("move", "C:\\Users\\public\\DOCS\\a:C:\\windows\\TEMP"))
    assert windows.tree()["/Windows/Temp/A"] == b"new"
    assert windows.ls("/Users/Public") == ["docs"]
    (tree / "link").symlink_to("/etc/passwd")
    with pytest.raises(OperationError, match="Windows cannot use"):
        do(windows, ("copy-in", f"{tree}:/users"))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("a?b", "forbids"), ("a<b", "forbids"), ("a:b", "forbids"), ("dot.", "at the end"),
        ("blank ", "at the end"), ("NUL", "device"), ("com1.txt", "device"), ("lpt²", "device"),
    ],
)  # fmt: skip
def test_names_that_windows_forbids(windows: FakeGuest, name: str, word: str) -> None:
    before = windows.tree()
    with pytest.raises(PybuilderError, match=word):
        do(windows, ("touch", f"/Users/{name}"))
    assert windows.tree() == before


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/Documents and Settings/Public/x", "junction"),
        ("C:\\documents AND settings\\x", "junction"),
        ("/Users/../Windows/x", "may not contain"),
        ("D:\\x", "not on the drive of Windows, C:"),
        ("/nowhere/x", "No such file"),
        ("/Windows/System32/cmd.exe/x", "Not a directory"),
    ],
)
def test_paths_that_lead_elsewhere(windows: FakeGuest, path: str, word: str) -> None:
    windows.add_link("/Documents and Settings", "/Users")
    before = windows.tree()
    with pytest.raises(PybuilderError, match=word):
        do(windows, ("write", f"{path}:x"))
    assert windows.tree() == before


def test_a_junction_that_ntfs_3g_cannot_show(windows: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen with ntfs-3g 2022.10.3: even the type of such a file is an input/output error."""

    def fail(path: str) -> bool:
        if path == "/Users/Public":
            raise GuestCallError(f"lstatns: {path}: Input/output error", errno_name="EIO")
        return False

    monkeypatch.setattr(windows, "is_symlink", fail)
    with pytest.raises(OperationError, match="/Users/Public is a junction"):
        do(windows, ("write", "C:\\users\\public\\x:text"))


def test_a_junction_is_deleted_and_its_target_stays(windows: FakeGuest) -> None:
    windows.add_link("/Users/All Users", "/ProgramData")
    windows.add("/ProgramData/x")
    do(windows, ("delete", "C:\\Users\\*"), ("delete", "/nothing*"), ("delete", "/no/such"))
    assert windows.ls("/Users") == []
    assert windows.exists("/ProgramData/x")
    with pytest.raises(UsageError, match="root directory"):
        parse_operation("delete", "C:\\")
    with pytest.raises(GuestCallError, match="drive itself"):
        WindowsGuest(windows, "C").remove("/\\")


@given(st.text(alphabet="/\\abAB.: *?[ä\0c", max_size=20), st.sampled_from(["C", "D"]))
def test_any_path_gives_our_own_errors_and_stays_inside(path: str, drive: str) -> None:
    guest = fill_windows(FakeGuest())
    files = WindowsGuest(guest, drive)
    for call in (files.exists, files.glob, files.touch, files.remove, files.mkdir_p):
        with contextlib.suppress(GuestCallError):
            call(path)
    with contextlib.suppress(GuestCallError):
        assert ".." not in split_path(path, drive)
    assert all("//" not in name and "\\" not in name for name in guest.tree())


def test_scripts_run_in_order_by_a_service(windows: FakeGuest, runner: Path, tmp_path: Path) -> None:
    script = tmp_path / "two words.bat"
    script.write_bytes(b"echo two\r\nexit 250\n")
    windows.add(f"{BOOT}/complete")
    do(windows, ("firstboot-command", "echo one"), ("firstboot", script))
    do(windows, ("firstboot-command", "echo three"))
    names = windows.ls(f"{BOOT}/scripts")
    assert [name[:10] for name in names] == ["5000-0001-", "5000-0002-", "5000-0003-"]
    assert windows.read(f"{BOOT}/scripts/5000-0001-echo-one.bat") == b"echo one\r\n"
    assert windows.read(f"{BOOT}/scripts/{names[1]}") == b"echo two\r\nexit 250\r\n"
    assert not windows.exists(f"{BOOT}/complete")
    assert windows.read(f"{BOOT}/pvvxsvc.exe") == RUNNER
    driver = windows.read(f"{BOOT}/firstboot.bat")
    assert b'"%base%pvvxsvc.exe" -s firstboot uninstall\r\n' in driver
    assert driver.count(b"\n") == driver.count(b"\r\n")
    service = windows.hives[SYSTEM][SERVICE]
    assert service["ImagePath"] == text('"C:\\Program Files\\Guestfs\\Firstboot\\pvvxsvc.exe" -s firstboot')
    assert service["Start"].data == b"\2\0\0\0"
    parameters = windows.hives[SYSTEM][*SERVICE, "parameters"]
    assert parameters["CommandLine"].text == 'cmd /c "C:\\Program Files\\Guestfs\\Firstboot\\firstboot.bat"'


def test_a_runner_that_is_named_wins_and_a_missing_one_is_found_before(
    windows: FakeGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRT_TOOLS_DATA_DIR", str(tmp_path))
    for option in (("firstboot-command", "x"), ("inject-qemu-ga", virtio_win(tmp_path / "v"))):
        message = refused(windows, ("mkdir", "/new"), option)
        assert f"missing: {tmp_path}/rhsrvany.exe" in message
    own = tmp_path / "mine.exe"
    own.write_bytes(RUNNER)
    named = [parse_operation("firstboot-command", "x"), parse_operation("windows-runner", str(own))]
    check_guest(named, context_of(windows))  # as pybuilder-customize does, before it makes the disk writable
    do(windows, ("firstboot-command", "x"), ("windows-runner", own))
    assert windows.exists(f"{BOOT}/mine.exe")
    own.write_bytes(b"#!/bin/sh")
    with pytest.raises(UsageError, match="not a program of Windows"):
        parse_operation("windows-runner", str(own))
    (tmp_path / "a&b.exe").write_bytes(RUNNER)
    with pytest.raises(UsageError, match="cannot be its name"):
        parse_operation("windows-runner", str(tmp_path / "a&b.exe"))


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize(("name", "content"), [("a.sh", "#!/bin/sh\n"), ("a.ps1", "Write-Host x\n")])
def test_a_script_that_is_no_batch_file(windows: FakeGuest, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert "not a batch file" in refused(windows, ("firstboot", tmp_path / name))


@given(st.binary(max_size=200))
def test_line_ends_become_those_of_windows_once(content: bytes) -> None:
    made = crlf(content)
    assert made.count(b"\n") == made.count(b"\r\n")
    assert crlf(made) == made
    assert made.replace(b"\r", b"") == content.replace(b"\r", b"")


def test_the_name_of_the_computer(windows: FakeGuest) -> None:
    do(windows, ("hostname", "web-1.example.org"))
    name = windows.hives[SYSTEM]["controlset001", "control", "computername", "computername"]
    assert name["ComputerName"].text == "WEB-1"
    network = windows.hives[SYSTEM]["controlset001", "services", "tcpip", "parameters"]
    assert {key: value.text for key, value in network.items()} == {
        "Hostname": "web-1", "NV Hostname": "web-1", "Domain": "example.org", "NV Domain": "example.org",
    }  # fmt: skip
    for wrong in ("sixteen-letters0", "12345", "123.example.org"):
        assert "cannot be the name of a computer" in refused(windows, ("hostname", wrong))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("modern", [False, True])
def test_drivers(windows: FakeGuest, tmp_path: Path, packed: bool, modern: bool) -> None:
    source = virtio_win(tmp_path / "virtio-win")
    if packed:
        image = tmp_path / "virtio-win.iso"
        subprocess.run(["genisoimage", "-quiet", "-J", "-r", "-o", image, source], check=True)
        source = image
    if modern:
        windows.hives[SYSTEM]["driverdatabase",] = {}
    do(windows, ("inject-virtio-win", source))
    assert windows.ls("/Windows/Drivers/VirtIO") == [
        "balloon.sys", "blnsvr.exe", "fwcfg.inf", "netkvm.inf", "netkvm.sys", "viostor.inf", "viostor.sys",
    ]  # fmt: skip
    assert windows.text("/Windows/Drivers/VirtIO/netkvm.sys") == "NetKVM/w10/amd64/netkvm.sys"
    assert windows.text("/Windows/System32/drivers/viostor.sys") == "viostor/w10/amd64/viostor.sys"
    keys = windows.hives[SYSTEM]
    assert keys["controlset001", "services", "viostor"]["ImagePath"].text == "system32\\drivers\\viostor.sys"
    critical = ("controlset001", "control", "criticaldevicedatabase", "pci#ven_1af4&dev_1042&rev_01")
    package = ("driverdatabase", "driverpackages", "guestor.inf_amd64_0000000000000000")
    assert (critical in keys, package in keys) == (not modern, modern)
    if modern:
        assert len(keys[package]["Version"].data) == 48


@pytest.mark.usefixtures("runner")
def test_agent_and_balloon_service(windows: FakeGuest, tmp_path: Path) -> None:
    source = virtio_win(tmp_path / "virtio-win")
    do(windows, ("inject-qemu-ga", source), ("inject-blnsvr", source))
    assert windows.text(f"{BOOT}/Temp/qemu-ga-x86_64.msi") == "guest-agent/qemu-ga-x86_64.msi"
    script = windows.text(f"{BOOT}/Temp/install-qemu-ga.ps1")
    assert '$log = "C:\\Program Files\\Guestfs\\Firstboot\\Temp\\qemu-ga-x86_64.msi.log"\r\n' in script
    start = windows.text(f"{BOOT}/scripts/5000-0001-install-qemu-ga.bat")
    assert '-File "C:\\Program Files\\Guestfs\\Firstboot\\Temp\\install-qemu-ga.ps1"\r\n' in start
    assert '"C:\\Windows\\Drivers\\VirtIO\\blnsvr.exe" -i' in windows.text(
        f"{BOOT}/scripts/5000-0002-install-blnsvr.bat"
    )


@pytest.mark.usefixtures("runner")
def test_a_source_without_files_for_this_windows(windows: FakeGuest, tmp_path: Path) -> None:
    source = virtio_win(tmp_path / "virtio-win")
    newer = replace(WINDOWS_FACTS, osinfo="win2k22")
    for keyword in ("inject-virtio-win", "inject-blnsvr"):
        assert "for this Windows (win2k22, x86_64)" in refused(windows, (keyword, source), windows=newer)
    arm = replace(WINDOWS_FACTS, arch="aarch64")
    assert "guest agent" in refused(windows, ("inject-qemu-ga", source), windows=arm)
    noise = tmp_path / "noise.iso"
    noise.write_bytes(b"no image" * 1000)
    assert "cannot be read" in refused(windows, ("inject-virtio-win", noise))
    for wrong in ("osinfo", "libosinfo"):
        with pytest.raises(UsageError, match="not supported"):
            parse_operation("inject-virtio-win", wrong)
    (tmp_path / "virtio-win/viostor/w10/amd64/viostor.sys").unlink()
    events = do(windows, ("inject-virtio-win", source))
    assert any("no driver for disks" in item.text for item in events if isinstance(item, Notice))


def test_an_image_that_links_to_files_of_this_host(windows: FakeGuest, tmp_path: Path) -> None:
    source = virtio_win(tmp_path / "virtio-win")
    (tmp_path / "secret").write_text("secret")
    (source / "viostor/w10/amd64/evil.sys").symlink_to(tmp_path / "secret")
    image = tmp_path / "evil.iso"
    subprocess.run(["genisoimage", "-quiet", "-r", "-o", image, source], check=True)
    do(windows, ("inject-virtio-win", image))
    assert b"secret" not in windows.tree().values()


def test_which_file_is_for_which_windows() -> None:
    old = replace(WINDOWS_FACTS, osinfo="win2k8r2", arch="i386")
    assert is_driver(WINDOWS_FACTS, "drivers/by-os/amd64/w10/netkvm.sys")
    assert is_driver(WINDOWS_FACTS, "NetKVM/W10/AMD64/NETKVM.SYS")
    assert is_driver(old, "x/2k8R2/x86/a.inf")
    for path in ("w10/x86/a.sys", "w11/amd64/a.sys", "w10/a.sys", "amd64/w10.sys", "w10/amd64/a.PDB"):
        assert not is_driver(WINDOWS_FACTS, path)


@given(st.binary(max_size=64))
def test_a_hive_is_settled_or_not(start: bytes) -> None:
    assert is_settled(start) in (True, False)
    assert is_settled(empty_hive())
    assert not is_settled(b"regf" + b"\2\0\0\0\1\0\0\0")


def _appliance(guest: FakeGuest) -> FakeAppliance:
    facts = {"type": "windows", "arch": "x86_64", "product_name": "Windows\x1b[1m", "osinfo": "win10"}
    made = FakeAppliance([FakeDisk({1: FakeFilesystem("ntfs", guest)}, {"/dev/sda1": facts})])
    made.mount("/dev/sda1", "/")
    return made


def test_facts_of_a_registry(windows: FakeGuest) -> None:
    facts = read_windows(_appliance(windows), "/dev/sda1")
    assert (facts.osinfo, facts.drive, facts.system_hive) == ("win10", "C", SYSTEM)
    assert "\x1b" not in facts.product_name


def test_a_registry_that_cannot_be_changed(windows: FakeGuest) -> None:
    content = empty_hive()
    windows.add(SYSTEM, content[:4] + b"\7" + content[5:])
    with pytest.raises(GuestError, match="only in its log"):
        read_windows(_appliance(windows), "/dev/sda1")
    windows.add(SYSTEM, content)
    windows.hives[SYSTEM] = {}
    with pytest.raises(GuestError, match="no key ControlSet001"):
        read_windows(_appliance(windows), "/dev/sda1")
    del windows.hives[SYSTEM]
    with pytest.raises(GuestError, match="cannot be read"):
        read_windows(_appliance(windows), "/dev/sda1")
    windows.remove(SYSTEM)
    windows.add_link(SYSTEM, "/Users/Public")
    with pytest.raises(GuestError, match="junction"):
        read_windows(_appliance(windows), "/dev/sda1")

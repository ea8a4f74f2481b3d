"""From a system in an archive to a bootable disk, in memory; and the whole of make-template."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from imgbuilder.errors import GuestCallError, GuestError, ToolError, UsageError
from imgbuilder.events import Event, Step
from imgbuilder.guests.ports import CommandResult
from imgrepo.services import Services
from imgrepo.template import bootstrap as bootstrap_module
from imgrepo.template import make as make_module
from imgrepo.template.bootstrap import BootstrapRequest, Mode
from imgrepo.template.disk import Layout, RootKind, check_room, check_size, grub_script, install_system
from imgrepo.template.make import TemplateRequest, installed_packages, make_template
from imgrepo.template.recipes import recipe_named
from tests.fakes.appliance import FakeAppliance, FakeAppliances, FakeDisk
from tests.unit.imgrepo.repository import stand_in

GIB = 1 << 30
UUID = "11111111-2222-3333-4444-555555555555"


def boots(appliance: FakeAppliance, root: str = f"UUID={UUID}") -> None:
    """Let the guest's GRUB succeed, as the real one does, and name the root in its menu."""

    def install(_script: str) -> CommandResult:
        appliance.add("/boot/grub/grub.cfg", f"linux /boot/vmlinuz root={root} ro\n")
        return CommandResult(0, "Installation finished. No error reported.\n")

    appliance.on_sh("grub-install", install)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "system.tar"
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    with tarfile.open(path, "w") as tar:
        tar.add(hosts, "etc/hosts")
    return path


@pytest.mark.parametrize("size", [GIB, 2 * GIB, 3 * GIB + (1 << 20)])
def test_the_root_is_last_and_leaves_room_for_the_second_table(size: int) -> None:
    (boot_first, boot_last, boot_kind), (first, last, kind) = Layout(uefi=False).table(size)
    assert (boot_first * 512, (boot_last + 1) * 512) == (1 << 20, 2 << 20)
    assert boot_kind == "21686148-6449-6E6F-744E-656564454649"
    assert kind == "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
    assert first == boot_last + 1
    assert (last + 1) * 512 % (1 << 20) == 0
    assert size - (1 << 20) <= (last + 1) * 512 <= size - 33 * 512
    assert Layout().table(size)[0] == (boot_first, boot_last, boot_kind)
    assert Layout().table(size)[2][1:] == (last, kind)


@pytest.mark.parametrize("size", [0, GIB - 1, GIB + 512])
def test_sizes_that_cannot_work_are_refused_at_once(size: int) -> None:
    with pytest.raises(UsageError):
        check_size(size)


def test_a_system_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "system.tar"
    path.touch()
    os.truncate(path, GIB)
    with pytest.raises(UsageError, match="does not fit"):
        check_room(path, GIB, Layout())
    check_room(path, 2 * GIB, Layout())


def test_the_system_is_unpacked_mounted_by_uuid_and_the_appliance_shut_down(archive: Path) -> None:
    appliance = FakeAppliance([FakeDisk(size=2 * GIB)])
    boots(appliance)
    install_system(appliance, archive, Layout(), "amd64")
    assert appliance.tables["/dev/sda"] == Layout().table(2 * GIB)
    steps = [step for step, _device in appliance.log]
    made = ["make_filesystem", "mount"]
    assert steps == ["make_gpt", *made, "tar_in", *made, "trim", "unmount_all", "shutdown"]
    appliance.mount("/dev/sda3", "/")
    assert appliance.text("/etc/hosts") == "127.0.0.1 localhost\n"
    assert appliance.text("/etc/fstab") == f"UUID={UUID} / ext4 errors=remount-ro 0 1\n"
    assert appliance.filesystem_type("/dev/sda3") == "ext4"


@pytest.mark.parametrize("root", RootKind)
def test_with_uefi_and_lvm_the_root_is_a_volume_on_the_last_partition(archive: Path, root: RootKind) -> None:
    layout = Layout(root, uefi=True, lvm=True)
    appliance = FakeAppliance([FakeDisk(size=2 * GIB)])
    boots(appliance, "/dev/mapper/system-root")
    install_system(appliance, archive, layout, "amd64")
    assert appliance.scripts == [grub_script(layout, "amd64")]
    bios, efi, last = appliance.tables["/dev/sda"]
    assert bios[1] < efi[0] <= efi[1] < last[0]
    assert efi[2] == "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    assert last[2] == "E6D6D379-F507-44C2-A23C-238F2A3DF928"
    assert ("make_volume", "/dev/sda3") in appliance.log
    assert appliance.filesystem_type("/dev/sda2") == "vfat"
    assert appliance.filesystem_type("/dev/system/root") == root.value
    assert ("mount", "/dev/sda2") in appliance.log
    appliance.mount("/dev/system/root", "/")
    assert appliance.text("/etc/fstab").startswith(f"UUID={UUID} / {root.value} ")
    assert "/boot/efi" not in appliance.text("/etc/fstab")


def test_grub_gets_what_it_needs_for_each_layout() -> None:
    plain, full = (
        grub_script(Layout(uefi=False), "amd64"),
        grub_script(Layout(RootKind.XFS, True, True), "i386"),
    )
    assert "efi" not in plain
    assert "--modules='part_gpt ext2' \"$disk\"\n" in plain
    assert "/dev/sd" not in plain + full, (
        "commands in the appliance may find other names than its interface gives"
    )
    assert "--target=i386-efi --efi-directory=/boot/efi --removable --no-nvram" in full
    assert full.count("part_gpt lvm xfs") == 2


def test_the_manifest_knows_what_is_installed(tmp_path: Path) -> None:
    status = (
        "Package: dpkg\nStatus: install ok installed\nVersion: 1.21\nDescription: x\n Package: y\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: apt\nStatus: install ok installed\nVersion: 2.6\n"
    )
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("./var/lib/dpkg/status")
        entry.size = len(status)
        tar.addfile(entry, io.BytesIO(status.encode()))
    assert installed_packages(path) == {"apt": "2.6", "dpkg": "1.21"}


def test_grub_that_fails_is_an_error_with_its_words(archive: Path) -> None:
    appliance = FakeAppliance([FakeDisk(size=2 * GIB)])
    appliance.on_sh("grub-install", CommandResult(1, "grub-install: error: no such disk\n"))
    with pytest.raises(GuestError, match="no such disk"):
        install_system(appliance, archive, Layout(), "amd64")


def test_a_menu_that_names_the_root_by_device_is_an_error(archive: Path) -> None:
    appliance = FakeAppliance([FakeDisk(size=2 * GIB)])
    boots(appliance, "/dev/sda2")
    with pytest.raises(GuestError, match="UUID"):
        install_system(appliance, archive, Layout(), "amd64")


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: Path) -> TemplateRequest:
    """Make a request that works, with a stand-in for mmdebstrap that delivers ``archive``."""
    (tmp_path / "space").mkdir()
    (tmp_path / "out").mkdir()
    keyring = tmp_path / "keys.gpg"
    keyring.touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "space"))
    monkeypatch.setattr(bootstrap_module, "_CHROOT_SPACE", 0)
    monkeypatch.setattr(make_module, "_ARCHIVE_SPACE", 0)
    stand_in(tmp_path, monkeypatch, f"cat {archive}")
    boot = BootstrapRequest(recipe_named("debian-12"), keyring=keyring, mode=Mode.ROOT)
    return TemplateRequest(boot, tmp_path / "out" / "debian-12.img", 2 * GIB)


def services(appliances: FakeAppliances) -> Services:
    return Services(open_appliance=appliances)


def test_a_template_appears_complete_after_one_launch(tmp_path: Path, request_: TemplateRequest) -> None:
    appliances = FakeAppliances(prepare=boots)
    events: list[Event] = []
    make_template(request_, services(appliances), events.append)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["debian-12.img", "debian-12.json"]
    manifest = json.loads((tmp_path / "out" / "debian-12.json").read_text())
    assert (manifest["recipe"], manifest["arch"], manifest["size"]) == ("debian-12", "amd64", 2 * GIB)
    archive = (tmp_path / "system.tar").read_bytes()
    assert manifest["system_sha512"] == hashlib.sha512(archive).hexdigest()
    assert request_.output.stat().st_size == 2 * GIB
    (launch,) = appliances.launches
    assert [(disk.format, disk.readonly) for disk in launch] == [("raw", False)]
    assert not appliances.appliances[0].is_up
    assert list((tmp_path / "space").iterdir()) == []
    steps = [event.text for event in events if isinstance(event, Step)]
    assert steps[0].startswith("Installing debian-12")
    assert len(steps) == 4


def test_a_failed_guest_leaves_an_older_template_as_it_was(tmp_path: Path, request_: TemplateRequest) -> None:
    def breaks(appliance: FakeAppliance) -> None:
        appliance.on_sh("grub-install", CommandResult(1, "no"))

    request_.output.write_text("older")
    with pytest.raises(GuestError):
        make_template(request_, services(FakeAppliances(prepare=breaks)), lambda _event: None)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["debian-12.img"]
    assert request_.output.read_text() == "older"
    assert list((tmp_path / "space").iterdir()) == []


def test_a_failed_shutdown_gives_no_template(tmp_path: Path, request_: TemplateRequest) -> None:
    def breaks(appliance: FakeAppliance) -> None:
        boots(appliance)

        def shutdown() -> None:
            raise GuestCallError("shutdown: I/O error", errno_name="EIO")

        appliance.shutdown = shutdown  # type: ignore[method-assign]

    with pytest.raises(GuestCallError):
        make_template(request_, services(FakeAppliances(prepare=breaks)), lambda _event: None)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failed_bootstrap_launches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: TemplateRequest
) -> None:
    stand_in(tmp_path, monkeypatch, "exit 3")
    appliances = FakeAppliances()
    with pytest.raises(ToolError):
        make_template(request_, services(appliances), lambda _event: None)
    assert appliances.launches == []
    assert list((tmp_path / "out").iterdir()) == []
    assert list((tmp_path / "space").iterdir()) == []

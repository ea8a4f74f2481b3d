"""New UUIDs of filesystems and LVM, in all that names them; one that cannot follow stays."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator

import pytest

from imgbuilder.customize.deviceuuids import renew
from imgbuilder.events import Event, Notice, Severity
from tests.fakes.appliance import FakeAppliance, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest

ROOT = "0a1b2c3d-0000-4000-8000-000000000001"
SWAP = "0a1b2c3d-0000-4000-8000-000000000002"
ESP = "ABCD-1234"
PV = "aaaaaa-1111-2222-3333-4444-5555-bbbbbb"
VG = "cccccc-1111-2222-3333-4444-5555-dddddd"
FSTAB = f"UUID={ROOT} / ext4 defaults 0 1\nUUID={SWAP} none swap sw 0 0\nUUID={ESP} /boot/efi vfat\n"
GRUB = f"search --fs-uuid --set=root {ROOT}\nlinux /vmlinuz root=UUID={ROOT.upper()} resume=UUID={SWAP}\n"


class Machine:
    """An appliance with a guest, and what it says."""

    def __init__(self) -> None:
        self.root = FakeGuest()
        self.root.add("/etc/fstab", FSTAB, mode=0o644)
        self.root.add("/boot/grub/grub.cfg", GRUB, mode=0o444)
        self.root.add("/boot/initrd.img-6.1", gzip.compress(b"no names"))
        self.root.add_dir("/boot/efi")
        self.disk = FakeDisk(
            {
                1: FakeFilesystem("vfat", uuid=ESP),
                2: FakeFilesystem("ext4", self.root, uuid=ROOT),
                3: FakeFilesystem("swap", uuid=SWAP),
            }
        )
        self.appliance = FakeAppliance([self.disk])
        self.appliance.mount("/dev/sda2", "/")
        self.said: list[Event] = []

    def renew(self, *tasks: str, only_system: bool = True) -> list[str]:
        """Renew the UUIDs; return the warnings."""
        numbers: Iterator[int] = itertools.count(1)
        renew(
            self.appliance, "/dev/sda2", tasks, lambda size: bytes([next(numbers)] * size), self.said.append,
            only_system=only_system,
        )  # fmt: skip
        return [
            item.text for item in self.said if isinstance(item, Notice) and item.severity is Severity.WARNING
        ]

    @property
    def uuids(self) -> dict[int, str]:
        return {number: item.uuid for number, item in self.disk.filesystems.items()}


@pytest.fixture
def machine() -> Machine:
    return Machine()


NEW_ROOT = "01010101-0101-4101-8101-010101010101"
NEW_SWAP = "02020202-0202-4202-8202-020202020202"


def test_all_that_names_a_filesystem_follows(machine: Machine) -> None:
    said = machine.renew("fs-uuids")
    assert machine.uuids == {1: ESP, 2: NEW_ROOT, 3: NEW_SWAP}
    for path, before in (("/etc/fstab", FSTAB), ("/boot/grub/grub.cfg", GRUB)):
        after = before.replace(ROOT.upper(), NEW_ROOT).replace(ROOT, NEW_ROOT).replace(SWAP, NEW_SWAP)
        assert machine.root.text(path) == after
    assert machine.root.permissions("/boot/grub/grub.cfg")[0] == "0444"
    assert said == [f"--sysprep: /dev/sda1 keeps its UUID {ESP}: that of vfat is fixed"]


def test_a_uuid_in_the_initial_ram_filesystem_stays(machine: Machine) -> None:
    machine.root.add("/boot/initrd.img-6.1", gzip.compress(f"RESUME=UUID={SWAP}".encode()))
    said = machine.renew("fs-uuids")
    assert machine.uuids == {1: ESP, 2: NEW_ROOT, 3: SWAP}
    assert SWAP in machine.root.text("/etc/fstab")
    assert f"--sysprep: /dev/sda3 keeps its UUID {SWAP}: /boot/initrd.img-6.1 may name it" in said


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/boot/initrd.img-6.1", b"\x7fELF unknown"),
        ("/boot/efi/EFI/debian/grubx64.efi", f"MZ search.fs_uuid {ROOT} {SWAP}".encode()),
        ("/boot/grub/i386-pc/load.cfg", f"search.fs_uuid {ROOT} root {SWAP}".encode()),
        (
            "/boot/initramfs-6.1.img",
            gzip.compress(f"by-uuid {ROOT} {SWAP}".replace("-", r"\x2d").encode(), mtime=0),
        ),
    ],
)
def test_what_no_edit_can_change_keeps_all_uuids(machine: Machine, path: str, content: bytes) -> None:
    machine.root.add(path, content)
    said = machine.renew("fs-uuids")
    assert machine.uuids == {1: ESP, 2: ROOT, 3: SWAP}
    assert machine.root.text("/etc/fstab") == FSTAB
    assert [text for text in said if path in text and ROOT in text]


def test_a_filesystem_that_cannot_be_changed_keeps_its_name_everywhere(machine: Machine) -> None:
    machine.appliance.fails["set_filesystem_uuid", "/dev/sda2"] = "set_uuid: broken"
    assert f"--sysprep: /dev/sda2 keeps its UUID {ROOT}: set_uuid: broken" in machine.renew("fs-uuids")
    assert ROOT in machine.root.text("/etc/fstab")
    assert SWAP not in machine.root.text("/etc/fstab")


def test_a_filesystem_on_several_devices_stays(machine: Machine) -> None:
    for number, member in ((4, "a"), (5, "b")):
        machine.disk.filesystems[number] = FakeFilesystem("btrfs", uuid="shared", member=member)
    said = machine.renew("fs-uuids")
    assert [uuid for number, uuid in machine.uuids.items() if number > 3] == ["shared", "shared"]
    assert "--sysprep: /dev/sda5 keeps its UUID shared: it is on several devices" in said


def test_other_systems_on_the_disks_may_name_the_devices(machine: Machine) -> None:
    assert len(machine.renew("fs-uuids", only_system=False)) == 3
    assert machine.uuids == {1: ESP, 2: ROOT, 3: SWAP}


def with_lvm(machine: Machine) -> str:
    """Add LVM, and a file that names it in all ways; return the file's content."""
    machine.disk.filesystems[4] = FakeFilesystem("LVM2_member", uuid=PV)
    machine.disk.lvm = {"/dev/sda4": PV, "vg": VG}
    plain = VG.replace("-", "")
    text = f"/dev/disk/by-id/dm-uuid-LVM-{plain}{'e' * 32} /srv ext4\nPVID={PV.replace('-', '')}\nid={VG}\n"
    machine.root.add("/etc/lvm/devices/system.devices", text)
    return text


def test_lvm_and_all_that_names_it(machine: Machine) -> None:
    text = with_lvm(machine)
    assert machine.renew("lvm-uuids") == []
    assert machine.disk.lvm == {"/dev/sda4": PV[::-1], "vg": VG[::-1]}
    after = machine.root.text("/etc/lvm/devices/system.devices")
    for old in (PV, VG):
        for form in (old, old.replace("-", "")):
            text = text.replace(form, form[::-1])
    assert after == text
    assert machine.uuids[2] == ROOT


def test_lvm_stays_if_grub_finds_its_files_by_it(machine: Machine) -> None:
    with_lvm(machine)
    machine.root.add("/boot/grub/i386-pc/core.img", b"x")
    machine.disk.volumes = {"/dev/vg/root": "/dev/sda4"}
    machine.disk.others = {"/dev/vg/root": machine.disk.filesystems.pop(2)}
    machine.appliance.unmount_all()
    machine.appliance.mount("/dev/vg/root", "/")
    said: list[Event] = []
    renew(machine.appliance, "/dev/vg/root", ("lvm-uuids",), bytes, said.append)
    assert machine.disk.lvm == {"/dev/sda4": PV, "vg": VG}
    assert any("GRUB's core" in item.text for item in said if isinstance(item, Notice))


def test_without_lvm_nothing_is_unmounted(machine: Machine) -> None:
    assert machine.renew("lvm-uuids") == []
    assert machine.appliance.log == [("mount", "/dev/sda2")]

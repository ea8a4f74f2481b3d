"""Packages of a guest: finding the database, and reading that of dpkg."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import ApplianceError, DiskError, GuestError, PybuilderError
from imgbuilder.guests.ports import LARGEST_TEXT
from imgrepo.contents.databases import parse_status, read_dpkg
from imgrepo.contents.licences import UNKNOWN
from imgrepo.contents.packages import find_target, list_packages, list_together
from imgrepo.library.records import Package
from tests.fakes.appliance import FakeAppliance, FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest
from tests.unit.imgrepo.contents.guests import STATUS, debian_guest, disk_of, look
from tests.unit.imgrepo.repository import image


def test_packages_of_dpkg(tmp_path: Path) -> None:
    found = look(tmp_path, disk_of(debian_guest()))
    assert (found.manager, found.distribution, found.release) == ("dpkg", "debian", "12")
    assert found.system == "Debian GNU/Linux 12 (bookworm)"
    assert found.packages == (
        Package("bash", "5.2.15-2+b7", "amd64", "bash", "5.2.15-2", ("GPL-3",), copyleft=True),
        Package(
            "busybox-static", "1:1.35.0-4+b3", "amd64", "busybox", "1:1.35.0-4",
            ("BSD-3-Clause", "GPL-2.0-only", "MIT"), copyleft=True,
            built_using=(("glibc", "2.36-9"), ("libxcrypt", "1:4.4.33-2")),
        ),
        Package("libssl3", "3.0.11-1", "amd64", "openssl", "3.0.11-1", ("Apache-2.0",), copyleft=False),
        Package("libz", "1.0-1", "all", "libz", "1.0-1"),
    )  # fmt: skip


def test_guests_without_dpkg_have_a_file_for_each_package(tmp_path: Path) -> None:
    guest = FakeGuest()
    guest.add("/etc/os-release", "ID=debian\n")
    guest.add("/var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12\nArchitecture: amd64\n")
    guest.add("/var/lib/dpkg/status.d/base.md5sums", "no control file\n")
    found = look(tmp_path, disk_of(guest))
    assert [package.name for package in found.packages] == ["base-files"]


def test_images_share_an_appliance_where_that_is_safe(tmp_path: Path) -> None:
    """T21: the program of a guest sees no other guest, and of one with a fault the others are listed."""
    rpm, none = debian_guest(), FakeGuest()
    rpm.add("/usr/lib/sysimage/rpm/rpmdb.sqlite", b"SQLite format 3\0")
    none.add("/etc/os-release", "ID=arch\n")
    volumes = FakeDisk(
        {1: FakeFilesystem("LVM2_member")},
        others={"/dev/system/root": FakeFilesystem("ext4", debian_guest())},
    )
    disks = {
        "a.img": disk_of(debian_guest()),
        "b.img": disk_of(rpm),
        "c.img": volumes,
        "d.img": disk_of(debian_guest("Package: bash\n")),
        "e.img": disk_of(none),
        "f.img": FakeDisk(
            {0: FakeFilesystem("ext4", debian_guest("Package: x\nVersion: 1\nArchitecture: all"))}
        ),
    }
    images = [find_target(image(tmp_path / name)).image for name in disks]
    (tmp_path / "g.qcow2").write_bytes(b"QFI\xfb" + bytes(600))
    appliances = FakeAppliances(disks)
    found = list_together(
        [*images, find_target(tmp_path / "g.qcow2").image], appliances, ApplianceOptions(), print
    )
    assert {name: len(record.packages) for name, record in found.items()} == {"a.img": 4, "f.img": 1}
    assert [len(launch) for launch in appliances.launches] == [4, 2], "as many as a saved one has"
    opened = [disk for launch in appliances.launches for disk in launch]
    assert [(disk.path.name, disk.readonly) for disk in opened] == [(name, True) for name in disks]
    assert not any(one.scripts for one in appliances.appliances), "nothing of a guest may run"
    assert found["a.img"] == list_packages(images[0], appliances, ApplianceOptions(), print)


def test_what_an_appliance_read_before_its_end_is_kept(tmp_path: Path) -> None:
    def end(appliance: FakeAppliance) -> None:
        real = appliance.mount

        def mount(device: str, path: str, *, options: str = "") -> None:
            if device.startswith("/dev/sdb"):
                raise ApplianceError("the appliance died")
            real(device, path, options=options)

        appliance.mount = mount  # type: ignore[method-assign]

    images = [find_target(image(tmp_path / name)).image for name in ("a.img", "b.img")]
    appliances = FakeAppliances({one.name: disk_of(debian_guest()) for one in images}, end)
    assert set(list_together(images, appliances, ApplianceOptions(), print)) == {"a.img"}


def test_the_image_is_only_read(tmp_path: Path) -> None:
    appliances = FakeAppliances({"a.img": disk_of(debian_guest())})
    look(tmp_path, FakeDisk(), appliances)
    assert [item.readonly for launch in appliances.launches for item in launch] == [True]
    assert not appliances.appliances[0].scripts, "nothing of the guest may run"
    assert not [call for call in appliances.appliances[0].calls if call[0] != "unmount"]


def test_a_database_on_another_filesystem_is_found_by_inspection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, var = FakeGuest(), FakeGuest()
    root.add("/etc/os-release", "ID=debian\n")
    root.add("/etc/fstab", "# <file system>\nUUID=1 / ext4 defaults 0 1\nUUID=2 /var ext4 defaults 0 2\n")
    root.add("/var/lib/dpkg/status", "Package: old\nVersion: 1\nArchitecture: all\n")
    var.add("/lib/dpkg/status", STATUS)
    disk = FakeDisk(
        {1: FakeFilesystem("ext4", root, uuid="1"), 2: FakeFilesystem("ext4", var, uuid="2")},
        roots={"/dev/sda1": {"type": "linux"}},
    )

    used: list[str] = []

    class TwoFilesystems(FakeAppliance):
        def mount(self, device: str, path: str, *, options: str = "") -> None:
            used.append(options)
            if path == "/":
                super().mount(device, path)
            else:
                self.root.children["var"] = var.root

    monkeypatch.setattr("tests.fakes.appliance.FakeAppliance", TwoFilesystems)
    found = look(tmp_path, disk)
    assert "old" not in [package.name for package in found.packages]
    assert len(found.packages) == 4
    assert set(used) == {"ro"}


@pytest.mark.parametrize("options", ["defaults", "nofail"])
def test_a_place_on_a_disk_that_is_not_there(tmp_path: Path, options: str) -> None:
    guest = debian_guest()
    guest.add("/etc/fstab", f"/dev/sdb1 /var/lib/other ext4 {options} 0 2\n")
    disk = FakeDisk({1: FakeFilesystem("ext4", guest)}, roots={"/dev/sda1": {}})
    if options == "nofail":
        assert len(look(tmp_path, disk).packages) == 4
    else:
        with pytest.raises(GuestError, match=r"a\.img: /dev/sdb1 cannot be mounted on /var/lib/other"):
            look(tmp_path, disk)


@pytest.mark.parametrize(
    "disk",
    [
        FakeDisk(
            {1: FakeFilesystem("vfat"), 2: FakeFilesystem("LVM2_member")},
            others={"/dev/system/root": FakeFilesystem("ext4", debian_guest())},
        ),
        FakeDisk({0: FakeFilesystem("ext4", debian_guest())}),
        disk_of(debian_guest(f"{STATUS}\n{STATUS}")),
    ],
    ids=["logical volume", "whole disk", "every package twice"],
)
def test_disks_of_other_kinds(tmp_path: Path, disk: FakeDisk) -> None:
    assert len(look(tmp_path, disk).packages) == 4


def test_two_systems_on_one_disk(tmp_path: Path) -> None:
    guests = {number: FakeFilesystem("ext4", debian_guest()) for number in (1, 2)}
    roots = {f"/dev/sda{number}": {"type": "linux"} for number in guests}
    with pytest.raises(GuestError, match="2 operating systems"):
        look(tmp_path, FakeDisk(guests, roots=roots))


@pytest.mark.parametrize(
    "status",
    [
        "",
        "Package: bash\n",
        "Package: ../etc\nVersion: 1\nArchitecture: amd64\n",
        "Package: bash\nVersion: 1 2\nArchitecture: amd64\n",
        "Package: bash\nVersion: 1\nArchitecture: amd64\nBuilt-Using: glibc (>= 1)\n",
        "Package: bash\nVersion: 1\nArchitecture: amd64\nSource: ../x (1)\n",
        "Package: ba\x1b[2Jsh\nVersion: 1\nArchitecture: amd64\n",
    ],
)
def test_databases_that_cannot_be(tmp_path: Path, status: str) -> None:
    with pytest.raises(GuestError):
        look(tmp_path, disk_of(debian_guest(status)))


def test_no_system_and_no_database(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="no operating system"):
        look(tmp_path, FakeDisk({1: FakeFilesystem("ext4")}))
    guest = FakeGuest()
    guest.add("/etc/os-release", "ID=arch\n")
    with pytest.raises(GuestError, match="no package database of a known kind"):
        look(tmp_path, FakeDisk({1: FakeFilesystem("ext4", guest)}, roots={"/dev/sda1": {"type": "linux"}}))


def test_a_hostile_header_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    """T24: the header check comes first."""
    path = tmp_path / "a.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(600))
    appliances = FakeAppliances()
    with pytest.raises(DiskError):
        list_packages(find_target(path).image, appliances, ApplianceOptions(), lambda _event: None)
    assert appliances.launches == []


def test_a_dead_appliance_is_no_unknown_licence(tmp_path: Path) -> None:
    def die(appliance: FakeAppliance) -> None:
        real = appliance.read

        def read(path: str, *, limit: int = LARGEST_TEXT) -> bytes:
            if path.endswith("/copyright"):
                raise ApplianceError("the appliance died")
            return real(path, limit=limit)

        appliance.read = read  # type: ignore[method-assign]

    with pytest.raises(ApplianceError):
        look(tmp_path, FakeDisk(), FakeAppliances({"a.img": disk_of(debian_guest())}, die))


def test_an_image_that_changes_meanwhile(tmp_path: Path) -> None:
    def touch(_appliance: FakeAppliance) -> None:
        (tmp_path / "a.img").write_bytes(bytes(1024))

    with pytest.raises(DiskError, match="changed"):
        look(tmp_path, FakeDisk(), FakeAppliances({"a.img": disk_of(debian_guest())}, touch))


def test_huge_files_of_a_guest_are_not_read() -> None:
    guest = debian_guest()
    guest.add("/usr/share/doc/bash/copyright", b"GPL " * (2 << 20))
    assert read_dpkg(guest)[0].copyleft is None


@given(st.one_of(st.text(), st.binary().map(lambda data: data.decode("utf-8", "replace"))), st.booleans())
def test_any_status_file_raises_only_our_errors(text: str, after: bool) -> None:
    whole = f"{STATUS}\n{text}" if after else text
    try:
        packages = list(parse_status(whole, lambda _name: UNKNOWN))
    except PybuilderError:
        return
    assert all(package.name.isascii() and package.version.isprintable() for package in packages)


@pytest.mark.row("T14")
def test_a_package_built_from_too_many_others_is_refused(tmp_path: Path) -> None:
    guest = debian_guest()
    relations = ", ".join(["gcc-12 (= 12.2.0-14)"] * 20_000)
    guest.add(
        "/var/lib/dpkg/status",
        f"{STATUS}\nPackage: x\nVersion: 1\nArchitecture: amd64\nBuilt-Using: {relations}\n",
    )
    with pytest.raises(GuestError, match="names more than 10000 packages"):
        look(tmp_path, disk_of(guest))

"""The facts of images, as the appliance finds them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import ApplianceError, GuestError, PybuilderError
from imgbuilder.guests.roots import parse_os_release
from imgrepo.images.facts import ImageFacts, display_name, elf_arch, examine, osinfo_id
from imgrepo.images.scan import scan
from tests.fakes.appliance import FakeAppliance, FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest
from tests.unit.imgrepo.repository import ELF_X86_64, TABLE, debian, image, partitioned


def look(folder: Path, appliances: FakeAppliances) -> dict[str, ImageFacts | PybuilderError]:
    images, _skipped = scan(folder)
    return examine(images, appliances, ApplianceOptions(), lambda _event: None)


def facts_of(folder: Path, disk: FakeDisk, table: bytes | None = TABLE) -> ImageFacts:
    """Return the facts of an image with some disk; without a table, it has no partitions."""
    image(folder / "a.img") if table is None else partitioned(folder / "a.img", table)
    facts = look(folder, FakeAppliances({"a.img": disk}))["a.img"]
    assert isinstance(facts, ImageFacts)
    return facts


def inspected(**facts: str) -> dict[str, str]:
    known = {"type": "linux", "arch": "x86_64", "distro": "debian", "osinfo": "debian12"}
    return known | {"product_name": "Debian 12", "package_management": "apt"} | facts


def test_the_root_is_where_os_release_is(tmp_path: Path) -> None:
    facts = ImageFacts("x86_64", "Debian GNU/Linux 12 (bookworm)", "debian12", "/dev/sda2")
    assert facts_of(tmp_path, debian()) == facts


def test_the_second_disks_partition_is_named_as_on_a_first_one(tmp_path: Path) -> None:
    partitioned(tmp_path / "a.img")
    partitioned(tmp_path / "b.img")
    appliances = FakeAppliances({"a.img": debian(), "b.img": debian()})
    found = look(tmp_path, appliances)
    assert len(appliances.launches) == 1
    assert isinstance(found["b.img"], ImageFacts)
    assert found["b.img"].expand == "/dev/sda2"


@pytest.mark.parametrize(
    ("disk", "table", "grows", "volume"),
    [
        (debian(), TABLE + b"start=8192, size=2048\n", None, None),
        (FakeDisk({0: debian().filesystems[2]}), None, None, None),
        (
            FakeDisk(
                {2: FakeFilesystem("LVM2_member")},
                {"/dev/vg/root": inspected()},
                volumes={"/dev/vg/root": "/dev/sda2"},
            ),
            TABLE,
            "/dev/sda2",
            "/dev/vg/root",
        ),
        (
            FakeDisk({2: FakeFilesystem("btrfs")}, roots={"btrfsvol:/dev/sda2/root": inspected()}),
            TABLE,
            "/dev/sda2",
            None,
        ),
    ],
    ids=["something behind it", "whole disk", "LVM", "btrfs"],
)
def test_what_grows_with_the_disk(
    tmp_path: Path, disk: FakeDisk, table: bytes | None, grows: str | None, volume: str | None
) -> None:
    facts = facts_of(tmp_path, disk, table)
    assert (facts.expand, facts.lvexpand) == (grows, volume)


def test_many_images_share_few_launches(tmp_path: Path) -> None:
    names = [f"{number:02}.img" for number in range(20)]
    for name in names:
        image(tmp_path / name)
    appliances = FakeAppliances({name: debian() for name in names})
    found = look(tmp_path, appliances)
    assert [len(launch) for launch in appliances.launches] == [4] * 5
    assert all(isinstance(facts, ImageFacts) for facts in found.values())


@pytest.mark.row("R15")
def test_two_systems_are_refused_and_the_other_image_is_not(tmp_path: Path) -> None:
    image(tmp_path / "two.img")
    image(tmp_path / "one.img")
    two = FakeDisk({1: debian().filesystems[2], 2: debian().filesystems[2]})
    found = look(tmp_path, FakeAppliances({"two.img": two, "one.img": debian()}))
    assert isinstance(found["two.img"], GuestError)
    assert "2 operating systems" in found["two.img"].message
    assert isinstance(found["one.img"], ImageFacts)


def test_without_os_release_the_image_is_inspected_alone(tmp_path: Path) -> None:
    image(tmp_path / "a.img")
    partitioned(tmp_path / "b.img")
    odd = FakeDisk({2: FakeFilesystem("ext4")}, roots={"/dev/sda2": inspected()})
    appliances = FakeAppliances({"a.img": debian(), "b.img": odd})
    assert look(tmp_path, appliances)["b.img"] == ImageFacts("x86_64", "Debian 12", "debian12", "/dev/sda2")
    assert [[disk.path.name for disk in launch] for launch in appliances.launches] == [
        ["a.img", "b.img"],
        ["b.img"],
    ]
    assert all(disk.readonly for launch in appliances.launches for disk in launch)


def test_logical_volumes_belong_to_the_image_that_has_their_group(tmp_path: Path) -> None:
    """In one launch: two images with groups of their own, and one whose group has no partition of its own."""
    disks = {}
    for letter, name in zip("abc", ("one", "other", "bare"), strict=True):
        partitioned(tmp_path / f"{letter}.img")
        number = 0 if name == "bare" else 2
        disks[f"{letter}.img"] = FakeDisk(
            {number: FakeFilesystem("LVM2_member")},
            {f"/dev/{name}/root": inspected()} if name == "bare" else {},
            others={f"/dev/{name}/root": debian().filesystems[2]},
            volumes={f"/dev/{name}/root": f"/dev/sd{letter}{number or ''}"},
        )
    appliances = FakeAppliances(disks)
    found = look(tmp_path, appliances)
    grown = {
        name: (facts.expand, facts.lvexpand) for name, facts in found.items() if isinstance(facts, ImageFacts)
    }
    assert grown == {
        "a.img": ("/dev/sda2", "/dev/one/root"), "b.img": ("/dev/sda2", "/dev/other/root"),
        "c.img": (None, "/dev/bare/root"),
    }  # fmt: skip
    assert [len(launch) for launch in appliances.launches] == [3, 1], "the last one is looked at alone"


@pytest.mark.row("R15")
@pytest.mark.parametrize("arch", ["unknown", "", "x86_64\n[evil]", "x" * 40])
def test_an_unknown_architecture_is_refused(tmp_path: Path, arch: str) -> None:
    image(tmp_path / "a.img")
    disk = FakeDisk(roots={"/dev/sda2": inspected(arch=arch)})
    assert isinstance(look(tmp_path, FakeAppliances({"a.img": disk}))["a.img"], GuestError)


def test_a_shell_of_another_kind_of_machine_is_inspected(tmp_path: Path) -> None:
    disk = debian(shell=b"#!/bin/false\n")
    disk.roots = {"/dev/sda2": inspected(arch="aarch64")}
    assert facts_of(tmp_path, disk, None).arch == "aarch64"


def test_huge_files_of_a_guest_are_not_read(tmp_path: Path) -> None:
    image(tmp_path / "a.img")
    guest = FakeGuest()
    guest.add("/etc/os-release", b"#" * (65 << 10))
    guest.add("/bin/sh", ELF_X86_64)
    appliances = FakeAppliances({"a.img": FakeDisk({1: FakeFilesystem("ext4", guest)})})
    assert isinstance(look(tmp_path, appliances)["a.img"], GuestError)


def test_a_dead_appliance_ends_the_run(tmp_path: Path) -> None:
    image(tmp_path / "a.img")

    def die(appliance: FakeAppliance) -> None:
        def read(path: str, *, limit: int = 0) -> bytes:
            raise ApplianceError("the appliance died")

        appliance.read = read  # type: ignore[method-assign]

    with pytest.raises(ApplianceError):
        look(tmp_path, FakeAppliances({"a.img": debian()}, prepare=die))


def test_after_each_filesystem_nothing_stays_mounted(tmp_path: Path) -> None:
    image(tmp_path / "a.img")
    disk = debian()
    disk.filesystems[3] = FakeFilesystem("ext4")
    disk.filesystems[4] = FakeFilesystem("swap")
    appliances = FakeAppliances({"a.img": disk})
    look(tmp_path, appliances)
    log = appliances.appliances[0].log
    assert log == [("mount", "/dev/sda2"), ("unmount_all", ""), ("mount", "/dev/sda3"), ("unmount_all", "")]


def header(machine: int, *, little: bool = True) -> bytes:
    order = "<" if little else ">"
    return (
        b"\x7fELF\x02" + (b"\x01" if little else b"\x02") + bytes(10) + struct.pack(f"{order}HH", 3, machine)
    )


def test_os_release_is_read_like_a_shell_reads_it() -> None:
    text = (
        '# c\nNAME=\'Debian GNU/Linux\'\nPRETTY_NAME="a \\"b\\" \\$c"\nID=debian\nEMPTY=\nbad line\nX="open\n'
    )
    assert parse_os_release(text) == {
        "NAME": "Debian GNU/Linux",
        "PRETTY_NAME": 'a "b" $c',
        "ID": "debian",
        "EMPTY": "",
    }


@pytest.mark.parametrize(
    ("kind", "version", "osinfo"),
    [
        ("debian", "12", "debian12"),
        ("ubuntu", "24.04", "ubuntu24.04"),
        ("fedora", "40", "fedora40"),
        ("rocky", "9.4", "rocky9"),
        ("almalinux", "9.4", "almalinux9"),
        ("centos", "9", "centos-stream9"),
        ("rhel", "9.4", "rhel9.4"),
        ("alpine", "3.20.1", "alpinelinux3.20"),
        ("opensuse-leap", "15.6", "opensuse15.6"),
        ("arch", "", "archlinux"),
        ("debian", "", None),
        ("debian", "12\n[evil]", None),
        ("unheard-of", "1", None),
    ],
)
def test_osinfo_ids(kind: str, version: str, osinfo: str | None) -> None:
    assert osinfo_id({"ID": kind, "VERSION_ID": version}) == osinfo


@pytest.mark.parametrize(
    ("data", "arch"),
    [
        (header(62), "x86_64"),
        (header(3), "i386"),
        (header(183), "aarch64"),
        (header(21), "ppc64le"),
        (header(21, little=False), "ppc64"),
        (header(22, little=False), "s390x"),
        (header(62, little=False), None),
        (header(9999), None),
        (b"#!/bin/sh\n" + bytes(20), None),
        (b"\x7fELF", None),
        (b"", None),
    ],
)
def test_architectures_of_programs(data: bytes, arch: str | None) -> None:
    assert elf_arch(data) == arch


@given(st.binary(max_size=64))
def test_any_bytes_may_be_asked_for_their_architecture(data: bytes) -> None:
    assert elf_arch(data) is None or data.startswith(b"\x7fELF")


@pytest.mark.row("R15")
@given(st.text())
def test_a_display_name_is_one_short_line_that_an_index_keeps(text: str) -> None:
    name = display_name(text)
    if name is not None:
        assert 0 < len(name) <= 100
        assert name == name.strip()
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name)
        name.encode()


@pytest.mark.row("R15")
@given(st.text())
def test_any_text_can_be_an_os_release_file(text: str) -> None:
    release = parse_os_release(text)
    assert all("\n" not in value for value in release.values())
    osinfo = osinfo_id(release)
    assert osinfo is None or osinfo.replace("-", "").replace(".", "").isalnum()


def test_nothing_printable_is_no_name() -> None:
    assert display_name("\x00 \n\t") is None

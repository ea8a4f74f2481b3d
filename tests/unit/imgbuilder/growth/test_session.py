"""Growth inside the appliance, in memory: which requests, in which order, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from imgbuilder.disk.magic import Content
from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.events import Event, Notice, Severity
from imgbuilder.growth.decide import Growth
from imgbuilder.growth.session import open_guest
from imgbuilder.guests.unlocking import DiskKey
from tests.fakes.appliance import FakeAppliance, FakeDisk, FakeFilesystem
from tests.fakes.template import tiny_guest

GROWTH = Growth(None, 2, Content.EXT, None, is_named=True, needs_check=False)
KEY = DiskKey("all", "geheim")


@dataclass
class Case:
    """An appliance with one disk, and what it reported."""

    appliance: FakeAppliance
    events: list[Event] = field(default_factory=list)

    def open(
        self, growth: Growth | None, *, expand: str | None = "/dev/sda2", keys: tuple[DiskKey, ...] = ()
    ) -> str:
        return open_guest(
            self.appliance, expand=expand, lvexpand=growth.volume if growth else None, growth=growth,
            keys=keys, on_event=self.events.append,
        )  # fmt: skip

    @property
    def log(self) -> list[tuple[str, str]]:
        return self.appliance.log

    @property
    def warnings(self) -> list[str]:
        notices = [event for event in self.events if isinstance(event, Notice)]
        return [event.text for event in notices if event.severity is Severity.WARNING]


def case(kind: str, *, roots: tuple[str, ...] = (), first: str = "unknown") -> Case:
    """Return a disk whose second partition holds a guest in a filesystem of some kind."""
    filesystems = {1: FakeFilesystem(first), 2: FakeFilesystem(kind, tiny_guest())}
    return Case(FakeAppliance([FakeDisk(filesystems, {root: {} for root in roots})]))


def lvm(kind: str = "ext4", *, encrypted: bool = False) -> Case:
    """Return a disk with a volume group on its second partition."""
    physical = FakeFilesystem("LVM2_member")
    uuid = "aaaa-bbbb"
    second = FakeFilesystem("crypto_LUKS", uuid=uuid, inside=physical) if encrypted else physical
    place = f"/dev/mapper/luks-{uuid}" if encrypted else "/dev/sda2"
    disk = FakeDisk(
        {1: FakeFilesystem("unknown"), 2: second}, {"/dev/vg/root": {}},
        others={
            "/dev/vg/root": FakeFilesystem(kind, tiny_guest()), "/dev/vg/swap": FakeFilesystem("swap"),
            "/dev/other/root": FakeFilesystem("ext4"),
        },
        volumes={"/dev/vg/root": place, "/dev/vg/swap": place, "/dev/other/root": "/dev/sdb1"},
    )  # fmt: skip
    made = Case(FakeAppliance([disk]))
    made.appliance.secrets = {"/dev/sda2": "geheim"}
    return made


@pytest.mark.parametrize(
    ("content", "kind", "grow"),
    [
        (Content.EXT, "ext4", ("grow_ext", "/dev/sda2")),
        (Content.XFS, "xfs", ("grow_xfs", "/")),
        (Content.BTRFS, "btrfs", ("grow_btrfs", "/")),
    ],
)
def test_most_grow_while_mounted_in_two_requests(content: Content, kind: str, grow: tuple[str, str]) -> None:
    made = case(kind)
    assert made.open(replace(GROWTH, content=content)) == "/dev/sda2"
    assert made.log == [("mount", "/dev/sda2"), grow]


@pytest.mark.parametrize("kind", ["f2fs", "ntfs"])
def test_others_grow_before(kind: str) -> None:
    made = case(kind)
    made.open(replace(GROWTH, content=Content(kind)))
    look = [("mount", "/dev/sda2"), ("unmount_all", "")] if kind == "ntfs" else []
    assert made.log == [*look, (f"grow_{kind}", "/dev/sda2"), ("mount", "/dev/sda2")]


@pytest.mark.row("B20")
@pytest.mark.parametrize(
    ("head", "asleep"), [(b"hibr", True), (b"HIBR", True), (b"wake", False), (b"", False)]
)
def test_a_windows_that_sleeps_is_not_touched(head: bytes, asleep: bool) -> None:
    made = case("ntfs")
    made.appliance.mount("/dev/sda2", "/")
    made.appliance.add("/HIBERFIL.SYS", head + bytes(8192 if head else 0))
    made.appliance.unmount_all()
    if not asleep:
        made.open(replace(GROWTH, content=Content.NTFS))
        assert ("grow_ntfs", "/dev/sda2") in made.log
        return
    with pytest.raises(GuestError, match="hibernated"):
        made.open(replace(GROWTH, content=Content.NTFS))
    assert ("grow_ntfs", "/dev/sda2") not in made.log


def test_swap_grows_only_when_it_is_named() -> None:
    made = case("swap", first="ext4", roots=("/dev/sda1",))
    made.open(replace(GROWTH, content=Content.SWAP))
    assert made.log[0] == ("grow_swap", "/dev/sda2")


@pytest.mark.row("B19")
def test_a_filesystem_with_errors_is_checked_before() -> None:
    made = case("ext4")
    made.open(replace(GROWTH, needs_check=True))
    assert made.log == [("check_ext", "/dev/sda2"), ("grow_ext", "/dev/sda2"), ("mount", "/dev/sda2")]
    damaged = case("ext4")
    damaged.appliance.fails = {("check_ext", "/dev/sda2"): "unrepaired errors"}
    with pytest.raises(GuestError, match="unrepaired"):
        damaged.open(replace(GROWTH, needs_check=True))
    assert ("grow_ext", "/dev/sda2") not in damaged.log, "resize refuses if the check finds damage"


def test_what_cannot_grow_while_mounted_is_unmounted() -> None:
    made = case("ext4")
    made.appliance.fails = {("grow_ext", "/dev/sda2"): "online resize is not possible"}
    made.open(GROWTH)
    assert [name for name, _ in made.log] == [
        "mount", "grow_ext", "unmount_all", "check_ext", "grow_ext", "mount",
    ]  # fmt: skip
    assert made.appliance.is_file("/etc/os-release")
    hopeless = case("ext4")
    hopeless.appliance.fails = {("grow_ext", "/dev/sda2"): "online", ("check_ext", "/dev/sda2"): "damage"}
    with pytest.raises(GuestError, match="damage"):
        hopeless.open(GROWTH)


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "f2fs", "ntfs"])
def test_a_failure_to_grow_is_an_error(kind: str) -> None:
    made = case(kind)
    target = "/" if kind in {"xfs", "btrfs"} else "/dev/sda2"
    made.appliance.fails = {(f"grow_{kind}", target): "no space for the log"}
    with pytest.raises(GuestError, match="no space for the log"):
        made.open(replace(GROWTH, content=Content(kind)))


def test_what_the_appliance_cannot_do_is_named_with_its_package() -> None:
    for kind, feature, package in (("xfs", "xfs", "libguestfs-xfs"), ("ntfs", "ntfsprogs", "ntfs-3g")):
        made = case(kind)
        made.appliance.missing = {feature}
        with pytest.raises(GuestError, match=kind) as caught:
            made.open(replace(GROWTH, content=Content(kind)))
        assert package in (caught.value.hint or "")
        assert made.log == []


def test_a_filesystem_that_the_guest_does_not_mount_grows_too() -> None:
    made = case("xfs", first="ext4")
    made.appliance.on_sh("x", lambda _: None)  # type: ignore[arg-type, return-value]
    disk = made.appliance._disks["/dev/sda"]
    disk.filesystems[1].guest = tiny_guest()
    made.open(replace(GROWTH, content=Content.XFS), expand="/dev/sda1")
    assert made.log == [
        ("mount", "/dev/sda1"), ("mounted", ""), ("unmount_all", ""), ("mount", "/dev/sda2"),
        ("grow_xfs", "/"),
        ("unmount_all", ""), ("mount", "/dev/sda1"),
    ]  # fmt: skip


def test_unnamed_growth_is_of_the_root_only() -> None:
    unnamed = replace(GROWTH, is_named=False)
    made = case("ext4")
    assert made.open(unnamed, expand=None) == "/dev/sda2"
    assert made.log == [("mount", "/dev/sda2"), ("grow_ext", "/dev/sda2")], "no inspection"
    other = case("swap", first="ext4", roots=("/dev/sda1",))
    other.appliance._disks["/dev/sda"].filesystems[2].kind = "xfs"
    other.appliance._disks["/dev/sda"].filesystems[2].guest = FakeFilesystem().guest
    with pytest.raises(GuestError, match="the system is on /dev/sda1"):
        other.open(replace(unnamed, content=Content.XFS), expand=None)
    assert ("grow_xfs", "/") not in other.log


def test_a_named_volume_grows_after_its_physical_volume() -> None:
    made = lvm()
    assert made.open(replace(GROWTH, content=Content.LVM, volume="/dev/mapper/vg-root")) in {
        "/dev/vg/root",
        "/dev/mapper/vg-root",
    }
    assert made.log[:2] == [("grow_physical_volume", "/dev/sda2"), ("grow_volume", "/dev/vg/root")]
    assert ("grow_ext", "/dev/vg/root") in made.log


@pytest.mark.parametrize("named", [True, False])
def test_the_roots_volume_grows_when_none_is_named(named: bool) -> None:
    made = lvm("xfs")
    assert made.open(replace(GROWTH, content=Content.LVM, is_named=named), expand=None) == "/dev/vg/root"
    assert [item for item in made.log if item[0].startswith("grow")] == [
        ("grow_physical_volume", "/dev/sda2"), ("grow_volume", "/dev/vg/root"), ("grow_xfs", "/"),
    ]  # fmt: skip


def test_a_root_elsewhere_leaves_the_group_with_free_space_and_says_so() -> None:
    made = lvm()
    made.appliance._disks["/dev/sda"].volumes["/dev/vg/root"] = "/dev/sdb1"
    made.open(replace(GROWTH, content=Content.LVM), expand=None)
    assert made.warnings == ["the volume group on /dev/sda2 has new free space; no volume in it was enlarged"]
    with pytest.raises(GuestError, match="does not say what grows"):
        made.open(replace(GROWTH, content=Content.LVM, is_named=False), expand=None)


@pytest.mark.row("B21")
@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ("/dev/vg/missing", "has no such volume"),
        ("/dev/other/root", "is not on /dev/sda2"),
    ],
)
def test_a_volume_that_is_not_there(volume: str, words: str) -> None:
    made = lvm()
    with pytest.raises(GuestError, match=words) as caught:
        made.open(replace(GROWTH, content=Content.LVM, volume=volume))
    assert caught.value.hint
    assert made.log == [], "nothing was changed"


@pytest.mark.row("B23")
def test_a_volume_whose_content_cannot_grow() -> None:
    made = lvm("vfat")
    with pytest.raises(GuestError, match="holds vfat"):
        made.open(replace(GROWTH, content=Content.LVM, volume="/dev/vg/root"))
    assert made.log == []


@pytest.mark.row("B18")
def test_an_encrypted_root_opens_and_grows() -> None:
    inside = FakeFilesystem("ext4", tiny_guest())
    made = case("crypto_LUKS")
    made.appliance._disks["/dev/sda"].filesystems[2] = FakeFilesystem(
        "crypto_LUKS", uuid="aaaa-bbbb", inside=inside
    )
    made.appliance.secrets = {"/dev/sda2": "geheim"}
    keys = (DiskKey("/dev/vda2", "first-canary"), KEY, DiskKey("/dev/sda9", "unused-canary"))
    assert made.open(replace(GROWTH, content=Content.LUKS), keys=keys) == "/dev/mapper/luks-aaaa-bbbb"
    assert made.log == [
        ("open_luks", "/dev/sda2"), ("open_luks", "/dev/sda2"), ("scan_volumes", ""),
        ("mount", "/dev/mapper/luks-aaaa-bbbb"), ("grow_ext", "/dev/mapper/luks-aaaa-bbbb"),
    ]  # fmt: skip
    assert made.warnings == ["--key /dev/sda9: the disk has no such encrypted device"]
    assert "canary" not in str(made.events)


@pytest.mark.row("B18")
def test_no_key_or_a_wrong_one_is_said() -> None:
    made = lvm(encrypted=True)
    with pytest.raises(GuestError, match=r"no key given with --key opens /dev/sda2") as caught:
        made.open(GROWTH, keys=(DiskKey("all", "wrong-canary"),))
    assert "canary" not in caught.value.message + (caught.value.hint or "")
    with pytest.raises(GuestError, match="encrypted"):
        made.open(replace(GROWTH, content=Content.LUKS))
    with pytest.raises(GuestError, match="encrypted") as caught:
        case_without_roots = lvm(encrypted=True)
        case_without_roots.appliance._disks["/dev/sda"].roots.clear()
        case_without_roots.open(None)
    assert "--key /dev/sda2:file:FILE" in (caught.value.hint or "")


def test_a_whole_disk_that_is_encrypted() -> None:
    whole = FakeFilesystem("crypto_LUKS", uuid="cccc", inside=FakeFilesystem("ext4", tiny_guest()))
    other = FakeDisk({1: FakeFilesystem("ext4")})
    made = Case(FakeAppliance([FakeDisk({0: whole}), other]))
    made.appliance.secrets = {"/dev/sda": "geheim"}
    growth = replace(GROWTH, number=None, content=Content.LUKS)
    assert made.open(growth, expand="/dev/sda", keys=(KEY,)) == "/dev/mapper/luks-cccc"
    assert made.log[-1] == ("grow_ext", "/dev/mapper/luks-cccc")


def test_volumes_in_an_encrypted_partition() -> None:
    made = lvm(encrypted=True)
    made.open(replace(GROWTH, content=Content.LUKS, volume="/dev/vg/root"), keys=(KEY,))
    assert [item for item in made.log if item[0].startswith(("grow", "open"))] == [
        ("open_luks", "/dev/sda2"), ("grow_physical_volume", "/dev/mapper/luks-aaaa-bbbb"),
        ("grow_volume", "/dev/vg/root"), ("grow_ext", "/dev/vg/root"),
    ]  # fmt: skip


def test_an_encrypted_partition_without_what_the_index_names() -> None:
    made = lvm(encrypted=True)
    inside = made.appliance._disks["/dev/sda"].filesystems[2].inside
    assert inside is not None
    inside.kind = "zfs_member"
    with pytest.raises(GuestError, match="not a physical volume"):
        made.open(replace(GROWTH, content=Content.LUKS, volume="/dev/vg/root"), keys=(KEY,))
    with pytest.raises(GuestError, match="zfs_member, which cannot grow"):
        made.open(replace(GROWTH, content=Content.LUKS), keys=(KEY,))


def test_without_growth_nothing_grows_and_nothing_is_asked() -> None:
    made = case("ext4")
    made.open(None)
    assert made.log == [("mount", "/dev/sda2")]


def test_a_partition_is_no_volume() -> None:
    with pytest.raises(GuestCallError):
        lvm().appliance.canonical_volume("/dev/sda2")

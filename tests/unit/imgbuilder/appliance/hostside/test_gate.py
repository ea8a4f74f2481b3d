"""The gate: what mke2fs and debugfs make, and superblocks with changed fields."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgbuilder.appliance.hostside import gate
from imgbuilder.appliance.hostside.gate import Place, objections, place_of, require_fit
from imgbuilder.disk.partition import Partition, PartitionTable
from imgbuilder.errors import UnfitError
from tests.fakes.fuzz import examples
from tests.unit.imgbuilder.appliance.hostside import filesystems
from tests.unit.imgbuilder.disks import MIB

pytestmark = pytest.mark.row("B28")

SIZE = 16 * MIB
FIT = {
    "ext2": ("-t", "ext2"),
    "ext3": ("-t", "ext3"),
    "ext4": (),
    "1k blocks": ("-b", "1024"),
    "4k blocks": ("-b", "4096"),
    "inodes of 128 bytes": ("-I", "128"),
    "inodes of 1024 bytes": ("-I", "1024"),
    "orphan file": ("-O", "orphan_file"),
    "checksum seed": ("-O", "metadata_csum_seed"),
    "without 64bit": ("-O", "^64bit"),
    "without checksums": ("-O", "^metadata_csum"),
    "group checksums": ("-O", "^metadata_csum,uninit_bg"),
    "without journal": ("-O", "^has_journal"),
    "without flex_bg": ("-O", "^flex_bg"),
    "without resize_inode": ("-O", "^resize_inode"),
    "without extents": ("-O", "^extent,^64bit"),
}
REFUSED = {
    "inline_data": ("-O", "inline_data"),
    "encrypt": ("-O", "encrypt"),
    "casefold": ("-O", "casefold"),
    "quota": ("-O", "quota"),
    "project": ("-O", "quota,project", "-I", "256"),
    "bigalloc": ("-O", "bigalloc"),
    "fast_commit": ("-O", "fast_commit"),
    "ea_inode": ("-O", "ea_inode"),
    "large_dir": ("-O", "large_dir"),
    "verity": ("-O", "verity"),
    "mmp": ("-O", "mmp"),
    "meta_bg": ("-O", "meta_bg,^resize_inode"),
    "sparse_super2": ("-O", "sparse_super2"),
    "stable_inodes": ("-O", "stable_inodes"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return filesystems.superblock(filesystems.make(tmp_path_factory.mktemp("gate") / "image"))


@pytest.mark.parametrize("words", FIT.values(), ids=FIT)
def test_usual_filesystems_are_fit(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert objections(filesystems.superblock(filesystems.make(tmp_path / "image", *words)), SIZE) == ()


@pytest.mark.parametrize("feature", REFUSED)
def test_other_features_are_not(tmp_path: Path, feature: str) -> None:
    raw = filesystems.superblock(filesystems.make(tmp_path / "image", *REFUSED[feature]))
    assert f"it has the feature {feature}" in objections(raw, SIZE)


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        (["feature needs_recovery"], "it has the feature needs_recovery"),
        (["set_super_value state 0"], "it was not unmounted cleanly, or has errors"),
        (["set_super_value state 2"], "it was not unmounted cleanly, or has errors"),
        (["set_super_value state 3"], "it was not unmounted cleanly, or has errors"),
        (["set_super_value error_count 1"], "it was not unmounted cleanly, or has errors"),
        (["set_super_value last_orphan 12"], "it has removed files that were open"),
        (["set_super_value journal_inum 9"], "its journal is in an unusual place"),
        (["set_super_value journal_dev 2049"], "its journal is in an unusual place"),
        (["set_super_value creator_os 1"], "it was not made by Linux"),
        (["set_super_value rev_level 0"], "its revision is 0"),
        (["set_super_value flags 4"], "it is marked as a test"),
        (["feature orphan_present"], "it has the feature orphan_present"),
        (["feature journal_dev"], "it has the feature journal_dev"),
        (["feature FEATURE_I31"], "it has the feature incompat 0x80000000"),
        (["feature uninit_bg"], "it has two kinds of checksums"),
        (["set_super_value checksum_type 2"], "its checksums are of an unknown kind"),
    ],
)
def test_a_filesystem_in_an_unusual_state_is_not(tmp_path: Path, commands: list[str], reason: str) -> None:
    image = filesystems.make(tmp_path / "image")
    filesystems.debugfs(image, *commands)
    found = objections(filesystems.with_checksum(filesystems.superblock(image)), SIZE)
    assert reason in found


def test_a_backup_is_not(plain: bytes) -> None:
    raw = filesystems.with_checksum(plain[:0x5A] + b"\1" + plain[0x5B:])
    assert objections(raw, SIZE) == ("its superblock is a backup",)


def test_a_wrong_checksum_is_found(plain: bytes) -> None:
    changed = plain[:0x78] + b"label" + plain[0x7D:]
    assert objections(changed, SIZE) == ("the checksum of its superblock is wrong",)
    assert objections(filesystems.with_checksum(changed), SIZE) == ()


def test_a_filesystem_larger_than_its_partition_is_not(plain: bytes) -> None:
    assert objections(plain, SIZE - 512) == ("it is larger than its partition",)


@pytest.mark.parametrize("raw", [b"", bytes(1024), b"\xff" * 1024, bytes(100)])
def test_something_else_is_not(raw: bytes) -> None:
    assert objections(raw, SIZE)


def test_the_filesystem_in_a_disk_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    place = filesystems.in_disk(path)
    with path.open("rb") as disk:
        require_fit(disk.fileno(), place)
        require_fit(disk.fileno(), place, place.size * 2)
        for wrong in (
            Place(place.offset + 512, place.size),
            Place(1 << 40, place.size),
            Place(place.offset, MIB),
        ):
            with pytest.raises(UnfitError, match="the filesystem is not fit: "):
                require_fit(disk.fileno(), wrong)


def test_growth_needs_reserved_descriptors(tmp_path: Path) -> None:
    reserved = filesystems.superblock(filesystems.make(tmp_path / "a", "-b", "1024", "-E", "resize=65536"))
    assert objections(reserved, SIZE, 64 * MIB) == ()
    assert objections(reserved, SIZE, 1 << 40) == ("it has no room reserved to grow so much",)
    assert objections(reserved, SIZE, 8 * MIB) == ("it would have to shrink",)
    none = filesystems.superblock(filesystems.make(tmp_path / "b", "-b", "1024", "-O", "^resize_inode"))
    assert objections(none, SIZE, SIZE + MIB) == ()
    assert objections(none, SIZE, 1 << 30) == ("it has no room reserved to grow so much",)
    small = filesystems.superblock(filesystems.make(tmp_path / "c", "-b", "4096", "-O", "^64bit"))
    assert objections(small, SIZE, 1 << 45) == ("it cannot have so many blocks",)


FIELDS = {
    "s_inodes_count": 0x0,
    "s_first_data_block": 0x14,
    "s_log_block_size": 0x18,
    "s_log_cluster_size": 0x1C,
    "s_blocks_per_group": 0x20,
    "s_clusters_per_group": 0x24,
    "s_inodes_per_group": 0x28,
    "s_blocks_count_hi": 0x150,
}


@pytest.mark.parametrize("field", FIELDS)
@given(value=st.integers(0, 2**32 - 1))
@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_another_geometry_is_not_fit(plain: bytes, field: str, value: int) -> None:
    """One field alone never fits the others; nothing is computed that takes long or fails."""
    offset = FIELDS[field]
    changed = bytearray(plain)
    changed[offset : offset + 4] = value.to_bytes(4, "little")
    if bytes(changed) != plain:
        assert objections(filesystems.with_checksum(bytes(changed)), SIZE)


@given(
    changes=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=8), right=st.booleans()
)
@settings(max_examples=examples(300), deadline=None)
def test_any_superblock_gets_an_answer(plain: bytes, changes: list[tuple[int, int]], right: bool) -> None:
    changed = bytearray(plain)
    for offset, value in changes:
        changed[offset] = value
    raw = filesystems.with_checksum(bytes(changed)) if right else bytes(changed)
    for reason in objections(raw, SIZE, 1 << 34):
        assert reason.startswith(("it ", "its ", "the checksum"))


def test_checksums_are_those_of_mke2fs(plain: bytes) -> None:
    assert gate.crc32c(plain[:-4]) == int.from_bytes(plain[-4:], "little")
    assert gate.crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283  # RFC 3720, B.4 names the polynomial


# The place of the filesystem

ORDINARY = Partition(1, 2048, 4096, "83", "")


def table(*parts: Partition, label: str = "gpt", sector: int = 512) -> PartitionTable:
    return PartitionTable(label, sector, 0, 0, parts)


def test_the_place_of_a_partition() -> None:
    assert place_of(table(ORDINARY), 1, 32 * MIB) == Place(MIB, 2 * MIB)
    assert place_of(table(ORDINARY, sector=4096), 1, 32 * MIB) == Place(8 * MIB, 16 * MIB)
    assert place_of(None, None, 5 * MIB) == Place(0, 5 * MIB)
    logical = Partition(5, 4096, 2048, "83", "")
    extended = Partition(2, 2048, 4096, "f", "")
    assert place_of(table(extended, logical, label="dos"), 5, 32 * MIB) == Place(2 * MIB, MIB)


@pytest.mark.parametrize(
    ("of", "number", "reason"),
    [
        (table(ORDINARY, label="sun"), 1, "the partition table is of the kind sun"),
        (table(ORDINARY), 2, "not an ordinary partition within the disk"),
        (table(Partition(1, 2048, 1 << 40, "83", "")), 1, "not an ordinary partition within the disk"),
        (table(Partition(1, 2048, 4096, "f", ""), label="dos"), 1, "not an ordinary partition"),
        (table(ORDINARY, Partition(2, 4000, 4000, "83", "")), 1, "partition 1 overlaps partition 2"),
        (table(ORDINARY), None, "the disk has partitions"),
        (None, 1, "the disk has no partitions"),
    ],
)
def test_other_places_are_not_fit(of: PartitionTable | None, number: int | None, reason: str) -> None:
    with pytest.raises(UnfitError, match=reason):
        place_of(of, number, 32 * MIB)

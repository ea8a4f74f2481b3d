"""Names of disks: which of them mean the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.disk.devicenames import (
    DeviceName,
    appliance_disk,
    mapper_name,
    on_only_disk,
    parse_device_name,
    same_device,
)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("/dev/sda2", DeviceName("sd", 0, 2)), ("/dev/vdb14", DeviceName("vd", 1, 14)),
        ("/dev/hdc", DeviceName("hd", 2, None)), ("/dev/xvdaa3", DeviceName("xvd", 26, 3)),
        ("/dev/nvme0n1p2", DeviceName("nvme", 0, 2)), ("/dev/nvme1n1", DeviceName("nvme", 1, None)),
        ("/dev/mmcblk1p1", DeviceName("mmcblk", 1, 1)), ("/dev/dasda1", DeviceName("dasd", 0, 1)),
        ("/dev/nvme0n2p1", None), ("/dev/mmcblk0boot0", None), ("/dev/sda02", None), ("/dev/sda2x", None),
        ("/dev/vg/root", None), ("/dev/sr0", None), ("sda1", None), ("/dev/sd1", None), ("/dev/sda٣", None),
    ],
)  # fmt: skip
def test_what_a_name_says(device: str, expected: DeviceName | None) -> None:
    assert parse_device_name(device) == expected


@given(st.integers(0, 5000))
def test_the_appliances_names_count_the_disks(place: int) -> None:
    assert parse_device_name(appliance_disk(place)) == DeviceName("sd", place, None)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("/dev/vda3", "/dev/sda3"), ("/dev/nvme0n1", "/dev/sda"), ("/dev/sdb3", None), ("/dev/vdb", None),
        ("/dev/nvme1n1p3", None), ("/dev/vg/root", "/dev/vg/root"),
    ],
)  # fmt: skip
def test_a_guest_with_one_disk(device: str, expected: str | None) -> None:
    assert on_only_disk(device) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/dev/vda2", "/dev/sda2", True), ("/dev/sda2", "/dev/sdb2", False), ("/dev/vda", "/dev/sda", True),
        ("/dev/nvme1n1p2", "/dev/sdb2", True), ("/dev/sda", "/dev/sda1", False),
        ("/dev/mapper/system-root", "/dev/system/root", True),
        ("/dev/mapper/my--group-the--root", "/dev/my-group/the-root", True),
        ("/dev/mapper/my-group-the-root", "/dev/my-group/the-root", False),
        ("/dev/system/root", "/dev/sda2", False),
    ],
)  # fmt: skip
def test_names_of_the_same(one: str, other: str, same: bool) -> None:
    assert same_device(one, other) is same
    assert same_device(other, one) is same


def test_device_mapper_names() -> None:
    assert mapper_name("/dev/a-b/c") == "/dev/mapper/a--b-c"
    assert mapper_name("/dev/mapper/x") == "/dev/mapper/x"
    assert mapper_name("/dev/sda2") == "/dev/sda2"

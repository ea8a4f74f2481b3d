"""The choice of the kernel and initrd, and their destinations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.appliance import Attachment
from imgbuilder.building.getkernel import (
    KernelRequest,
    choose_files,
    get_kernel,
    matching_initrd,
    version_key,
)
from imgbuilder.errors import GuestError, UsageError
from imgbuilder.events import Event, Step
from imgbuilder.services import Services, Settings
from tests.fakes.appliance import FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest


def guest(*names: str) -> FakeGuest:
    made = FakeGuest()
    made.add_dir("/boot")
    for name in names:
        made.add(f"/boot/{name}", name.encode())
    return made


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["vmlinuz-6.1.0-9", "vmlinuz-6.1.0-13", "initrd.img-6.1.0-9", "initrd.img-6.1.0-13"],
         ["vmlinuz-6.1.0-13", "initrd.img-6.1.0-13"]),
        (["vmlinuz-5.14.0-70.el9", "vmlinuz-0-rescue-abc", "initramfs-5.14.0-70.el9.img",
          "initramfs-5.14.0-70.el9kdump.img", "initramfs-0-rescue-abc.img"],
         ["vmlinuz-5.14.0-70.el9", "initramfs-5.14.0-70.el9.img"]),
        (["vmlinuz-6.4.0-1-default", "initrd-6.4.0-1-default"],
         ["vmlinuz-6.4.0-1-default", "initrd-6.4.0-1-default"]),
        (["vmlinuz-5.10", "initrd.img-5.9"], ["vmlinuz-5.10", "initrd.img-5.9"]),
        (["vmlinux-5.10"], ["vmlinux-5.10"]),
        (["vmlinux-6.0", "vmlinuz-5.10"], ["vmlinuz-5.10"]),
        (["vmlinuz-4.19.0-100", "vmlinuz-5.2"], ["vmlinuz-5.2"]),
        (["vmlinuz-1.2²", "vmlinuz-1.2"], ["vmlinuz-1.2²"]),
    ],
)  # fmt: skip
def test_the_newest_kernel_and_its_initrd(names: list[str], chosen: list[str]) -> None:
    assert choose_files(guest(*names)) == tuple(f"/boot/{name}" for name in chosen)


@pytest.mark.parametrize("names", [[], ["vmlinuz"], ["initrd.img-5"]])
def test_no_kernel(names: list[str]) -> None:
    with pytest.raises(GuestError, match="no kernel"):
        choose_files(guest(*names))


@given(st.lists(st.text(max_size=20), max_size=5), st.text(max_size=20))
def test_any_names_can_be_compared(names: list[str], kernel: str) -> None:
    assert matching_initrd(kernel, names) in {None, *names}
    assert sorted(names, key=version_key) == sorted(sorted(names), key=version_key)


def run(
    tmp_path: Path, *names: str, folder: Path | None = None
) -> tuple[list[Event], FakeAppliances, dict[str, Path]]:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    disk = FakeDisk({1: FakeFilesystem("ext4", guest(*names))}, {"/dev/sda1": {}})
    appliances = FakeAppliances({"disk.img": disk})
    events: list[Event] = []
    request = KernelRequest(Attachment(image), folder or tmp_path)
    written = get_kernel(request, Services(Settings(), open_appliance=appliances), events.append)
    return events, appliances, written


def test_files_are_copied_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz-5").write_text("old")
    events, appliances, written = run(tmp_path, "vmlinuz-5", "initrd.img-5")
    assert [path.read_bytes() for path in written.values()] == [b"vmlinuz-5", b"initrd.img-5"]
    assert list(written) == ["/boot/vmlinuz-5", "/boot/initrd.img-5"]
    assert not [event for event in events if isinstance(event, Step)], "virt-get-kernel has no lines of steps"
    ((disk,),) = appliances.launches
    assert disk.readonly
    assert {path.name for path in tmp_path.iterdir()} == {"disk.img", "vmlinuz-5", "initrd.img-5"}


def test_a_missing_folder_is_found_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        run(tmp_path, "vmlinuz-5", folder=tmp_path / "missing")


def test_an_image_is_judged_first(tmp_path: Path) -> None:
    request = KernelRequest(Attachment(tmp_path / "none"), tmp_path)
    appliances = FakeAppliances()
    with pytest.raises(UsageError, match="No such file"):
        get_kernel(replace(request), Services(Settings(), open_appliance=appliances), lambda _event: None)
    assert appliances.launches == []

"""Keys of encrypted disks: their syntax, the devices that they open, and their secrecy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import UsageError
from imgbuilder.events import ignore
from imgbuilder.guests.unlocking import DiskKey, parse_key, unlock
from tests.fakes.appliance import FakeAppliance, FakeDisk, FakeFilesystem

UUID = "3D638DE6-f00b-493c-a998-41ff38a9a0dc"


@pytest.mark.parametrize(
    ("text", "identity", "secret"),
    [
        ("all:key:geheim", "all", "geheim"),
        ("/dev/sda2:key:with:colons: and blanks ", "/dev/sda2", "with:colons: and blanks "),
        (f"{UUID}:key:file:x", UUID, "file:x"),
    ],
)
def test_a_key_on_the_command_line(text: str, identity: str, secret: str) -> None:
    assert parse_key(text) == DiskKey(identity, secret)


@pytest.mark.parametrize("content", [b"geheim\n", b"geheim", b"geheim\nsecond line\n"])
def test_a_key_file_has_it_in_its_first_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a:b key"
    path.write_bytes(content)
    assert parse_key(f"all:file:{path}") == DiskKey("all", "geheim")


def test_a_key_may_come_through_a_pipe() -> None:
    """As from a shell's <(pass show disk)."""
    reading, writing = os.pipe()
    os.write(writing, b"geheim\n")
    os.close(writing)
    try:
        assert parse_key(f"all:file:/dev/fd/{reading}") == DiskKey("all", "geheim")
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    "text",
    ["", "all", "all:", "all:key", "all:key:", ":key:canary", "all:canary", "all:clevis", "all:KEY:canary"],
)
def test_an_invalid_selector_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_key(text)
    assert "canary" not in caught.value.message
    assert "ID:file:FILE" in (caught.value.hint or "")


@pytest.mark.row("B18")
def test_key_files_that_cannot_be_used(tmp_path: Path) -> None:
    empty, binary, nul = tmp_path / "empty", tmp_path / "binary", tmp_path / "nul"
    empty.write_bytes(b"\ncanary\n")
    binary.write_bytes(b"\xff\xfecanary")
    nul.write_bytes(b"can\0ary")
    for path in (empty, binary, nul, tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError) as caught:
            parse_key(f"all:file:{path}")
        assert str(path) in caught.value.message
        assert "canary" not in caught.value.message


@pytest.mark.parametrize(
    ("identity", "fits"),
    [
        ("all", True), ("/dev/sda2", True), ("/dev/vda2", True), ("/dev/sda3", False), (UUID, True),
        (UUID.lower(), True), (UUID.replace("-", ""), True), ("3d638de6", False), ("/dev/vg/root", False),
        ("/dev/sdb2", False), ("/dev/vdb2", False), ("/dev/nvme1n1p2", False), ("/dev/nvme0n1p2", True),
    ],
)  # fmt: skip
def test_devices_that_a_key_opens(identity: str, fits: bool) -> None:
    assert DiskKey(identity, "x").fits("/dev/sda2", UUID.lower()) is fits


@pytest.mark.parametrize("identity", ["/dev/my-group/the-root", "/dev/mapper/my--group-the--root"])
def test_a_key_for_a_logical_volume(identity: str) -> None:
    assert DiskKey(identity, "x").fits("/dev/my-group/the-root", UUID)
    assert not DiskKey(identity, "x").fits("/dev/my/group-the-root", UUID)


def test_a_key_of_one_disk_is_not_tried_on_another() -> None:
    """Each has a container on its first partition."""
    opened = FakeAppliance(
        [
            FakeDisk({1: FakeFilesystem("crypto_LUKS", uuid=uuid, inside=FakeFilesystem())})
            for uuid in ("a", "b")
        ]
    )
    opened.secrets = {"/dev/sda1": "of a", "/dev/sdb1": "of b"}
    assert unlock(opened, [DiskKey("/dev/vdb1", "of b")], ignore) == {"/dev/sdb1": "/dev/mapper/luks-b"}


@pytest.mark.row("Z18")
@given(st.sampled_from(["", "all", "all:", "all:kee:", "all:file:/nowhere\0", ":key:"]), st.text(min_size=1))
def test_a_key_never_shows(start: str, secret: str) -> None:
    assert "canary" not in repr(DiskKey("all", f"canary{secret}"))
    shown = ""
    try:
        shown = repr(parse_key(f"{start}canary{secret}"))
    except UsageError as error:
        shown = error.message + (error.hint or "")
    assert "canary" not in shown or start.startswith("all:file"), "the name of a file may be shown"

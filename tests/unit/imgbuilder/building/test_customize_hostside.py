"""Customizing without an appliance: a real worker on a real disk; the appliance is in memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.appliance.hostside.connection import open_hostside
from imgbuilder.building.customize_image import customize_disks, find_identity
from imgbuilder.building.request import CustomizeRequest, HostsideMode
from imgbuilder.cli import customize_main
from imgbuilder.customize.failure import OnError
from imgbuilder.errors import GuestError, OperationError, UnfitError, UsageError
from imgbuilder.events import Event, Notice, Reporter, Step
from imgbuilder.guests.ports import Appliance
from imgbuilder.guests.unlocking import parse_key
from imgbuilder.host.variation import Variation
from imgbuilder.services import Services, Settings
from tests.fakes.appliance import FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.operations import parse_operation
from tests.fakes.template import tiny_guest
from tests.unit.imgbuilder.disks import MIB, make_disk

_TABLE = "label: gpt\nstart=2048, size=16384\nstart=18432, size=16384\n"
_MOTD = (parse_operation("write", "/etc/motd:hello\n"), parse_operation("root-password", "password:x"))


class Host:
    """A disk with a small guest, and the ports; ``spoil`` is called at the end of work on the host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = make_disk(folder / "disk.img", _TABLE, 18 * MIB)
        self.put(1, "-d", self.tree("etc/os-release", "etc/fstab", "etc/passwd", "etc/shadow"))
        self.guest = tiny_guest()
        facts = {"type": "linux", "arch": "x86_64", "distro": "debian"}
        disk = FakeDisk({1: FakeFilesystem("ext4", self.guest)}, {"/dev/sda1": facts})
        self.appliances = FakeAppliances()
        self.appliances._disk = lambda path: disk  # type: ignore[method-assign]
        self.spoil: Callable[[Path], None] = lambda _image: None
        self.events: list[Event] = []

    def tree(self, *paths: str) -> Path:
        folder = self.folder / "tree"
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            text = {"shadow": "root:*:1::::::\n", "passwd": "root:x:0:0::/root:/bin/sh\n"}
            (folder / path).write_text(text.get(Path(path).name, "ID=tiny\n" if "os-" in path else ""))
        return folder

    def put(self, number: int, *words: str | Path) -> None:
        """Make a filesystem in a partition."""
        start = MIB if number == 1 else 9 * MIB
        subprocess.run(
            ["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={start}", *words, self.image, "8m"],
            check=True, capture_output=True,
        )  # fmt: skip

    @contextmanager
    def _open(self, disk: Attachment, _variation: Variation, on_event: Reporter) -> Iterator[Appliance]:
        with open_hostside(disk, on_event) as guest:
            yield guest
        self.spoil(disk.path)

    @property
    def services(self) -> Services:
        return Services(Settings(), open_appliance=self.appliances, open_hostside=self._open)

    def customize(self, **fields: Any) -> list[str]:
        """Customize the disk; return what was reported."""
        usual = {"operations": _MOTD, "hostside": HostsideMode.ALWAYS, "disks": (Attachment(self.image),)}
        try:
            customize_disks(CustomizeRequest(**{**usual, **fields}), self.services, self.events.append)
        finally:
            assert list(self.folder.glob(".pybuilder-*")) == []
        return [event.text for event in self.events if isinstance(event, Step | Notice)]

    def read(self, path: str) -> str:
        done = subprocess.run(
            ["/usr/sbin/debugfs", "-R", f"cat {path}", f"{self.image}?offset={MIB}"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_disk_is_replaced_by_a_customized_copy(host: Host) -> None:
    host.image.chmod(0o640)
    os.chown(host.image, -1, os.getegid())
    os.setxattr(host.image, "user.note", b"mine")
    before = host.image.stat()
    shown = host.customize()
    assert host.appliances.launches == []
    assert host.read("/etc/motd") == "hello\n"
    assert host.read("/etc/shadow").startswith("root:$")
    after = host.image.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_size) == (
        before.st_mode, before.st_uid, before.st_gid, before.st_size,
    )  # fmt: skip
    assert os.getxattr(host.image, "user.note") == b"mine"
    checked = subprocess.run(["/usr/sbin/e2fsck", "-fn", f"{host.image}?offset={MIB}"], capture_output=True)
    assert checked.returncode == 0, checked.stdout
    assert subprocess.run(["/usr/sbin/sfdisk", "--verify", host.image], capture_output=True).returncode == 0
    assert shown.index("Examining the guest ...") < shown.index("Writing: /etc/motd")
    assert shown[-1] == "Finishing off"


def test_a_dry_run_drops_the_copy_and_says_how_it_was_made(host: Host) -> None:
    before = host.image.read_bytes()
    host.image.chmod(0o440)
    shown = host.customize(dry_run=True)
    assert "No appliance is needed" in shown
    assert host.appliances.launches == []
    assert host.image.read_bytes() == before
    twin = host.folder / "twin.img"
    twin.hardlink_to(host.image)
    assert "Writing: /etc/motd" in host.customize(dry_run=True), "other names matter to a replaced disk only"


def test_a_dry_run_says_why_an_appliance_is_needed(host: Host) -> None:
    operations = (parse_operation("run-command", "true"),)
    shown = host.customize(dry_run=True, hostside=HostsideMode.AUTO, operations=operations)
    assert "An appliance is used: --run-command needs it" in shown
    assert len(host.appliances.launches) == 1


def test_without_the_option_an_appliance_is_used_and_the_reason_is_reported(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYBUILDER_HOSTSIDE", "always")  # of pybuilder, whose templates are known
    words = ["-a", str(host.image), "--write", "/etc/motd:hello", "--dry-run"]
    assert customize_main.run(words, lambda *_a, **_k: host.services) == 0
    assert "An appliance is used: --hostside is never, the default for" in capsys.readouterr().out
    assert len(host.appliances.launches) == 1
    words[-1] = "--verbose"
    assert customize_main.run(words, lambda *_a, **_k: host.services) == 0
    assert "an appliance is used: --hostside is never" in capsys.readouterr().err


def test_an_operation_that_fails_leaves_the_disk_as_it_was(host: Host) -> None:
    before, facts = host.image.read_bytes(), host.image.stat()
    operations = (*_MOTD, parse_operation("copy", "/nosuch:/there"))
    with pytest.raises(OperationError, match="--copy") as failure:
        host.customize(operations=operations, hostside=HostsideMode.AUTO)
    assert f"{host.image} was not changed" in (failure.value.hint or "")
    assert host.appliances.launches == []
    assert host.image.read_bytes() == before
    assert host.image.stat().st_ino == facts.st_ino


def test_a_copy_that_turns_out_to_be_unfit_is_thrown_away(host: Host) -> None:
    before, seen = host.image.read_bytes(), []

    def spoil(image: Path) -> None:
        seen.append(image)
        raise UnfitError("the folder /x has a default ACL")

    host.spoil = spoil
    operations = (*_MOTD[:1], parse_operation("root-password", "random"))
    shown = host.customize(hostside=HostsideMode.AUTO, operations=operations)
    assert seen != [host.image]
    assert host.image.read_bytes() == before
    assert "an appliance is used: the folder /x has a default ACL" in shown
    assert sum("random password" in text for text in shown) == 1, "not that of the copy"
    assert host.guest.read("/etc/motd") == b"hello\n"


def _qcow2(host: Host) -> dict[str, Any]:
    other = host.folder / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", host.image, other], check=True)
    return {"disks": (Attachment(other),)}


def _two_disks(host: Host) -> dict[str, Any]:
    other = make_disk(host.folder / "other.img", _TABLE)
    return {"disks": (Attachment(host.image), Attachment(other))}


def _second_name(host: Host) -> dict[str, Any]:
    (host.folder / "twin.img").hardlink_to(host.image)
    return {}


def _second_system(host: Host) -> dict[str, Any]:
    host.put(2, "-d", host.tree("usr/lib/os-release"))
    return {}


def _without_system(host: Host) -> dict[str, Any]:
    host.put(1)
    return {}


def _xfs(host: Host) -> dict[str, Any]:
    with host.image.open("r+b") as image:
        image.seek(9 * MIB)
        image.write(b"XFSB")
    return {}


def _damaged(host: Host) -> dict[str, Any]:
    subprocess.run(
        ["/usr/sbin/debugfs", "-w", "-R", "clri /etc", f"{host.image}?offset={MIB}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return {}


def _unclean(host: Host) -> dict[str, Any]:
    subprocess.run(
        ["/usr/sbin/debugfs", "-w", "-R", "ssv state 0", f"{host.image}?offset={MIB}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return {}


def _journal(host: Host) -> dict[str, Any]:
    """Leave a transaction in the journal, as a machine that was switched off does."""
    subprocess.run(
        ["/usr/sbin/debugfs", "-w", "-f", "-", f"{host.image}?offset={MIB}"],
        input=b"journal_open\njournal_write -b 500 /dev/zero\njournal_close\n",
        check=True, capture_output=True,
    )  # fmt: skip
    return {}


def _fields(**fields: Any) -> Callable[[Host], dict[str, Any]]:
    return lambda _host: fields


OBSTACLES: dict[str, tuple[Callable[[Host], dict[str, Any]], str]] = {
    "command": (_fields(operations=(parse_operation("run-command", "true"),)), "--run-command needs it"),
    "attach": (
        lambda host: {"attachments": (Attachment(make_disk(host.folder / "more.img", _TABLE)),)},
        "--attach gives disks to it",
    ),
    "key": (_fields(keys=(parse_key("all:key:secret"),)), "--key opens devices in it"),
    "keep": (_fields(on_error=OnError.KEEP), "--on-error keep leaves a failed guest in it"),
    "trace": (_fields(appliance=ApplianceOptions(trace=True)), "-x shows the calls to it"),
    "qcow2": (_qcow2, "is a qcow2 image"),
    "two disks": (_two_disks, "the guest has several disks"),
    "second name": (_second_name, "has further names"),
    "second system": (_second_system, "2 filesystems on the disk have an os-release file"),
    "no system": (_without_system, "0 filesystems on the disk have an os-release file"),
    "xfs": (_xfs, "partition 2 holds xfs"),
    "damaged": (_damaged, "e2fsck"),
    "journal": (_journal, "it has the feature needs_recovery"),
    "unclean": (_unclean, "it was not unmounted cleanly"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_needs_an_appliance(name: str, host: Host) -> None:
    prepare, reason = OBSTACLES[name]
    fields = prepare(host)
    before = host.image.read_bytes()
    with pytest.raises(UsageError, match="without an appliance") as failure:
        host.customize(**fields)
    assert reason in failure.value.message
    assert host.appliances.launches == []
    assert host.image.read_bytes() == before
    host.events.clear()
    shown = host.customize(**fields, hostside=HostsideMode.AUTO)
    assert any(text.startswith("an appliance is used: ") and reason in text for text in shown)
    assert len(host.appliances.launches) == 1
    assert host.image.read_bytes() == before


def test_without_room_for_a_copy_the_appliance_works_in_place(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgbuilder.host.sparse.disk_usage", lambda _path: 1 << 60)
    shown = host.customize(hostside=HostsideMode.AUTO)
    assert any(text.startswith("an appliance is used: not enough space in ") for text in shown)
    assert len(host.appliances.launches) == 1


def test_attributes_that_cannot_be_copied_stay_in_place(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    os.setxattr(host.image, "user.note", b"mine")

    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setxattr", refuse)
    shown = host.customize(hostside=HostsideMode.AUTO)
    assert (
        f"an appliance is used: the attributes of {host.image} cannot be copied: Operation not permitted"
        in shown
    )
    assert len(host.appliances.launches) == 1


def test_the_appliance_is_used_unless_the_option_is_given(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYBUILDER_HOSTSIDE", "always")
    words = ["-a", str(host.image), "--touch", "/x"]
    assert customize_main.run(words, lambda *_a, **_k: host.services) == 0
    assert len(host.appliances.launches) == 1
    assert customize_main.run([*words, "--hostside", "always"], lambda *_a, **_k: host.services) == 0
    assert len(host.appliances.launches) == 1
    assert "Running touch: /x" in capsys.readouterr().out


def test_check_reads_the_disks_in_an_appliance(host: Host) -> None:
    request = CustomizeRequest((Attachment(host.image),), hostside=HostsideMode.ALWAYS)
    with pytest.raises(UsageError, match="--check reads"):
        find_identity(request, host.services, host.events.append)


def test_a_missing_filesystem_of_the_guest_is_an_error_here_as_well(host: Host) -> None:
    (host.folder / "tree/etc/fstab").write_text("UUID=01234567-89ab-cdef-0123-456789abcdef /srv ext4\n")
    host.put(1, "-d", host.folder / "tree")
    before = host.image.read_bytes()
    with pytest.raises(GuestError, match="which the guest mounts on /srv"):
        host.customize()
    assert host.image.read_bytes() == before

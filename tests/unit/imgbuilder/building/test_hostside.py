"""The choice between the host and an appliance; both are in memory here, and the disk is real."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.building.build import build
from imgbuilder.building.preflight import prepare
from imgbuilder.building.request import BuildRequest, HostsideMode
from imgbuilder.customize.failure import OnError
from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.errors import OperationError, UnfitError, UsageError
from imgbuilder.events import Event, Notice, Reporter, Step
from imgbuilder.guests.unlocking import parse_key
from imgbuilder.host.variation import Variation
from imgbuilder.services import Services, Settings
from tests.fakes.appliance import FakeAppliance
from tests.fakes.operations import parse_operation
from tests.fakes.template import MIB, SIZE, Site, TinyAppliances, tiny_request


def request(**fields: Any) -> BuildRequest:
    return tiny_request(**{"hostside": HostsideMode.AUTO, **fields})


class TinyHost:
    """Opens the tiny template as ``open_hostside`` does.

    Attributes:
        opened: The disks that were opened.
        guests: Opens them, in memory.
        mark: Bytes that are written where the filesystem begins.
        unfit: The reason why the image turns out to be unfit after everything was written; empty for none.
    """

    def __init__(self) -> None:
        self.opened: list[Attachment] = []
        self.guests = TinyAppliances()
        self.mark = b""
        self.unfit = ""

    @contextmanager
    def __call__(
        self, disk: Attachment, _variation: Variation, on_event: Reporter
    ) -> Iterator[FakeAppliance]:
        self.opened.append(disk)
        with self.guests([disk], None, on_event) as guest:
            yield guest
        if self.mark:
            with disk.path.open("r+b") as image:
                image.seek(2 * MIB)
                image.write(self.mark)
        if self.unfit:
            with disk.path.open("r+b") as image:
                image.write(b"spoiled")
            raise UnfitError(self.unfit)


@pytest.fixture
def host() -> TinyHost:
    return TinyHost()


@pytest.fixture
def services(site: Site, appliances: TinyAppliances, host: TinyHost) -> Services:
    return Services(Settings(), open_appliance=appliances, open_hostside=host)


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Step | Notice)]


@pytest.mark.parametrize("kind", list(OutputFormat))
@pytest.mark.parametrize("size", [None, 64 * MIB])
def test_without_an_appliance(
    kind: OutputFormat,
    size: int | None,
    services: Services,
    site: Site,
    host: TinyHost,
    appliances: TinyAppliances,
) -> None:
    result = build(request(format=kind, size=size), services, lambda _event: None)
    assert appliances.launches == []
    (disk,) = host.opened
    assert disk.format == "raw"
    grown = [item for item in host.guests.appliances[0].log if item[0] == "grow_ext"]
    assert grown == ([] if size is None else [("grow_ext", "/dev/sda2")])
    assert [path.name for path in Path().iterdir()] == [result.path.name], "nothing else is left"
    raw = Path("../raw")
    subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", result.path, raw], check=True)
    assert raw.stat().st_size == (size or SIZE)
    with raw.open("rb") as now, (site.folder / "disk.raw").open("rb") as then:
        now.seek(2 * MIB)
        then.seek(2 * MIB)
        assert now.read(5 * MIB) == then.read(5 * MIB)


def test_an_unfit_image_is_thrown_away(
    services: Services, host: TinyHost, appliances: TinyAppliances
) -> None:
    host.unfit = "the folder /x has a default ACL"
    events: list[Event] = []
    operations = (parse_operation("root-password", "random"), parse_operation("mkdir", "/srv"))
    result = build(request(operations=operations), services, events.append)
    assert len(appliances.launches) == 1
    assert not result.path.read_bytes().startswith(b"spoiled")
    assert appliances.guest.is_dir("/srv")
    shown = texts(events)
    assert "an appliance is used: the folder /x has a default ACL" in shown
    passwords = [text for text in shown if text.startswith("Setting random password of root to")]
    assert len(passwords) == 1, "the one of the image that was thrown away is not shown"
    assert shown.count("Making directory: /srv") == 1


def test_what_is_reported_on_the_host_is_shown_in_order(services: Services, host: TinyHost) -> None:
    events: list[Event] = []
    build(request(operations=()), services, events.append)
    shown = texts(events)
    assert (
        shown.index("Opening the new disk")
        < shown.index("Setting a random seed")
        < shown.index("Finishing off")
    )
    assert sum("Setting random password of root" in text for text in shown) == 1


def test_errors_of_the_guest_are_not_a_reason(
    services: Services, host: TinyHost, appliances: TinyAppliances
) -> None:
    events: list[Event] = []
    with pytest.raises(OperationError, match="--copy"):
        build(request(operations=(parse_operation("copy", "/nosuch:/there"),)), services, events.append)
    assert len(host.opened) == 1
    assert appliances.launches == []
    assert "Copying (in image): /nosuch to /there" in texts(events)
    assert list(Path().iterdir()) == []


OBSTACLES: dict[str, tuple[dict[str, Any], str]] = {
    "never": ({"hostside": HostsideMode.NEVER}, "--hostside is never"),
    "commands": ({"operations": (parse_operation("run-command", "true"),)}, "--run-command needs it"),
    "packages": ({"operations": (parse_operation("install", "nginx"),)}, "--install needs it"),
    "scrub": ({"operations": (parse_operation("scrub", "/etc/passwd"),)}, "--scrub needs it"),
    "relabel": ({"operations": (parse_operation("selinux-relabel", ""),)}, "--selinux-relabel needs it"),
    "shell": ({"on_error": OnError.SHELL}, "--on-error shell opens a shell in it"),
    "trace": ({"appliance": ApplianceOptions(trace=True)}, "-x shows the calls to it"),
    "key": ({"keys": (parse_key("all:key:x"),)}, "--key opens devices in it"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_needs_an_appliance(
    name: str, services: Services, host: TinyHost, appliances: TinyAppliances
) -> None:
    fields, reason = OBSTACLES[name]
    plan = prepare(request(**fields), services, lambda _event: None).plan
    assert plan.obstacle == reason
    assert f"network), because {reason}" in plan.describe()
    if name not in {"install", "packages"}:
        build(request(**fields), services, lambda _event: None)
    assert host.opened == []


def test_an_attached_disk_needs_an_appliance(services: Services, site: Site) -> None:
    wanted = request(attachments=(Attachment(site.folder / "disk.raw", "raw"),))
    assert prepare(wanted, services, lambda _event: None).plan.obstacle == "--attach gives disks to it"


def test_a_source_that_is_not_signed(
    services: Services, site: Site, home: Path, host: TinyHost, appliances: TinyAppliances
) -> None:
    site.configure(home, unsigned="yes", gpgkey="")
    plan = prepare(request(), services, lambda _event: None).plan
    assert plan.obstacle == "the template's source is not signed"
    build(request(hostside=HostsideMode.ALWAYS), services, lambda _event: None)
    assert len(host.opened) == 1
    unchecked = replace(services, settings=Settings(check_signature=False))
    assert prepare(request(), unchecked, lambda _event: None).plan.obstacle == plan.obstacle


def test_always_refuses_what_needs_an_appliance(
    services: Services, host: TinyHost, appliances: TinyAppliances
) -> None:
    wanted = request(hostside=HostsideMode.ALWAYS, operations=(parse_operation("run-command", "true"),))
    with pytest.raises(UsageError, match="--run-command needs it") as refused:
        prepare(wanted, services, lambda _event: None)
    assert "--hostside always" in (refused.value.hint or "")
    host.unfit = "a surprise"
    with pytest.raises(UsageError, match="a surprise"):
        build(request(hostside=HostsideMode.ALWAYS), services, lambda _event: None)
    assert appliances.launches == []
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ("inline_data", "partition 2: it has the feature inline_data"),
        ("needs_recovery", "partition 2: it has the feature needs_recovery"),
    ],
)
def test_a_disk_that_needs_an_appliance_is_not_copied_twice(
    services: Services,
    site: Site,
    features: str,
    reason: str,
    host: TinyHost,
    appliances: TinyAppliances,
    home: Path,
) -> None:
    build(request(), services, lambda _event: None)
    (disk,) = (home / "pybuilder/disks").glob("*.raw")
    disk.chmod(0o600)
    subprocess.run(
        ["/usr/sbin/debugfs", "-w", "-R", f"feature {features}", f"{disk}?offset={2 * MIB}"],
        check=True, capture_output=True,
    )  # fmt: skip
    disk.chmod(0o400)
    record = disk.with_name(f"{disk.name}.json")
    record.unlink()
    events: list[Event] = []
    assert reason in str(prepare(request(), services, events.append).plan.obstacle)


def test_the_variable(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBUILDER_HOSTSIDE", "never")
    wanted = request(hostside=None)
    assert prepare(wanted, services, lambda _event: None).plan.obstacle == "--hostside is never"
    monkeypatch.delenv("PYBUILDER_HOSTSIDE")
    assert prepare(wanted, services, lambda _event: None).plan.obstacle is None
    monkeypatch.setenv("PYBUILDER_HOSTSIDE", "sometimes")
    with pytest.raises(UsageError, match="PYBUILDER_HOSTSIDE is 'sometimes'"):
        prepare(wanted, services, lambda _event: None)


@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse cannot be used here")
@pytest.mark.parametrize("size", [None, 64 * MIB])
def test_a_linked_image_is_written_in_place(
    size: int | None, services: Services, site: Site, host: TinyHost, appliances: TinyAppliances
) -> None:
    host.mark = b"a linked image"
    result = build(request(linked=True, format=OutputFormat.QCOW2, size=size), services, lambda _event: None)
    assert appliances.launches == []
    assert result.path.stat().st_blocks * 512 < 2 * MIB
    raw = Path("../raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", result.path, raw], check=True)
    assert raw.read_bytes()[2 * MIB :].startswith(b"a linked image"), "what the host wrote is in it"
    assert raw.stat().st_size == (size or SIZE)
    assert not (site.folder / "disk.raw").read_bytes()[2 * MIB :].startswith(b"a linked image")
    assert [path.name for path in Path().iterdir()] == [result.path.name]
    mounts = Path("/proc/self/mounts").read_text()
    assert str(Path().absolute()) not in mounts


def test_without_fuse_an_appliance_makes_a_linked_image(
    services: Services, host: TinyHost, appliances: TinyAppliances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgbuilder.disk.rawview._DAEMON", "no-such-daemon")
    events: list[Event] = []
    build(request(linked=True, format=OutputFormat.QCOW2), services, events.append)
    assert len(appliances.launches) == 1
    assert any("no-such-daemon" in text for text in texts(events))

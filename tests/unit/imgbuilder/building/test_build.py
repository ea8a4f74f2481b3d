"""Whole builds without an appliance: everything else is real."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.building.build import build, summary
from imgbuilder.building.plan import StepKind
from imgbuilder.building.preflight import prepare
from imgbuilder.building.request import BuildRequest, NetworkMode
from imgbuilder.disk import diskimage, partition
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.errors import (
    DigestMismatchError,
    DiskError,
    GuestCallError,
    GuestError,
    NotYetError,
    OperationError,
    PybuilderError,
    UsageError,
    WorkspaceError,
)
from imgbuilder.events import Event, Notice, Step
from imgbuilder.guests.ports import CommandResult
from imgbuilder.host import workspace
from imgbuilder.services import Services, Settings
from imgindex.fields import Deprecation, with_deprecation
from tests.fakes.appliance import FakeDisk
from tests.fakes.keys import KeyMaker
from tests.fakes.operations import parse_operation
from tests.fakes.template import MIB, SIZE, Site, TinyAppliances, make_site
from tests.fakes.template import tiny_request as request


def steps(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Step)]


WAYS = [
    (OutputFormat.RAW, False),
    (OutputFormat.QCOW2, False),
    (OutputFormat.QCOW2, True),
    (OutputFormat.VMDK, False),
    (OutputFormat.VDI, False),
    (OutputFormat.VHDX, False),
]


def compare(image: Path, image_format: str, other: Path, other_format: str = "raw") -> None:
    """Compare two images by qemu-img."""
    subprocess.run(
        ["qemu-img", "compare", "-f", image_format, "-F", other_format, image.absolute(), other.absolute()],
        check=True, capture_output=True,
    )  # fmt: skip


def ways() -> Iterator[tuple[str, tuple[OutputFormat, bool], int | None]]:
    """All steps of all plans; ``test_plan`` has all combinations of them."""
    for way in WAYS:
        yield "raw", way, None
        yield "raw", way, 64 * MIB
        yield "qcow2", way, 64 * MIB
    for way in (WAYS[0], WAYS[3]):
        yield "raw", way, SIZE + 1
        yield "unnamed raw", way, None
        yield "unnamed qcow2", way, None


@pytest.mark.row("X19")
@pytest.mark.parametrize(("template", "way", "size"), list(ways()), ids=str)
def test_every_way(
    services: Services, site: Site, publisher_keys: KeyMaker, appliances: TinyAppliances,
    template: str, way: tuple[OutputFormat, bool], size: int | None, tmp_path: Path,
) -> None:  # fmt: skip
    kind = template.rpartition(" ")[2]
    if kind == "qcow2":
        other = tmp_path / "other"
        other.mkdir()
        site = make_site(other, publisher_keys, template_format=kind)
        site.configure(tmp_path / "home")
    if template.startswith("unnamed"):
        site.sign(replace(site.entry, format=None))
    output, compressed = way
    events: list[Event] = []
    result = build(request(format=output, compressed=compressed, size=size), services, events.append)
    assert result.path == Path("tiny.img" if output is OutputFormat.RAW else f"tiny.{output}")
    assert result.size == {None: SIZE, SIZE + 1: SIZE + 512, 64 * MIB: 64 * MIB}[size]
    assert [path.name for path in Path().iterdir()] == [result.path.name], "nothing else is left"
    log = appliances.appliances[0].log
    grown = [("grow_ext", "/dev/sda2")] if result.size > SIZE else []
    assert [item for item in log if item[0] == "grow_ext"] == grown
    assert log[-2:] == [("unmount_all", ""), ("shutdown", "")]
    (disks,) = appliances.launches
    assert [disk.format for disk in disks] == [output.value if way in WAYS[:2] else "qcow2"]
    assert [path for path in (tmp_path / "home/pybuilder/disks").iterdir() if path.suffix != ".json"]
    # The content.
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", output, "-O", "raw", result.path, raw], check=True)
    assert raw.stat().st_size == result.size
    if size is None:
        compare(result.path, output, site.folder / "disk.raw")
    else:
        with raw.open("rb") as now, (site.folder / "disk.raw").open("rb") as then:
            now.seek(2 * MIB)
            then.seek(2 * MIB)
            assert now.read(5 * MIB) == then.read(5 * MIB), "the filesystem is as it was"
    table = partition.read_table(raw, DiskFormat.RAW)
    assert table is not None
    assert (table.partitions[1].size * 512 > 6 * MIB) is (size == 64 * MIB)
    check = subprocess.run(["qemu-img", "check", "-q", "-f", output, result.path], check=False)
    assert check.returncode in {0, 63}  # 63: nothing to check in this format


@pytest.mark.row("B15")
def test_a_disk_that_fills_while_the_image_is_written_is_named(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(".")

    def write_image(*_arguments: object, **_named: object) -> None:
        full = os.statvfs_result((real.f_bsize, 1, 0, 0, 0, *real[5:]))
        monkeypatch.setattr(os, "statvfs", lambda _path: full)
        raise DiskError("qemu-img failed")

    monkeypatch.setattr(diskimage, "write_image", write_image)
    with pytest.raises(WorkspaceError, match=r"no space left in .*: qemu-img failed"):
        build(request(format=OutputFormat.VMDK), services, lambda _event: None)
    assert list(Path().iterdir()) == []


def test_compressed_is_smaller(services: Services, site: Site) -> None:
    with (site.folder / "disk.raw").open("r+b") as disk:
        disk.seek(3 * MIB)
        disk.write(b"easy to compress" * 65536)
    packed = (site.folder / "disk.raw").read_bytes()
    (site.folder / "tiny.xz").write_bytes(packed)
    digest = hashlib.sha512(packed).hexdigest()
    site.sign(replace(site.entry, sha512=digest, compressed_size=len(packed)))
    plain = build(request(format=OutputFormat.QCOW2, output=Path("a")), services, lambda _event: None)
    small = build(
        request(format=OutputFormat.QCOW2, output=Path("b"), compressed=True), services, lambda _event: None
    )
    assert small.path.stat().st_size < plain.path.stat().st_size - MIB // 2
    compare(small.path, "qcow2", plain.path, "qcow2")


class WritingAppliances(TinyAppliances):
    """Appliances that change the disk, as real ones do."""

    MARK = b"changed!" * 64

    def _disk(self, path: Path) -> FakeDisk:
        kind = DiskFormat.QCOW2 if path.name == "overlay.qcow2" else DiskFormat.RAW
        diskimage.write_range(path, kind, 4 * MIB, self.MARK)
        return super()._disk(path)


@pytest.mark.parametrize("output", [OutputFormat.VMDK, OutputFormat.VDI, OutputFormat.VHDX])
def test_changes_of_the_appliance_are_written(
    services: Services, tmp_path: Path, output: OutputFormat
) -> None:
    services = replace(services, open_appliance=WritingAppliances())
    result = build(request(format=output, size=64 * MIB), services, lambda _event: None)
    back = tmp_path / "back"
    subprocess.run(["qemu-img", "convert", "-f", output, "-O", "raw", result.path, back], check=True)
    assert back.read_bytes()[4 * MIB :].startswith(WritingAppliances.MARK)
    again = tmp_path / "again.img"
    build(request(output=again), replace(services, open_appliance=TinyAppliances()), lambda _event: None)
    assert WritingAppliances.MARK not in again.read_bytes(), "the cached template is as it was"


def test_a_failed_build_in_a_written_format(services: Services, appliances: TinyAppliances) -> None:
    appliances.answers["false"] = CommandResult(1, "")
    asked = request(operations=(parse_operation("run-command", "false"),), format=OutputFormat.VMDK)
    refuse(asked, services, OperationError)
    with pytest.raises(OperationError):
        build(replace(asked, delete_on_failure=False), services, lambda _event: None)
    assert [path.name for path in Path().iterdir()] == ["tiny.vmdk"]
    info = subprocess.run(["qemu-img", "info", "-f", "vmdk", "tiny.vmdk"], capture_output=True, check=True)
    assert b"file format: vmdk" in info.stdout


@pytest.mark.row("X21")
@pytest.mark.parametrize("way", [WAYS[0], WAYS[1], WAYS[3]], ids=str)
def test_names_are_never_protocols(services: Services, site: Site, way: tuple[OutputFormat, bool]) -> None:
    for name in ("json:x", "-x", "x,y=z", "new\nline", "nbd:127.0.0.1:1"):
        asked = request(output=Path(name), format=way[0], compressed=way[1])
        result = build(asked, services, lambda _event: None)
        assert [path.name for path in Path().iterdir()] == [name]
        compare(result.path, way[0], site.folder / "disk.raw")
        result.path.unlink()


@pytest.mark.parametrize("packing", ["zstd", "plain"])
def test_every_packing(services: Services, site: Site, packing: str) -> None:
    disk = site.folder / "disk.raw"
    if packing == "zstd":
        packed = subprocess.run(["zstd", "-1cq", disk], check=True, capture_output=True).stdout
    else:
        packed = disk.read_bytes()
    (site.folder / "other").write_bytes(packed)
    digest = hashlib.sha512(packed).hexdigest()
    site.sign(replace(site.entry, file="other", sha512=digest, compressed_size=len(packed)))
    compare(build(request(), services, lambda _event: None).path, "raw", disk)


@pytest.mark.row("B12")
def test_a_link_stays_and_its_file_is_replaced(services: Services, tmp_path: Path) -> None:
    (tmp_path / "real.img").write_text("old")
    Path("link.img").symlink_to("../real.img")
    build(request(output=Path("link.img")), services, lambda _event: None)
    assert Path("link.img").is_symlink()
    assert (tmp_path / "real.img").stat().st_size == SIZE


@pytest.mark.row("X22")
def test_holes_stay_holes(services: Services) -> None:
    for number, (output, compressed) in enumerate(WAYS):
        path = Path(str(number))
        asked = request(output=path, format=output, compressed=compressed, size=10 << 30)
        build(asked, services, lambda _event: None)
        assert path.stat().st_blocks * 512 < 20 * MIB, f"{output} takes {path.stat().st_blocks * 512}"


def test_the_content_is_the_templates(services: Services, site: Site) -> None:
    result = build(request(), services, lambda _event: None)
    assert result.path.read_bytes() == (site.folder / "disk.raw").read_bytes()


def test_customized_and_reported(services: Services, appliances: TinyAppliances) -> None:
    events: list[Event] = []
    operations = (parse_operation("write", "/etc/a:1"), parse_operation("append-line", "/etc/a:2"))
    result = build(request(operations=operations), services, events.append)
    assert appliances.guest.read("/etc/a") == b"1\n2\n"
    assert result.root_password
    shown = [event.text for event in events if isinstance(event, Notice) and "password" in event.text]
    assert shown == [f"Setting random password of root to {result.root_password}"]
    text = summary(result)
    assert "Output file: tiny.img\n" in text
    assert text.split("\n")[0].index(":") == 30
    assert "Free space: 512.0M (50%)" in text


def test_a_name_of_a_different_format_gives_a_warning(services: Services) -> None:
    def warnings(name: str, kind: OutputFormat) -> int:
        events: list[Event] = []
        prepare(request(output=Path(name), format=kind), services, events.append)
        return sum(isinstance(event, Notice) and "--format" in event.text for event in events)

    assert warnings("x.qcow2", OutputFormat.RAW) == 1
    assert warnings("x.raw", OutputFormat.QCOW2) == 1
    assert warnings("x.img", OutputFormat.QCOW2) == warnings("x.QCOW2", OutputFormat.QCOW2) == 0


def test_a_deprecated_template_is_warned_of(services: Services, site: Site) -> None:
    def warnings() -> list[str]:
        events: list[Event] = []
        prepare(request(), services, events.append)
        return [event.text for event in events if isinstance(event, Notice) and "is deprecated" in event.text]

    assert warnings() == []
    site.sign(with_deprecation(site.entry, Deprecation(None, "other")))
    assert warnings() == ["the template tiny is deprecated; its publisher recommends 'other'"]


def test_plans(services: Services) -> None:
    prepared = prepare(request(size=64 * MIB), services, lambda _event: None)
    assert [step.kind for step in prepared.plan.steps] == [
        StepKind.FETCH, StepKind.UNPACK, StepKind.COPY, StepKind.GROW, StepKind.CUSTOMIZE
    ]  # fmt: skip
    assert not prepared.network
    text = prepared.plan.describe()
    for expected in ("tiny.xz", "64.0M", "/dev/sda2", "tiny.img", "without network"):
        assert expected in text
    assert list(Path().iterdir()) == []
    build(request(output=Path("x.img")), services, lambda _event: None)
    again = prepare(request(format=OutputFormat.QCOW2), services, lambda _event: None)
    assert [step.kind for step in again.plan.steps] == [StepKind.CONVERT, StepKind.CUSTOMIZE]


@pytest.mark.parametrize(
    ("mode", "operation", "network"),
    [
        (NetworkMode.AUTOMATIC, "write:/x:y", False),
        (NetworkMode.AUTOMATIC, "install:nginx", True),
        (NetworkMode.AUTOMATIC, "run-command:true", True),
        (NetworkMode.ON, "write:/x:y", True),
        (NetworkMode.OFF, "install:nginx", False),
    ],
)
def test_network_only_when_needed(
    services: Services, mode: NetworkMode, operation: str, network: bool
) -> None:
    keyword, _, text = operation.partition(":")
    asked = request(network=mode, operations=(parse_operation(keyword, text),))
    assert prepare(asked, services, lambda _event: None).network is network


def refuse(asked: BuildRequest, services: Services, kind: type[PybuilderError]) -> PybuilderError:
    before = sorted(Path().iterdir())
    with pytest.raises(kind) as caught:
        build(asked, services, lambda _event: None)
    assert sorted(Path().iterdir()) == before
    return caught.value


def test_requests_that_cannot_be_met(services: Services, site: Site, appliances: TinyAppliances) -> None:
    assert "tiny" in (refuse(request(template="tinny"), services, UsageError).hint or "")
    assert "shrunk" in refuse(request(size=SIZE - 512), services, UsageError).message
    refuse(request(output=Path("missing/x.img")), services, WorkspaceError)
    twice = tuple(parse_operation("root-password", text) for text in ("random", "disabled"))
    with pytest.raises(UsageError, match="twice"):
        prepare(request(operations=twice), services, lambda _event: None)
    site.sign(replace(site.entry, arch="riscv64"))
    blocked = request(arch="riscv64", operations=(parse_operation("install", "x"),))
    assert "--firstboot-install" in (refuse(blocked, services, UsageError).hint or "")
    assert appliances.launches == []


def test_layouts_that_cannot_grow_are_refused_before_anything_is_written(
    services: Services, site: Site, appliances: TinyAppliances
) -> None:
    appliances.roots = {"/dev/sda2": {}}
    layouts: list[dict[str, Any]] = [{"lvexpand": "/dev/vg/root"}, {"expand": "/dev/sda1"}]
    for fields in layouts:
        site.sign(replace(site.entry, **fields))
        refuse(request(size=64 * MIB), services, NotYetError)
        build(request(output=Path("fine.img")), services, lambda _event: None)
        Path("fine.img").unlink()


def test_the_last_partition_grows_if_the_index_names_none(
    services: Services, site: Site, appliances: TinyAppliances
) -> None:
    site.sign(replace(site.entry, expand=None))
    appliances.roots = {"/dev/sda2": {}}
    build(request(size=64 * MIB), services, lambda _event: None)
    assert ("grow_ext", "/dev/sda2") in appliances.appliances[-1].log
    Path("tiny.img").unlink()
    appliances.roots = {"/dev/sda1": {}}
    appliances.kinds = {1: "ext4"}
    appliances.guest.remove("/etc/os-release")
    error = refuse(request(size=64 * MIB), services, GuestError)
    assert "the system is on /dev/sda1" in error.message
    assert "/dev/sda2" in error.message


def test_a_wrong_digest_is_refused(services: Services, site: Site, tmp_path: Path) -> None:
    site.sign(replace(site.entry, sha512="0" * 128))
    refuse(request(), services, DigestMismatchError)
    for layer in ("templates", "disks"):
        assert not list((tmp_path / "home/pybuilder" / layer).iterdir()), "no broken cache"
    site.sign()
    build(request(), services, lambda _event: None)


def test_failing_operations_leave_nothing_but_their_log(
    services: Services, appliances: TinyAppliances, tmp_path: Path
) -> None:
    appliances.guest.add("/tmp/builder.log", b"what it printed")
    appliances.answers["false"] = CommandResult(7, "")
    error = refuse(request(operations=(parse_operation("run-command", "false"),)), services, OperationError)
    assert "7" in error.message
    (log,) = (tmp_path / "home/pybuilder/logs").iterdir()
    assert log.read_text() == "what it printed"
    assert str(log) in (error.hint or "")
    assert appliances.appliances[0].log[-1] != ("shutdown", "")


def test_existing_output_survives_until_the_end(services: Services, appliances: TinyAppliances) -> None:
    output = Path("tiny.img")
    output.write_text("precious")
    appliances.answers["false"] = CommandResult(1, "")
    asked = request(operations=(parse_operation("run-command", "false"),))
    refuse(asked, services, OperationError)
    assert output.read_text() == "precious"
    with pytest.raises(OperationError):
        build(replace(asked, delete_on_failure=False), services, lambda _event: None)
    assert output.stat().st_size == SIZE


def test_a_failed_shutdown_fails_the_build(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object) -> None:
        raise GuestCallError("shutdown: input/output error")

    monkeypatch.setattr("tests.fakes.appliance.FakeAppliance.shutdown", fail)
    refuse(request(), services, GuestError)


def test_no_operating_system(services: Services, appliances: TinyAppliances) -> None:
    appliances.guest.remove("/etc/os-release")
    assert "no operating system" in refuse(request(), services, GuestError).message


def test_full_disk_is_found_first(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, needed: int, what: str) -> None:
        raise WorkspaceError(f"not enough space in {folder} for {what}: {needed}")

    monkeypatch.setattr(workspace, "check_space", full)
    assert "the image" in refuse(request(), services, WorkspaceError).message


def test_write_errors_are_ours(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    build(request(output=Path("warm.img")), services, lambda _event: None)
    monkeypatch.setattr(os, "fsync", no_space)
    assert refuse(request(), services, WorkspaceError).hint


def test_without_a_cache(services: Services, site: Site) -> None:
    bare = replace(services, settings=Settings(use_cache=False))
    build(request(), bare, lambda _event: None)
    assert [path.name for path in Path().iterdir()] == ["tiny.img"]

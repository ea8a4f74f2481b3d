"""Plans of all combinations, in memory: steps, space, and refusals."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from imgbuilder.building.plan import (
    BuildPlan,
    OutputImage,
    StepKind,
    TemplateFacts,
    final_size,
    make_plan,
)
from imgbuilder.building.target import BlockDevice, OutputTarget
from imgbuilder.cache.assemble import Foreseen
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat, parse_output_format
from imgbuilder.errors import UsageError

MIB = 1 << 20
GIB = 1 << 30
SIZE = 2 * GIB
USED = 490 * MIB
PACKED = 111 * MIB

FORMATS = [DiskFormat.RAW, DiskFormat.QCOW2, None]
SIZES = [None, SIZE, SIZE + 1, SIZE + 255 * MIB, 20 * GIB]
OUTPUTS = [
    (OutputFormat.RAW, False),
    (OutputFormat.QCOW2, False),
    (OutputFormat.QCOW2, True),
    (OutputFormat.VMDK, False),
    (OutputFormat.VDI, False),
    (OutputFormat.VHDX, False),
]
PLACES = {
    "new file": OutputTarget(Path("/out/x.img")),
    "device": OutputTarget(Path("/dev/sdx"), BlockDevice(Path("/dev/sdx"), 30 * GIB, is_partition=False)),
    "partition": OutputTarget(Path("/dev/sdx1"), BlockDevice(Path("/dev/sdx1"), 30 * GIB, is_partition=True)),
    "volume": OutputTarget(Path("/dev/dm-1"), BlockDevice(Path("/dev/dm-1"), 30 * GIB, is_partition=False)),
}
CACHED = {"nothing": (False, None), "template": (True, None), "disk": (True, USED)}

FIRST: dict[str, tuple[StepKind, ...]] = {
    "nothing": (StepKind.FETCH, StepKind.UNPACK),
    "template": (StepKind.UNPACK,),
    "disk": (),
}


def facts(template_format: DiskFormat | None = DiskFormat.RAW, cached: str = "nothing") -> TemplateFacts:
    fetched, used = CACHED[cached]
    return TemplateFacts(
        "debian-12",
        "https://example.org/d.xz",
        template_format,
        SIZE,
        PACKED,
        "/dev/sda1",
        None,
        fetched,
        None if used is None else Path("/cache/disk"),
        used,
    )


def test_an_update_by_blocks_says_what_it_fetches() -> None:
    found = plan(replace(facts(), update=Foreseen(PACKED, 3 * MIB)), target())
    assert "1. download 3.0M of 111.0M from https://example.org/d.xz: the blocks" in found.describe()
    assert "for the download" not in found.describe()
    assert tuple(step.kind for step in found.steps[:2]) == FIRST["nothing"]


def test_a_plan_says_why_no_blocks_are_fetched() -> None:
    found = plan(replace(facts(), update=Foreseen(PACKED, None, "of a reason")), target())
    assert "1. download https://example.org/d.xz (111.0M), as a whole: of a reason" in found.describe()
    assert "for the download" in found.describe()


def target(
    place: str = "new file",
    output: tuple[OutputFormat, bool] = (OutputFormat.RAW, False),
    size: int | None = None,
) -> OutputImage:
    return OutputImage(Path("x.img"), PLACES[place], output[0], size, output[1])


def plan(template: TemplateFacts, wanted: OutputImage) -> BuildPlan:
    return make_plan(template, wanted, ("install nginx",), network=True, obstacle="--install needs it")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("output", OUTPUTS, ids=str)
def test_every_combination_takes_the_shortest_way(place: str, output: tuple[OutputFormat, bool]) -> None:
    for template_format, size, cached in itertools.product(FORMATS, SIZES, CACHED):
        wanted, template = target(place, output, size), facts(template_format, cached)
        if place != "new file" and output[0] in {OutputFormat.VMDK, OutputFormat.VDI, OutputFormat.VHDX}:
            with pytest.raises(UsageError, match="block device"):
                plan(template, wanted)
            continue
        made = plan(template, wanted)
        got = [step.kind for step in made.steps]
        expected = list(FIRST[cached])
        direct = place == "new file" and output in OUTPUTS[:2]
        if direct:
            same = template_format is not None and template_format.value == output[0].value
            expected = [*expected, StepKind.COPY if same else StepKind.CONVERT]
        else:
            expected = [*expected, StepKind.OVERLAY]
        fills = size is None and place != "new file" and output[0] is OutputFormat.RAW
        if fills or (size is not None and size > SIZE):
            expected = [*expected, StepKind.GROW]
        expected = [*expected, StepKind.CUSTOMIZE] + ([] if direct else [StepKind.WRITE])
        assert got == expected, (template_format, size, cached)
        assert made.size == (30 * GIB if fills else -(-(size or SIZE) // 512) * 512)
        # At most one copy of the disk outside the cache, and never a temporary one.
        copies = [space for space in made.space if "image" in space.where]
        assert len(copies) == (1 if place == "new file" else 0)
        assert all(space.size <= SIZE for space in made.space)
        assert (
            sum("in the cache" in space.where for space in made.space)
            == {"nothing": 2, "template": 1, "disk": 0}[cached]
        )
        if direct:
            settled = made.with_format(DiskFormat.QCOW2)
            way = StepKind.COPY if output[0] is OutputFormat.QCOW2 else StepKind.CONVERT
            assert way in [step.kind for step in settled.steps]
            assert settled.template.format is DiskFormat.QCOW2
        text = made.describe()
        for step in made.steps:
            assert str(step) in text
        for space in made.space:
            assert str(space) in text


def test_a_plan_without_customizations() -> None:
    text = make_plan(facts(), target(), (), network=False, obstacle="--hostside is never").describe()
    assert "start the appliance once (without network), because --hostside is never; every guest gets" in text
    text = make_plan(facts(), target(), (), network=False, obstacle=None).describe()
    assert (
        "write on the host, without an appliance, if the template's disk allows it; every guest gets" in text
    )
    text = make_plan(facts(None, "disk"), target(), ("touch it",), network=False, obstacle=None).describe()
    assert "write on the host, without an appliance:\n     - touch it\n" in text


def test_the_text_of_a_plan() -> None:
    text = plan(facts(), target(size=20 * GIB)).describe()
    assert text == (
        "template: debian-12 (2.0G, raw)\n"
        "output:   x.img (20.0G, raw)\n"
        "steps:\n"
        "  1. download https://example.org/d.xz (111.0M)\n"
        "  2. check and unpack the template (2.0G, sparse)\n"
        "  3. copy the template to x.img\n"
        "  4. grow the disk to 20.0G, and /dev/sda1 with it, in place\n"
        "  5. start the appliance once (with network), because --install needs it:\n"
        "     - install nginx\n"
        "space, besides what the customizations write:\n"
        "     111.0M in the cache for the download\n"
        "     up to 2.0G in the cache for the unpacked template\n"
        "     up to 2.0G in /out for the image"
    )
    text = plan(facts(None, "disk"), target(output=(OutputFormat.QCOW2, True))).describe()
    assert "format not given" in text
    assert "write the image as x.img (compressed qcow2)" in text
    assert "up to 490.0M in /out" in text
    text = plan(facts(None, "disk"), target("device")).describe()
    assert "onto the block device x.img (raw)" in text
    assert text.endswith("write:\n     none")
    assert "depending on its header" in plan(facts(None), target()).describe()


@pytest.mark.row("X20")
@pytest.mark.parametrize("size", [1, 512, SIZE - 512, SIZE - 1])
def test_smaller_than_the_template_is_refused(size: int) -> None:
    for place in PLACES:
        with pytest.raises(UsageError, match="cannot be shrunk") as refused:
            final_size(target(place, size=size), SIZE)
        assert "2.0G or more" in (refused.value.hint or "")


@pytest.mark.row("X20")
@pytest.mark.parametrize(
    ("asked", "made"), [(None, SIZE), (SIZE, SIZE), (SIZE + 1, SIZE + 512), (SIZE + 512, SIZE + 512)]
)
def test_sizes_are_rounded_up_to_sectors(asked: int | None, made: int) -> None:
    assert final_size(target(size=asked), SIZE) == made


@pytest.mark.row("B13")
def test_sizes_of_block_devices() -> None:
    def on(device_size: int, size: int | None, output: OutputFormat = OutputFormat.RAW) -> int:
        device = BlockDevice(Path("/dev/sdx"), device_size, is_partition=False)
        return final_size(
            OutputImage(Path("/dev/sdx"), OutputTarget(device.path, device), output, size), SIZE
        )

    assert on(SIZE, None) == SIZE
    assert on(SIZE + 512, None) == SIZE + 512
    assert on(30 * GIB, 3 * GIB) == 3 * GIB
    assert on(30 * GIB, None, OutputFormat.QCOW2) == SIZE, "the tables of a qcow2 image need room as well"
    assert on(3 * GIB, 30 * GIB, OutputFormat.QCOW2) == 30 * GIB, "it may be thin"
    with pytest.raises(UsageError, match="too small for the template"):
        on(SIZE - 512, None)
    with pytest.raises(UsageError, match="too large for the block device"):
        on(3 * GIB, 3 * GIB + 1)


def test_only_qcow2_can_be_compressed() -> None:
    for output in OutputFormat:
        wanted = replace(target(), format=output, compressed=True)
        if output is OutputFormat.QCOW2:
            assert plan(facts(), wanted)
        else:
            with pytest.raises(UsageError, match="--compress"):
                plan(facts(), wanted)


def test_formats_by_name() -> None:
    assert [parse_output_format(name) for name in ("raw", "qcow2", "vmdk", "vdi", "vhdx")] == list(
        OutputFormat
    )
    for name in ("", "RAW", "vpc", "json:", "luks", "nbd"):
        with pytest.raises(UsageError, match="not supported") as refused:
            parse_output_format(name)
        assert "vhdx" in (refused.value.hint or "")

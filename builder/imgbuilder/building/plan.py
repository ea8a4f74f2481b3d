"""The plan of a build: a pure decision about the steps, which ``--dry-run`` prints.

Every build starts from the unpacked disk in the cache. Plain raw and qcow2 files are copied and edited
in place. Other formats, compressed images and block devices are edited as an overlay and written at the end
(``imgbuilder.building.output``). The disk grows in place.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from pathlib import Path

from imgbuilder.building.target import OutputTarget
from imgbuilder.cache.assemble import Foreseen
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.errors import UsageError
from imgbuilder.sizes import human_size

_SECTOR = 512


@dataclass(frozen=True)
class TemplateFacts:
    """Facts about a template, from the index and the cache.

    Attributes:
        name: Its name in the index.
        url: The address of its file.
        format: Disk format after decompression; None when the index names none and it is not unpacked yet.
        size: Virtual size in bytes.
        compressed_size: Size of the download in bytes; None when the index does not say.
        expand: Partition that grows.
        lvexpand: Logical volume that grows.
        fetched: Whether the download is in the cache.
        disk: Its unpacked disk in the cache; None when it is not there.
        used: Bytes that the disk takes.
        update: What an update by blocks would fetch; None if no disk here may have blocks of the template,
            or if that was not asked for.
    """

    name: str
    url: str
    format: DiskFormat | None
    size: int
    compressed_size: int | None
    expand: str | None
    lvexpand: str | None
    fetched: bool
    disk: Path | None
    used: int | None
    update: Foreseen | None = None

    @property
    def unpacked(self) -> bool:
        """Return whether the unpacked disk is in the cache."""
        return self.disk is not None


@dataclass(frozen=True)
class OutputImage:
    """The image to make.

    Attributes:
        path: Its path, as the user wrote it.
        target: The file or block device there.
        format: Its format.
        size: Its virtual size in bytes; None for the template's, or for all of a raw block device.
        compressed: Whether its data are compressed.
        linked: Whether it lies over the template's disk in the cache, and holds only what is different.
    """

    path: Path
    target: OutputTarget
    format: OutputFormat
    size: int | None
    compressed: bool = False
    linked: bool = False

    @property
    def edited_directly(self) -> DiskFormat | None:
        """Return the format in which the appliance edits the file itself; None when it edits an overlay."""
        return None if self.compressed or self.target.device is not None else self.format.working


class StepKind(enum.Enum):
    """The kinds of steps of a build."""

    FETCH = "download the template into the cache"
    UNPACK = "decompress it there"
    COPY = "copy the unpacked disk, leaving holes as holes"
    CONVERT = "write the unpacked disk in another format"
    OVERLAY = "put an empty overlay over the unpacked disk, which is not copied"
    GROW = "extend the image, its last partition, and its filesystem"
    CUSTOMIZE = "run the operations, in one appliance session or on the host"
    WRITE = "write the finished image from the overlay and the template"


@dataclass(frozen=True)
class PlanStep:
    """One step of a build, and its description for ``--dry-run``."""

    kind: StepKind
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Space:
    """Disk space that a build needs.

    Attributes:
        where: A description of the place and the purpose.
        size: Bytes.
        at_most: Whether it may be less.
    """

    where: str
    size: int
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'up to ' if self.at_most else ''}{human_size(self.size)} {self.where}"


@dataclass(frozen=True)
class BuildPlan:
    """All steps of a build, in order.

    Attributes:
        template: The template.
        image: The image.
        size: Virtual size of the image in bytes.
        grows: Whether the disk is larger than the template's.
        steps: The steps.
        space: The disk space that they need, besides what the customizations write.
        obstacle: The reason why an appliance is needed; None when the image is written on the host.
    """

    template: TemplateFacts
    image: OutputImage
    size: int
    grows: bool
    steps: tuple[PlanStep, ...]
    space: tuple[Space, ...]
    obstacle: str | None

    def describe(self) -> str:
        """Return the text of the plan for ``--dry-run``."""
        template, image = self.template, self.image
        kind = template.format or "format not given"
        place = ", in place of the file that is there" if image.target.replaced else ""
        lines = [
            f"template: {template.name} ({human_size(template.size)}, {kind})",
            f"output:   {image.path} ({human_size(self.size)}, {image.format}){place}",
            "steps:",
        ]
        lines += [f"{number:3}. {step}" for number, step in enumerate(self.steps, start=1)]
        lines.append("space, besides what the customizations write:")
        lines += [f"     {space}" for space in self.space or ("none",)]
        return "\n".join(lines)

    def with_format(self, found: DiskFormat) -> BuildPlan:
        """Return the same plan with the template's format, which is known now."""
        wanted = self.image.edited_directly
        steps = tuple(
            _first_step(self.image, found, wanted)
            if step.kind in {StepKind.COPY, StepKind.CONVERT} and wanted is not None
            else step
            for step in self.steps
        )
        return replace(self, template=replace(self.template, format=found), steps=steps)


def final_size(image: OutputImage, template_size: int) -> int:
    """Return the virtual size of the image in bytes, a multiple of 512 (docs/compatibility.md).

    Without ``--size``, a raw image fills its block device. In other formats it does not: their tables need
    space as well.

    Raises:
        UsageError: It would be smaller than the template, or larger than the block device.
    """
    device = image.target.device if image.format is OutputFormat.RAW else None
    requested = image.size
    if requested is None:
        requested = template_size if device is None else device.size
    if requested < template_size:
        if image.size is None:
            raise UsageError(
                f"the block device {image.path} is too small for the template: it has "
                f"{human_size(requested)}, minimum size = {human_size(template_size)}",
                hint="use a larger device",
            )
        raise UsageError(
            f"images cannot be shrunk: requested size = {human_size(requested)}, "
            f"minimum size = {human_size(template_size)}",
            hint=f"use --size {human_size(template_size)} or more, or leave --size out",
        )
    size = -(-requested // _SECTOR) * _SECTOR
    if device is not None and size > device.size:
        raise UsageError(
            f"--size {human_size(requested)} is too large for the block device {image.path}, "
            f"which has {human_size(device.size)}",
            hint="leave --size out: the image then fills the device",
        )
    return size


def make_plan(
    template: TemplateFacts,
    image: OutputImage,
    operations: tuple[str, ...],
    *,
    network: bool,
    obstacle: str | None,
) -> BuildPlan:
    """Decide how to build an image.

    Args:
        template: The template.
        image: The image.
        operations: Descriptions of the customizations.
        network: Whether the guest reaches the network.
        obstacle: The reason why an appliance is needed; None when it is not.

    Raises:
        UsageError: The image would be smaller than the template or larger than its device, or its format
            does not fit.
    """
    _check_format(image)
    size = final_size(image, template.size)
    grows = size > template.size
    steps = _get_disk(template)
    steps.append(_first_step(image, template.format, image.edited_directly))
    if grows:
        device = template.lvexpand or template.expand or "its root"
        text = f"grow the disk to {human_size(size)}, and {device} with it, in place"
        steps.append(PlanStep(StepKind.GROW, text))
    if obstacle is not None:
        way = f"start the appliance once ({'with' if network else 'without'} network), because {obstacle}"
    else:
        condition = "" if template.unpacked else ", if the template's disk allows it"
        way = f"write on the host, without an appliance{condition}"
    steps.append(PlanStep(StepKind.CUSTOMIZE, _list_operations(way, operations)))
    if image.edited_directly is None:
        kind = f"{'compressed ' if image.compressed else ''}{image.format}"
        onto = "as" if image.target.device is None else "onto the block device"
        steps.append(PlanStep(StepKind.WRITE, f"write the image {onto} {image.path} ({kind})"))
    return BuildPlan(template, image, size, grows, tuple(steps), tuple(_space(template, image)), obstacle)


def _get_disk(template: TemplateFacts) -> list[PlanStep]:
    """Return the steps that put the template's disk into the cache; none if it is there."""
    if template.unpacked:
        return []
    size, steps, update = human_size(template.size), [], template.update
    if update is not None and update.blocks is not None:
        some, whole = human_size(update.blocks), human_size(update.whole)
        text = f"download {some} of {whole} from {template.url}: the blocks that no disk here has"
        copy = f"make the template's disk of them and of older disks ({size}, sparse)"
        return [PlanStep(StepKind.FETCH, text), PlanStep(StepKind.UNPACK, copy)]
    if not template.fetched:
        download = "" if template.compressed_size is None else f" ({human_size(template.compressed_size)})"
        why = "" if update is None else f", as a whole: {update.reason}"
        steps.append(PlanStep(StepKind.FETCH, f"download {template.url}{download}{why}"))
    return [*steps, PlanStep(StepKind.UNPACK, f"check and unpack the template ({size}, sparse)")]


def _check_format(image: OutputImage) -> None:
    if image.compressed and image.format is not OutputFormat.QCOW2:
        raise UsageError(
            f"--compress is for qcow2 images, and this one is {image.format}", hint="add: --format qcow2"
        )
    if image.linked and (
        image.format is not OutputFormat.QCOW2 or image.compressed or image.target.device is not None
    ):
        raise UsageError(
            "a linked image is a qcow2 file that is not compressed",
            hint="leave out --format, --compress and block devices, or leave out --linked",
        )
    if image.target.device is not None and image.format.working is None:
        raise UsageError(
            f"a {image.format} image cannot be written onto a block device", hint="use --format raw or qcow2"
        )


def _first_step(image: OutputImage, found: DiskFormat | None, wanted: DiskFormat | None) -> PlanStep:
    """Return the step that makes the disk to work on: a copy, a conversion or an overlay."""
    if image.linked:
        text = f"make {image.path}, which lies over the template's disk in the cache"
        return PlanStep(StepKind.OVERLAY, text)
    if wanted is None:
        return PlanStep(StepKind.OVERLAY, "put an overlay over the template, which is not copied")
    if found is wanted:
        return PlanStep(StepKind.COPY, f"copy the template to {image.path}")
    text = (
        f"copy the template to {image.path}, or convert it to {wanted}, depending on its header"
        if found is None
        else f"convert the template from {found} to {wanted} into {image.path}"
    )
    return PlanStep(StepKind.CONVERT, text)


def _list_operations(way: str, operations: tuple[str, ...]) -> str:
    if not operations:
        return f"{way}; every guest gets a random seed and a random root password"
    return "\n".join([f"{way}:", *(f"     - {operation}" for operation in operations)])


def _space(template: TemplateFacts, image: OutputImage) -> list[Space]:
    needed = []
    if template.used is None:
        by_blocks = template.update is not None and template.update.blocks is not None
        if not template.fetched and not by_blocks:
            size = template.compressed_size
            where = "in the cache for the download"
            needed.append(Space(where, template.size, at_most=True) if size is None else Space(where, size))
        needed.append(Space("in the cache for the unpacked template", template.size, at_most=True))
    if image.target.device is None and not image.linked:
        known = template.used is not None and image.format is OutputFormat.RAW
        size = template.used if template.used is not None else template.size
        needed.append(Space(f"in {image.target.path.parent} for the image", size, at_most=not known))
    return needed

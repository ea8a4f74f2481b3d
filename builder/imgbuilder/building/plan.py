"""What a build will do, decided before it does anything. Pure, and printable.

The shortest way from a template to an image. Its unpacked disk in the cache is
where every way begins; raw and qcow2 files are copied or converted from it and
worked on where they are, all else is worked on as an overlay and written at the
end (``imgbuilder.building.delivery``). The rules of sizes are in ``virt-builder.md`` 6.2;
growth in place replaces virt-resize (design decision 5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from imgbuilder.building.place import Place
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.errors import UsageError
from imgbuilder.sizes import human_size

_SECTOR = 512


@dataclass(frozen=True)
class TemplateFacts:
    """What the index and the cache say about a template.

    Attributes:
        name: Its name in the index.
        url: Where it comes from.
        format: Disk format after decompression; None when the index names none and it is not unpacked yet.
        size: Virtual size in bytes.
        compressed_size: Size of the download in bytes; None when the index does not say.
        expand: Partition that grows.
        lvexpand: Logical volume that grows.
        fetched: Whether the download is in the cache.
        used: Bytes that its unpacked disk takes in the cache; None when it is not there.
    """

    name: str
    url: str
    format: DiskFormat | None
    size: int
    compressed_size: int | None
    expand: str | None
    lvexpand: str | None
    fetched: bool
    used: int | None

    @property
    def unpacked(self) -> bool:
        """Return whether the unpacked disk is in the cache."""
        return self.used is not None


@dataclass(frozen=True)
class Target:
    """The image to make.

    Attributes:
        path: Its final place, as the user wrote it.
        place: What is there.
        format: Its format.
        size: Its virtual size in bytes; None for the template's, or a raw block device's own.
        compressed: Whether its data are compressed.
    """

    path: Path
    place: Place
    format: OutputFormat
    size: int | None
    compressed: bool = False

    @property
    def edited_directly(self) -> DiskFormat | None:
        """Return the format in which the appliance works on the very file; None when it works elsewhere."""
        return None if self.compressed or self.place.device is not None else self.format.working


@dataclass(frozen=True)
class Fetch:
    """Download the template into the cache."""

    url: str
    size: int | None

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        return f"download {self.url}" + (f" ({human_size(self.size)})" if self.size is not None else "")


@dataclass(frozen=True)
class Unpack:
    """Decompress the template into the cache."""

    size: int

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        return f"check and unpack the template ({human_size(self.size)}, sparse)"


@dataclass(frozen=True)
class Copy:
    """Copy the unpacked disk, leaving holes as holes."""

    path: Path

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        return f"copy the template to {self.path}"


@dataclass(frozen=True)
class Convert:
    """Write the unpacked disk in another format; ``source`` is None until its header was seen."""

    path: Path
    source: DiskFormat | None
    target: DiskFormat

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        if self.source is None:
            return f"copy the template to {self.path}, or convert it to {self.target}, as its header says"
        return f"convert the template from {self.source} to {self.target} into {self.path}"


@dataclass(frozen=True)
class Overlay:
    """Lay an empty image over the unpacked disk, which is not copied."""

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        return "lay an overlay over the template, which is not copied"


@dataclass(frozen=True)
class Grow:
    """Extend the image, its last partition, and (in the appliance) its filesystem."""

    size: int
    device: str | None

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        return f"grow the disk to {human_size(self.size)}, and {self.device or 'its root'} with it, in place"


@dataclass(frozen=True)
class Write:
    """Write the finished image from the overlay and the template."""

    target: Target

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        kind = f"{'compressed ' if self.target.compressed else ''}{self.target.format}"
        onto = "onto the block device" if self.target.place.device is not None else "as"
        return f"write the image {onto} {self.target.path} ({kind})"


@dataclass(frozen=True)
class Customize:
    """Run the operations in one appliance session."""

    operations: tuple[str, ...]
    network: bool

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        start = f"start the appliance once ({'with' if self.network else 'without'} network)"
        if not self.operations:
            return f"{start}, for what every guest gets: a random seed, and a random password of root"
        return "\n".join([f"{start}, and in it:", *(f"     - {text}" for text in self.operations)])


Step = Fetch | Unpack | Copy | Convert | Overlay | Grow | Customize | Write


@dataclass(frozen=True)
class Space:
    """Space on the disk that a build takes.

    Attributes:
        where: For what, in words.
        size: Bytes.
        at_most: Whether it may be less.
    """

    where: str
    size: int
    at_most: bool = False

    def __str__(self) -> str:
        """Describe it for ``--dry-run``."""
        return f"{'up to ' if self.at_most else ''}{human_size(self.size)} {self.where}"


@dataclass(frozen=True)
class BuildPlan:
    """All steps of a build, in order.

    Attributes:
        template: The template.
        target: The image.
        size: Virtual size of the image in bytes.
        grows: Whether the disk is larger than the template's.
        steps: What will be done.
        space: What it takes on the disk, besides what the customizations write.
    """

    template: TemplateFacts
    target: Target
    size: int
    grows: bool
    steps: tuple[Step, ...]
    space: tuple[Space, ...]

    def describe(self) -> str:
        """Write the plan for ``--dry-run``."""
        template, target = self.template, self.target
        kind = template.format or "format not named"
        lines = [
            f"template: {template.name} ({human_size(template.size)}, {kind})",
            f"output:   {target.path} ({human_size(self.size)}, {target.format})",
            "steps:",
        ]
        lines += [f"{number:3}. {step}" for number, step in enumerate(self.steps, start=1)]
        lines.append("space, besides what the customizations write:")
        lines += [f"     {space}" for space in self.space or ("none",)]
        return "\n".join(lines)

    def with_format(self, found: DiskFormat) -> BuildPlan:
        """Return the same plan now that the template's format is known."""
        target = self.target.edited_directly
        steps = tuple(
            _direct_step(self.target, found, target)
            if isinstance(step, Convert | Copy) and target is not None
            else step
            for step in self.steps
        )
        return replace(self, template=replace(self.template, format=found), steps=steps)


def final_size(target: Target, template_size: int) -> int:
    """Return the virtual size of the image in bytes, a multiple of 512 (``virt-builder.md`` 6.2).

    Without ``--size``, a raw image fills its block device. In other formats it does not: their tables need
    space as well.

    Raises:
        UsageError: It would be smaller than the template, or larger than the block device.
    """
    device = target.place.device if target.format is OutputFormat.RAW else None
    requested = target.size
    if requested is None:
        requested = template_size if device is None else device.size
    if requested < template_size:
        if target.size is None:
            raise UsageError(
                f"the block device {target.path} is too small for the template: it has "
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
            f"--size {human_size(requested)} is too large for the block device {target.path}, "
            f"which has {human_size(device.size)}",
            hint="leave --size out: the image then fills the device",
        )
    return size


def make_plan(
    template: TemplateFacts, target: Target, operations: tuple[str, ...], *, network: bool
) -> BuildPlan:
    """Decide how to build an image.

    Args:
        template: The template.
        target: The image.
        operations: What each customization says it does, in order.
        network: Whether the guest reaches the network.

    Raises:
        UsageError: The image would be smaller than the template or larger than its device, or its format
            does not fit.
    """
    _check_format(target)
    size = final_size(target, template.size)
    grows = size > template.size
    direct = target.edited_directly
    steps: list[Step] = []
    if not template.unpacked:
        if not template.fetched:
            steps.append(Fetch(template.url, template.compressed_size))
        steps.append(Unpack(template.size))
    steps.append(Overlay() if direct is None else _direct_step(target, template.format, direct))
    if grows:
        steps.append(Grow(size, template.lvexpand or template.expand))
    steps.append(Customize(operations, network))
    if direct is None:
        steps.append(Write(target))
    return BuildPlan(template, target, size, grows, tuple(steps), tuple(_space(template, target)))


def _check_format(target: Target) -> None:
    if target.compressed and target.format is not OutputFormat.QCOW2:
        raise UsageError(
            f"--compress is for qcow2 images, and this one is {target.format}", hint="add: --format qcow2"
        )
    if target.place.device is not None and target.format.working is None:
        raise UsageError(
            f"a {target.format} image cannot be written onto a block device", hint="use --format raw or qcow2"
        )


def _direct_step(target: Target, found: DiskFormat | None, wanted: DiskFormat) -> Step:
    return Copy(target.path) if found is wanted else Convert(target.path, found, wanted)


def _space(template: TemplateFacts, target: Target) -> list[Space]:
    needed = []
    if template.used is None:
        if not template.fetched:
            size = template.compressed_size
            where = "in the cache for the download"
            needed.append(Space(where, template.size, at_most=True) if size is None else Space(where, size))
        needed.append(Space("in the cache for the unpacked template", template.size, at_most=True))
    if target.place.device is None:
        known = template.used is not None and target.format is OutputFormat.RAW
        size = template.used if template.used is not None else template.size
        needed.append(Space(f"in {target.place.path.parent} for the image", size, at_most=not known))
    return needed

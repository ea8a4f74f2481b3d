"""What a build will do, decided before it does anything. Pure, and printable.

The shortest way from a template to an image; where the template's unpacked
copy is in the cache already, it is simply copied. The table of ways is in
``virt-builder.md`` 6.3; growth in place replaces virt-resize (design decision 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgbuilder.errors import UsageError
from imgbuilder.sizes import human_size

if TYPE_CHECKING:
    from pathlib import Path

    from imgbuilder.disk.diskimage import DiskFormat

_SECTOR = 512


@dataclass(frozen=True)
class TemplateFacts:
    """What the index and the cache say about a template.

    Attributes:
        name: Its name in the index.
        url: Where it comes from.
        format: Disk format after decompression.
        size: Virtual size in bytes.
        compressed_size: Size of the download in bytes; None when the index does not say.
        expand: Partition that grows.
        lvexpand: Logical volume that grows.
        fetched: Whether the download is in the cache.
        unpacked: Whether the unpacked disk is in the cache.
    """

    name: str
    url: str
    format: DiskFormat
    size: int
    compressed_size: int | None
    expand: str | None
    lvexpand: str | None
    fetched: bool
    unpacked: bool


@dataclass(frozen=True)
class Target:
    """The image to make.

    Attributes:
        path: Its final place.
        format: Its format.
        size: Its virtual size in bytes; None for the template's.
    """

    path: Path
    format: DiskFormat
    size: int | None


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
    """Write the unpacked disk in another format."""

    path: Path
    source: DiskFormat
    target: DiskFormat

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        return f"convert the template from {self.source} to {self.target} into {self.path}"


@dataclass(frozen=True)
class Grow:
    """Extend the image, its last partition, and (in the appliance) its filesystem."""

    size: int
    device: str | None

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        return f"grow the disk to {human_size(self.size)}, and {self.device or 'its root'} with it, in place"


@dataclass(frozen=True)
class Customize:
    """Run the operations in one appliance session."""

    operations: tuple[str, ...]
    network: bool

    def __str__(self) -> str:
        """Describe the step for ``--dry-run``."""
        lines = [f"start the appliance once ({'with' if self.network else 'without'} network), and in it:"]
        return "\n".join([*lines, *(f"     - {text}" for text in self.operations)])


Step = Fetch | Unpack | Copy | Convert | Grow | Customize


@dataclass(frozen=True)
class BuildPlan:
    """All steps of a build, in order.

    Attributes:
        template: The template.
        target: The image.
        size: Virtual size of the image in bytes.
        grows: Whether the disk is larger than the template's.
        steps: What will be done.
    """

    template: TemplateFacts
    target: Target
    size: int
    grows: bool
    steps: tuple[Step, ...]

    def describe(self) -> str:
        """Write the plan for ``--dry-run``."""
        lines = [
            f"template: {self.template.name} ({human_size(self.template.size)}, {self.template.format})",
            f"output:   {self.target.path} ({human_size(self.size)}, {self.target.format})",
            "steps:",
        ]
        lines += [f"{number:3}. {step}" for number, step in enumerate(self.steps, start=1)]
        return "\n".join(lines)


def final_size(requested: int | None, template_size: int) -> int:
    """Return the virtual size of the image in bytes, a multiple of 512 (``virt-builder.md`` 6.2).

    Raises:
        UsageError: It would be smaller than the template.
    """
    if requested is None:
        return template_size
    if requested < template_size:
        raise UsageError(
            f"images cannot be shrunk: requested size = {human_size(requested)}, "
            f"minimum size = {human_size(template_size)}",
            hint=f"use --size {human_size(template_size)} or more, or leave --size out",
        )
    return -(-requested // _SECTOR) * _SECTOR


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
        UsageError: The image would be smaller than the template.
    """
    size = final_size(target.size, template.size)
    grows = size > template.size
    steps: list[Step] = []
    if not template.unpacked:
        if not template.fetched:
            steps.append(Fetch(template.url, template.compressed_size))
        steps.append(Unpack(template.size))
    if template.format is target.format:
        steps.append(Copy(target.path))
    else:
        steps.append(Convert(target.path, template.format, target.format))
    if grows:
        steps.append(Grow(size, template.lvexpand or template.expand))
    steps.append(Customize(operations, network))
    return BuildPlan(template, target, size, grows, tuple(steps))

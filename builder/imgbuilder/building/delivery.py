"""The image while it is worked on, and its way to the place where it will be.

Raw and qcow2 files are worked on directly, under a hidden name beside their
place. For everything else, the appliance works on an overlay: a qcow2 file
that holds only what differs from the template's disk in the cache. The image
is written from both at the very end, so that no copy is made that is thrown
away, and a block device is not touched by a build that fails (ADR 0023).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from imgbuilder.building.plan import BuildPlan, Target
from imgbuilder.disk import blockdevice, diskimage, partition
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.errors import DiskError, PybuilderError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.host import imagelocks, paths, sparse, workspace
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.sizes import human_size


class Work(Protocol):
    """An image that is being made.

    Attributes:
        image: The file that the appliance works on.
        format: Its format.
    """

    @property
    def image(self) -> Path:
        """Return the file that the appliance works on."""
        ...

    @property
    def format(self) -> DiskFormat:
        """Return its format."""
        ...

    def fill(self, disk: Path, disk_format: DiskFormat, size: int) -> None:
        """Make it the template's disk, extended to ``size`` bytes.

        Raises:
            PybuilderError: There is no space, or a program failed.
        """
        ...

    def deliver(self) -> None:
        """Write the finished image.

        Raises:
            PybuilderError: There is no space, or a program failed.
        """
        ...


def scratch_folder(target: Target) -> Path:
    """Return where temporary files of a build go: beside the image, or where TMPDIR says for a device."""
    return target.place.path.parent if target.place.device is None else paths.temporary_dir()


@contextlib.contextmanager
def open_work(
    plan: BuildPlan,
    on_event: Reporter,
    *,
    keep_on_failure: Callable[[], bool] = lambda: False,
    sync: bool = True,
) -> Iterator[Work]:
    """Make the image of a plan; it is at its place, complete, when the block is left without an error.

    Args:
        plan: What to make. Its template's format may still be unknown.
        on_event: Called with each event.
        keep_on_failure: Tells, when the block has failed, whether to leave what there is of a file instead of
            removing it.
        sync: Whether the image is made durable first.

    Raises:
        PybuilderError: It cannot be made, or the disk that stands at its place is used by another program.
    """
    target = plan.target
    if target.place.device is not None:
        with (
            blockdevice.claim(target.place.path) as device,
            private_folder(scratch_folder(target)) as folder,
        ):
            onto = _DeviceWork(target, folder / "overlay.qcow2", on_event)
            yield onto
            imagelocks.release(device)  # for qemu-img, which locks it while it writes
            onto.deliver()
            if sync:
                _sync_device(device, target.place.path)
        return
    with workspace.new_file(target.place.path, keep_on_failure=keep_on_failure, sync=sync) as image:
        direct = target.edited_directly
        if direct is not None:
            yield _DirectWork(image, direct, on_event)
            return
        with private_folder(scratch_folder(target)) as folder:
            work = _OverlayWork(target, folder / "overlay.qcow2", image, on_event)
            try:
                yield work
            except PybuilderError:
                if keep_on_failure() and work.image.exists():
                    _deliver_failed(work, on_event)
                raise
            work.deliver()


def _deliver_failed(work: Work, on_event: Reporter) -> None:
    try:
        work.deliver()
    except PybuilderError as error:
        debug(on_event, f"the unfinished image could not be kept: {error.message}")


def _sync_device(device: int, path: Path) -> None:
    try:
        os.fsync(device)
    except OSError as error:
        raise workspace.explain(error, path) from error


class _DirectWork:
    """Work on the file itself."""

    def __init__(self, image: Path, image_format: DiskFormat, on_event: Reporter) -> None:
        self.image, self.format, self._report = image, image_format, on_event

    def fill(self, disk: Path, disk_format: DiskFormat, size: int) -> None:
        workspace.check_space(self.image.parent, sparse.disk_usage(disk), "the image")
        if disk_format is self.format:
            self._report(Step("Copying"))
            sparse.copy_sparse(disk, self.image, self._report)
        else:
            self._report(Step(f"Converting {disk_format} to {self.format}"))
            diskimage.convert(disk, disk_format, self.image, self.format)
        if size > partition.virtual_size(self.image, self.format):
            diskimage.extend(self.image, self.format, size)

    def deliver(self) -> None:
        """Do nothing: the file is the image."""


class _OverlayWork:
    """Work on an overlay of the template, from which a file is written."""

    format = DiskFormat.QCOW2

    def __init__(self, target: Target, overlay: Path, output: Path, on_event: Reporter) -> None:
        self.image, self._target, self._output, self._report = overlay, target, output, on_event

    def fill(self, disk: Path, disk_format: DiskFormat, size: int) -> None:
        if self._target.place.device is None and not self._target.compressed:
            workspace.check_space(self._output.parent, sparse.disk_usage(disk), "the image")
        diskimage.create_overlay(self.image, disk, disk_format, size)

    def deliver(self) -> None:
        target = self._target
        words = "compressed " if target.compressed else ""
        self._report(Step(f"Writing {target.path} ({words}{target.format})"))
        diskimage.write_image(self.image, self._output, target.format, compressed=target.compressed)


class _DeviceWork(_OverlayWork):
    """Work on an overlay of the template, from which a block device is written."""

    def __init__(self, target: Target, overlay: Path, on_event: Reporter) -> None:
        super().__init__(target, overlay, target.place.path, on_event)

    def deliver(self) -> None:
        device = self._target.place.device
        assert device is not None
        if self._target.format is not OutputFormat.RAW and not self._target.compressed:
            needed = diskimage.measure(self.image, self.format, self._target.format)
            if needed > device.size:
                raise DiskError(
                    f"the {self._target.format} image needs {human_size(needed)}, but {device.path} has "
                    f"{human_size(device.size)}; it was not written to",
                    hint="use --compress, --format raw, or a larger device",
                )
        super().deliver()

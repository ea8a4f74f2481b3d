"""Writes the image of a build.

Raw and qcow2 files are edited directly, under a hidden name in the folder of
the output. For everything else the appliance edits an overlay: a qcow2 file
that holds only the differences from the template's disk in the cache. The
image is written from both at the very end. So there is never an extra copy,
and a build that fails does not touch a block device.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from imgbuilder.building import target
from imgbuilder.building.plan import BuildPlan, OutputImage
from imgbuilder.disk import diskimage, partition
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.errors import DiskError, PybuilderError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.host import imagelocks, paths, sparse, workspace
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.sizes import human_size


class OutputWriter(Protocol):
    """Writes an image: first the template's disk, which the appliance then edits, at last the output."""

    @property
    def path(self) -> Path:
        """The file that the appliance edits."""

    @property
    def format(self) -> DiskFormat:
        """The format of that file."""

    def fill(self, disk: Path, disk_format: DiskFormat, size: int) -> None:
        """Write the template's disk, extended to ``size`` bytes."""

    def finish(self) -> None:
        """Write the finished image."""


def scratch_folder(image: OutputImage) -> Path:
    """Return the folder for temporary files of a build: that of the image, or for a device that of TMPDIR."""
    return image.target.path.parent if image.target.device is None else paths.temporary_dir()


@contextlib.contextmanager
def open_output(
    plan: BuildPlan,
    on_event: Reporter,
    *,
    keep_on_failure: Callable[[], bool] = lambda: False,
    sync: bool = True,
) -> Iterator[OutputWriter]:
    """Yield the writer of a plan's image; the complete image is in place after a block without an error.

    Args:
        plan: The plan. The template's format may still be unknown.
        on_event: Called with each event.
        keep_on_failure: Called when the block has failed; returns whether to keep the unfinished file.
        sync: Whether the image is made durable first.

    Raises:
        PybuilderError: It cannot be written, or another program uses the disk that it would replace.
    """
    image = plan.image
    if image.target.device is not None:
        with (
            target.claim(image.target.path) as device,
            private_folder(scratch_folder(image)) as folder,
        ):
            device_writer = _DeviceWriter(image, folder / "overlay.qcow2", on_event)
            yield device_writer
            imagelocks.release(device)  # for qemu-img, which locks it while it writes
            device_writer.finish()
            if sync:
                _sync_device(device, image.target.path)
        return
    with workspace.new_file(image.target.path, keep_on_failure=keep_on_failure, sync=sync) as path:
        direct = image.edited_directly
        if direct is not None:
            yield _FileWriter(path, direct, on_event)
            return
        with private_folder(scratch_folder(image)) as folder:
            writer = _OverlayWriter(image, folder / "overlay.qcow2", path, on_event)
            try:
                yield writer
            except PybuilderError:
                if keep_on_failure() and writer.path.exists():
                    _keep_unfinished(writer, on_event)
                raise
            with workspace.blaming_full_disk(path.parent):
                writer.finish()


def _keep_unfinished(writer: OutputWriter, on_event: Reporter) -> None:
    try:
        writer.finish()
    except PybuilderError as error:
        debug(on_event, f"the unfinished image could not be kept: {error.message}")


def _sync_device(device: int, path: Path) -> None:
    try:
        os.fsync(device)
    except OSError as error:
        raise workspace.explain(error, path) from error


class _FileWriter:
    """Edits the output file directly."""

    def __init__(self, path: Path, image_format: DiskFormat, on_event: Reporter) -> None:
        self.path, self.format, self._report = path, image_format, on_event

    def fill(self, disk: Path, disk_format: DiskFormat, size: int) -> None:
        workspace.check_space(self.path.parent, sparse.disk_usage(disk), "the image")
        if disk_format is self.format:
            self._report(Step("Copying"))
            sparse.copy_sparse(disk, self.path, self._report)
        else:
            self._report(Step(f"Converting {disk_format} to {self.format}"))
            diskimage.convert(disk, disk_format, self.path, self.format)
        if size > partition.virtual_size(self.path, self.format):
            diskimage.extend(self.path, self.format, size)

    def finish(self) -> None:
        """The file is the image already."""


class _OverlayWriter:
    """Edits an overlay of the template, and writes the output file from it."""

    format = DiskFormat.QCOW2

    def __init__(self, image: OutputImage, overlay: Path, output: Path, on_event: Reporter) -> None:
        self.path, self._image, self._output, self._report = overlay, image, output, on_event

    def fill(self, disk: Path, disk_format: DiskFormat, size: int) -> None:
        if self._image.target.device is None and not self._image.compressed:
            workspace.check_space(self._output.parent, sparse.disk_usage(disk), "the image")
        diskimage.create_overlay(self.path, disk, disk_format, size)

    def finish(self) -> None:
        image = self._image
        kind = f"{'compressed ' if image.compressed else ''}{image.format}"
        self._report(Step(f"Writing {image.path} ({kind})"))
        diskimage.write_image(self.path, self._output, image.format, compressed=image.compressed)


class _DeviceWriter(_OverlayWriter):
    """Edits an overlay of the template, and writes a block device from it."""

    def __init__(self, image: OutputImage, overlay: Path, on_event: Reporter) -> None:
        super().__init__(image, overlay, image.target.path, on_event)

    def finish(self) -> None:
        device = self._image.target.device
        assert device is not None
        if self._image.format is not OutputFormat.RAW and not self._image.compressed:
            needed = diskimage.measure(self.path, self.format, self._image.format)
            if needed > device.size:
                raise DiskError(
                    f"the {self._image.format} image needs {human_size(needed)}, but {device.path} has "
                    f"{human_size(device.size)}; it was not written to",
                    hint="use --compress, --format raw, or a larger device",
                )
        super().finish()

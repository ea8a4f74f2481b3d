"""Writes the image of a build.

Raw and qcow2 files are edited directly, under a hidden name in the folder of
the output. For everything else the appliance edits an overlay: a qcow2 file
that holds only the differences from the template's disk in the cache. The
image is written from both at the very end. So there is never an extra copy,
and a build that fails does not touch a block device. On the host only raw disks
can be edited: there, a raw copy takes the overlay's place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from imgbuilder.building import target
from imgbuilder.building.plan import BuildPlan, OutputImage
from imgbuilder.disk import diskimage, partition
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.disk.rawview import raw_view
from imgbuilder.errors import DiskError, PybuilderError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.host import imagelocks, paths, sparse, workspace
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.sizes import human_size


class OutputWriter:
    """Writes an image: first the template's disk, which is then edited, at last the output.

    Attributes:
        path: The file to edit, once it was filled.
        format: The format of that file.
    """

    def __init__(self, image: OutputImage, output: Path, folder: Path, on_event: Reporter) -> None:
        self._image, self._output, self._folder, self._report = image, output, folder, on_event
        self.path, self.format = output, DiskFormat.RAW

    def fill(self, disk: Path, disk_format: DiskFormat, size: int, *, hostside: bool = False) -> None:
        """Write the template's disk, or an overlay of it, extended to a size; replace an earlier one.

        Args:
            disk: The template's unpacked disk.
            disk_format: Its format.
            size: The virtual size in bytes.
            hostside: Whether it is edited on the host, and not by the appliance.
        """
        if self._image.linked:
            self.path, self.format = self._output, DiskFormat.QCOW2
            diskimage.create_overlay(self.path, disk, disk_format, size)
            return
        direct = self._image.edited_directly
        wanted = DiskFormat.RAW if hostside else direct
        is_output = wanted is direct
        if is_output and direct is not None:
            self.path = self._output
        else:
            self.path = self._folder / ("overlay.qcow2" if wanted is None else "disk.raw")
        self.format = wanted or DiskFormat.QCOW2
        if self._image.target.device is None and not self._image.compressed:
            workspace.check_space(self._output.parent, sparse.disk_usage(disk), "the image")
        if wanted is None:
            diskimage.create_overlay(self.path, disk, disk_format, size)
            return
        if not is_output:
            workspace.check_space(self._folder, sparse.disk_usage(disk), "a copy of the template")
        if self.path.exists():
            os.truncate(self.path, 0)
        if disk_format is wanted:
            self._report(Step("Copying"))
            sparse.copy_sparse(disk, self.path, self._report, label="Copying the template")
        else:
            self._report(Step(f"Converting {disk_format} to {wanted}"))
            diskimage.convert(disk, disk_format, self.path, wanted)
        if size > partition.virtual_size(self.path, wanted):
            diskimage.extend(self.path, wanted, size)

    def as_raw(self) -> contextlib.AbstractContextManager[Path]:
        """Show the edited file as a raw one.

        Raises:
            UnfitError: Only an appliance can edit it.
        """
        if self.format is DiskFormat.RAW:
            return contextlib.nullcontext(self.path)
        return raw_view(self.path, self._folder)

    def finish(self) -> None:
        """Write the finished image, if it is not the edited file itself."""
        if self.path == self._output:
            return
        image = self._image
        device = image.target.device
        if device is not None and image.format is not OutputFormat.RAW and not image.compressed:
            needed = diskimage.measure(self.path, self.format, image.format)
            if needed > device.size:
                raise DiskError(
                    f"the {image.format} image needs {human_size(needed)}, but {device.path} has "
                    f"{human_size(device.size)}; it was not written to",
                    hint="use --compress, --format raw, or a larger device",
                )
        kind = f"{'compressed ' if image.compressed else ''}{image.format}"
        self._report(Step(f"Writing {image.path} ({kind})"))
        diskimage.write_image(self.path, self.format, self._output, image.format, compressed=image.compressed)


def place_for_temporary_files(image: OutputImage) -> Path:
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
            private_folder(place_for_temporary_files(image)) as folder,
        ):
            writer = OutputWriter(image, image.target.path, folder, on_event)
            yield writer
            imagelocks.release(device)  # for qemu-img, which locks it while it writes
            writer.finish()
            if sync:
                _sync_device(device, image.target.path)
        return
    with (
        workspace.new_file(image.target.path, keep_on_failure=keep_on_failure, sync=sync) as path,
        _work_folder(image) as folder,
    ):
        writer = OutputWriter(image, path, folder, on_event)
        try:
            yield writer
        except PybuilderError:
            if keep_on_failure():
                _keep_unfinished(writer, on_event)
            raise
        with workspace.blaming_full_disk(path.parent):
            writer.finish()


def _work_folder(image: OutputImage) -> contextlib.AbstractContextManager[Path]:
    """Make a private folder for an image that may be edited in a file other than the output."""
    folder = place_for_temporary_files(image)
    is_raw_file = image.edited_directly is DiskFormat.RAW
    return contextlib.nullcontext(folder) if is_raw_file else private_folder(folder)


def _keep_unfinished(writer: OutputWriter, on_event: Reporter) -> None:
    if not writer.path.exists():
        return
    try:
        writer.finish()
    except PybuilderError as error:
        debug(on_event, f"the unfinished image could not be kept: {error.message}")


def _sync_device(device: int, path: Path) -> None:
    with workspace.explaining(path):
        os.fsync(device)

"""A qcow2 image as a raw file, by the FUSE export of qemu-storage-daemon(1).

So a linked image can be written without an appliance and without a copy of the disk below it. Where FUSE or
one of the programs is missing, the build needs an appliance.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from imgbuilder.errors import ToolError, UnfitError
from imgbuilder.host import process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.process import Popen

_DAEMON, _UNMOUNT = "qemu-storage-daemon", "fusermount3"
_START_LIMIT = 10.0
"""Seconds until the file must be there; it takes some hundredths."""
_END_LIMIT = 60.0
"""Seconds until all changes must be in the image."""


@contextlib.contextmanager
def raw_view(image: Path, folder: Path) -> Iterator[Path]:
    """Yield a raw file whose changes go to a qcow2 image; they are in it after a block without an error.

    Args:
        image: The image; only its own header says what it lies over, so it must be ours.
        folder: A private folder for the file.

    Raises:
        UnfitError: The image cannot be shown as a file here, or not all changes reached it.
    """
    view = folder / "view.raw"
    view.touch(mode=0o600)
    export = f"type=fuse,id=view,node-name=image,mountpoint={_quoted(view)},writable=on,allow-other=off"
    words = [
        _DAEMON,
        "--blockdev", f"driver=file,node-name=file,cache.no-flush=on,filename={_quoted(image)}",
        "--blockdev", "driver=qcow2,node-name=image,file=file,discard=unmap",
        "--export", export,
    ]  # fmt: skip
    daemon: Popen[bytes] | None = None
    try:
        try:
            for program in (_DAEMON, _UNMOUNT):
                process.require_program(program)
            with uninterrupted():
                # The daemon ends properly, and so removes the mount, even if this process is killed.
                daemon = process.start([*process.bound_to(os.getpid(), by="TERM"), *words])
            _wait_for(view, daemon)
        except ToolError as error:
            raise UnfitError(error.message) from error
        yield view
        daemon.terminate()
        if process.last_status(daemon, patience=_END_LIMIT) != 0:
            raise UnfitError(f"{_DAEMON} did not write all changes into the image")
    finally:
        with uninterrupted():
            if daemon is not None and daemon.poll() is None:
                daemon.terminate()
            if daemon is not None and process.last_status(daemon, patience=_START_LIMIT) != 0:
                process.run([_UNMOUNT, "-u", "-z", view], check=False)  # what a dead daemon left


def _quoted(path: Path) -> str:
    """Return a path for a list of options of QEMU, in which a comma is doubled."""
    return str(path.absolute()).replace(",", ",,")


def _wait_for(view: Path, daemon: Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while view.stat().st_size == 0:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise UnfitError(f"{_DAEMON} cannot show a qcow2 image as a file here: is /dev/fuse usable?")
        time.sleep(0.002)

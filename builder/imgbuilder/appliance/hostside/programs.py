"""Runs e2fsck and resize2fs on a filesystem inside a disk image, confined as ``confine`` describes.

The image reaches them as an open descriptor. Everything that is not a plain success sends the build to the
appliance: no message of theirs is shown to the user as an error.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import sys
import time
from pathlib import Path

from imgbuilder.appliance.hostside import confine
from imgbuilder.appliance.hostside.gate import Place
from imgbuilder.errors import ToolError, UnfitError
from imgbuilder.host import process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.packages import install_hint
from imgbuilder.host.text import one_line, printable

CHECKER, GROWER = "e2fsck", "resize2fs"
_CONFINE = Path(confine.__file__)
_PROGRAMS = (CHECKER, GROWER, "setpriv")
_LIBRARY = "libext2fs.so.2"
_SECONDS = 300.0
"""Most time by the clock: the limit of processor time is shorter, but the host may be busy."""
_MOST_OUTPUT = 64 * 1024
_LONGEST_REASON = 300
_EDGE = 1 << 20
"""Bytes in front of a partition and behind it that are compared: both partition tables are in them."""
_SECTOR = 512
_GOOD = re.compile(
    r"e2fsck \d.*"
    r"|Pass \d: .*"
    # It begins with the name of the filesystem, if that has one.
    r"|[^\s:]{1,80}: \d+/\d+ files \([\d.]+% non-contiguous\), \d+/\d+ blocks"
    # Advice, not a fault: kernels leave such files.
    r"|Inode \d+ extent tree \(at level \d+\) could be (narrower|shorter)\.  Optimize\? no"
    r"|"
)
"""Lines of a checker that finds nothing to repair."""


def require_host() -> confine.Confinement:
    """Return how processes are confined on this host, if it can write a filesystem without an appliance.

    Raises:
        ToolError: A library, a program or a part of the kernel is missing.
    """
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise ToolError(f"the library {_LIBRARY} is not installed", hint=install_hint(_LIBRARY)) from error
    try:
        found = confine.available()
    except confine.ConfinementError as error:
        raise ToolError(str(error), hint=install_hint(confine.LIBRARY)) from error
    if not found.landlock:
        raise ToolError(
            "Landlock is not available",
            hint="use Linux 5.13 or later with landlock in lsm=; a container needs a profile that allows it",
        )
    for name in _PROGRAMS:
        process.require_program(name)
    return found


def missing_on_host() -> str:
    """Return the first library or program that is not installed; nothing when all are."""
    for library in (_LIBRARY, confine.LIBRARY):
        try:
            ctypes.CDLL(library)
        except OSError:
            return library
    return next((name for name in _PROGRAMS if process.find_program(name) is None), "")


def try_program(image: int) -> None:
    """Start a confined program that does nothing.

    Raises:
        UnfitError: It does not run.
    """
    status, lines = _run(image, CHECKER, "-V")
    if status != 0:
        reason = one_line(" ".join(lines), _LONGEST_REASON)
        raise UnfitError(f"{CHECKER}, confined, ends with status {status}: {reason}")


def check(image: int, place: Place) -> None:
    """Check a filesystem completely, without writing to it.

    Raises:
        UnfitError: It has a fault, or the checker could not be run.
    """
    status, lines = _run(image, CHECKER, "-fn", _name(image, place))
    complaint = next((line for line in lines if not _GOOD.fullmatch(line)), None)
    if status != 0 or complaint is not None:
        reason = one_line(complaint, _LONGEST_REASON) if complaint else f"status {status}"
        raise UnfitError(f"{CHECKER} does not find the filesystem clean: {reason}")


def grow(image: int, place: Place, now: int) -> None:
    """Grow a filesystem to the size of its partition, which was enlarged before.

    Args:
        image: The open image.
        place: The partition.
        now: The time that is written, in seconds since 1970.

    Raises:
        UnfitError: It did not succeed; the image may be changed.
    """
    before = _surroundings(image, place)
    size = f"{place.size // _SECTOR}s"
    status, lines = _run(image, GROWER, "-f", _name(image, place), size, now=now)
    if status != 0:
        reason = one_line(" ".join(lines), _LONGEST_REASON)
        raise UnfitError(f"{GROWER} failed with status {status}: {reason}")
    if _surroundings(image, place) != before:
        raise UnfitError(f"{GROWER} changed the disk outside the filesystem")


def _name(image: int, place: Place) -> str:
    return f"/proc/self/fd/{image}?offset={place.offset}"


def _surroundings(image: int, place: Place) -> tuple[int, bytes, bytes]:
    """Return the size of the disk, and the bytes on both sides of a partition."""
    start = max(0, place.offset - _EDGE)
    return (
        os.fstat(image).st_size,
        os.pread(image, place.offset - start, start),
        os.pread(image, _EDGE, place.offset + place.size),
    )


def _run(image: int, name: str, *arguments: str, now: int | None = None) -> tuple[int, list[str]]:
    """Run a program confined; return its status and what it printed."""
    running: process.Popen[bytes] | None = None
    reading, writing = os.pipe()
    try:
        program = process.require_program(name)
        confined = [sys.executable, "-I", "-S", str(_CONFINE), str(image), program, *arguments]
        with uninterrupted():
            running = process.start(
                [*process.bound_to(os.getpid()), *confined],
                stdout=writing,
                stderr=writing,
                pass_fds=[image],
                env={} if now is None else {confine.TIME_VARIABLE: str(now)},
            )
        os.close(writing)
        writing = -1
        output = _read(reading, name)
        status = process.last_status(running, patience=5.0)
    except ToolError as error:
        raise UnfitError(error.message) from error
    finally:
        if running is not None:
            process.end_group(running)
        for descriptor in (reading, writing):
            if descriptor >= 0:
                os.close(descriptor)
    return status, [printable(line) for line in output.decode(errors="replace").split("\n")]


def _read(descriptor: int, name: str) -> bytes:
    """Read to the end, within limits."""
    pieces = b""
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + _SECONDS
    while len(pieces) <= _MOST_OUTPUT:
        if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise UnfitError(f"{name} did not end within {_SECONDS:.0f} seconds")
        piece = os.read(descriptor, _MOST_OUTPUT)
        if not piece:
            return pieces
        pieces += piece
    raise UnfitError(f"{name} printed more than {_MOST_OUTPUT} bytes")

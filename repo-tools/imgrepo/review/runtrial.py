"""Tries the script ``run`` of an entry: it must start QEMU from another folder, and only read the image.

The machine is never started (``-S``), so that nothing in a stranger's image runs: whether it
boots is for the boot check.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from imgbuilder.appliance import monitor
from imgbuilder.errors import ApplianceError, DiskError, ToolError
from imgbuilder.events import Reporter, Step
from imgbuilder.host import process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.host.process import Popen
from imgbuilder.host.text import printable
from imgbuilder.host.workspace import explain
from imgbuilder.machine.model import Machine, board
from imgrepo.bootcheck.hypervisor import find_firmware
from imgrepo.images.scan import SourceImage, check_unchanged

_START = 60.0
"""Seconds until QEMU must accept commands; the script itself waits 10 for KVM."""
_LIMIT = 15.0
"""Seconds for a command, and for the end."""
_PAUSE = 0.1
_MOST_MESSAGES = 4096
_ELSEWHERE = "another folder"
"""With a space, which often breaks scripts."""
_HOST = ("host forwarding rule", "set up guest memory", "allocate memory")
"""Messages of QEMU when the host cannot run the machine now."""


def try_script(script: str, machine: Machine, image: SourceImage, on_event: Reporter) -> str:
    """Try a script next to a link to its image, in another folder; return what went wrong, if anything did.

    Raises:
        ToolError: This host has no QEMU for the machine, or no firmware; or a port or the memory for it is
            not free now.
        WorkspaceError: Temporary files cannot be written.
    """
    ports = [(forward.host, forward.kind) for forward in machine.forwards]
    if len(set(ports)) < len(ports):
        return "two ports of the guest would be the same port of the host: see ports in entry.toml"
    process.require_program(board(machine.arch).program)
    find_firmware(machine)
    on_event(Step(f"Starting {image.stem} by its script"))
    with private_folder() as folder:
        place = folder / _ELSEWHERE
        try:
            place.mkdir()
            (place / "run").write_text(script, encoding="utf-8")
            (place / "run").chmod(0o500)
            (place / image.name).symlink_to(image.path.absolute())
        except OSError as error:
            raise explain(error, place) from error
        problem = _read_by_shell(place / "run") or _start(folder, image)
    try:
        check_unchanged(image)
    except DiskError:
        return "the image changed while it ran"
    return problem


def _read_by_shell(script: Path) -> str:
    done = process.run(["sh", "-n", script], check=False, timeout=_LIMIT)
    return "" if done.status == 0 else f"it is not a shell script: {_message(done.stderr, script.parent)}"


def _start(folder: Path, image: SourceImage) -> str:
    socket, number, messages = folder / "socket", folder / "number", folder / "messages"
    command = [
        # If we are killed, the kernel ends timeout, which does not end QEMU then; but QEMU runs nothing, and
        # it has a time limit.
        "setpriv", "--pdeathsig", "TERM", "--",
        "timeout", "--kill-after=5", f"{_START + 4 * _LIMIT:.0f}",
        "env", "--chdir=/", f"{folder / _ELSEWHERE / 'run'}", "--",
        "-S", "-display", "none", "-pidfile", f"{number}", "-qmp", f"unix:{socket},server=on,wait=off",
    ]  # fmt: skip
    # Files of QEMU and the script are removed with our folder.
    environment = {"QEMU": "", "TMPDIR": str(folder)}
    running: Popen[bytes] | None = None
    try:
        with messages.open("wb") as errors:
            with uninterrupted():
                running = process.start(command, stderr=errors, env=environment)
            problem = _watch(running, socket, number, image)
            status = process.last_status(running, patience=_LIMIT) if not problem else running.poll()
    finally:
        with uninterrupted():
            if running is not None:
                process.end_group(running, grace=_LIMIT)
    with messages.open("rb") as file:
        file.seek(max(0, messages.stat().st_size - _MOST_MESSAGES))
        said = _message(file.read(_MOST_MESSAGES).decode("utf-8", "replace"), folder / _ELSEWHERE)
    if any(sign in said for sign in _HOST):
        raise ToolError(f"QEMU cannot start here: {said}", hint="free the port or the memory")
    if problem:
        return f"{problem}: {said}" if said else problem
    return "" if status == 0 else f"it ended with status {status}: {said}"


def _watch(running: Popen[bytes], socket: Path, number: Path, image: SourceImage) -> str:
    """Wait until QEMU accepts commands, look at it, and end it."""
    end, reason = time.monotonic() + _START, ""
    seen: list[str] = []
    while not seen:  # it ends after that, possibly before it confirms so
        if running.poll() is not None:
            return f"it ended with status {running.returncode} before QEMU accepted commands"
        if time.monotonic() > end:
            return f"QEMU did not accept commands within {_START:.0f} seconds{reason}"
        time.sleep(_PAUSE)
        try:
            if socket.exists():
                monitor.end_machine(socket, lambda: seen.append(_how_opened(number, image)), limit=_LIMIT)
        except ApplianceError as error:
            reason = f": {error.message}"
    return seen[0]


def _how_opened(number: Path, image: SourceImage) -> str:
    """Return how QEMU opened the image, by proc(5), unless it is for reading only."""
    modes = set()
    try:
        own = Path("/proc") / number.read_text().strip()
        for link in (own / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                if link.samefile(image.path):
                    flags = (own / "fdinfo" / link.name).read_text().split("flags:")[1].split()[0]
                    modes.add(int(flags, 8) & os.O_ACCMODE)
    except (OSError, ValueError, IndexError) as error:
        return f"how QEMU opens the image cannot be seen: {error}"
    if not modes:
        return "QEMU does not open the image next to it"
    return "" if modes == {os.O_RDONLY} else "QEMU opens the image for writing"


def _message(text: str, place: Path) -> str:
    return printable(" ".join(text.split()).replace(f"{place}/", ""))

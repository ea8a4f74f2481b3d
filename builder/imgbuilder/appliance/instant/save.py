"""Saves a state: prepares a booted appliance with empty disks, and writes its memory to a file.

After the hypervisor has written the memory (by QMP), the machine runs on for a
moment and prints the random numbers that a copy without fresh entropy would
draw. A resumed appliance must never draw those.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import time
from pathlib import Path

from imgbuilder.appliance.connection import Connection
from imgbuilder.appliance.instant import guestside
from imgbuilder.appliance.instant.program import DRAWS, MEMORY, OVERLAY, RECORD, identity
from imgbuilder.errors import ApplianceError
from imgbuilder.host import process

BOOTING = "booting.qcow2"
"""The overlay of the running machine; it is copied at the moment of the saved memory."""
_CALL_LIMIT = 120.0
"""Seconds that one request to the booted appliance may take."""
_WRITE_LIMIT = 60.0
"""Limit in seconds for writing the memory, which takes one or two; signals wait until then."""
_LINKED = re.compile(r"^\s+(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


def new_overlay(root: str, new: Path) -> Path:
    """Create the overlay of the appliance's root; return its path.

    Raises:
        ToolError: qemu-img failed.
    """
    overlay = new / BOOTING
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", root, overlay])
    overlay.chmod(0o600)
    return overlay


def prepare(connection: Connection) -> None:
    """Copy the programs for resuming into the booted appliance, and run them once.

    Raises:
        PybuilderError: A program or library is missing on the host or in the appliance.
    """
    perl = os.path.realpath(process.require_program("perl"))
    libraries = [match["path"] for match in _LINKED.finditer(process.run(["ldd", perl]).stdout.decode())]
    quoted = " ".join(map(shlex.quote, libraries))
    missing = _shell(
        connection,
        f"mkdir -p -m 0700 {guestside.FOLDER}; "
        f'for path in {quoted}; do if [ ! -e "$path" ]; then echo "$path"; fi; done',
    )
    if missing.strip():
        raise ApplianceError(f"libraries of perl are missing in the appliance: {' '.join(missing.split())}")
    connection.call("debug_upload", perl, guestside.PERL, 0o700, limit=_CALL_LIMIT)
    # This loads the programs into memory, and proves that they work.
    guestside.read_answer(_shell(connection, guestside.greeting_script(time.time())))
    guestside.read_answer(_shell(connection, guestside.record_script()))


def save(connection: Connection, socket: Path, new: Path) -> None:
    """Write the state of a prepared appliance, and end the appliance.

    Args:
        connection: The appliance.
        socket: Its hypervisor's monitor socket.
        new: Private folder for the state, which has the overlay already.

    Raises:
        PybuilderError: The state cannot be used.
        OSError: It cannot be written.
    """
    from imgbuilder.appliance import monitor  # late: resuming needs no asyncio

    # Nothing may run in the appliance between this and the write of the memory.
    began = guestside.read_answer(_shell(connection, guestside.renew_script())).uptimes
    memory = os.open(new / MEMORY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        monitor.write_memory(socket, memory, lambda: _copy_overlay(new), limit=_WRITE_LIMIT)
    finally:
        os.close(memory)
    answer = guestside.read_answer(_shell(connection, guestside.record_script()))
    if len(began) != 1 or len(answer.uptimes) != 1 or len(set(answer.draws)) != guestside.CHAIN:
        raise ApplianceError("the appliance did not print the random numbers that a copy of it would draw")
    if answer.uptimes[0] - began[0] > reseed_interval(began[0]) / 2:
        raise ApplianceError("this host was too busy to record the random numbers of the saved appliance")
    connection.close()
    (new / BOOTING).unlink()
    draws = new / DRAWS
    draws.touch(mode=0o600)
    draws.write_text("\n".join(answer.draws))
    record = new / RECORD
    record.touch(mode=0o600)
    record.write_text(json.dumps({name: identity(str(new / name))[1:] for name in (MEMORY, OVERLAY, DRAWS)}))


def _copy_overlay(new: Path) -> None:
    shutil.copyfile(new / BOOTING, new / OVERLAY)
    (new / OVERLAY).chmod(0o600)


def _shell(connection: Connection, script: str) -> str:
    return str(connection.call("debug", "sh", [script], limit=_CALL_LIMIT))


def reseed_interval(uptime: float) -> float:
    """Return the seconds after which the kernel renews its random numbers by itself.

    Args:
        uptime: Seconds since it booted (``crng_reseed_interval`` in the kernel's drivers/char/random.c).
    """
    return 60.0 if uptime >= 120 else max(1.0, uptime // 2)

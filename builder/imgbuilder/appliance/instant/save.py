"""Making a state: a booted appliance with empty disks is prepared, and its memory written to a file.

The hypervisor takes the orders (QMP). After the memory was written the machine
goes on for a moment, and tells which random numbers a copy of it would draw
that nobody gave fresh ones: those must never be seen in a resumed appliance.
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
"""What takes the writes of the machine that is saved; it goes on running a moment too long for us."""
_CALL_LIMIT = 120.0
"""Seconds that one request to the booted appliance may take."""
_WRITE_LIMIT = 60.0
"""Seconds that writing the memory may take; it takes one or two, and no signal is heeded meanwhile."""
_LINKED = re.compile(r"^\s+(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


def new_overlay(root: str, new: Path) -> Path:
    """Make the file that takes what the appliance writes to its root; return its path.

    Raises:
        ToolError: qemu-img failed.
    """
    overlay = new / BOOTING
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", root, overlay])
    overlay.chmod(0o600)
    return overlay


def prepare(connection: Connection) -> None:
    """Bring into the booted appliance what it needs when it is resumed, and run all of that once.

    Raises:
        PybuilderError: Something is missing, on the host or in the appliance.
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
        raise ApplianceError(f"the appliance lacks what perl needs: {' '.join(missing.split())}")
    connection.call("debug_upload", perl, guestside.PERL, 0o700, limit=_CALL_LIMIT)
    # Run once, the programs are in memory when the appliance is resumed, and known to work in it.
    guestside.read_answer(_shell(connection, guestside.greeting_script(time.time())))
    guestside.read_answer(_shell(connection, guestside.record_script()))


def save(connection: Connection, socket: Path, new: Path) -> None:
    """Write the state of a prepared appliance, and end it.

    Args:
        connection: The appliance.
        socket: Where its hypervisor takes orders.
        new: Private folder that gets the state; the overlay is in it already.

    Raises:
        PybuilderError: The state is not good for use.
        OSError: It cannot be written.
    """
    from imgbuilder.appliance import monitor  # late: resuming needs no asyncio

    # Nothing may be executed between this and the moment that the memory is written.
    began = guestside.read_answer(_shell(connection, guestside.renew_script())).uptimes
    memory = os.open(new / MEMORY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        monitor.write_memory(socket, memory, lambda: _copy_overlay(new), limit=_WRITE_LIMIT)
    finally:
        os.close(memory)
    answer = guestside.read_answer(_shell(connection, guestside.record_script()))
    if len(began) != 1 or len(answer.uptimes) != 1 or len(set(answer.draws)) != guestside.CHAIN:
        raise ApplianceError("the appliance did not tell which random numbers a copy of it would draw")
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
    """Return after how many seconds the kernel renews its random numbers by itself.

    Args:
        uptime: Seconds since it booted (``crng_reseed_interval`` in the kernel's drivers/char/random.c).
    """
    return 60.0 if uptime >= 120 else max(1.0, uptime // 2)

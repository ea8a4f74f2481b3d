"""Saves a state: prepares a booted appliance with empty disks, and writes its memory to a file.

After the hypervisor has written the memory (by QMP), the machine runs on for a
moment and prints the random numbers that a copy without fresh entropy would
draw. A resumed appliance must never draw those.

The scripts here run inside the appliance when it is saved and when it is resumed. A resumed kernel continues
with the random numbers of the saved one: every build would draw the same. So the host's entropy is mixed in,
and the kernel is asked to reseed its generator from it (``RNDRESEEDCRNG``), which also discards the numbers
that it keeps ready for each processor. Only after that may anything run that needs random numbers. The
appliance has no program that makes this call, so the host's ``perl`` is copied into its memory; perl's
libraries are in the appliance, which is built from the host's files.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.appliance.connection import Connection
from imgbuilder.appliance.instant.program import DRAWS, MEMORY, OVERLAY, RECORD, identity
from imgbuilder.errors import ApplianceError
from imgbuilder.host import process

FOLDER = "/run/pybuilder"
"""The folder for our files in the appliance: in its memory, invisible for a guest."""
PERL = f"{FOLDER}/perl"
DRAW_SIZE = 32
"""Bytes of one draw: the kernel's generator makes no smaller steps."""
CHAIN = 2048
"""Recorded draws: far more than the few dozen before the check."""

_RESEED = 'ioctl($r, 0x5207, 0) or die "RNDRESEEDCRNG: $!\\n";'
_OPEN = 'open($r, "+<", "/dev/urandom") or die "/dev/urandom: $!\\n";'
_DRAW = (
    f'sysread($r, $d, {DRAW_SIZE}) == {DRAW_SIZE} or die "draw: $!\\n"; '
    'print "draw ", unpack("H*", $d), "\\n";'
)
_UPTIME = 'open($u, "<", "/proc/uptime") or die; print "uptime ", (split " ", <$u>)[0], "\\n"; close $u;'


class BusyError(ApplianceError):
    """An appliance that could not be saved because the host was busy at that moment."""


@dataclass(frozen=True)
class Answer:
    """The output of the scripts.

    Attributes:
        draws: Random numbers that it drew, as hexadecimal digits.
        sizes: Bytes of each disk but the appliance's root, in the order of their names.
        uptimes: Seconds since the boot, at different moments.
    """

    draws: tuple[str, ...]
    sizes: tuple[int, ...]
    uptimes: tuple[float, ...]


def _perl(*statements: str) -> str:
    program = " ".join(statements)
    assert "'" not in program
    return f"{PERL} -e '{program}'"


def renew_script() -> str:
    """Return the script that reseeds the generator just before the appliance is saved."""
    return _perl(_OPEN, _RESEED, _UPTIME)


def record_script() -> str:
    """Return the script that draws the numbers of a copy without fresh entropy."""
    return _perl(_OPEN, f"for (1..{CHAIN}) {{ {_DRAW} }}", _UPTIME)


def greeting_script(now: float) -> str:
    """Return the script that prepares a resumed appliance.

    In this order: reseed the generator, draw numbers for the check, set the clock, and rescan the disks,
    which were others when the appliance was saved.
    """
    return "\n".join(
        [
            "set -e",
            _perl(_OPEN, _RESEED, _DRAW, _DRAW),
            f"date -s @{now:.3f} >/dev/null",
            "root=$(mountpoint -d /)",  # the appliance's root disk, which may have any name
            "for path in /sys/block/sd*; do",
            "  name=${path##*/}",
            '  if [ "$(cat "$path/dev")" = "$root" ]; then continue; fi',
            '  echo 1 >"$path/device/rescan"',
            '  blockdev --flushbufs --rereadpt "/dev/$name" || {',
            '    udevadm settle; blockdev --flushbufs --rereadpt "/dev/$name"; }',
            '  echo "size $(cat "$path/size")"',
            "done",
            "udevadm settle",
        ]
    )


def read_answer(text: str) -> Answer:
    """Parse the output of the scripts."""
    draws: list[str] = []
    sizes: list[int] = []
    uptimes: list[float] = []
    for line in text.splitlines():
        word, _, value = line.partition(" ")
        if word == "draw" and re.fullmatch(rf"[0-9a-f]{{{2 * DRAW_SIZE}}}", value):
            draws.append(value)
        elif word == "size" and re.fullmatch(r"[0-9]{1,18}", value):
            sizes.append(int(value) * 512)
        elif word == "uptime" and re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", value):
            uptimes.append(float(value))
        else:
            raise ApplianceError(f"unexpected output of the resumed appliance: {line[:200]!r}")
    return Answer(tuple(draws), tuple(sizes), tuple(uptimes))


def check_draws(answer: Answer, recorded: frozenset[str]) -> None:
    """Check that a resumed appliance does not repeat the random numbers of the saved one."""
    if len(answer.draws) != 2 or answer.draws[0] == answer.draws[1]:
        raise ApplianceError("the resumed appliance drew no random numbers")
    if recorded.intersection(answer.draws):
        raise ApplianceError("the resumed appliance repeats the random numbers of the saved one")


def check_sizes(answer: Answer, expected: Sequence[int | None]) -> None:
    """Check the sizes of the disks that a resumed appliance sees."""
    if len(answer.sizes) != len(expected):
        raise ApplianceError(f"the resumed appliance sees {len(answer.sizes)} disks, not {len(expected)}")
    # The kernel may order the disks differently; libguestfs tracks which is which.
    left = list(answer.sizes)
    for size in expected:
        if size is not None:
            if size not in left:
                raise ApplianceError(f"the resumed appliance sees no disk of {size} bytes")
            left.remove(size)


BOOTING = "booting.qcow2"
"""The overlay of the running machine; it is copied at the moment of the saved memory."""
_CALL_LIMIT = 120.0
"""Seconds that one request to the booted appliance may take."""
_WRITE_LIMIT = 60.0
"""Limit in seconds for writing the memory, which takes one or two; signals wait until then."""
_LINKED = re.compile(r"^\s+(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


def new_overlay(root: str, new: Path) -> Path:
    """Create the overlay of the appliance's root; return its path."""
    overlay = new / BOOTING
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", root, overlay])
    overlay.chmod(0o600)
    return overlay


def prepare(connection: Connection) -> None:
    """Copy the programs for resuming into the booted appliance, and run them once."""
    perl = os.path.realpath(process.require_program("perl"))
    libraries = [match["path"] for match in _LINKED.finditer(process.run(["ldd", perl]).stdout.decode())]
    quoted = " ".join(map(shlex.quote, libraries))
    missing = _shell(
        connection,
        f"mkdir -p -m 0700 {FOLDER}; "
        f'for path in {quoted}; do if [ ! -e "$path" ]; then echo "$path"; fi; done',
    )
    if missing.strip():
        raise ApplianceError(f"libraries of perl are missing in the appliance: {' '.join(missing.split())}")
    connection.call("debug_upload", perl, PERL, 0o700, limit=_CALL_LIMIT)
    # This loads the programs into memory, and proves that they work.
    read_answer(_shell(connection, greeting_script(time.time())))
    read_answer(_shell(connection, record_script()))


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
    from imgbuilder.appliance import monitor  # late: resuming does not need it

    # Nothing may run in the appliance between this and the write of the memory.
    began = read_answer(_shell(connection, renew_script())).uptimes
    memory = os.open(new / MEMORY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        monitor.write_memory(socket, memory, lambda: _copy_overlay(new), limit=_WRITE_LIMIT)
    finally:
        os.close(memory)
    answer = read_answer(_shell(connection, record_script()))
    if len(began) != 1 or len(answer.uptimes) != 1 or len(set(answer.draws)) != CHAIN:
        raise ApplianceError("the appliance did not print the random numbers that a copy of it would draw")
    if answer.uptimes[0] - began[0] > reseed_interval(began[0]) / 2:
        raise BusyError("this host was too busy to record the random numbers of the saved appliance")
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

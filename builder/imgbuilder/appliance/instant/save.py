"""Saves a state: prepares a booted appliance with empty disks, and copies its memory while it is paused.

After that the machine runs on for a moment and prints the random numbers that a copy without fresh entropy
would draw. A resumed appliance must never draw those.

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
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.appliance import monitor
from imgbuilder.appliance.connection import Connection
from imgbuilder.appliance.instant.commandline import MOST_DISKS
from imgbuilder.appliance.instant.program import (
    CONTENT,
    DEVICES,
    DRAWS,
    MACHINE,
    MEMORY,
    OVERLAY,
    RECORD,
    identity,
)
from imgbuilder.errors import ApplianceError
from imgbuilder.host import process, sparse
from imgindex.files import open_empty

FOLDER = "/run/pybuilder"
"""The folder for our files in the appliance: in its memory, invisible for a guest."""
PERL = f"{FOLDER}/perl"
PARKED = f"{FOLDER}/parked"
"""The names and SCSI addresses of the disks that the saved machine's kernel has forgotten."""
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
_SETTIMEOFDAY = {"x86_64": 164, "aarch64": 170}
"""Number of the system call on each architecture of ``program``."""
_CARDS_AWAY = r"""
opendir(N, "/sys/class/net") or die;
for my $card (readdir(N)) {
  my ($device) = (readlink("/sys/class/net/$card/device") // "") =~ m{([^/]+)$} or next;
  put("/sys/class/net/$card/device/driver/unbind", $device);
}
"""
_DISKS = r"""
sub content { open(my $f, "<", $_[0]) or die "$_[0]: $!\n"; my $t = <$f>; chomp($t); $t }
sub put { open(my $f, ">", $_[0]) or die "$_[0]: $!\n"; syswrite($f, $_[1]) or die "$_[0]: $!\n" }
open(my $parked, "<", "PARKED") or die "PARKED: $!\n";
my %wanted = map { $_ => 1 } 1 .. $last;
my @surplus;
for (sort(<$parked>)) {  # one by one in the order of names: the kernel assigns the first free name
  last unless %wanted;
  my ($name, $host, $target) = /^(\w+) (\d+):0:(\d+):0$/ or die "PARKED: $_";
  put("/sys/class/scsi_host/host$host/scan", "0 $target 0");
  # The last thing that the kernel makes is the link.
  my $there = sub { -b "/dev/$name" && (readlink("/sys/block/$name") // "") =~ m{/$host:0:$target:0/block/} };
  for (1 .. 1000) { last if $there->(); select(undef, undef, undef, 0.01) }
  $there->() or die "$name did not come back\n";
  delete($wanted{$target}) or push(@surplus, "/sys/block/$name/device");
}
put("$_/delete", "1") for @surplus;
opendir(D, "/sys/block") or die;
for my $name (sort(grep(/^sd/, readdir(D)))) {
  my $path = "/sys/block/$name";
  my ($major, $minor) = split(/:/, content("$path/dev"));
  next if $major * 256 + $minor == (stat("/"))[0];  # the root, which may have any name
  put("$path/device/rescan", "1");
  open(my $d, "<", "/dev/$name") or die "$name: $!\n";
  # The numbers are in linux/fs.h.
  ioctl($d, 0x1261, 0) or die "BLKFLSBUF: $!\n";
  ioctl($d, 0x125f, 0) or (system("udevadm settle"), ioctl($d, 0x125f, 0)) or die "BLKRRPART: $!\n";
  print "size ", content("$path/size"), "\n";
}
exec("udevadm", "settle") or die;
""".replace("PARKED", PARKED)


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


def greeting_script(now: float, disks: int, *, network: bool) -> str:
    """Return the script that prepares a resumed appliance.

    In this order: reseed the generator, draw numbers for the check, set the clock, add disks that the saved
    machine had forgotten, and rescan all, which were others when the appliance was saved. It is one process,
    since each takes long to start.

    Args:
        now: The time.
        disks: The number of disks, without the appliance's root.
        network: Whether the network stays up.
    """
    seconds, fraction = divmod(round(now * 1e6), 1_000_000)
    call = _SETTIMEOFDAY[os.uname().machine]
    # perl passes only variables to system calls.
    clock = f'my $now = pack("qq", {seconds}, {fraction}); '
    clock += f'syscall({call}, $now, 0) == 0 or die "clock: $!\\n";'
    steps = [_OPEN, _RESEED, _DRAW, _DRAW, clock, "" if network else _CARDS_AWAY]
    return f"exec {_perl(*steps, f'my $last = {disks - 1};', _DISKS)}"


def park_script() -> str:
    """Return the script that makes the kernel forget all disks but the first and the appliance's root.

    It also forgets its messages, which each build reads in the end.
    """
    numbers = " ".join(map(str, range(1, MOST_DISKS)))
    return f"""set -e
for number in {numbers}; do
  for path in /sys/bus/scsi/devices/*:0:$number:0; do
    echo "$(ls "$path/block") ${{path##*/}}"
    echo 1 >"$path/delete"
  done
done >{PARKED}
udevadm settle
dmesg --clear"""


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


def check_clock(uptimes: Sequence[float], age: float) -> None:
    """Check that the appliance's clock does not run ahead, as it would in all copies of it.

    A kernel that boots while the host is busy may take its processor for a slower one. Its seconds are too
    short then, and a command's time limit would end too early.

    Args:
        uptimes: Seconds since the boot by that clock, at one moment.
        age: Seconds since the hypervisor was started, by the host's.

    Raises:
        BusyError: It runs ahead.
    """
    if len(uptimes) != 1:
        raise ApplianceError("the appliance did not print the time since its boot")
    if uptimes[0] > age + 1:
        raise BusyError(
            "this host was so busy that the appliance's clock runs too fast: "
            f"{uptimes[0]:.0f} seconds passed there, {age:.0f} here"
        )


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
    _shell(connection, park_script())
    answer = read_answer(_shell(connection, greeting_script(time.time(), MOST_DISKS, network=True)))
    check_sizes(answer, [None] * MOST_DISKS)
    _shell(connection, park_script())
    read_answer(_shell(connection, record_script()))


def save(connection: Connection, socket: Path, memory: str, new: Path, machine: dict[str, str]) -> None:
    """Write the state of a prepared appliance, and end the appliance.

    Args:
        connection: The appliance.
        socket: Its hypervisor's monitor socket.
        memory: The open file that is its memory.
        new: Private folder for the state, which has the overlay already.
        machine: What a machine has to be like to fit.

    Raises:
        PybuilderError: The state cannot be used.
        OSError: It cannot be written.
    """
    # Nothing may run in the appliance between this and the write of the memory.
    began = read_answer(_shell(connection, renew_script())).uptimes
    check_clock(began, time.time() - socket.stat().st_ctime)
    with os.fdopen(open_empty(new / DEVICES), "wb") as devices:
        monitor.write_devices(socket, devices.fileno(), lambda: _copy(memory, new), limit=_WRITE_LIMIT)
    answer = read_answer(_shell(connection, record_script()))
    if len(answer.uptimes) != 1 or len(set(answer.draws)) != CHAIN:
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
    facts = {name: identity(str(new / name))[1:] for name in CONTENT}
    record.write_text(json.dumps({**facts, MACHINE: machine}))


def _copy(memory: str, new: Path) -> None:
    """Copy what the paused machine goes on to write to."""
    for source, name in ((memory, MEMORY), (new / BOOTING, OVERLAY)):
        with open(source, "rb") as old, os.fdopen(open_empty(new / name), "wb") as copy:
            sparse.copy_descriptor(old.fileno(), copy.fileno())


def _shell(connection: Connection, script: str) -> str:
    return str(connection.call("debug", "sh", [script], limit=_CALL_LIMIT))


def reseed_interval(uptime: float) -> float:
    """Return the seconds after which the kernel renews its random numbers by itself.

    Args:
        uptime: Seconds since it booted (``crng_reseed_interval`` in the kernel's drivers/char/random.c).
    """
    return 60.0 if uptime >= 120 else max(1.0, uptime // 2)

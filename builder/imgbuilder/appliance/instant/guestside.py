"""Scripts that run inside the appliance when it is saved and when it is resumed.

A resumed kernel continues with the random numbers of the saved one: every
build would draw the same. So the host's entropy is mixed in, and the kernel is
asked to reseed its generator from it (``RNDRESEEDCRNG``), which also discards
the numbers that it keeps ready for each processor. Only after that may
anything run that needs random numbers. The appliance has no program that makes
this call, so the host's ``perl`` is copied into its memory; perl's libraries
are in the appliance, which is built from the host's files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imgbuilder.errors import ApplianceError

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

    Args:
        now: The time, in seconds since 1970.
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
    """Parse the output of the scripts.

    Raises:
        ApplianceError: It has an unexpected line.
    """
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
    """Check that a resumed appliance does not repeat the random numbers of the saved one.

    Raises:
        ApplianceError: It does, or drew nothing.
    """
    if len(answer.draws) != 2 or answer.draws[0] == answer.draws[1]:
        raise ApplianceError("the resumed appliance drew no random numbers")
    if recorded.intersection(answer.draws):
        raise ApplianceError("the resumed appliance repeats the random numbers of the saved one")


def check_sizes(answer: Answer, expected: Sequence[int | None]) -> None:
    """Check the sizes of the disks that a resumed appliance sees.

    Args:
        answer: The output of the greeting.
        expected: The sizes in bytes; None if unknown.

    Raises:
        ApplianceError: They differ.
    """
    if len(answer.sizes) != len(expected):
        raise ApplianceError(f"the resumed appliance sees {len(answer.sizes)} disks, not {len(expected)}")
    # The kernel may order the disks differently; libguestfs tracks which is which.
    left = list(answer.sizes)
    for size in expected:
        if size is not None:
            if size not in left:
                raise ApplianceError(f"the resumed appliance sees no disk of {size} bytes")
            left.remove(size)

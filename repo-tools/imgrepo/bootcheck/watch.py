"""What a console says about how a boot goes. Pure: bytes in, a judgement out."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from imgrepo.bootcheck.lines import Lines, Log
from imgrepo.bootcheck.marker import Marker

_STOPS: tuple[tuple[str, str], ...] = (
    (r"Kernel panic - not syncing", "the kernel panicked"),
    (r"^No bootable device", "the firmware found nothing to boot"),
    (r"^FATAL: (?:No bootable medium|INT18: BOOT FAILURE)", "the firmware found nothing to boot"),
    (r"^This is not a bootable disk", "the firmware found nothing to boot"),
    (r"BdsDxe: No bootable option or device was found", "the firmware found nothing to boot"),
    (r"^(?:Missing operating system|Operating system not found|Error loading operating system)",
     "the boot sector found no system"),
    (r"^UEFI Interactive Shell|^Shell>", "the firmware found nothing to boot, and started its shell"),
    (r"^grub rescue>|^Entering rescue mode\.\.\.", "GRUB does not find its files (rescue mode)"),
    (r"^grub>|^Minimal BASH-like line editing is supported", "GRUB found no menu, and waits for orders"),
    (r"^ALERT! .*does not exist\.\s+Dropping to a shell|^\(initramfs\)",
     "the system's root was not found (shell of the initramfs)"),
    (r"^initramfs emergency recovery shell launched", "the system's root was not found (recovery shell)"),
    (r"^(?:Welcome to|You are in) (?:emergency|rescue) mode", "the system started in emergency mode"),
    (r"^Entering emergency mode|^Give root password for maintenance", "the system started in emergency mode"),
    (r"^Cannot open access to console, the root account is locked", "the system started in emergency mode"),
    (r"^Press Enter for (?:emergency shell|maintenance)", "the system started in emergency mode"),
)  # fmt: skip
"""What ends a boot: a pattern for a line, and what it means."""
_STOP = tuple((re.compile(pattern), reason) for pattern, reason in _STOPS)

_CONCERNS = re.compile(
    r"\bOops\b|\bBUG: |\bkernel BUG at\b|\bCall [Tt]race:|\bWARNING: CPU: |\bI/O error\b"
    r"|\bOut of memory\b|\binvoked oom-killer\b|\boom-kill:|\bgeneral protection fault\b|\bsegfault at\b"
    r"|\bblocked for more than \d+ seconds|\bself-detected stall\b|\bsoft lockup\b"
    r"|\bEXT4-fs (?:error|warning)\b|\bXFS .*[Cc]orruption|\bBTRFS(?:: | )(?:error|critical)\b"
    r"|\bHardware Error\b|^\[\s*FAILED\s*\]|^\[\s*DEPEND\s*\]|\bFailed to start\b|\bentered failed state\b"
    r"|\bFailed with result\b|\bNo space left on device\b"
)
_MOST_CONCERNS = 50
_LONGEST_CONCERN = 200
_STAMP = re.compile(r"^\[\s*\d+\.\d+\]\s*")

_START = re.compile(r"^SeaBIOS \(version|^BdsDxe: starting Boot")
_MOST_STARTS = 4
"""A first boot may restart the machine, to relabel files or to take a new kernel; not for ever."""


class State(enum.Enum):
    """How a boot goes."""

    BOOTING = "booting"
    BOOTED = "booted"
    FAILED = "failed"


@dataclass(frozen=True)
class Judgement:
    """What is known.

    Attributes:
        state: How it goes.
        reason: Why it failed, in one line; empty otherwise.
    """

    state: State
    reason: str = ""


class Watcher:
    """Reads a console.

    Args:
        marker: What shows that the system has booted.

    Attributes:
        judgement: What is known; final as soon as it is not BOOTING.
        log: What was shown.
    """

    def __init__(self, marker: Marker) -> None:
        self.judgement = Judgement(State.BOOTING)
        self.log = Log()
        self._marker = marker
        self._lines = Lines()
        self._concerns: dict[str, str] = {}
        self._starts = 0
        self._last = ""

    def feed(self, piece: bytes) -> None:
        """Take more of what the console sent; only complete lines are judged.

        Raises:
            RepositoryError: The marker takes too long to look for.
        """
        for line in self._lines.feed(piece):
            self.log.add(line)
            self._last = line
            self._note(line)
            self._judge(line)

    def pause(self) -> None:
        """Judge the line that is not finished, since nothing has come for a while: prompts have no end.

        Raises:
            RepositoryError: The marker takes too long to look for.
        """
        for line in self._lines.unfinished():
            self._judge(line)

    def end(self) -> None:
        """Take what is left for the last line; nothing comes any more."""
        for line in self._lines.unfinished():
            self.log.add(line)
            self._note(line)
        self.pause()

    @property
    def concerns(self) -> tuple[str, ...]:
        """Lines of the kernel and of services that somebody should look at, each once."""
        return tuple(self._concerns.values())

    @property
    def last_line(self) -> str:
        """What the console shows at its end."""
        return next(reversed(self._lines.unfinished()), self._last)

    def _judge(self, line: str) -> None:
        if self.judgement.state is not State.BOOTING:
            return
        reason = failure_in(line)
        if _START.search(line):
            self._starts += 1
            if self._starts > _MOST_STARTS:
                reason = "it starts again and again"
        if reason:
            self.judgement = Judgement(State.FAILED, reason)
        elif self._marker.found_in(line):
            self.judgement = Judgement(State.BOOTED)

    def _note(self, line: str) -> None:
        concern = concern_in(line)
        if concern and len(self._concerns) < _MOST_CONCERNS:
            self._concerns.setdefault(_STAMP.sub("", concern), concern)


def failure_in(line: str) -> str:
    """Return why a line means that the system does not boot; empty when it does not mean that."""
    bare = _STAMP.sub("", line)
    for pattern, reason in _STOP:
        if pattern.search(bare):
            detail = bare.partition("not syncing: ")[2]
            return f"{reason}: {detail[:_LONGEST_CONCERN]}" if detail else reason
    return ""


def concern_in(line: str) -> str:
    """Return the line, shortened, if somebody should look at it; empty otherwise."""
    return line[:_LONGEST_CONCERN] if _CONCERNS.search(line) else ""

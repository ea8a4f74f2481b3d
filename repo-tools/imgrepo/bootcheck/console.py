"""The serial console of a boot check: its lines, its log, and what it shows of the boot. No I/O.

A guest may send anything: endless lines, colours, control sequences of terminals.
Memory and time stay bounded, and only printable characters are kept.
"""

from __future__ import annotations

import enum
import re
import time
from collections import deque
from dataclasses import dataclass

import regex

from imgbuilder.errors import RepositoryError

LONGEST_LINE = 4096
"""Bytes after which a line counts as complete."""
_ROWS = 25
"""Rows of the terminal that firmware and boot loaders draw on."""
_ESCAPE = re.compile(
    r"\x1b\[(?P<row>[0-9]{1,3});[0-9]{1,3}[Hf]"  # to a row and a column
    r"|\x1b\[[0-?]*[ -/]*(?P<order>[@-~])"  # any other control sequence
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # strings: titles, colours, what a printer gets
    r"|\x1b[ -/]*[0-~]?"
)
_MOVES = frozenset("ABEFHJTSdf")
"""Control sequences after which another line of the screen is written to."""

_TO_THE_TOP = {"\x1bc", "\x1b[2J", "\x1b[H"}
"""Control sequences after which the first row is written to."""


class Lines:
    """Splits a stream of bytes into lines; how it was cut into pieces makes no difference."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._row: int | None = None

    def feed(self, piece: bytes) -> list[str]:
        """Add bytes; return the lines that are complete now, without empty ones."""
        found: list[str] = []
        self._waiting += piece
        begin = 0
        while True:
            end = self._waiting.find(b"\n", begin, begin + LONGEST_LINE)
            if end < 0 and len(self._waiting) - begin < LONGEST_LINE:
                break
            stop = end + 1 if end >= 0 else begin + LONGEST_LINE
            found += self._clean(bytes(self._waiting[begin:stop]))
            if end >= 0 and self._row is not None:
                self._row = min(self._row + 1, _ROWS)
            begin = stop
        del self._waiting[:begin]
        return found

    def unfinished(self) -> list[str]:
        """Return what the line that has no end yet shows; it stays unfinished."""
        row = self._row
        found = self._clean(bytes(self._waiting))
        self._row = row
        return found

    def _clean(self, data: bytes) -> list[str]:
        text = _ESCAPE.sub(self._moved, data.decode(errors="replace")).replace("\r", "\n")
        shown = ("".join(letter for letter in line if letter.isprintable()) for line in _lines(text))
        return [line.strip() for line in shown if line.strip()]

    def _moved(self, found: re.Match[str]) -> str:
        # A BIOS on the serial console moves the cursor all the time; on the same row, the line goes on.
        if found["row"] is not None:
            before, self._row = self._row, int(found["row"])
            return "" if before == self._row else "\n"
        if found.group() in _TO_THE_TOP:
            self._row = 1
        return "\n" if found["order"] and found["order"] in _MOVES else ""


def _lines(text: str) -> list[str]:
    return text.replace("\t", " ").split("\n")


class Log:
    """The first and the last lines of a console, ``room`` characters of each, and how many are left out."""

    def __init__(self, room: int = 512 << 10) -> None:
        self._room = room
        self._first: list[str] = []
        self._first_size = 0
        self._last: deque[str] = deque()
        self._last_size = 0
        self._left_out = 0

    def add(self, line: str) -> None:
        """Keep a line."""
        size = len(line) + 1
        if not self._last and self._first_size + size <= self._room:
            self._first.append(line)
            self._first_size += size
            return
        self._last.append(line)
        self._last_size += size
        while self._last_size > self._room:
            self._last_size -= len(self._last.popleft()) + 1
            self._left_out += 1

    def text(self) -> str:
        """Return all that was kept."""
        gap = [f"[... {self._left_out} lines are left out here ...]"] if self._left_out else []
        return "".join(f"{line}\n" for line in (*self._first, *gap, *self._last))

    def tail(self, count: int) -> tuple[str, ...]:
        """Return the last lines."""
        return (*self._first, *self._last)[-count:]


_SECONDS = 0.5
"""Processor time for a line of some thousand characters; a harmless expression takes microseconds."""
_SLOW = 0.005
_ALL_SLOW = 5.0
"""Processor time for all lines that take longer than ``_SLOW`` each: a guest sends as many as it likes."""


class BootMarker:
    """A regular expression; its syntax is that of Python's ``re``. ``where`` is its origin, for messages."""

    def __init__(self, expression: str, *, where: str) -> None:
        self.expression = expression
        self._where = where
        self._slow = 0.0
        try:
            self._pattern = regex.compile(expression)
        except (regex.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise RepositoryError(
                f"{where}: {expression!r} is not a valid regular expression: {error}"
            ) from error

    def found_in(self, line: str) -> bool:
        """Return whether a line matches; a RepositoryError if that takes too long."""
        try:
            before = time.thread_time()
            found = self._pattern.search(line, timeout=_SECONDS) is not None
            spent = time.thread_time() - before
        except TimeoutError as error:
            raise self._too_slow(f"looking for it in one line took more than {_SECONDS} seconds") from error
        self._slow += spent if spent > _SLOW else 0.0
        if self._slow > _ALL_SLOW and not found:
            raise self._too_slow(f"looking for it took more than {_ALL_SLOW} seconds")
        return found

    def _too_slow(self, problem: str) -> RepositoryError:
        hint = "write it without repeated groups that can match in many ways, such as (a+)+"
        return RepositoryError(f"{self._where}: {problem}", hint=hint)


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
    (r"^grub>|^Minimal BASH-like line editing is supported", "GRUB found no menu and waits for commands"),
    (r"^ALERT! .*does not exist\.\s+Dropping to a shell|^\(initramfs\)",
     "the system's root was not found (shell of the initramfs)"),
    (r"^initramfs emergency recovery shell launched", "the system's root was not found (recovery shell)"),
    (r"^(?:Welcome to|You are in) (?:emergency|rescue) mode", "the system started in emergency mode"),
    (r"^Entering emergency mode|^Give root password for maintenance", "the system started in emergency mode"),
    (r"^Cannot open access to console, the root account is locked", "the system started in emergency mode"),
    (r"^Press Enter for (?:emergency shell|maintenance)", "the system started in emergency mode"),
)  # fmt: skip
"""Lines that end a boot: a pattern and its meaning."""
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
"""A first boot may restart the machine, to relabel files or to start a new kernel, but not forever."""


class BootState(enum.Enum):
    """The state of a boot."""

    BOOTING = "booting"
    BOOTED = "booted"
    FAILED = "failed"


@dataclass(frozen=True)
class BootJudgement:
    """The outcome of a boot; of a failure also the reason, in one line."""

    state: BootState
    reason: str = ""


class Watcher:
    """Reads a console. The judgement is final as soon as it is not BOOTING."""

    def __init__(self, marker: BootMarker) -> None:
        self.judgement = BootJudgement(BootState.BOOTING)
        self.log = Log()
        self._marker = marker
        self._lines = Lines()
        self._concerns: dict[str, str] = {}
        self._starts = 0
        self._last = ""

    def feed(self, piece: bytes) -> None:
        """Add bytes from the console; only complete lines are judged."""
        for line in self._lines.feed(piece):
            self.log.add(line)
            self._last = line
            self._note(line)
            self._judge(line)

    def pause(self) -> None:
        """Judge the unfinished line, after a pause: prompts have no line end."""
        for line in self._lines.unfinished():
            self._judge(line)

    def end(self) -> None:
        """Add the unfinished line to the log: the console has ended."""
        for line in self._lines.unfinished():
            self.log.add(line)
            self._note(line)
        self.pause()

    @property
    def concerns(self) -> tuple[str, ...]:
        """Warnings of the kernel and of services, each once."""
        return tuple(self._concerns.values())

    @property
    def last_line(self) -> str:
        """The last line of the console."""
        return next(reversed(self._lines.unfinished()), self._last)

    def _judge(self, line: str) -> None:
        if self.judgement.state is not BootState.BOOTING:
            return
        reason = failure_in(line)
        if _START.search(line):
            self._starts += 1
            if self._starts > _MOST_STARTS:
                reason = "it starts again and again"
        if reason:
            self.judgement = BootJudgement(BootState.FAILED, reason)
        elif self._marker.found_in(line):
            self.judgement = BootJudgement(BootState.BOOTED)

    def _note(self, line: str) -> None:
        concern = concern_in(line)
        if concern and len(self._concerns) < _MOST_CONCERNS:
            self._concerns.setdefault(_STAMP.sub("", concern), concern)


def failure_in(line: str) -> str:
    """Return why the system does not boot, by a line that says so; empty for any other line."""
    bare = _STAMP.sub("", line)
    for pattern, reason in _STOP:
        if pattern.search(bare):
            detail = bare.partition("not syncing: ")[2]
            return f"{reason}: {detail[:_LONGEST_CONCERN]}" if detail else reason
    return ""


def concern_in(line: str) -> str:
    """Return the line, shortened, if it is a warning; empty otherwise."""
    return line[:_LONGEST_CONCERN] if _CONCERNS.search(line) else ""

"""Reading what the first boot left behind: how each script ended, and when."""

from __future__ import annotations

import re
from dataclasses import dataclass

from imgbuilder.customize.firstboot_service import BASE, LOG, STATUS
from imgbuilder.guests.ports import Guest

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_LARGEST_STATUS = 1 << 20
_LARGEST_LOG = 2 << 20
"""Bytes that are read of the log, from its end; a script may have printed without end."""


@dataclass(frozen=True)
class ScriptStatus:
    """How a script fared.

    Attributes:
        name: Its file name.
        started: When it was started, UTC; None while it waits for the first boot.
        finished: When it ended; None when it did not, for example because it restarted the machine.
        exit_code: Its exit code; None when it did not end.
    """

    name: str
    started: str | None = None
    finished: str | None = None
    exit_code: int | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it ended with 0."""
        return self.exit_code == 0

    @property
    def state(self) -> str:
        """The state in words."""
        if self.started is None:
            return "waits for the first boot"
        return "did not end" if self.exit_code is None else f"exit status {self.exit_code}"


@dataclass(frozen=True)
class FirstbootReport:
    """What the first boot left behind.

    Attributes:
        scripts: Each script, in the order of their names.
        log: The last part of what they printed.
    """

    scripts: tuple[ScriptStatus, ...]
    log: str


def parse_status(text: str) -> dict[str, ScriptStatus]:
    """Read the status file; lines that are not understood are passed over.

    Args:
        text: Lines of a time, ``started`` or ``finished``, a script's name and, when finished, its exit
            code; separated by tabs.
    """
    found: dict[str, ScriptStatus] = {}
    for line in text.split("\n"):
        time, *words = line.split("\t")
        if not _TIME.fullmatch(time):
            continue
        match words:
            case ["started", name]:
                found[name] = ScriptStatus(name, time)
            case ["finished", name, code] if name in found and code.isascii() and code.isdecimal():
                found[name] = ScriptStatus(name, found[name].started, time, int(code[:3]))
    return found


def read_firstboot(guest: Guest) -> FirstbootReport:
    """Read log and status of a mounted guest.

    Raises:
        GuestCallError: One of them cannot be read, or the status is larger than any that we write.
    """
    status = guest.read(STATUS, limit=_LARGEST_STATUS) if guest.is_file(STATUS) else b""
    log = guest.end_of(LOG, _LARGEST_LOG) if guest.is_file(LOG) else b""
    found = parse_status(status.decode(errors="replace"))
    if guest.is_dir(f"{BASE}/scripts"):
        for name in guest.ls(f"{BASE}/scripts"):
            found.setdefault(name, ScriptStatus(name))
    return FirstbootReport(tuple(found[name] for name in sorted(found)), log.decode(errors="replace"))

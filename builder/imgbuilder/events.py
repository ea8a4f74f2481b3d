"""Events of a build, as plain data for a program that shows them.

Nothing below ``cli/`` prints: it reports events, and a reporter (a progress
bar, plain lines, or a test's ``list.append``) decides what to do with them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Severity(enum.Enum):
    """Importance of a notice."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True)
class Step:
    """A step of the build begins: one line for the user, such as ``Downloading: URL``."""

    text: str


@dataclass(frozen=True)
class Progress:
    """Bytes moved so far in the running transfer."""

    label: str
    """Name of the transfer, short enough for a progress bar."""
    done: int
    """Bytes so far."""
    total: int | None
    """Bytes in all; None when unknown."""


@dataclass(frozen=True)
class ProgressEnd:
    """The running transfer is over (finished or given up)."""


@dataclass(frozen=True)
class Notice:
    """Something that the user may want to know besides the steps."""

    severity: Severity
    text: str


Event = Step | Progress | ProgressEnd | Notice
Reporter = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Drop an event: the default of the library."""


def debug(on_event: Reporter, text: str) -> None:
    """Report one line for ``--verbose``."""
    on_event(Notice(Severity.DEBUG, text))


def info(on_event: Reporter, text: str) -> None:
    """Report something worth a line even when quiet."""
    on_event(Notice(Severity.INFO, text))


def warn(on_event: Reporter, text: str) -> None:
    """Report something that the user should act on, although the work goes on."""
    on_event(Notice(Severity.WARNING, text))

"""Check results and requirements of an entry: the terms that all of review uses."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from imgbuilder.errors import PybuilderError


class Requirement(enum.Enum):
    """A requirement of ``publish``, in the order in which entries meet them; users type its value."""

    CHECKED = "checked"
    BOOTED = "booted"
    SIGNED = "signed"


class Status(enum.Enum):
    """The outcome of one check; users read its value."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class Issue(NamedTuple):
    """A check that failed or whose outcome is unknown, the reason, and what to do about it."""

    status: Status
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: PybuilderError, status: Status = Status.WRONG) -> Issue:
        """Return the issue that an error means."""
        return cls(status, error.message, error.hint)


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        hint: What to do about it; None when nothing has to be done.
        notes: Remarks that change nothing.
    """

    key: str
    status: Status
    detail: str = ""
    hint: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, issue: Issue) -> CheckResult:
        """Return the result of a check that could not be made, or whose subject is missing."""
        return cls(key, *issue)

    @property
    def fails(self) -> bool:
        """Return whether the contributor has to do something."""
        return self.status in {Status.MISSING, Status.WRONG}

"""A point of a check, and how it stands."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class ItemState(enum.Enum):
    """How a point stands; its value is what users read."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class Lack(NamedTuple):
    """Why something that a point needs is not there.

    Attributes:
        state: What that makes of the point.
        reason: In words for people.
        hint: What to do about it.
    """

    state: ItemState
    reason: str
    hint: str | None = None


@dataclass(frozen=True)
class Item:
    """A point of a check.

    Attributes:
        key: Its name, for programs and people.
        state: How it stands.
        detail: Why, in words for people.
        hint: What to do about it; None when nothing has to be done.
        notes: What somebody may want to know all the same.
    """

    key: str
    state: ItemState
    detail: str = ""
    hint: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, lack: Lack) -> Item:
        """Return the point for which something is not there."""
        return cls(key, *lack)

    @property
    def fails(self) -> bool:
        """Whether somebody has to do something."""
        return self.state in {ItemState.MISSING, ItemState.WRONG}

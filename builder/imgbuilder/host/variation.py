"""The time and the random numbers in an image; both can be fixed, so that a build can be repeated."""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from imgbuilder.errors import UsageError

VARIABLE = "SOURCE_DATE_EPOCH"

RandomBytes = Callable[[int], bytes]
"""Returns that many random bytes."""


@dataclass(frozen=True)
class Variation:
    """The things that make two builds differ.

    Attributes:
        clock: Returns the time in nanoseconds since 1970.
        random_bytes: Returns random bytes.
    """

    clock: Callable[[], int] = lambda: time.time_ns()
    random_bytes: RandomBytes = secrets.token_bytes

    @property
    def today(self) -> int:
        """The number of days since 1970, as in shadow(5)."""
        return self.clock() // (24 * 3600 * 10**9)


def source_date_epoch() -> int | None:
    """Return the time in seconds since 1970 that ``SOURCE_DATE_EPOCH`` fixes; None if it is not set.

    Raises:
        UsageError: It is not a number of seconds that a date can have (reproducible-builds.org).
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        seconds = int(text) if text.isascii() and text.isdigit() else -1
        datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        seconds = -1
    if seconds < 0:
        raise UsageError(
            f"{VARIABLE} is {text!r}, which is not a time in seconds since 1970",
            hint='set it to a number, such as "$(git log -1 --format=%ct)", or unset it',
        )
    return seconds


def repeatable(epoch: int | None, seed: str | None) -> Variation:
    """Return a variation with a fixed time, with random numbers that follow from a seed, or with both."""
    variation = Variation()
    clock = variation.clock if epoch is None else lambda: epoch * 10**9
    return Variation(clock, variation.random_bytes if seed is None else _seeded(seed))


def _seeded(seed: str) -> RandomBytes:
    numbers = itertools.count()
    text = seed.encode(errors="surrogateescape")

    def random_bytes(size: int) -> bytes:
        # SHAKE-256 of the call's number, which has a fixed length, and the seed.
        return hashlib.shake_256(next(numbers).to_bytes(8, "big") + text).digest(size)

    return random_bytes

"""Getting one file of a source: the port, and its limits.

A ``Fetcher`` moves bytes and decides nothing about trust. Whatever it writes
is bounded (``docs/threat-model.md`` T10, T11) and is judged afterwards by its
signature or digest.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from imgbuilder.errors import FetchError, WrongSizeError
from imgbuilder.events import Progress, ProgressEnd, Reporter, ignore

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

SYSTEM_PROXY = "system"
"""Use the proxy that the environment names (``https_proxy`` and its kin)."""

NO_PROXY = "no"
"""Use no proxy, whatever the environment says."""

INDEX_LIMIT = 5_000_000
"""Largest index in bytes (``docs/threat-model.md`` V1)."""

PRODUCTS_LIMIT = 20_000_000
"""The same for files of simplestreams sources, which list every version of every image."""

INDEX_SECONDS = 60.0
"""Longest time that an index may take from one address, before the next one is tried."""

PRODUCTS_SECONDS = 240.0
"""The same for simplestreams sources."""

BETWEEN_TWO_VERSIONS = (
    "the source may be in the middle of an update: try again in a few minutes, then tell the publisher"
)
"""What to do when a source's index and its files do not fit together."""

_PIECE = 1 << 16
"""Bytes per read; also the most that is read beyond a limit (``docs/threat-model.md`` D6)."""


class Limits(NamedTuple):
    """How patient a transfer is.

    Attributes:
        timeout: Seconds without an answer, or without a byte.
        connect: Seconds to reach one address of a server; it may have several, of which the first may be
            dead (``docs/threat-model.md`` D24).
        redirects: Most redirects to follow.
        retries: How often a request that failed before its body began is sent again.
        resumes: How often a body that broke off is continued (``docs/threat-model.md`` D8).
        backoff: Seconds before the first retry; doubled for each further one.
        longest_wait: Most seconds that a server's ``Retry-After`` may ask for.
        slow_window: Seconds over which the speed is measured.
        slow_rate: Bytes per second below which a transfer is given up.
    """

    timeout: float = 30.0
    connect: float = 10.0
    redirects: int = 5
    retries: int = 3
    resumes: int = 5
    backoff: float = 0.5
    longest_wait: float = 60.0
    slow_window: float = 60.0
    slow_rate: int = 1024


class Fetched(NamedTuple):
    """A finished transfer.

    Attributes:
        url: Where the bytes came from in the end.
        size: How many there were.
    """

    url: str
    size: int


class TransferCutError(FetchError):
    """A body broke off, or stalled: what came so far is good, and the rest may be had later."""


class Resumable(Protocol):
    """A destination that may hold the beginning of the file already, from an earlier try or run."""

    @property
    def held(self) -> int:
        """How many bytes it holds; its position is behind them."""
        ...

    @property
    def validator(self) -> str:
        """What ``If-Range`` must say to get more of the same file; empty when nothing can."""
        ...

    @property
    def elsewhere(self) -> bool:
        """Whether the bytes come from another address of the same file.

        The rest is then asked for without a condition, and the digest of the whole decides.
        """
        ...

    def restart(self, validator: str = "") -> None:
        """Drop all bytes; those that follow belong to the file that ``validator`` stands for.

        Raises:
            OSError: The destination cannot be written.
        """
        ...

    def splice(self) -> None:
        """Take note that the bytes that follow come from another answer than those before."""
        ...


class Fetcher(Protocol):
    """Moves one file of a source to a local file."""

    def fetch(
        self,
        url: str,
        destination: BinaryIO,
        *,
        limit: int,
        expected: int | None = None,
        on_event: Reporter = ignore,
        label: str = "",
        proxy: str = SYSTEM_PROXY,
        digest_known: bool = False,
        seconds: float | None = None,
        resume: Resumable | None = None,
    ) -> Fetched:
        """Write the file's bytes to ``destination``, at its position.

        Args:
            url: A web URL, ``file://`` URI or plain path.
            destination: Where to write. Its own ``OSError`` is passed on.
            limit: Most bytes to accept.
            expected: Exact number of bytes, when the signed index says so.
            on_event: Called with each event.
            label: Name of the transfer for progress bars; the address by default.
            proxy: ``SYSTEM_PROXY``, ``NO_PROXY``, or the URL of a proxy.
            digest_known: Whether the bytes are proved by a digest or signature afterwards, wherever they
                come from: any redirect that does not leave https, and any label, is then good enough.
            seconds: Most seconds for all of it, however many tries and redirects that takes; None for any.
            resume: The destination again, when it may be continued: only for bytes whose digest is known
                already, and is checked over the whole file afterwards.

        Raises:
            FetchError: The file could not be had, whole and within the limits.
        """
        ...


class SpeedGuard:
    """Gives up on a transfer that drips (``threat-model.md`` T11); a socket's timeout bounds only each gap.

    Args:
        limits: The window and the rate.
        clock: Seconds from any fixed point.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._start = clock()
        self._moved = 0

    def moved(self, count: int, where: str) -> None:
        """Count bytes that arrived.

        Raises:
            FetchError: Too few arrived during the window that just ended.
        """
        self._moved += count
        now = self._clock()
        seconds = now - self._start
        if seconds < self._limits.slow_window:
            return
        if self._moved < self._limits.slow_rate * seconds:
            raise FetchError(
                f"{where}: only {self._moved} bytes came in {seconds:.0f} seconds",
                hint="try again later, or use another mirror of the source",
            )
        self._start, self._moved = now, 0


def store(
    read: Callable[[int], bytes],
    destination: BinaryIO,
    *,
    where: str,
    limit: int,
    expected: int | None,
    on_event: Reporter,
    label: str,
    guard: SpeedGuard | None = None,
    start: int = 0,
) -> int:
    """Copy what ``read`` gives to ``destination``, within the limits.

    Args:
        read: Returns at most as many bytes as asked for; none at the end.
        destination: Where to write.
        where: The source, for messages.
        limit: Most bytes to accept.
        expected: Exact number of bytes, if known.
        on_event: Called with each event.
        label: Name of the transfer.
        guard: Judges the speed; None for local files.
        start: Bytes of the file that ``destination`` holds already; they count for all sizes here.

    Returns:
        How many bytes the file has.

    Raises:
        TransferCutError: Too few.
        WrongSizeError: Too many.
        FetchError: Too slow.
    """
    most = limit if expected is None else min(limit, expected)
    done = start
    try:
        while piece := read(min(_PIECE, most - done + 1)):
            if done + len(piece) > most:
                raise WrongSizeError(
                    f"{where}: longer than the {most} bytes that it may have", hint=BETWEEN_TWO_VERSIONS
                )
            _write_all(destination, piece)
            done += len(piece)
            on_event(Progress(label or where, done, expected))
            if guard is not None:
                guard.moved(len(piece), where)
    finally:
        on_event(ProgressEnd())
    if expected is not None and done != expected:
        raise TransferCutError(
            f"{where}: ended after {done} of {expected} bytes",
            hint="check the network, then run the command again",
        )
    return done


def _write_all(destination: BinaryIO, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:  # an unbuffered file may take less than it is given
        rest = rest[destination.write(rest) :]

"""Getting one file of a source: ``Download``, the ``Fetcher`` port, and the limits.

A ``Fetcher`` moves bytes and decides nothing about trust. Everything that it writes
is bounded (``docs/threat-model.md`` T10, T11) and is verified afterwards by its
signature or digest.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from imgbuilder.errors import DigestMismatchError, FetchError, TransferCutError, WrongSizeError
from imgbuilder.events import Progress, ProgressEnd, Reporter, debug, ignore

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

T = TypeVar("T")

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
"""Hint for when a source's index and its files do not fit together."""

_PIECE = 1 << 16
"""Bytes per read; also the most that is read beyond a limit (``docs/threat-model.md`` D6)."""


class Limits(NamedTuple):
    """Time limits and numbers of retries of a transfer.

    Attributes:
        timeout: Seconds without an answer, or without a byte.
        connect: Seconds to reach one address of a server; it may have several, of which the first may be
            dead (``docs/threat-model.md`` D24).
        redirects: Most redirects to follow.
        retries: Times that a request is sent again when it failed before its body began.
        resumes: Times that a body that broke off is continued (``docs/threat-model.md`` D8).
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
    """A finished transfer."""

    url: str
    size: int


class Resumable(Protocol):
    """A destination that may hold the beginning of the file already, from an earlier try or run."""

    @property
    def held(self) -> int:
        """Number of bytes that it holds; its position is behind them."""
        ...

    @property
    def validator(self) -> str:
        """Value of ``If-Range`` that gets more of the same file; empty when none does."""
        ...

    @property
    def spliced(self) -> bool:
        """True if the bytes come from more than one response."""
        ...

    @property
    def elsewhere(self) -> bool:
        """True if the bytes come from another address of the same file.

        The rest is then asked for without a condition, and the digest of the whole decides.
        """
        ...

    def restart(self, validator: str = "") -> None:
        """Drop all bytes; those that follow belong to the file that ``validator`` stands for."""
        ...

    def splice(self) -> None:
        """Record that the bytes that follow come from a different response."""
        ...


class Download(NamedTuple):
    """One file of a source to fetch, and what is accepted as that file.

    Attributes:
        url: A web URL, ``file://`` URI or plain path.
        destination: File to write to, from its position on. Its ``OSError`` is passed on.
        limit: Most bytes to accept.
        expected: Exact number of bytes, when the signed index names it.
        label: Name of the transfer for progress bars; the address by default.
        proxy: ``SYSTEM_PROXY``, ``NO_PROXY``, or the URL of a proxy.
        digest_known: A digest or signature proves the bytes afterwards, wherever they come from. Then
            redirects to other servers are followed, unless they leave https, and any label is accepted.
        seconds: Most seconds for everything, with all retries and redirects; None for no limit.
        resume: The destination again, if a partial file in it may be continued. Only for bytes whose
            digest is known, and is checked over the whole file afterwards.
        span: Start and end of the part of the file that is wanted, only for web URLs; None for all of it. The
            sizes here are still those of the whole file.
    """

    url: str
    destination: BinaryIO
    limit: int
    expected: int | None = None
    on_event: Reporter = ignore
    label: str = ""
    proxy: str = SYSTEM_PROXY
    digest_known: bool = False
    seconds: float | None = None
    resume: Resumable | None = None
    span: tuple[int, int] | None = None


class Fetcher(Protocol):
    """Copies one file of a source to a local file; several threads may use it at the same time."""

    def fetch(self, download: Download) -> Fetched:
        """Write the bytes of the file to its destination."""
        ...


def download_verified(fetcher: Fetcher, download: Download, check: Callable[[], T]) -> T:
    """Fetch a file whose digest is known, continuing a partial one, and check all of it.

    A file that was put together from several responses may be wrong although the source is right: it is
    then fetched once more, from its beginning. Nothing of a wrong file is kept. ``check`` compares digests.
    """
    partial = download.resume
    assert partial is not None, "only a file that can be restarted is verified here"
    fetcher.fetch(download)
    try:
        return check()
    except DigestMismatchError:
        spliced = partial.spliced
        partial.restart()
        if not spliced:
            raise
    debug(download.on_event, "the continued download is damaged; starting again from the beginning")
    fetcher.fetch(download)
    try:
        return check()
    except DigestMismatchError:
        partial.restart()
        raise


class MinimumSpeed:
    """Gives up on a transfer that drips (T11); the timeout of a socket bounds only each gap."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._start = clock()
        self._moved = 0

    def progress(self, count: int, where: str) -> None:
        """Count bytes that arrived."""
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
    download: Download,
    *,
    where: str,
    expected: int | None,
    speed: MinimumSpeed | None = None,
    start: int = 0,
) -> int:
    """Copy what ``read`` returns to the destination, within the limits.

    Args:
        read: Returns at most as many bytes as asked for; none at the end.
        download: The file.
        where: The source, for messages.
        expected: Exact number of bytes, if known by now.
        speed: Refuses a transfer that is too slow; None for local files.
        start: Bytes of the file that the destination holds already; they count for all sizes here.

    Raises:
        TransferCutError: Too few bytes.
        WrongSizeError: Too many bytes.
    """
    most = download.limit if expected is None else min(download.limit, expected)
    done = start
    try:
        while piece := read(min(_PIECE, most - done + 1)):
            if done + len(piece) > most:
                raise WrongSizeError(
                    f"{where}: longer than the {most} bytes that it may have", hint=BETWEEN_TWO_VERSIONS
                )
            _write_all(download.destination, piece)
            done += len(piece)
            download.on_event(Progress(download.label or where, done, expected))
            if speed is not None:
                speed.progress(len(piece), where)
    finally:
        download.on_event(ProgressEnd())
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

"""Fetches the frames of blocks from all addresses of a source at once, and checks them.

A frame is checked before anything reads it, so that an address that sends wrong bytes is known by its name
and asked no more (``docs/threat-model.md`` T9).
"""

from __future__ import annotations

import hashlib
import io
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from imgbuilder.errors import (
    DigestMismatchError,
    FetchError,
    FileMissingError,
    NoRangesError,
    PybuilderError,
    WrongSizeError,
)
from imgbuilder.events import Reporter, debug, warn
from imgbuilder.fetch.transfer import Download, Fetcher
from imgbuilder.fetch.urls import Address
from imgindex.blocklist import Block

GAP = 16 << 10
"""Bytes between two frames that are fetched as well, since a request costs more."""
LARGEST = 1 << 20
"""Bytes of a request after which the next one begins; so much is lost at most when one breaks off."""
CONNECTIONS = 4
_AT_ONCE = CONNECTIONS * LARGEST
"""Bytes that are on their way at once, and in memory: one frame may have more than LARGEST."""
_PAUSE = 0.5
"""Seconds before the next request to an address that failed; doubled for each failure."""


class Frame(NamedTuple):
    """A block with the bytes of its frame, whose digest was checked."""

    block: Block
    data: memoryview


class Span(NamedTuple):
    """Blocks whose frames are fetched with one request."""

    blocks: tuple[Block, ...]

    @property
    def start(self) -> int:
        """Place of its first byte in the zstd file."""
        return self.blocks[0].offset

    @property
    def end(self) -> int:
        """Place behind its last byte there."""
        return self.blocks[-1].end


def spans_of(blocks: Iterable[Block]) -> Iterator[Span]:
    """Divide blocks, in the order of their frames, among requests."""
    span: list[Block] = []
    for block in blocks:
        if span and (block.offset - span[-1].end > GAP or block.end - span[0].offset > LARGEST):
            yield Span(tuple(span))
            span = []
        span.append(block)
    if span:
        yield Span(tuple(span))


@dataclass
class _Source:
    """One address of the zstd file."""

    url: str
    failures: int = 0
    problem: PybuilderError | None = None
    """Reason why it is asked no more."""


@dataclass
class Supply:
    """Fetches blocks; each is yielded once.

    Attributes:
        urls: The addresses of the file.
        size: Its size in bytes.
        proxy: See ``Download``.
        instead: What is asked when an address is asked no more, for messages.
        tries: Failures after which an address is asked no more.
        seconds: Most seconds that one request may take; None for no limit.
        usual: Errors of an address that are not worth a warning.
    """

    urls: Sequence[str]
    size: int
    proxy: str
    fetcher: Fetcher
    on_event: Reporter
    instead: str = "the source's other addresses are asked"
    tries: int = 5
    seconds: float | None = None
    usual: tuple[type[PybuilderError], ...] = (NoRangesError,)
    _waiting: queue.Queue[Span | None] = field(default_factory=queue.Queue)
    _done: queue.Queue[list[Frame] | _Source | Exception] = field(default_factory=queue.Queue)
    _over: threading.Event = field(default_factory=threading.Event)
    _on_the_way: int = 0

    def fetch(self, blocks: Iterable[Block]) -> Iterator[list[Frame]]:
        """Yield the frames of all blocks, as they come; blocks are taken as they are asked for.

        Raises:
            NoRangesError: No address is left to ask, and one of them sends whole files.
            FetchError: No address is left to ask.
            DigestMismatchError: No address is left to ask, and the last one sent wrong bytes.
        """
        sources = [_Source(url) for url in self.urls]
        spans = spans_of(blocks)
        self._ask_for(spans)
        # Daemons: after a signal nothing waits for a server that is silent.
        threads = [
            threading.Thread(target=self._work, args=(sources, place), daemon=True, name="blocks")
            for place in range(min(CONNECTIONS, self._waiting.qsize()))
        ]
        for thread in threads:
            thread.start()
        try:
            while self._on_the_way:
                result = self._done.get()
                if isinstance(result, Exception):
                    raise result
                if isinstance(result, _Source):
                    self._report(result, sources)
                    continue
                self._on_the_way -= sum(frame.block.length for frame in result)
                self._ask_for(spans)
                yield result
        finally:
            self._over.set()
            for _thread in threads:
                self._waiting.put(None)

    def _ask_for(self, spans: Iterator[Span]) -> None:
        """Let the threads request further spans, up to the limit of bytes on their way."""
        while self._on_the_way < _AT_ONCE and (span := next(spans, None)) is not None:
            self._on_the_way += sum(block.length for block in span.blocks)
            self._waiting.put(span)

    def _report(self, source: _Source, sources: Sequence[_Source]) -> None:
        """Say why an address is asked no more; raise an error if it was the last one."""
        problem, problems = source.problem, [one.problem for one in sources]
        assert problem is not None
        last = None
        if None not in problems:
            last = next((one for one in problems if isinstance(one, NoRangesError)), problem)
        if problem is not last:
            say = debug if isinstance(problem, self.usual) else warn
            say(self.on_event, f"{problem.message}; {self.instead}")
        if last is not None:
            raise last

    def _work(self, sources: Sequence[_Source], place: int) -> None:
        """Fetch spans until none is left; the part of one thread."""
        try:
            while (span := self._waiting.get()) is not None and not self._over.is_set():
                alive = [source for source in sources if source.problem is None]
                if not alive:
                    return
                source = alive[place % len(alive)]
                for rest in self._ask(source, span):
                    self._waiting.put(rest)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self._done.put(error)

    def _ask(self, source: _Source, span: Span) -> Iterable[Span]:
        """Request a span from an address; return what has to be requested again."""
        body = io.BytesIO()
        try:
            self.fetcher.fetch(
                Download(
                    source.url, body, limit=self.size, expected=self.size, proxy=self.proxy,
                    digest_known=True, span=(span.start, span.end), seconds=self.seconds,
                )
            )  # fmt: skip
        except (NoRangesError, WrongSizeError, FileMissingError) as error:
            self._drop(source, error)
            return [span]
        except FetchError as error:
            source.failures += 1
            if source.failures >= self.tries:
                self._drop(source, error)
            else:
                self._over.wait(_PAUSE * 2**source.failures)
            return [span]
        data, good, wrong = memoryview(body.getvalue()), [], []
        for block in span.blocks:
            piece = data[block.offset - span.start : block.end - span.start]
            if hashlib.sha256(piece).digest()[:16] == block.packed_digest:
                good.append(Frame(block, piece))
            else:
                wrong.append(block)
        if good:
            self._done.put(good)
        if wrong:
            what = f"{Address(source.url)}: {len(wrong)} blocks are not those that the index names"
            self._drop(source, DigestMismatchError(what, hint="tell the operator of that server"))
        return spans_of(wrong)

    def _drop(self, source: _Source, problem: PybuilderError) -> None:
        if source.problem is None:
            source.problem = problem
            self._done.put(source)

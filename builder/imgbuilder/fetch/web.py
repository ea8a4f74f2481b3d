"""Files from web servers, whatever the server does (``docs/threat-model.md`` T10 to T12, T22, T23, rows D).

Redirects are followed here by rule, with credentials for the first server only;
a body is stored only from a plain 200 answer, or from a 206 answer that fits
what we hold (D10 to D14), and its length must fit at once all that is known
about it (D2 to D6, D18). What may be better a moment later is tried again, after
waits that grow and differ from client to client.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from imgbuilder.errors import FetchError, FileMissingError, WrongSizeError
from imgbuilder.events import Reporter, debug, ignore
from imgbuilder.fetch import headers
from imgbuilder.fetch.redirect import Request
from imgbuilder.fetch.session import Answer, NoAnswerError, WebSession, trusted_authorities, web_session
from imgbuilder.fetch.transfer import (
    BETWEEN_TWO_VERSIONS,
    SYSTEM_PROXY,
    Fetched,
    Limits,
    Resumable,
    SpeedGuard,
    TransferCutError,
    store,
)
from imgbuilder.fetch.urls import Address
from imgbuilder.fetch.watch import Watch

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WORTH_RETRYING = frozenset({408, 429, 500, 502, 503, 504})


class RequestsFetcher:
    """Gets files by http and https; implements ``imgbuilder.fetch.transfer.Fetcher`` for web URLs.

    Args:
        limits: How patient it is.
        clock: Seconds from any fixed point, for the speed limit.
        sleep: Waits between two tries.
        wall_clock: Seconds since 1970, for dates in answers.
        jitter: Numbers between 0 and 1, by which waits of our own choice are spread.
        environ: Where ``REQUESTS_CA_BUNDLE`` and ``CURL_CA_BUNDLE`` are looked up.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._limits = limits or Limits()
        self._clock = clock
        self._sleep = sleep
        self._wall_clock = wall_clock
        self._jitter = jitter
        self._trusted = trusted_authorities(environ)

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
        """See ``imgbuilder.fetch.transfer.Fetcher.fetch``."""
        wanted = Wanted(
            Address(url), destination, limit, expected, on_event, label, Address(proxy), digest_known, resume
        )
        if seconds is None:
            return self._whole(wanted)
        wanted.end = self._clock() + seconds
        try:
            return self._whole(wanted)
        except FetchError as error:
            if self._clock() < wanted.end:
                raise
            raise FetchError(
                f"{wanted.url}: it did not come whole within {seconds:.0f} seconds",
                hint="try again later, or use another mirror of the source",
            ) from error

    def _whole(self, wanted: Wanted) -> Fetched:
        resume, on_event = wanted.resume, wanted.on_event
        waits = self._waits()
        for tries_left in range(self._limits.resumes, -1, -1):
            try:
                fetched = self._transfer(wanted)
                while fetched is None:  # the server does not continue what we hold, but may send it whole
                    wanted.whole = True
                    fetched = self._transfer(wanted)
            except TransferCutError as error:
                if resume is None or not tries_left:
                    raise
                pause = next(waits)
                debug(on_event, f"{error.message}; continuing in {pause:.1f} seconds")
                self._sleep(pause)
            else:
                return fetched
        raise AssertionError("the last try returns or raises")

    def _waits(self) -> Iterator[float]:
        """Yield the seconds to wait before each further try: doubled each time, and up to half on top.

        Many clients that lost one server at the same moment must not come back at the same moment.
        """
        wait = self._limits.backoff
        while True:
            yield wait * (1 + self._jitter() / 2)
            wait *= 2

    def _transfer(self, wanted: Wanted) -> Fetched | None:
        """Try once to get what is missing; None when it must be asked for without a range."""
        shown = wanted.url
        try:
            request = Request(wanted.url, digest_known=wanted.digest_known)
        except ValueError:
            raise FetchError(
                f"{shown} is not a valid URL", hint="check the source's uri"
            ) from None  # its words quote the address
        held = wanted.prepare()
        if held and held == wanted.expected:
            return Fetched(request.url, held)  # D14: asked for the rest, the server could only answer 416
        for _hop in range(self._limits.redirects + 1):
            with (
                Watch(self._limits.timeout, wanted.end - self._clock()) as watch,
                web_session(watch, self._limits, self._trusted) as session,
                self._answer(session, request, watch, wanted, held) as answer,
            ):
                if answer.status not in _REDIRECTS:
                    return self._accept(answer, wanted, held)
                request.follow(list(answer.headers.getlist("Location")))
        raise FetchError(
            f"{shown}: more than {self._limits.redirects} redirects",
            hint="check the source's uri; if it is right, tell the publisher",
        )

    def _answer(
        self, session: WebSession, request: Request, watch: Watch, wanted: Wanted, held: int
    ) -> Answer:
        """Send the request, more than once if needed, until an answer is worth looking at."""
        waits = self._waits()
        for tries_left in range(self._limits.retries, -1, -1):
            try:
                answer = session.get(request, wanted.proxy, wanted.range(held))
            except NoAnswerError as error:
                reason, pause = error.message, next(waits)
                if not tries_left or not error.passing or self._clock() + pause >= wanted.end:
                    raise
            else:
                if answer.status not in _WORTH_RETRYING or not tries_left:
                    return answer
                reason = f"{request.url}: HTTP status code {answer.status}"
                pause = headers.retry_after(answer.headers, self._wall_clock(), next(waits))
                if pause > min(self._limits.longest_wait, wanted.end - self._clock()):
                    return answer
                answer.close()
            watch.detach()
            debug(wanted.on_event, f"{reason}; trying again in {pause:.1f} seconds")
            self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _accept(self, answer: Answer, wanted: Wanted, held: int) -> Fetched | None:
        """Judge an answer by its status and headers, then store its body; None as in ``_transfer``."""
        fields, resume = answer.headers, wanted.resume
        if held and resume is not None:
            if answer.status == 206:
                if not headers.is_rest(fields, held, wanted.expected, resume.validator):
                    return None
                resume.splice()
                return Fetched(answer.url, self._body(answer, wanted, held))
            if answer.status == 416:
                return Fetched(answer.url, held) if headers.whole_size(fields) == held else None
        if answer.status != 200:
            raise _bad_status(answer, self._wall_clock(), named=wanted.expected is not None)
        if resume is not None:
            resume.restart(headers.validator(fields))
        return Fetched(answer.url, self._body(answer, wanted, 0))

    def _body(self, answer: Answer, wanted: Wanted, start: int) -> int:
        url, expected, limit = answer.url, wanted.expected, wanted.limit
        labelled = headers.is_labelled(answer.headers)
        if labelled and not wanted.digest_known:
            raise _encoded(url)
        promised = headers.body_length(answer.headers, url)
        if promised is not None:
            promised += start
        known = expected if expected is not None else promised
        if promised is not None and promised != known:
            if labelled:
                raise _encoded(url)
            raise WrongSizeError(
                f"{url}: the server announces {promised} bytes; the index promises {expected}",
                hint=BETWEEN_TWO_VERSIONS,
            )
        if promised is not None and promised > limit:
            raise WrongSizeError(
                f"{url}: the server announces {promised} bytes; at most {limit} are allowed",
                hint="check the source's uri: that is some other file",
            )
        return store(
            answer.read,
            wanted.destination,
            where=url,
            limit=limit,
            expected=known,
            on_event=wanted.on_event,
            label=wanted.label,
            guard=SpeedGuard(self._limits, self._clock),
            start=start,
        )


def _encoded(url: str) -> FetchError:
    return FetchError(
        f"{url}: the server sent an encoded body although none was asked for",
        hint="tell the publisher: files must be served as they are, without Content-Encoding",
    )


def _bad_status(answer: Answer, now: float, *, named: bool) -> FetchError:
    """Make the error for a status; a file that an index named by its size is not asked for by mistake."""
    hints = {
        401: "the source asks for a user name: check its uri",
        403: "the server forbids this file: check the source's uri",
        404: "the server has no such file: a source's uri names the index itself, as in .../index.asc",
        410: "the file is gone for good: look for the source's new address",
        407: "the proxy asks for a user name: check https_proxy, http_proxy and proxy=",
    }
    hint = hints.get(answer.status, "try again later")
    if named and answer.status in (404, 410):
        hint = BETWEEN_TWO_VERSIONS
    asked = headers.retry_after(answer.headers, now, 0)
    if answer.status in _WORTH_RETRYING and asked:
        hint = f"the server asks to be left alone for {asked:.0f} seconds: try again then"
    if answer.status in (404, 410):
        return FileMissingError(f"{answer.url}: HTTP status code {answer.status}", hint=hint)
    return FetchError(f"{answer.url}: HTTP status code {answer.status}", hint=hint)


# One file to download, and how much of it is there already.


@dataclass
class Wanted:
    """What one call of ``Fetcher.fetch`` is about: its arguments, and what was learned meanwhile.

    Attributes:
        end: When all of it must be over, by the fetcher's clock.
        whole: The server's ranges were wrong once, and are not asked for again (``threat-model.md`` D11).
    """

    url: Address
    destination: BinaryIO
    limit: int
    expected: int | None
    on_event: Reporter
    label: str
    proxy: Address
    digest_known: bool
    resume: Resumable | None
    end: float = math.inf
    whole: bool = False

    def prepare(self) -> int:
        """Drop what cannot be continued; return how many bytes are held."""
        if self.resume is None:
            return 0
        most = self.limit if self.expected is None else self.expected
        known = self.resume.validator or self.resume.elsewhere
        if self.whole or not known or self.resume.held > most:
            self.resume.restart()
        return self.resume.held

    def range(self, held: int) -> dict[str, str]:
        """Return the headers that ask for the rest of the same file, or for all of another one (D12)."""
        if not held or self.resume is None:
            return {}
        wanted = {"Range": f"bytes={held}-"}
        return wanted if self.resume.elsewhere else {**wanted, "If-Range": self.resume.validator}

"""Downloads from web servers, safe against whatever the server does.

(``docs/threat-model.md`` T10 to T12, T22, T23 and rows D.) Redirects are followed
by rule, with credentials for the first server only. A body is stored only from a
plain 200 response, or from a 206 response that fits the bytes that we hold (D10 to
D14), and its length must agree with everything known about it (D2 to D6, D18).
A failure that may pass is retried, after waits that grow and differ from client
to client. A server whose name cannot be resolved is not asked again in the same run.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from imgbuilder.errors import (
    FetchError,
    FileMissingError,
    NoAnswerError,
    NoRangesError,
    TransferCutError,
    WrongSizeError,
)
from imgbuilder.events import debug, info
from imgbuilder.fetch import webrules
from imgbuilder.fetch.session import (
    KeptSession,
    Response,
    WebSession,
    trusted_authorities,
    web_session,
)
from imgbuilder.fetch.stalltimer import StallTimer
from imgbuilder.fetch.transfer import BETWEEN_TWO_VERSIONS, Download, Fetched, Limits, MinimumSpeed, store
from imgbuilder.fetch.urls import Address
from imgbuilder.fetch.webrules import WebRequest
from imgbuilder.sizes import human_size

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WORTH_RETRYING = frozenset({408, 429, 500, 502, 503, 504})


class RequestsFetcher:
    """Gets files by http and https; implements ``imgbuilder.fetch.transfer.Fetcher`` for web URLs.

    Args:
        limits: Its time limits and numbers of retries.
        clock: Seconds from any fixed point, for the speed limit.
        sleep: Waits between two tries.
        wall_clock: Seconds since 1970, for dates in responses.
        jitter: Numbers between 0 and 1 that spread our waits.
        environ: Variables such as ``REQUESTS_CA_BUNDLE`` and ``CURL_CA_BUNDLE``.
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
        self._unresolved: set[str] = set()
        self._kept = KeptSession()

    def fetch(self, download: Download) -> Fetched:
        """See ``imgbuilder.fetch.transfer.Fetcher.fetch``."""
        seconds = download.seconds
        if seconds is None:
            return self._whole(_Transfer(download))
        transfer = _Transfer(download, self._clock() + seconds)
        try:
            return self._whole(transfer)
        except FetchError as error:
            if self._clock() < transfer.end:
                raise
            raise FetchError(
                f"{transfer.url}: not complete after {seconds:.0f} seconds",
                hint="try again later, or use another mirror of the source",
            ) from error

    def _whole(self, transfer: _Transfer) -> Fetched:
        resume, on_event = transfer.download.resume, transfer.download.on_event
        waits = self._waits()
        for tries_left in range(self._limits.resumes, -1, -1):
            try:
                fetched = self._try(transfer)
                while fetched is None:  # the server cannot continue, but may send the whole file
                    transfer.whole = True
                    fetched = self._try(transfer)
            except TransferCutError as error:
                if resume is None or not tries_left:
                    raise
                pause = next(waits)
                debug(on_event, f"{error.message}; trying again in {pause:.1f} seconds")
                transfer.begun = True
                self._sleep(pause)
            else:
                return fetched
        raise AssertionError("the last try returns or raises")

    def _waits(self) -> Iterator[float]:
        """Yield the seconds to wait before each further try: doubled each time, plus up to half of that.

        Many clients that lost one server at the same moment must not come back at the same moment.
        """
        wait = self._limits.backoff
        while True:
            yield wait * (1 + self._jitter() / 2)
            wait *= 2

    def _try(self, transfer: _Transfer) -> Fetched | None:
        """Try once to get the missing bytes; None if the file must be requested without a range."""
        shown = transfer.url
        try:
            request = WebRequest(transfer.url, digest_known=transfer.download.digest_known)
        except ValueError:
            raise FetchError(
                f"{shown} is not a valid URL", hint="check the source's uri"
            ) from None  # its text quotes the address
        held = transfer.prepare()
        if held and held == transfer.download.expected:
            return Fetched(request.url, held)  # D14: asked for the rest, the server could only response 416
        # An update sends many requests to the same few servers.
        kept = None if transfer.download.span is None else self._kept
        for _hop in range(self._limits.redirects + 1):
            with (
                StallTimer(self._limits.timeout, transfer.end - self._clock()) as timer,
                web_session(timer, self._limits, self._trusted, self._unresolved, kept) as session,
                self._response(session, request, timer, transfer, held) as response,
            ):
                if response.status not in _REDIRECTS:
                    return self._accept(response, transfer, held)
                request.follow(list(response.headers.getlist("Location")))
        raise FetchError(
            f"{shown}: more than {self._limits.redirects} redirects",
            hint="check the source's uri; if it is right, tell the publisher",
        )

    def _response(
        self, session: WebSession, request: WebRequest, timer: StallTimer, transfer: _Transfer, held: int
    ) -> Response:
        """Send the request, more than once if needed, until there is a response to judge."""
        waits = self._waits()
        for tries_left in range(self._limits.retries, -1, -1):
            try:
                response = session.get(request, Address(transfer.download.proxy), transfer.range(held))
            except NoAnswerError as error:
                reason, pause = error.message, next(waits)
                if not tries_left or not error.passing or self._clock() + pause >= transfer.end:
                    raise
            else:
                if response.status not in _WORTH_RETRYING or not tries_left:
                    return response
                reason = f"{request.url}: HTTP status code {response.status}"
                pause = webrules.retry_after(response.headers, self._wall_clock(), next(waits))
                if pause > min(self._limits.longest_wait, transfer.end - self._clock()):
                    return response
                response.close()
            timer.detach()
            debug(transfer.download.on_event, f"{reason}; trying again in {pause:.1f} seconds")
            self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _accept(self, response: Response, transfer: _Transfer, held: int) -> Fetched | None:
        """Judge a response by its status and headers, then store its body; None as in ``_try``."""
        fields, resume = response.headers, transfer.download.resume
        if transfer.download.span is not None:
            return self._accept_part(response, transfer.download, transfer.download.span)
        if held and resume is not None:
            if response.status == 206:
                if not webrules.is_rest(fields, held, transfer.download.expected, resume.validator):
                    return None
                resume.splice()
                if not transfer.begun:
                    info(
                        transfer.download.on_event,
                        f"continuing after the {human_size(held)} that are here already",
                    )
                return Fetched(response.url, self._body(response, transfer.download, held))
            if response.status == 416:
                return Fetched(response.url, held) if webrules.whole_size(fields) == held else None
        if response.status != 200:
            raise _bad_status(response, self._wall_clock(), named=transfer.download.expected is not None)
        if resume is not None:
            resume.restart(webrules.validator(fields))
        return Fetched(response.url, self._body(response, transfer.download, 0))

    def _accept_part(self, response: Response, download: Download, span: tuple[int, int]) -> Fetched:
        """Judge a response to a request for a part of a file, then store that part."""
        if response.status == 200:
            raise NoRangesError(
                f"{response.url}: the server sends no parts of files",
                hint="tell the publisher: templates can then be updated by what changed",
            )
        if response.status not in (206, 416):
            raise _bad_status(response, self._wall_clock(), named=True)
        if response.status == 416 or not webrules.is_part(response.headers, span, download.expected):
            raise WrongSizeError(
                f"{response.url}: the server has another file, or sent another part of it",
                hint=BETWEEN_TWO_VERSIONS,
            )
        length = span[1] - span[0]
        speed = MinimumSpeed(self._limits, self._clock)
        size = store(
            response.read, download._replace(limit=length), where=response.url, expected=length, speed=speed
        )
        return Fetched(response.url, size)

    def _body(self, response: Response, download: Download, start: int) -> int:
        url, expected, limit = response.url, download.expected, download.limit
        labelled = webrules.is_labelled(response.headers)
        if labelled and not download.digest_known:
            raise _encoded(url)
        promised = webrules.body_length(response.headers, url)
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
            response.read,
            download,
            where=url,
            expected=known,
            speed=MinimumSpeed(self._limits, self._clock),
            start=start,
        )


def _encoded(url: str) -> FetchError:
    return FetchError(
        f"{url}: the server sent an encoded body that was not requested",
        hint="tell the publisher: files must be served as they are, without Content-Encoding",
    )


def _bad_status(response: Response, now: float, *, named: bool) -> FetchError:
    """Make the error for a status; ``named`` if an index names the file, so that its URL was not mistyped."""
    hints = {
        401: "the source asks for a user name: check its uri",
        403: "the server forbids this file: check the source's uri",
        404: "give the address of the index itself, usually https://HOST/index.asc",
        410: "the file was removed for good: find the new address of the source",
        407: "the proxy asks for a user name: check https_proxy, http_proxy and proxy=",
    }
    hint = hints.get(response.status, "try again later")
    if named and response.status in (404, 410):
        hint = BETWEEN_TWO_VERSIONS
    asked = webrules.retry_after(response.headers, now, 0)
    if response.status in _WORTH_RETRYING and asked:
        hint = f"rate limited; retry in {asked:.0f} seconds"
    if response.status in (404, 410):
        return FileMissingError(f"{response.url}: HTTP status code {response.status}", hint=hint)
    return FetchError(f"{response.url}: HTTP status code {response.status}", hint=hint)


@dataclass
class _Transfer:
    """One download in progress."""

    download: Download
    end: float = math.inf
    """Time by which all of it must be done, by the fetcher's clock."""
    whole: bool = False
    """The server's ranges were wrong once, and are not requested again (D11)."""
    begun: bool = False
    """Some of its bytes may come from this run."""

    @property
    def url(self) -> Address:
        """Its address, which hides credentials when it is printed."""
        return Address(self.download.url)

    def prepare(self) -> int:
        """Drop bytes that cannot be continued; return how many are held."""
        resume, expected = self.download.resume, self.download.expected
        if resume is None:
            return 0
        most = self.download.limit if expected is None else expected
        known = resume.validator or resume.elsewhere
        if self.whole or not known or resume.held > most:
            resume.restart()
        return resume.held

    def range(self, held: int) -> dict[str, str]:
        """Return headers that request the rest of the same file, or all of a changed one (D12)."""
        resume, span = self.download.resume, self.download.span
        if span is not None:
            return {"Range": f"bytes={span[0]}-{span[1] - 1}"}
        if not held or resume is None:
            return {}
        wanted = {"Range": f"bytes={held}-"}
        return wanted if resume.elsewhere else {**wanted, "If-Range": resume.validator}

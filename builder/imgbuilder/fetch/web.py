"""Downloads over HTTP: the only module that imports ``requests``.

What a server, a proxy or the network between may do to a transfer is section
C.3 of ``reliability.md``. The rules here: redirects are followed by our own
loop (T12); nothing is decoded on the way (T23); neither ``netrc`` nor cookies
are used, and a user name given in the URL goes to that server only (T22, D30);
a body is stored only from a plain 200 answer, or from a 206 answer that fits
what we hold (D10 to D14), and its length must fit at once all that is known
about it (D2 to D6, D18).
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from http.client import HTTPException, IncompleteRead
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from imgbuilder.errors import FetchError
from imgbuilder.events import Reporter, debug, ignore
from imgbuilder.fetch import headers
from imgbuilder.fetch.redirect import Request
from imgbuilder.fetch.transfer import (
    NO_PROXY,
    SYSTEM_PROXY,
    Fetched,
    Limits,
    SpeedGuard,
    TransferCutError,
    store,
)
from imgbuilder.fetch.urls import without_userinfo
from imgbuilder.fetch.wanted import Wanted
from imgbuilder.fetch.watch import Watch
from imgindex import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    from imgbuilder.fetch.transfer import Resumable

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WORTH_RETRYING = frozenset({429, 500, 502, 503, 504})
_FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError)
"""All that the libraries below raise about a server's answer."""


def _watched_pools(watch: Watch) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
            watch.attach(self.sock)
            return super().getresponse()

    class Secure(HTTPSConnection):
        def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
            watch.attach(self.sock)
            return super().getresponse()

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _Adapter(HTTPAdapter):
    """Makes connections that a ``Watch`` guards."""

    def __init__(self, watch: Watch) -> None:
        self._pools = _watched_pools(watch)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


class _Session(requests.Session):
    """A session that leaves redirects to us; ``requests`` would read and decode their bodies."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.trust_env = False  # neither netrc nor anything else of the environment
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for prefix in ("http://", "https://"):
            self.mount(prefix, _Adapter(watch))
        self.headers.clear()
        self.headers.update(
            {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"pybuilder/{__version__}"}
        )

    def get_redirect_target(self, _response: requests.Response) -> None:
        return None


class RequestsFetcher:
    """Gets files by http and https; implements ``imgbuilder.fetch.transfer.Fetcher`` for web URLs.

    Args:
        limits: How patient it is.
        clock: Seconds from any fixed point, for the speed limit.
        sleep: Waits between two tries.
        wall_clock: Seconds since 1970, for dates in answers.
        environ: Where ``REQUESTS_CA_BUNDLE`` and ``CURL_CA_BUNDLE`` are looked up.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall_clock: Callable[[], float] = time.time,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._limits = limits or Limits()
        self._clock = clock
        self._sleep = sleep
        self._wall_clock = wall_clock
        self._trusted = trusted_authorities(environ)

    def fetch(
        self,
        url: str,
        destination: BinaryIO,
        *,
        limit: int,
        expected: int | None = None,
        report: Reporter = ignore,
        label: str = "",
        proxy: str = SYSTEM_PROXY,
        cross_host: bool = False,
        resume: Resumable | None = None,
    ) -> Fetched:
        """See ``imgbuilder.fetch.transfer.Fetcher.fetch``."""
        wanted = Wanted(url, destination, limit, expected, report, label, proxy, cross_host, resume)
        wait = self._limits.backoff
        for tries_left in range(self._limits.resumes, -1, -1):
            try:
                fetched = self._transfer(wanted)
                while fetched is None:  # the server does not continue what we hold, but may send it whole
                    wanted.whole = True
                    fetched = self._transfer(wanted)
            except TransferCutError as error:
                if resume is None or not tries_left:
                    raise
                debug(report, f"{error.message}; continuing in {wait:.1f} seconds")
                self._sleep(wait)
                wait *= 2
            else:
                return fetched
        raise AssertionError("the last try returns or raises")

    def _transfer(self, wanted: Wanted) -> Fetched | None:
        """Try once to get what is missing; None when it must be asked for without a range."""
        shown = without_userinfo(wanted.url)
        try:
            request = Request(wanted.url, cross_host=wanted.cross_host)
        except ValueError as error:
            raise FetchError(f"{shown} is not a valid URL") from error
        held = wanted.prepare()
        if held and held == wanted.expected:
            return Fetched(request.url, held)  # D14: asked for the rest, the server could only answer 416
        for _hop in range(self._limits.redirects + 1):
            with (
                Watch(self._limits.timeout) as watch,
                _Session(watch) as session,
                self._answer(session, request, watch, wanted, held) as response,
            ):
                if response.status_code not in _REDIRECTS:
                    return self._accept(response, request.url, watch, wanted, held)
                request.follow(response.raw.headers.getlist("Location"))
        raise FetchError(f"{shown}: more than {self._limits.redirects} redirects")

    def _answer(
        self, session: _Session, request: Request, watch: Watch, wanted: Wanted, held: int
    ) -> requests.Response:
        """Send the request, more than once if needed, until an answer is worth looking at."""
        wait = self._limits.backoff
        for tries_left in range(self._limits.retries, -1, -1):
            try:
                response = session.send(
                    session.prepare_request(
                        requests.Request("GET", request.url, auth=request.auth, headers=wanted.range(held))
                    ),
                    stream=True,
                    timeout=self._limits.timeout,
                    verify=self._trusted,
                    proxies=_proxies(request.url, wanted.proxy),
                    allow_redirects=False,
                )
            except _FOREIGN as error:
                failure = self._explain(request.url, error, watch)
                if not tries_left or watch.fired or not _may_pass(error):
                    raise failure from error
                reason, pause = failure.message, wait
            else:
                if response.status_code not in _WORTH_RETRYING or not tries_left:
                    return response
                reason = f"{request.url}: HTTP status code {response.status_code}"
                pause = headers.retry_after(response.raw.headers, self._wall_clock(), wait)
                if pause > self._limits.longest_wait:
                    return response
                response.close()
            watch.detach()
            debug(wanted.report, f"{reason}; trying again in {pause:.1f} seconds")
            self._sleep(pause)
            wait *= 2
        raise AssertionError("the last try returns or raises")

    def _accept(
        self, response: requests.Response, url: str, watch: Watch, wanted: Wanted, held: int
    ) -> Fetched | None:
        """Judge an answer by its status and headers, then store its body; None as in ``_transfer``."""
        fields, resume = response.raw.headers, wanted.resume
        if held and resume is not None:
            if response.status_code == 206:
                if not headers.is_rest(fields, held, wanted.expected, resume.validator):
                    return None
                resume.splice()
                return Fetched(url, self._body(response, url, watch, wanted, held))
            if response.status_code == 416:
                return Fetched(url, held) if headers.whole_size(fields) == held else None
        if response.status_code != 200:
            raise _bad_status(url, response.status_code)
        if resume is not None:
            resume.restart(headers.validator(fields))
        return Fetched(url, self._body(response, url, watch, wanted, 0))

    def _body(self, response: requests.Response, url: str, watch: Watch, wanted: Wanted, start: int) -> int:
        expected, limit = wanted.expected, wanted.limit
        promised = headers.body_length(response.raw.headers, url)
        if promised is not None:
            promised += start
        known = expected if expected is not None else promised
        if promised is not None and promised != known:
            raise FetchError(f"{url}: the server announces {promised} bytes; the index promises {expected}")
        if promised is not None and promised > limit:
            raise FetchError(f"{url}: the server announces {promised} bytes; at most {limit} are allowed")

        def cut(error: Exception | None) -> TransferCutError:
            failure = self._explain(url, error, watch)
            return TransferCutError(failure.message, hint=failure.hint)

        def read(count: int) -> bytes:
            watch.pet()
            try:
                piece = response.raw.read1(count, decode_content=False)
            except _FOREIGN as error:
                raise cut(error) from error
            if watch.fired:
                raise cut(None)
            watch.rest()
            return bytes(piece)

        return store(
            read,
            wanted.destination,
            where=url,
            limit=limit,
            expected=known,
            report=wanted.report,
            label=wanted.label,
            guard=SpeedGuard(self._limits, self._clock),
            start=start,
        )

    def _explain(self, url: str, error: Exception | None, watch: Watch) -> FetchError:
        seconds = f"{self._limits.timeout:.0f} seconds"
        hint = "check the network and the source's uri, then try again"
        if watch.fired:
            return FetchError(f"{url}: the server took longer than {seconds} to answer", hint=hint)
        if isinstance(error, requests.ConnectTimeout):
            return FetchError(f"{url}: no connection within {seconds}", hint=hint)
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
            return FetchError(f"{url}: nothing came for {seconds}", hint=hint)
        reason = _deepest(error)
        if isinstance(error, requests.exceptions.SSLError):
            hint = "check this machine's clock and CA certificates, then the source's uri"
            return FetchError(f"{url}: TLS: {reason}", hint=hint)
        if isinstance(error, requests.exceptions.ProxyError):
            return FetchError(f"{url}: proxy: {reason}", hint="check https_proxy, http_proxy and proxy=")
        return FetchError(f"{url}: {reason}", hint=hint)


def trusted_authorities(environ: Mapping[str, str]) -> str | bool:
    """Return the file or folder of CA certificates to trust; True for the library's own list.

    The system's comes before the library's, so that an authority which an administrator installed counts
    here as it does for curl.
    """
    system = ssl.get_default_verify_paths()
    for place in (environ.get("REQUESTS_CA_BUNDLE"), environ.get("CURL_CA_BUNDLE"), system.cafile):
        if place:
            return place
    folder = Path(system.capath) if system.capath else None
    if folder is not None and folder.is_dir() and any(folder.iterdir()):
        return str(folder)
    return True


def _proxies(url: str, proxy: str) -> dict[str, str]:
    if proxy == NO_PROXY:
        return {}
    if proxy == SYSTEM_PROXY:
        return dict(get_environ_proxies(url))
    return {"http": proxy, "https": proxy}


def _may_pass(error: Exception) -> bool:
    """Say whether the same request may succeed a moment later; timeouts have cost enough already."""
    lasting = (requests.Timeout, requests.exceptions.SSLError, requests.exceptions.ProxyError)
    return isinstance(error, requests.ConnectionError) and not isinstance(error, lasting)


def _bad_status(url: str, status: int) -> FetchError:
    hints = {
        401: "the source asks for a user name: check its uri",
        403: "the server forbids this file: check the source's uri",
        404: "the server has no such file: check the source's uri",
        410: "the file is gone for good: look for the source's new address",
        407: "the proxy asks for a user name: check https_proxy, http_proxy and proxy=",
    }
    return FetchError(f"{url}: HTTP status code {status}", hint=hints.get(status, "try again later"))


def _deepest(error: BaseException | None) -> str:
    """Return the first cause of an error, in few words and without credentials."""
    seen = error
    while error is not None:
        seen, error = error, error.__cause__ or error.__context__
    if isinstance(seen, socket.gaierror):
        return "the server's name cannot be resolved"
    if isinstance(seen, ssl.SSLCertVerificationError):
        return str(seen.verify_message)
    if isinstance(seen, IncompleteRead | urllib3.exceptions.IncompleteRead):
        return "the connection ended before the file did"
    words = seen.strerror if isinstance(seen, OSError) else None
    return without_userinfo(words or str(seen) or type(seen).__name__)[:300]

"""One request by http or https: the only module that uses requests and urllib3.

Their automatic redirects, decoding, cookies, netrc and retries are switched off
(``docs/threat-model.md`` T12, T22, T23).
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from imgbuilder.errors import NoAnswerError, TransferCutError
from imgbuilder.fetch.headers import Headers
from imgbuilder.fetch.redirect import WebRequest
from imgbuilder.fetch.stalltimer import StallTimer
from imgbuilder.fetch.transfer import NO_PROXY, SYSTEM_PROXY, Limits
from imgbuilder.fetch.urls import Address, without_secrets
from imgindex import __version__

_FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError)
"""Exceptions of the libraries below about a server's response."""
_OWN_AUTHORITY = (
    "if the server uses a private authority, install its certificate (update-ca-certificates), "
    "or name it with CURL_CA_BUNDLE"
)

_TLS_HINTS = (
    ("expired", "the server's certificate has expired, or this machine's clock is wrong (see: timedatectl)"),
    ("not yet valid", "this machine's clock is probably wrong (see: timedatectl)"),
    ("mismatch", "the certificate belongs to another server: check the source's uri"),
    ("self-signed", _OWN_AUTHORITY),
    ("unable to get", _OWN_AUTHORITY),
)
"""Hints for a failed TLS handshake, by a word of OpenSSL's reason (``docs/threat-model.md`` D23)."""


@dataclass(frozen=True)
class Response:
    """A server's response, with its body still to be read.

    Attributes:
        url: The address of the request.
        status: The status code.
        headers: Its headers.
    """

    url: Address
    status: int
    headers: Headers
    _body: urllib3.BaseHTTPResponse
    _timer: StallTimer
    _limits: Limits

    def read(self, count: int) -> bytes:
        """Read some bytes of the body as they come; none at its end.

        Raises:
            TransferCutError: It broke off or stalled.
        """
        self._timer.progress()
        cut = None
        try:
            piece = self._body.read1(count, decode_content=False)
        except _FOREIGN as error:
            cut = self._cut(error)
        if cut is None and self._timer.fired:
            cut = self._cut(None)
        if cut is not None:
            raise cut  # not in the handler: what the libraries raise quotes whole addresses
        self._timer.pause()
        return bytes(piece)

    def close(self) -> None:
        """Leave the rest of the body alone."""
        self._body.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _cut(self, error: Exception | None) -> TransferCutError:
        message, hint = _explain(self.url, error, self._limits, fired=self._timer.fired)
        return TransferCutError(message, hint=hint)


@contextmanager
def web_session(timer: StallTimer, limits: Limits, trusted: str | bool) -> Iterator[WebSession]:
    """Open a session and close it with all its connections.

    Args:
        timer: Guards its connections.
        limits: Its time limits.
        trusted: The result of ``trusted_authorities``.
    """
    with _Session(timer) as session:
        yield WebSession(session, timer, limits, trusted)


@dataclass(frozen=True)
class WebSession:
    """Sends requests; made by ``web_session``."""

    _session: requests.Session
    _timer: StallTimer
    _limits: Limits
    _trusted: str | bool

    def get(self, request: WebRequest, proxy: Address, extra: Mapping[str, str]) -> Response:
        """Send a request once.

        Args:
            request: The address and the credentials.
            proxy: As in ``imgbuilder.fetch.transfer.Download``.
            extra: Further headers.

        Raises:
            NoAnswerError: There was no readable response.
        """
        url = request.url.reveal()
        proxies = _proxies(url, proxy)
        failure = None
        try:
            asked = requests.Request("GET", url, auth=request.auth, headers=dict(extra))
            response = self._session.send(
                self._session.prepare_request(asked),
                stream=True,
                timeout=(self._limits.connect, self._limits.timeout),
                verify=self._trusted,
                proxies=proxies,
                allow_redirects=False,
            )
        except _FOREIGN as error:
            through = _proxy_address(select_proxy(url, proxies) or "")
            message, hint = _explain(
                request.url, error, self._limits, fired=self._timer.fired, through=through
            )
            passing = not self._timer.fired and _may_pass(error)
            failure = NoAnswerError(message, hint=hint, passing=passing)
        if failure is not None:
            raise failure  # not in the handler: what the libraries raise quotes whole addresses
        body = response.raw
        return Response(request.url, response.status_code, body.headers, body, self._timer, self._limits)


def _timed_pools(timer: StallTimer) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _attached(timer, super()._new_conn())

        def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
            timer.attach(self.sock)
            return super().getresponse()

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _attached(timer, super()._new_conn())

        def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
            timer.attach(self.sock)
            return super().getresponse()

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _socks_pools(timer: StallTimer) -> dict[str, type[HTTPConnectionPool]]:
    """Return the same for connections through a SOCKS proxy, which urllib3 opens with PySocks."""
    from urllib3.contrib.socks import SOCKSConnection, SOCKSHTTPSConnection

    class Plain(SOCKSConnection):
        def _new_conn(self) -> socket.socket:
            return _attached(timer, super()._new_conn())

    class Secure(SOCKSHTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _attached(timer, super()._new_conn())

        def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
            timer.attach(self.sock)
            return super().getresponse()

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _attached(timer: StallTimer, connection: socket.socket) -> socket.socket:
    timer.attach(connection)  # at once: a proxy could drip its answer to CONNECT
    return connection


class _Adapter(HTTPAdapter):
    """Opens connections that a ``StallTimer`` guards."""

    def __init__(self, timer: StallTimer) -> None:
        self._timer = timer
        self._pools = _timed_pools(timer)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **kwargs)
        socks = proxy.lower().startswith("socks")
        manager.pool_classes_by_scheme = _socks_pools(self._timer) if socks else self._pools
        return manager


class _Session(requests.Session):
    """A session that leaves redirects to us; ``requests`` would read and decode their bodies."""

    def __init__(self, timer: StallTimer) -> None:
        super().__init__()
        self.trust_env = False  # neither netrc nor anything else of the environment
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for prefix in ("http://", "https://"):
            self.mount(prefix, _Adapter(timer))
        self.headers.clear()
        self.headers.update(
            {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"pybuilder/{__version__}"}
        )

    def get_redirect_target(self, _response: requests.Response) -> None:
        return None


def _explain(
    url: Address, error: Exception | None, limits: Limits, *, fired: bool, through: str = ""
) -> tuple[str, str]:
    """Return message and hint for a failed request; the message names the proxy, if there was one."""
    seconds = f"{limits.timeout:.0f} seconds"
    hint = "check the network and the source's uri, then try again"
    if fired:
        return f"{url}: the server took longer than {seconds} to answer", hint
    if isinstance(error, requests.ConnectTimeout):
        return f"{url}: no connection within {limits.connect:.0f} seconds", hint
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"{url}: nothing came for {seconds}", hint
    if isinstance(error, requests.exceptions.InvalidSchema) and through.lower().startswith("socks"):
        return (
            f"{url}: proxy {through}: a SOCKS proxy needs the Python module PySocks, which is not installed",
            (
                "on Debian: apt-get install python3-socks; else pip install PySocks; "
                "or unset all_proxy and ALL_PROXY, or write proxy=no"
            ),
        )
    reason = _deepest(error)
    if isinstance(error, requests.exceptions.SSLError):
        hint = "check this machine's clock and CA certificates, then the source's uri"
        return f"{url}: TLS: {reason}", next((advice for word, advice in _TLS_HINTS if word in reason), hint)
    if isinstance(error, requests.exceptions.ProxyError) or through.lower().startswith("socks"):
        return (
            f"{url}: proxy {through}: {reason}",
            "check https_proxy, http_proxy, all_proxy and proxy=",
        )
    return f"{url}: {reason}", hint


def _may_pass(error: Exception) -> bool:
    """Report whether the same request may succeed a moment later; after a timeout no more time is spent."""
    lasting = (requests.Timeout, requests.exceptions.SSLError, requests.exceptions.ProxyError)
    return isinstance(error, requests.ConnectionError) and not isinstance(error, lasting)


def _deepest(error: BaseException | None) -> str:
    """Return the first cause of an error, shortened and without credentials."""
    seen = error
    while error is not None:
        seen, error = error, error.__cause__ or error.__context__
    if isinstance(seen, socket.gaierror):
        return "the server's name cannot be resolved"
    if isinstance(seen, ssl.SSLCertVerificationError):
        return str(seen.verify_message)
    if isinstance(seen, IncompleteRead | urllib3.exceptions.IncompleteRead):
        return "the connection ended before the file did"
    if isinstance(seen, ValueError | urllib3.exceptions.LocationParseError):  # quotes what it cannot read
        return "the address, or that of the proxy, is malformed"
    words = seen.strerror if isinstance(seen, OSError) else None
    return without_secrets(words or str(seen) or type(seen).__name__)[:300]


def _proxies(url: str, proxy: Address) -> dict[str, str]:
    if proxy == SYSTEM_PROXY:
        return dict(get_environ_proxies(url))
    return {} if proxy == NO_PROXY else {"http": proxy.reveal(), "https": proxy.reveal()}


def _proxy_address(text: str) -> Address:
    """Return the address of a proxy, which variables may name without its scheme."""
    return Address(text if "://" in text or not text else f"http://{text}")


def trusted_authorities(environ: Mapping[str, str] = os.environ) -> str | bool:
    """Return the file or folder of trusted CA certificates; True for the list of the library.

    The list of the system comes first, so that an authority which an administrator installed counts here
    as it does for curl.
    """
    system = ssl.get_default_verify_paths()
    for place in (environ.get("REQUESTS_CA_BUNDLE"), environ.get("CURL_CA_BUNDLE"), system.cafile):
        if place:
            return place
    folder = Path(system.capath) if system.capath else None
    if folder is not None and folder.is_dir() and any(folder.iterdir()):
        return str(folder)
    return True

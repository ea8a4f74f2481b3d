"""One request by http or https, its proxy and certificates: the only module with requests and urllib3.

Their automatic redirects, decoding, cookies, netrc and retries are switched off
(``docs/threat-model.md`` T12, T22, T23).
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from imgbuilder.errors import NoAnswerError, TransferCutError
from imgbuilder.fetch.stalltimer import StallTimer
from imgbuilder.fetch.transfer import NO_PROXY, SYSTEM_PROXY, Limits
from imgbuilder.fetch.urls import Address, without_secrets
from imgbuilder.fetch.webrules import Headers, WebRequest
from imgbuilder.host.packages import extra_command
from imgindex import __version__

_FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError)
"""Exceptions of the libraries below about a server's response."""
_UNRESOLVED = "the server's name cannot be resolved"
_NETWORK_HINT = "check the network and the source's uri, then try again"
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


@dataclass(eq=False)
class Response:
    """A server's response, with its body still to be read."""

    url: Address
    status: int
    headers: Headers
    _body: urllib3.BaseHTTPResponse
    _timer: StallTimer
    _limits: Limits
    _keep: bool
    """True if the connection stays open for another request once the whole body was read."""
    _ended: bool = False

    def read(self, count: int) -> bytes:
        """Read some bytes of the body as they come; none at its end.

        Raises:
            TransferCutError: It broke off or stalled.
        """
        self._timer.progress()
        cut = None
        try:
            if hasattr(self._body, "read1"):
                piece = self._body.read1(count, decode_content=False)
            else:  # before urllib3 2.1, as in Debian 12: its read() would lose what came before a stall
                piece = self._body._fp.read1(count)  # type: ignore[attr-defined]  # noqa: SLF001
        except _FOREIGN as error:
            cut = self._cut(error)
        if cut is None and self._timer.fired:
            cut = self._cut(None)
        if cut is not None:
            raise cut  # not in the handler: what the libraries raise quotes whole addresses
        self._timer.pause()
        self._ended = not piece
        return bytes(piece)

    def close(self) -> None:
        """Leave the rest of the body alone."""
        if self._keep and self._ended:
            self._timer.release()
            self._body.release_conn()  # before close(), which would close the connection as well
        self._body.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _cut(self, error: Exception | None) -> TransferCutError:
        message, hint = _explain(self.url, error, self._limits, fired=self._timer.fired)
        return TransferCutError(message, hint=hint)


class KeptSession(threading.local):
    """The session of a thread whose connections stay open between its requests."""

    session: _Session | None = None


@contextmanager
def web_session(
    timer: StallTimer,
    limits: Limits,
    trusted: str | bool,
    unresolved: set[str],
    kept: KeptSession | None = None,
) -> Iterator[WebSession]:
    """Open a session and close it with all its connections; ``unresolved`` as in ``WebSession``.

    With ``kept``, that session is used, and stays open unless something fails.
    """
    keep = kept is not None
    session = (kept.session if kept is not None else None) or _Session()
    session.timer = timer
    good = False
    try:
        yield WebSession(session, timer, limits, trusted, unresolved, keep)
        good = True
    finally:
        if kept is not None:
            kept.session = session if good else None
        if not (keep and good):
            session.close()


@dataclass(frozen=True)
class WebSession:
    """Sends requests; made by ``web_session``."""

    _session: requests.Session
    _timer: StallTimer
    _limits: Limits
    _trusted: str | bool
    _unresolved: set[str]
    """Names of servers that could not be resolved in this run; they are not looked up again."""
    _keep: bool
    """True if connections stay open."""

    def get(self, request: WebRequest, proxy: Address, extra: Mapping[str, str]) -> Response:
        """Send a request once.

        Raises:
            NoAnswerError: There was no readable response.
        """
        url = request.url.reveal()
        proxies = _proxies(url, proxy)
        through = _proxy_address(select_proxy(url, proxies) or "")
        name = "" if through else urlsplit(url).hostname or ""
        if name in self._unresolved:
            raise NoAnswerError(f"{request.url}: {_UNRESOLVED}", hint=_NETWORK_HINT)
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
            if name and isinstance(_cause(error), socket.gaierror):
                self._unresolved.add(name)
            message, hint = _explain(
                request.url, error, self._limits, fired=self._timer.fired, through=through
            )
            passing = not self._timer.fired and _may_pass(error)
            failure = NoAnswerError(message, hint=hint, passing=passing)
        if failure is not None:
            raise failure  # not in the handler: what the libraries raise quotes whole addresses
        body = response.raw
        return Response(
            request.url, response.status_code, body.headers, body, self._timer, self._limits, self._keep
        )


class _Timed(HTTPConnection):
    """A connection that a ``StallTimer`` guards: at once, since a proxy could drip its answer to CONNECT."""

    session: _Session

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        self.session.timer.attach(connection)
        return connection

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
        self.session.timer.attach(self.sock)
        return super().getresponse()


def _timed_pools(
    session: _Session, plain: type[HTTPConnection], secure: type[HTTPSConnection]
) -> dict[str, type[HTTPConnectionPool]]:
    """Return pools of such connections, by scheme."""
    bases = {"http": (HTTPConnectionPool, plain), "https": (HTTPSConnectionPool, secure)}
    return {
        scheme: type("Pool", (pool,), {"ConnectionCls": type("Timed", (_Timed, base), {"session": session})})
        for scheme, (pool, base) in bases.items()
    }


class _Adapter(HTTPAdapter):
    """Opens connections that a ``StallTimer`` guards."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._pools = _timed_pools(session, HTTPConnection, HTTPSConnection)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **kwargs)
        pools = self._pools
        if proxy.lower().startswith("socks"):
            from urllib3.contrib.socks import SOCKSConnection, SOCKSHTTPSConnection  # needs PySocks

            pools = _timed_pools(self._session, SOCKSConnection, SOCKSHTTPSConnection)
        manager.pool_classes_by_scheme = pools
        return manager


class _Session(requests.Session):
    """A session that leaves redirects to us; ``requests`` would read and decode their bodies.

    Attributes:
        timer: Guards the connection of the present request.
    """

    timer: StallTimer

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False  # neither netrc nor anything else of the environment
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for prefix in ("http://", "https://"):
            self.mount(prefix, _Adapter(self))
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
    hint = _NETWORK_HINT
    if fired:
        return f"{url}: the server took longer than {seconds} to answer", hint
    if isinstance(error, requests.ConnectTimeout):
        return f"{url}: no connection within {limits.connect:.0f} seconds", hint
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return f"{url}: nothing came for {seconds}", hint
    if isinstance(error, requests.exceptions.InvalidSchema) and through.lower().startswith("socks"):
        return (
            f"{url}: proxy {through}: a SOCKS proxy needs the Python module PySocks, which is not installed",
            f"{extra_command('socks')}; or unset all_proxy and ALL_PROXY, or write proxy=no",
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
    """Report whether the same request may succeed a moment later.

    After a timeout no more time is spent; and the resolver has asked its servers more than once.
    """
    lasting = (requests.Timeout, requests.exceptions.SSLError, requests.exceptions.ProxyError)
    if isinstance(error, lasting) or isinstance(_cause(error), socket.gaierror):
        return False
    return isinstance(error, requests.ConnectionError)


def _cause(error: BaseException | None) -> BaseException | None:
    """Return the first cause of an error."""
    seen = error
    while error is not None:
        seen, error = error, error.__cause__ or error.__context__
    return seen


def _deepest(error: BaseException | None) -> str:
    """Return the first cause of an error in words, shortened and without credentials."""
    seen = _cause(error)
    if isinstance(seen, socket.gaierror):
        return _UNRESOLVED
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

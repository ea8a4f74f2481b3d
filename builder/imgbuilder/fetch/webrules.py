"""Rules for HTTP: redirects and credentials, and strict reading of the headers of a response.

Sources: RFC 9110 (8.8 validators, 10.2.3 Retry-After, 13.1.5 If-Range, 14.4
Content-Range), and ``docs/threat-model.md``: T12, T22, D5, D11 to D14, D17, D19
to D21 and D30.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from imgbuilder.errors import FetchError
from imgbuilder.fetch.urls import Address, origin

_TELL = "check the source's uri; if it is right, tell the publisher"


class WebRequest:
    """The request for one file: its current address, after redirects, and the credentials of the first.

    Raises:
        ValueError: The URL is malformed.
    """

    def __init__(self, url: str, *, digest_known: bool) -> None:
        parts = urlsplit(Address(url).reveal())
        host = parts.netloc.rpartition("@")[2]
        self.url = Address(urlunsplit((parts.scheme, host, parts.path, parts.query, "")))
        self._first = origin(self.url)
        self._auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._digest_known = digest_known

    @property
    def auth(self) -> tuple[str, str] | None:
        """User and password, only for the server that they were given for."""
        return self._auth if origin(self.url) == self._first else None

    def follow(self, locations: list[str]) -> None:
        """Follow a redirect, given all ``Location`` headers of the response."""
        if len(locations) != 1 or not locations[0] or re.search(r"[\x00-\x20\x7f]", locations[0]):
            raise FetchError(f"{self.url}: the server redirects without a usable address", hint=_TELL)
        try:
            target = urljoin(self.url.reveal(), locations[0])
            old, new = origin(self.url), origin(target)
            named = urlsplit(target)
        except ValueError:
            raise FetchError(
                f"{self.url}: the server redirects to a malformed address", hint=_TELL
            ) from None  # its text quotes the address
        shown = Address(target)
        if new[0] not in ("http", "https") or not new[1]:
            raise FetchError(f"{self.url}: redirect to {shown} refused: neither http nor https", hint=_TELL)
        if named.username is not None:
            raise FetchError(f"{self.url}: redirect to {shown} refused: it contains a user name", hint=_TELL)
        if (old[0], new[0]) == ("https", "http"):
            raise FetchError(f"{self.url}: redirect to {shown} refused: it would leave https", hint=_TELL)
        upgraded = old[1] == new[1] and (old[0], old[2], new[0], new[2]) == ("http", 80, "https", 443)
        if new != old and not upgraded and not self._digest_known:
            raise FetchError(
                f"{self.url}: redirect to another server, {shown}, refused",
                hint="if that is where the source lives now, set its uri to the new address",
            )
        if _of_this_machine(new[1]) and not _of_this_machine(old[1]):
            raise FetchError(
                f"{self.url}: redirect to {shown} refused: it leads from another machine to this one",
                hint=_TELL,
            )
        if upgraded and old == self._first:
            self._first = new
        self.url = Address(urlunsplit((named.scheme, named.netloc, named.path, named.query, "")))


def _of_this_machine(host: str) -> bool:
    """Report whether a host name or address can only mean this machine or its local network link."""
    try:
        # As the system's resolver reads it: 127.1 and 0x7f000001 are addresses as well.
        address = ip_address(socket.inet_aton(host) if ":" not in host else host.partition("%")[0])
    except (OSError, ValueError):
        return host.rstrip(".") == "localhost" or host.rstrip(".").endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified


_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,500}"')


class Headers(Protocol):
    """The headers of a response; names in any case."""

    def getlist(self, key: str, /) -> Sequence[str]:
        """Return all values of a header, none if it is missing."""
        ...


def _only(headers: Headers, name: str) -> str:
    """Return the value of a header that came exactly once; else an empty text."""
    values = headers.getlist(name)
    return values[0].strip() if len(values) == 1 else ""


def is_labelled(headers: Headers) -> bool:
    """Report whether the server labels the body as encoded; the file's name may have misled the server."""
    return any(word.strip().lower() not in ("", "identity") for word in headers.getlist("Content-Encoding"))


def body_length(headers: Headers, url: str) -> int | None:
    """Return the length of the body by its headers (D5); None when the server does not give it."""
    lengths = headers.getlist("Content-Length")
    if not lengths:
        return None
    if len(lengths) > 1 or not _NUMBER.fullmatch(lengths[0]) or headers.getlist("Transfer-Encoding"):
        raise FetchError(
            f"{url}: invalid Content-Length in the server's response",
            hint="the server, or a proxy in front of it, is broken: try again later, then tell the publisher",
        )
    return int(lengths[0])


def validator(headers: Headers) -> str:
    """Return the value of ``If-Range`` for this response; empty when it offers none.

    Only a strong entity tag (D13), or a date that is strong by RFC 9110 8.8.2.2: older by a second or more
    than the response itself, so that the file cannot have changed twice at that date.
    """
    if headers.getlist("ETag"):
        tag = _only(headers, "ETag")
        return tag if _STRONG_ETAG.fullmatch(tag) else ""
    date = _only(headers, "Last-Modified")
    changed, sent = _seconds(date), _seconds(_only(headers, "Date"))
    return date if changed is not None and sent is not None and changed + 1 <= sent else ""


def is_rest(headers: Headers, held: int, expected: int | None, expected_validator: str) -> bool:
    """Report whether a 206 response is the rest of the very file whose beginning we hold (D11, D12).

    Args:
        headers: Those of the response.
        held: Bytes that we have; the request leaves them out.
        expected: Size of the whole file in bytes, if known.
        expected_validator: The value of ``If-Range`` in the request.
    """
    match = _CONTENT_RANGE.fullmatch(_only(headers, "Content-Range"))
    if match is None or match[1] is None:
        return False  # also several ranges at once, which come as multipart/byteranges
    first, last = int(match[1]), int(match[2])
    total = last + 1 if match[3] == "*" else int(match[3])
    lengths = headers.getlist("Content-Length")
    return (
        first == held
        and last + 1 == total
        and total > held
        and expected in (None, total)
        and (not lengths or list(lengths) == [str(total - held)])
        and (not expected_validator.startswith('"') or _only(headers, "ETag") in ("", expected_validator))
    )


def is_part(headers: Headers, span: tuple[int, int], size: int | None) -> bool:
    """Report whether a 206 response is the requested part of a file of this size in bytes."""
    match = _CONTENT_RANGE.fullmatch(_only(headers, "Content-Range"))
    if match is None or match[1] is None or is_labelled(headers):
        return False
    lengths = headers.getlist("Content-Length")
    return (
        (int(match[1]), int(match[2]) + 1) == span
        and (match[3] == "*" or size in (None, int(match[3])))
        and (not lengths or list(lengths) == [str(span[1] - span[0])])
    )


def whole_size(headers: Headers) -> int | None:
    """Return the size of the file in bytes that a 416 response gives; None when it gives none (D14)."""
    match = _CONTENT_RANGE.fullmatch(_only(headers, "Content-Range"))
    return int(match[3]) if match is not None and match[1] is None and match[3] != "*" else None


def retry_after(headers: Headers, now: float, otherwise: float) -> float:
    """Return the seconds that the server asks us to wait: a number, or until a date (D17)."""
    text = _only(headers, "Retry-After")
    if _NUMBER.fullmatch(text):
        return float(text)
    date = _seconds(text)
    return otherwise if date is None else max(0.0, date - now)


def _seconds(date: str) -> float | None:
    """Read a date of HTTP as seconds since 1970; None when it is not a date."""
    try:
        return parsedate_to_datetime(date).timestamp() if date.endswith("GMT") else None
    except (ValueError, IndexError, TypeError, OverflowError):
        return None

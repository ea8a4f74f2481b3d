"""Rules for redirects and credentials (``docs/threat-model.md`` T12, T22, D19, D20, D30)."""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from imgbuilder.errors import FetchError
from imgbuilder.fetch.urls import Address, origin

_TELL = "check the source's uri; if it is right, tell the publisher"


class WebRequest:
    """The request for one file: its current address, after redirects, and the credentials of the first.

    Args:
        url: The first address; may hold a user name and password.
        digest_known: A redirect may lead to another server, since a digest proves the bytes.

    Attributes:
        url: The current address, without user information.

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
        """Follow a redirect.

        Args:
            locations: All ``Location`` headers of the response.

        Raises:
            FetchError: The redirect is refused.
        """
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

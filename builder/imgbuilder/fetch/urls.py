"""Addresses of sources and templates: web URLs, ``file://`` URIs and plain paths.

The rules are virt-builder's (``docs/compatibility.md``) where they are safe, and
stricter where they are not: a template always lies below the folder of its index
(``docs/threat-model.md`` T7).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from imgbuilder.errors import RepositoryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BEGIN = r"://|\b(?:https?|ftps?|rsync|s3|s?ftp|ssh):/"
"""Beginning of an address; as the path of a file, it has one slash less."""
_PASSWORDS = tuple(
    re.compile(rf"({name}){rest}", re.IGNORECASE | re.DOTALL)
    for name, rest in (
        (_BEGIN, r"[^/?#\s]*@"),
        # A password with a slash makes the address malformed: its apparent port is not a number.
        (_BEGIN, r"(?!\[)[^\s/?#@:]{0,512}:(?!\d+(?:[/?#\s]|$))\S{0,512}@"),
        (
            r"[?&;][^=&;#\s]{0,64}(?:sig|token|secret|key|pass|pwd|auth|cred|session|jwt|policy)[^=&;#\s]{0,64}=",
            r"[^&;#\s'\"]+",
        ),
        (r"[?&;][^=&;#\s]{0,64}=", r"[A-Za-z0-9_.~%+/=-]{32,}"),
    )
)
"""Hidden parts of an address: user name and password, and values of its query that give access.

Presigned addresses of S3 and other stores give access to everyone who has them.
"""
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
"""Blanks, control characters and backslashes, which programs treat differently inside a URL."""

_WEB_SCHEMES = ("http", "https")

BUNDLE_SUFFIX = ".pybundle"
"""End of the name of a bundle, see ``imgbuilder.fetch.bundle``."""

INSIDE = "!/"
"""Separator between the path of a bundle and that of a file in it."""

BUNDLE_INDEX = "index.asc"
"""The file meant by the path of a bundle alone."""


def scheme_of(uri: str) -> str | None:
    """Return the scheme of a URI in lower case, or None for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else None


class Address(str):
    """An address that never shows its password, nor anything else that gives access (T22).

    As a string, in messages, JSON and everywhere else, it is what people may see. ``reveal`` returns the
    whole address, for sending the request, and for deriving or storing an address.
    """

    __slots__ = ("_whole",)
    _whole: str

    def __new__(cls, text: str) -> Address:
        """Keep the whole address, and show what people may see."""
        if isinstance(text, Address):
            return text
        shown = without_secrets(text)
        if _UNSAFE.search(text) and "@" in text:  # blanks in a password
            shown = re.sub(r"://.*@", "://", shown, flags=re.DOTALL)
        address = super().__new__(cls, shown)
        address._whole = text
        return address

    def reveal(self) -> str:
        """Return the whole address."""
        return self._whole

    def derive(self, change: Callable[[str], str]) -> Address:
        """Return the address that a change to the whole of this one results in."""
        return Address(change(self._whole))

    def below(self, path: str) -> Address:
        """Return the address of a file below this one."""
        return Address(f"{self._whole}/{path}")

    @property
    def has_secret(self) -> bool:
        """True if a part of it is not shown."""
        return self._whole != self


def without_secrets(text: str) -> str:
    """Return a text without the secrets of the addresses in it (``docs/threat-model.md`` T22)."""
    userinfo, malformed, *query = _PASSWORDS
    for pattern in (userinfo, malformed):
        text = pattern.sub(r"\1", text)
    for pattern in query:
        text = pattern.sub(r"\1***", text)
    return text


def without_slash(uri: str) -> Address:
    """Return an address without slashes at its end."""
    return Address(uri).derive(lambda whole: whole.rstrip("/"))


def hide_in(record: object, *fields: str) -> None:
    """Turn strings of a frozen dataclass into addresses, in its ``__post_init__``."""
    for name in fields:
        value = getattr(record, name)
        hidden = Address(value) if isinstance(value, str) else tuple(map(Address, value))
        object.__setattr__(record, name, hidden)


def check_uri(uri: str) -> None:
    """Refuse an address that cannot be that of a source."""
    address, uri = Address(uri), Address(uri).reveal()
    scheme = scheme_of(uri)
    if scheme is None:
        if not uri or "\0" in uri:
            raise UsageError("a source needs a URL or a path")
    elif scheme == "file":
        local_path(uri)
    elif scheme in _WEB_SCHEMES:
        _check_web(address)
    elif scheme == "ftp":
        raise UsageError(
            f"{address}: ftp is not supported",
            hint="most servers offer the same files by https://",
        )
    else:
        raise UsageError(
            f"{address}: unknown kind of address {scheme}://",
            hint="use https://, http://, file:// or a plain path",
        )


def _check_web(address: Address) -> None:
    uri = address.reveal()
    try:
        parts = urlsplit(uri)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or _UNSAFE.search(uri):
        raise UsageError(f"{str(address)!r} is not a valid URL")
    if parts.path.endswith(BUNDLE_SUFFIX):
        raise UsageError(
            f"{address}: a bundle is a file of this machine",
            hint="download it and give its path",
        )


def local_path(uri: str) -> Path | None:
    """Return the path that a ``file://`` URI or a plain path means; None for anything else."""
    uri = Address(uri).reveal()
    scheme = scheme_of(uri)
    if scheme is None:
        return Path(uri)
    if scheme != "file":
        return None
    host, slash, rest = uri[len("file://") :].partition("/")
    path = unquote(slash + rest)
    if host not in ("", "localhost") or not slash or "\0" in path:
        raise UsageError(
            f"{uri!r} does not name a file of this machine", hint="write three slashes: file:///absolute/path"
        )
    return Path(path)


def inside(path: Path) -> tuple[Path, str] | None:
    """Split the path of a bundle, or of a file in one; None for any other path."""
    text = str(path)
    bundle, mark, name = text.partition(f"{BUNDLE_SUFFIX}{INSIDE}")
    if mark:
        return Path(bundle + BUNDLE_SUFFIX), name
    return (path, BUNDLE_INDEX) if text.endswith(BUNDLE_SUFFIX) else None


def template_url(source_uri: str, file: str) -> Address:
    """Return the address of a template's file: below the folder that holds the index."""
    parts = file.split("/")
    if _UNSAFE.search(file) or re.search(r"[%?#]|://", file) or not {"", ".", ".."}.isdisjoint(parts):
        raise RepositoryError(
            f"{Address(source_uri)}: the index names the file {file!r}, which is not a plain "
            "path below the index",
            hint="tell the publisher; nothing was downloaded",
        )
    whole = Address(source_uri).reveal()
    scheme = scheme_of(whole)
    if scheme is None and whole.endswith(BUNDLE_SUFFIX):
        return Address(f"{whole}{INSIDE}{file}")
    if scheme is None:
        return Address(os.path.join(os.path.dirname(whole), file))  # noqa: PTH118, PTH120 - keeps "./"
    name = quote(file, safe="/-._~!$&'()*+,;=:@")
    if scheme == "file" and whole.endswith(BUNDLE_SUFFIX):
        return Address(f"{whole}{INSIDE}{name}")
    if scheme == "file":
        return Address(whole[: whole.rindex("/") + 1] + name)
    url = urlsplit(whole)
    folder = url.path[: url.path.rfind("/") + 1] or "/"
    return Address(urlunsplit((url.scheme, url.netloc, folder + name, "", "")))


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a web URL, which identify the server.

    Raises:
        ValueError: The URL is malformed.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80)

"""Addresses of sources and templates: web URLs, ``file://`` URIs and plain paths.

The rules are virt-builder's (``virt-builder.md`` 4.1 and 1.4) where they are
safe, and stricter where they are not: a template always lies below the folder
of its index (``reliability.md`` T7).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from imgbuilder.errors import RepositoryError, UsageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_USERINFO = re.compile(r"(://)[^/?#\s]*@")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
"""Blanks, control characters and backslashes, which programs disagree about inside a URL."""

_WEB_SCHEMES = ("http", "https")

BUNDLE_SUFFIX = ".pybundle"
"""How the name of a bundle ends, see ``imgbuilder.fetch.bundle``."""

INSIDE = "!/"
"""Stands between the path of a bundle and that of a file in it."""

BUNDLE_INDEX = "index.asc"
"""The file that the path of a bundle alone means."""


def scheme_of(uri: str) -> str | None:
    """Return the scheme of a URI in lower case, or None for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else None


def without_userinfo(text: str) -> str:
    """Return a URL, or a text with URLs in it, without user names and passwords (``reliability.md`` T22)."""
    return _USERINFO.sub(r"\1", text)


def check_uri(uri: str) -> None:
    """Refuse what cannot be a source.

    Args:
        uri: A web URL, a ``file://`` URI or a plain path.

    Raises:
        UsageError: Another scheme, or a malformed URL.
    """
    scheme = scheme_of(uri)
    if scheme is None:
        if not uri or "\0" in uri:
            raise UsageError("a source needs a URL or a path")
    elif scheme == "file":
        local_path(uri)
    elif scheme in _WEB_SCHEMES:
        _check_web(uri)
    elif scheme == "ftp":
        raise UsageError(
            f"{without_userinfo(uri)}: ftp is not supported",
            hint="most servers offer the same files by https://",
        )
    else:
        raise UsageError(
            f"{without_userinfo(uri)}: unknown kind of address {scheme}://",
            hint="use https://, http://, file:// or a plain path",
        )


def _check_web(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or _UNSAFE.search(uri):
        raise UsageError(f"{without_userinfo(uri)!r} is not a valid URL")
    if parts.path.endswith(BUNDLE_SUFFIX):
        raise UsageError(
            f"{without_userinfo(uri)}: a bundle is a file of this machine",
            hint="download it, and give its path",
        )


def local_path(uri: str) -> Path | None:
    """Return the path that a ``file://`` URI or a plain path means; None for anything else.

    Raises:
        UsageError: A ``file://`` URI of another host, or without an absolute path.
    """
    scheme = scheme_of(uri)
    if scheme is None:
        return Path(uri)
    if scheme != "file":
        return None
    host, slash, rest = uri[len("file://") :].partition("/")
    path = unquote(slash + rest)
    if host not in ("", "localhost") or not slash or "\0" in path:
        raise UsageError(
            f"{uri!r} names no file of this machine", hint="write three slashes: file:///absolute/path"
        )
    return Path(path)


def inside(path: Path) -> tuple[Path, str] | None:
    """Split the path of a bundle, or of a file in one; None for any other path."""
    text = str(path)
    bundle, mark, name = text.partition(f"{BUNDLE_SUFFIX}{INSIDE}")
    if mark:
        return Path(bundle + BUNDLE_SUFFIX), name
    return (path, BUNDLE_INDEX) if text.endswith(BUNDLE_SUFFIX) else None


def template_url(source_uri: str, file: str) -> str:
    """Return the address of a template's file: below the folder that holds the index.

    Args:
        source_uri: Address of the index.
        file: The entry's ``file``, relative to it.

    Raises:
        RepositoryError: ``file`` would lead out of that folder, or means different things to different
            programs (``reliability.md`` T7).
    """
    parts = file.split("/")
    if _UNSAFE.search(file) or re.search(r"[%?#]|://", file) or not {"", ".", ".."}.isdisjoint(parts):
        raise RepositoryError(
            f"{without_userinfo(source_uri)}: the index names the file {file!r}, which is not a plain "
            "path below the index",
            hint="tell the publisher; nothing was downloaded",
        )
    scheme = scheme_of(source_uri)
    if scheme is None and source_uri.endswith(BUNDLE_SUFFIX):
        return f"{source_uri}{INSIDE}{file}"
    if scheme is None:
        return os.path.join(os.path.dirname(source_uri), file)  # noqa: PTH118, PTH120 - keeps "./"
    name = quote(file, safe="/-._~!$&'()*+,;=:@")
    if scheme == "file" and source_uri.endswith(BUNDLE_SUFFIX):
        return f"{source_uri}{INSIDE}{name}"
    if scheme == "file":
        return source_uri[: source_uri.rindex("/") + 1] + name
    url = urlsplit(source_uri)
    folder = url.path[: url.path.rfind("/") + 1] or "/"
    return urlunsplit((url.scheme, url.netloc, folder + name, "", ""))


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a web URL, by which two URLs are the same server or not.

    Raises:
        ValueError: The URL is malformed.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80)

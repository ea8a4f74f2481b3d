"""The guest's network during a build: a test of its name resolution, and the proxies of the host.

Without the test, apt in a guest that cannot resolve names tries every file of every source for minutes and
ends with errors that do not name the cause.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import socket
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from imgbuilder.customize.aptsettings import read_sources
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import PackageManager
from imgbuilder.errors import OperationError
from imgbuilder.guests.ports import Guest

PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")
"""The variables that name a proxy to programs."""
_GATEWAY = "169.254.2.2"
"""The address of this host's loopback interface in an appliance's network."""
_HOST_OF_URL = re.compile(
    r"(?P<before>(?:[a-z0-9+.-]+://)?(?:[^/?#]*@)?)(?P<host>\[[^]/]*\]|[^:/?#]*)(?P<after>.*)",
    re.IGNORECASE | re.DOTALL,
)

_UNRESOLVED = 3
_MOST_SETTINGS = 200
_LARGEST_SETTINGS = 1 << 20
_REMOTE = ("http", "https", "ftp", "mirror", "mirror+http", "mirror+https")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_ONE_LINE = re.compile(r"\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)")
_APT_PROXY = re.compile(
    r"^\s*acquire::(?:https?|ftp)::(?:proxy|proxy-auto-detect)\b|\bproxy\s+\"", re.IGNORECASE | re.MULTILINE
)


def check_network(guest: Guest, context: GuestContext) -> None:
    """Check that the guest resolves the host of its first apt source.

    Nothing is checked where it would prove nothing: without a network in the appliance (the failing command's
    error then has a hint), behind a proxy (which resolves names), with a mirror, for other package managers,
    or with sources that need no network.
    """
    if (
        not context.network
        or context.proxies
        or context.mirror
        or context.facts.package_manager is not PackageManager.APT
    ):
        return
    host = first_apt_host(guest)
    if host is None or _apt_uses_proxy(guest):
        return
    if guest.sh(_resolve_script(host)).status == _UNRESOLVED:
        raise OperationError(
            f"name resolution does not work in the guest: {host}, its first apt source, was not found",
            hint=f"try on this host: getent ahosts {host}; if the network needs a proxy, set http_proxy and "
            "https_proxy; or install at first boot with --firstboot-install",
        )


def first_apt_host(guest: Guest) -> str | None:
    """Return the host name of the first source of apt that needs the network, sources.list(5)."""
    for path, content in read_sources(guest):
        for uri in _uris(content.decode(errors="replace"), stanzas=path.endswith(".sources")):
            host = _remote_host(uri)
            if host is not None:
                return host
    return None


def _uris(text: str, *, stanzas: bool) -> Iterator[str]:
    if not stanzas:
        for line in text.split("\n"):
            match = _ONE_LINE.match(line)
            if match:
                yield match[1]
        return
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _deb822_fields(stanza)
        if fields.get("enabled", "yes").lower() not in ("no", "false", "off", "0", "without", "disable"):
            yield from fields.get("uris", "").split()


def _deb822_fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.split("\n"):
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t"):
            fields[name] = fields.get(name, "") + line
        else:
            name, _colon, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _remote_host(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        return None
    return host if parts.scheme.lower() in _REMOTE and host and _HOST.fullmatch(host) else None


def _apt_uses_proxy(guest: Guest) -> bool:
    paths = ["/etc/apt/apt.conf", *guest.glob("/etc/apt/apt.conf.d/*")[:_MOST_SETTINGS]]
    return any(
        _APT_PROXY.search(guest.read(path, limit=_LARGEST_SETTINGS).decode(errors="replace"))
        for path in paths
        if guest.is_file(path)
    )


def _resolve_script(host: str) -> str:
    """Return a script that resolves a name by a program of the guest; it succeeds if the guest has none."""
    name = shlex.quote(host)
    return (
        f"if command -v getent >/dev/null 2>&1; then getent ahosts {name} || getent hosts {name}\n"
        f"elif command -v perl >/dev/null 2>&1; then perl -e 'exit !gethostbyname shift' {name}\n"
        f"elif command -v nslookup >/dev/null 2>&1; then nslookup {name}\n"
        f"else true\nfi >/dev/null 2>&1 || exit {_UNRESOLVED}\n"
    )


def guest_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``host_proxies`` as the guest sees them: a proxy on this host is at the gateway."""
    return {
        name: value if name == "no_proxy" else seen_from_guest(value)
        for name, value in host_proxies(environment).items()
    }


def seen_from_guest(address: str) -> str:
    """Return an address for use in the appliance, where localhost is the appliance itself."""
    parts = _HOST_OF_URL.fullmatch(address)
    if parts is None or not _is_this_host(parts["host"].strip("[]").rstrip(".").lower()):
        return address
    return f"{parts['before']}{_GATEWAY}{parts['after']}"


def _is_this_host(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        if (
            name == socket.gethostname().lower()
        ):  # Debian gives it a loopback address; the guest cannot resolve it
            name = socket.gethostbyname(name)
        found = ipaddress.ip_address(name)
    except (OSError, ValueError):
        return False
    return found.is_loopback or found.is_unspecified


def host_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy variables of an environment that are not empty, by their lower-case names.

    A lower-case variable wins over an upper-case one.
    """
    found = {}
    for name in PROXY_VARIABLES:
        value = environment.get(name) or environment.get(name.upper())
        if value:
            found[name] = value
    return found

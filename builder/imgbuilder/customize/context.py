"""What operations need to know beside the guest itself."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize.facts import GuestFacts
from imgbuilder.customize.passwords import Crypto
from imgbuilder.customize.secrecy import Mask, proxy_passwords
from imgbuilder.events import Reporter, ignore

PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")
"""The variables by which programs of the guest learn of a proxy."""
_GATEWAY = "169.254.2.2"
"""This host's loopback interface, as it is seen in the network that libguestfs gives to an appliance."""
_HOST_OF_URL = re.compile(
    r"(?P<before>(?:[a-z0-9+.-]+://)?(?:[^/?#]*@)?)(?P<host>\[[^]/]*\]|[^:/?#]*)(?P<after>.*)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class GuestContext:
    """Facts and wishes for one customization.

    Attributes:
        facts: What the guest is.
        arch: The guest's architecture, normalised.
        runs_commands: Whether the guest's programs can run in this appliance.
        network: Whether the appliance has a network.
        proxies: Lower-case proxy variables of the host; may hold credentials, hence not shown.
        password_crypto: How passwords are hashed.
        implicit_root_password: Whether root gets a random password when no operation sets one.
        log_file: Where commands in the guest write, chosen by ``run.customize``.
        on_event: Where warnings go, set by ``run.customize``.
        follow: Whether the output of commands is reported while they run.
        command_limit: Seconds after which a command is stopped; None for no limit.
        secrets: Variables for commands whose values are hidden everywhere, set by ``run.customize``.
        mirror: Address of a mirror for apt, or empty; set by ``run.customize``.
        package_cache: Local folder of packages, set by ``run.customize``.
        wanted: File names of packages that apt was about to fetch, and their SHA-256.
        memory: Folder in the guest that is not on its disk, or empty; set by ``run.customize``.
        unlabelled: Directories whose SELinux labels stay as they are, set by ``run.customize``.
    """

    facts: GuestFacts
    arch: str
    runs_commands: bool = True
    network: bool = True
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    password_crypto: Crypto = Crypto.SHA512
    implicit_root_password: bool = False
    log_file: str = "/tmp/builder.log"  # noqa: S108 - a path in the guest
    on_event: Reporter = field(default=ignore, repr=False)
    follow: bool = False
    command_limit: float | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    mirror: str = field(default="", repr=False)
    package_cache: Path | None = None
    wanted: dict[str, str] = field(default_factory=dict, repr=False)
    memory: str = ""
    unlabelled: tuple[str, ...] = ()

    @property
    def mask(self) -> Mask:
        """What hides the secrets, and the passwords of proxies."""
        return Mask([*self.secrets.values(), *proxy_passwords({**self.proxies, "mirror": self.mirror})])


def guest_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the same as ``host_proxies``, as the guest sees it: a proxy on this host is at the gateway."""
    return {
        name: value if name == "no_proxy" else seen_from_guest(value)
        for name, value in host_proxies(environment).items()
    }


def seen_from_guest(address: str) -> str:
    """Return an address of the host as it is reached from the appliance, where localhost is the appliance.

    Args:
        address: A URL, or a proxy without its scheme.
    """
    parts = _HOST_OF_URL.fullmatch(address)
    if parts is None or not _is_this_host(parts["host"].strip("[]").rstrip(".").lower()):
        return address
    return f"{parts['before']}{_GATEWAY}{parts['after']}"


def _is_this_host(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        if name == socket.gethostname().lower():  # Debian gives it a loopback address; the guest cannot ask
            name = socket.gethostbyname(name)
        found = ipaddress.ip_address(name)
    except (OSError, ValueError):
        return False
    return found.is_loopback or found.is_unspecified


def host_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Pick the proxy variables of the host, in either case; the lower-case one wins.

    Args:
        environment: The host's variables, ``os.environ``.

    Returns:
        Lower-case name to value, empty ones left out.
    """
    found = {}
    for name in PROXY_VARIABLES:
        value = environment.get(name) or environment.get(name.upper())
        if value:
            found[name] = value
    return found

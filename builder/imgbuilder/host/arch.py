"""Names of CPU architectures: the same architecture has several (docs/compatibility.md)."""

from __future__ import annotations

import os

_ALIASES = {
    "i486": "i386",
    "i586": "i386",
    "i686": "i386",
    "amd64": "x86_64",
    "arm64": "aarch64",
    "ppc64el": "ppc64le",
    "powerpc": "ppc",
    "powerpc64": "ppc64",
    "powerpc64le": "ppc64le",
}


def normalise(arch: str) -> str:
    """Return the one name by which architectures are compared; unknown names stay as they are."""
    return _ALIASES.get(arch, arch)


def host_arch() -> str:
    """Return the normalised architecture of this machine."""
    return normalise(os.uname().machine)


def can_run(host: str, guest: str) -> bool:
    """Tell whether a host's CPU runs a guest's commands without emulation."""
    host, guest = normalise(host), normalise(guest)
    return host == guest or (host, guest) == ("x86_64", "i386")

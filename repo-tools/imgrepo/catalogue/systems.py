"""The one name of each system: what os-release, libosinfo and people call it differs."""

from __future__ import annotations

import re

from imgrepo.catalogue import text

_NAMES = {
    "almalinux": "AlmaLinux",
    "alma": "AlmaLinux",
    "alpine": "Alpine Linux",
    "amazon": "Amazon Linux",
    "amzn": "Amazon Linux",
    "arch": "Arch Linux",
    "centos": "CentOS",
    "cirros": "CirrOS",
    "debian": "Debian",
    "devuan": "Devuan",
    "fedora": "Fedora",
    "freebsd": "FreeBSD",
    "gentoo": "Gentoo",
    "kali": "Kali Linux",
    "mageia": "Mageia",
    "netbsd": "NetBSD",
    "nixos": "NixOS",
    "ol": "Oracle Linux",
    "openbsd": "OpenBSD",
    "opensuse": "openSUSE",
    "oracle": "Oracle Linux",
    "redhat": "Red Hat Enterprise Linux",
    "rhel": "Red Hat Enterprise Linux",
    "rocky": "Rocky Linux",
    "sle": "SUSE Linux Enterprise",
    "suse": "SUSE Linux Enterprise",
    "ubuntu": "Ubuntu",
    "void": "Void Linux",
    "win": "Windows",
}
_LONGEST_FIRST = sorted(_NAMES, key=len, reverse=True)


def family(*names: str | None) -> str:
    """Return the one name of a system, by the first of its names that is not empty.

    ``debian12``, ``Debian GNU/Linux 12 (bookworm)`` and ``debian`` are all ``Debian``. Of a system that is
    not in the table, it is the first word without a version.
    """
    name = next((found for one in names if (found := text.line(one))), "")
    letters = re.sub(r"[^a-z]", "", name.lower())
    known = next((_NAMES[start] for start in _LONGEST_FIRST if letters.startswith(start)), None)
    if known is not None:
        return known
    word = re.match(r"[^\W\d_]+", name)
    return text.line(word[0].capitalize() if word and word[0].islower() else word[0] if word else name, 40)

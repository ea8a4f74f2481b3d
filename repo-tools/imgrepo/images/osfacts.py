"""Name, libosinfo id and architecture of a guest, from its own files. Pure functions.

The template's author wrote them and may be hostile: each result fits into one
line of an index (``docs/threat-model.md`` R15, T15).
"""

from __future__ import annotations

import re
import struct

from imgbuilder.host.text import one_line

_LONGEST_NAME = 100
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4})*")

_ELF_MACHINES = {
    (3, "<"): "i386",
    (20, ">"): "ppc",
    (21, ">"): "ppc64",
    (21, "<"): "ppc64le",
    (22, ">"): "s390x",
    (40, "<"): "armv7l",
    (62, "<"): "x86_64",
    (183, "<"): "aarch64",
    (243, "<"): "riscv64",
    (258, "<"): "loongarch64",
}
"""ELF machine numbers with byte order, see elf(5)."""

_OSINFO_PREFIXES = {
    "almalinux": "almalinux",
    "alpine": "alpinelinux",
    "amzn": "amazonlinux",
    "centos": "centos-stream",
    "debian": "debian",
    "fedora": "fedora",
    "ol": "ol",
    "opensuse-leap": "opensuse",
    "rhel": "rhel",
    "rocky": "rocky",
    "ubuntu": "ubuntu",
}
"""First part of libosinfo's short id, by the ID of os-release."""

_OSINFO_PARTS = {"almalinux": 1, "rocky": 1, "alpine": 2}
"""Number of version parts in the short id, where it is not all of them."""

_OSINFO_ROLLING = {"arch": "archlinux", "opensuse-tumbleweed": "opensusetumbleweed", "gentoo": "gentoo"}


def display_name(text: str) -> str | None:
    """Return a guest's own name as one short printable line; None when nothing is left."""
    return one_line(text, _LONGEST_NAME) or None


def osinfo_id(release: dict[str, str]) -> str | None:
    """Return libosinfo's short id for a system, such as ``debian12``; None when unknown.

    Args:
        release: The values of its os-release file.
    """
    kind, version = release.get("ID", ""), release.get("VERSION_ID", "")
    if kind in _OSINFO_ROLLING:
        return _OSINFO_ROLLING[kind]
    if kind not in _OSINFO_PREFIXES or not _VERSION.fullmatch(version):
        return None
    parts = version.split(".")[: _OSINFO_PARTS.get(kind)]
    return _OSINFO_PREFIXES[kind] + ".".join(parts)


def elf_arch(header: bytes) -> str | None:
    """Return the architecture that a program was made for, as an index names it; None when unknown.

    Args:
        header: The program's first bytes, at least 20.
    """
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    order = {1: "<", 2: ">"}.get(header[5], "<")
    (machine,) = struct.unpack_from(f"{order}H", header, 18)
    return _ELF_MACHINES.get((machine, order))

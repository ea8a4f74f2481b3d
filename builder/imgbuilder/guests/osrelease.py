"""Reads a guest's os-release(5), which names its system."""

from __future__ import annotations

import re
import shlex

from imgbuilder.guests.ports import Guest

_PLACES = ("/etc/os-release", "/usr/lib/os-release")
"""Its two places; the first that exists counts."""
_LARGEST = 64 * 1024
"""Bytes that are read; real ones have less than one KiB."""
_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")


def has_os_release(guest: Guest) -> bool:
    """Return whether the mounted filesystem has an os-release file, as the root of a system has."""
    return _find(guest) is not None


def read_os_release(guest: Guest) -> dict[str, str]:
    """Read the os-release file of a mounted guest; one that is missing or far too large is empty."""
    path = _find(guest)
    return (
        {} if path is None else parse_os_release(guest.read(path, limit=_LARGEST).decode("utf-8", "replace"))
    )


def _find(guest: Guest) -> str | None:
    for path in _PLACES:
        if guest.is_file(path) and guest.stat(path).size <= _LARGEST:
            return path
    return None


def parse_os_release(text: str) -> dict[str, str]:
    """Read the assignments of an os-release file; lines that are not assignments are skipped."""
    found = {}
    for line in text.split("\n"):
        match = _ASSIGNMENT.fullmatch(line.strip())
        if match is None:
            continue
        try:
            words = shlex.split(match[2])
        except ValueError:  # an open quote
            continue
        value = words[0] if words else ""
        # In double quotes a shell lets the backslash protect these as well, which shlex does not know.
        found[match[1]] = re.sub(r"\\([$`])", r"\1", value) if match[2].startswith('"') else value
    return found

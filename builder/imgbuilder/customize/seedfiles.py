"""Local files that become a seed of cloud-init."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from imgbuilder.customize import values
from imgbuilder.errors import UsageError
from imgindex.regular import open_file

if TYPE_CHECKING:
    from pathlib import Path

    from imgbuilder.guest import Guest

_STARTS = (
    b"#cloud-config", b"#!", b"#include", b"#cloud-boothook", b"#part-handler", b"## template: jinja",
    b"Content-Type:", b"MIME-Version:", b"\x1f\x8b",
)  # fmt: skip
"""How user data begins, by cloud-init's documentation of its formats; the last is gzip."""
_OFF = "/etc/cloud/cloud-init.disabled"
_SOURCES = re.compile(r"^datasource_list:((?:[^\n]*\n?)(?:[ \t]*-[^\n]*\n?)*)", re.MULTILINE)
"""The list in one line, or in a line for each."""
_LARGEST = 16 * 1024 * 1024


def user_data(path: Path) -> Path:
    """Accept a local file of user data.

    Raises:
        UsageError: It cannot be read, or cloud-init would pass over it because of how it begins.
    """
    start = content(path)[:64]
    if not start.startswith(_STARTS):
        raise UsageError(
            f"{path} does not begin like user data, and cloud-init would ignore it",
            hint="its first line should be #cloud-config, or #!/bin/sh of a script",
        )
    return path


def unread(guest: Guest) -> str:
    """Return why the guest's cloud-init would not look at a seed; empty when it would.

    Raises:
        GuestCallError: A file could not be read.
    """
    if guest.exists(_OFF):
        return f"there is {_OFF}"
    sources = None
    for path in ["/etc/cloud/cloud.cfg", *guest.glob("/etc/cloud/cloud.cfg.d/*.cfg")]:  # the last one counts
        content = guest.read(path) if guest.is_file(path) else b""
        for match in _SOURCES.finditer(content.decode(errors="replace")):
            sources = (path, match[1])
    if sources is not None and "NoCloud" not in sources[1]:
        return f"NoCloud is not in the datasource_list of {sources[0]}"
    return ""


def optional_file(path: Path | None) -> Path | None:
    """Accept a local file, or none."""
    return None if path is None else values.local_file(path)


def content(path: Path) -> bytes:
    """Read a local file.

    Raises:
        UsageError: It cannot be read, or is too large for a seed.
    """
    values.local_file(path)
    try:
        with open_file(path) as file:
            found = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"the local file {path} cannot be read: {error.strerror}") from error
    if len(found) > _LARGEST:
        raise UsageError(f"{path} is larger than {_LARGEST} bytes")
    return found

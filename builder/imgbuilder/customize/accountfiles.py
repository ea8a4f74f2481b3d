"""Reads and edits ``/etc/passwd``, ``/etc/group``, ``/etc/shadow`` and ``/etc/hosts`` as bytes.

Everything else in the files stays byte for byte. Augeas is not used: a user's name could break out of its
path expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from imgbuilder.sizes import whole_number

LAST_ID = (1 << 32) - 2
"""The largest number of a user or group; the next one means "none"."""
_DAY = re.compile(rb"[0-9]{1,9}")
_HOST_NAME = re.compile(rb"(?<=[ \t])[^ \t#]+")


@dataclass(frozen=True)
class PasswdEntry:
    """One line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str


def find_account(passwd: bytes, user: str) -> PasswdEntry | None:
    """Find a user in the content of ``/etc/passwd``; malformed lines are ignored."""
    for line in passwd.split(b"\n"):
        fields = line.decode(errors="surrogateescape").split(":")
        if fields[0] == user and len(fields) >= 6:
            uid, gid = (whole_number(field, LAST_ID) for field in fields[2:4])
            if uid is not None and gid is not None:
                return PasswdEntry(user, uid, gid, fields[5])
    return None


def find_number(database: bytes, name: str) -> int | None:
    """Find the number of a user in ``/etc/passwd`` or of a group in ``/etc/group``."""
    for line in database.split(b"\n"):
        fields = line.decode(errors="surrogateescape").split(":")
        if fields[0] == name and len(fields) >= 3:
            number = whole_number(fields[2], LAST_ID)
            if number is not None:
                return number
    return None


def set_shadow_field(shadow: bytes, user: str, value: str, today: int) -> bytes | None:
    """Set the second field of a user's line in ``/etc/shadow``, and the day of the change, shadow(5).

    With the day of the old password the new one might count as expired.

    Args:
        shadow: The content.
        user: The user.
        value: The new field.
        today: Days since 1970.

    Returns:
        The new content, or None if the user has no line in it.
    """

    def change(fields: list[bytes]) -> None:
        fields[1] = value.encode("ascii")
        if len(fields) > 2:
            fields[2] = str(today).encode()

    return _change_line(shadow, user, change)


def use_shadow(passwd: bytes, user: str) -> bytes:
    """Make ``/etc/passwd`` refer to ``/etc/shadow`` for a user's password, passwd(5)."""

    def change(fields: list[bytes]) -> None:
        fields[1] = b"x"

    return _change_line(passwd, user, change) or passwd


def expiry_day(shadow: bytes, user: str) -> int | None:
    """Return the day on which an account expires, in days since 1970; None for never, shadow(5)."""
    for line in shadow.split(b"\n"):
        fields = line.split(b":")
        if fields[0] == user.encode() and len(fields) > 7 and _DAY.fullmatch(fields[7]):
            return int(fields[7])
    return None


def _change_line(content: bytes, user: str, change: Callable[[list[bytes]], None]) -> bytes | None:
    lines = content.split(b"\n")
    for number, line in enumerate(lines):
        fields = line.split(b":")
        if fields[0] == user.encode() and len(fields) >= 2:
            change(fields)
            lines[number] = b":".join(fields)
            return b"\n".join(lines)
    return None


def rename_host(hosts: bytes, old: str, new: str) -> bytes:
    """Replace the host's names in the content of ``/etc/hosts``, hosts(5).

    Args:
        hosts: The content; addresses, blanks, comments and other names stay.
        old: The previous hostname; empty if unknown. ``localhost`` names are never replaced.
        new: The new hostname, with or without a domain.
    """
    short = new.partition(".")[0]
    names = {"unassigned-hostname": short, "unassigned-hostname.unassigned-domain": new}
    if old and old.partition(".")[0] != "localhost":
        names[old.partition(".")[0]] = short
        names[old] = new
    table = {name.encode(): value.encode() for name, value in names.items()}
    lines = []
    for line in hosts.split(b"\n"):
        entry, hash_sign, comment = line.partition(b"#")
        entry = _HOST_NAME.sub(lambda match: table.get(match[0], match[0]), entry)
        lines.append(entry + hash_sign + comment)
    return b"\n".join(lines)

"""Reads and edits ``passwd``, ``group``, ``shadow``, ``hosts`` and ``authorized_keys`` as bytes.

Everything else in the files stays byte for byte. Augeas is not used: a user's name could break out of its
path expressions.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.customize.values import LAST_ID, read_given
from imgbuilder.errors import UsageError
from imgbuilder.guests.ports import Guest
from imgbuilder.sizes import whole_number

_DAY = re.compile(rb"[0-9]{1,9}")
_HOST_NAME = re.compile(rb"(?<=[ \t])[^ \t#]+")
_KEY = re.compile(r"(?:^|\s)((?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+)\s+(AAAA[A-Za-z0-9+/]*={0,2})(?=\s|$)")
"""Type and key as in sshd(8), AUTHORIZED_KEYS FILE FORMAT; options may come before."""

_PRIVATE = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----|PuTTY-User-Key-File|SSH PRIVATE KEY FILE")
_LARGEST_KEYS = 64 * 1024


@dataclass(frozen=True)
class PasswdEntry:
    """One line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str


def find_account(passwd: bytes, user: str) -> PasswdEntry | None:
    """Find a user in the content of ``/etc/passwd``; malformed lines are ignored."""
    return next((entry for entry in _entries(passwd) if entry.name == user), None)


def _entries(passwd: bytes) -> Iterator[PasswdEntry]:
    for line in passwd.split(b"\n"):
        fields = line.decode(errors="surrogateescape").split(":")
        if len(fields) >= 6:
            uid, gid = (whole_number(field, LAST_ID) for field in fields[2:4])
            if uid is not None and gid is not None:
                yield PasswdEntry(fields[0], uid, gid, fields[5])


_FIRST_PERSON, _LAST_PERSON = 1000, 59999
"""Numbers of people's accounts, login.defs(5)."""


def people(passwd: bytes) -> list[PasswdEntry]:
    """Return the accounts of people, not of the system."""
    return [entry for entry in _entries(passwd) if _FIRST_PERSON <= entry.uid <= _LAST_PERSON]


def without_accounts(content: bytes, names: Collection[str]) -> bytes:
    """Remove users, with their groups and memberships, from a file with a name in front of each line."""
    gone = {name.encode(errors="surrogateescape") for name in names}
    lines = []
    for line in content.split(b"\n"):
        head, colon, rest = line.partition(b":")
        if head in gone:
            continue
        before, last_colon, members = rest.rpartition(b":")
        kept = b",".join(member for member in members.split(b",") if member not in gone)
        lines.append(head + colon + before + last_colon + kept)
    return b"\n".join(lines)


def find_number(database: bytes, name: str) -> int | None:
    """Find the number of a user in ``/etc/passwd`` or of a group in ``/etc/group``."""
    for line in database.split(b"\n"):
        fields = line.decode(errors="surrogateescape").split(":")
        if fields[0] == name and len(fields) >= 3:
            number = whole_number(fields[2], LAST_ID)
            if number is not None:
                return number
    return None


_USERADD = ("/usr/sbin/useradd", "/sbin/useradd", "/usr/bin/useradd")


def add_user(guest: Guest) -> str:
    """Return the guest's command that adds a user."""
    return "useradd -m" if any(map(guest.exists, _USERADD)) or not _has_adduser(guest) else "adduser -D"


def add_group(guest: Guest) -> str:
    """Return the guest's command that adds a group."""
    return "groupadd" if any(map(guest.exists, _USERADD)) or not _has_adduser(guest) else "addgroup"


def _has_adduser(guest: Guest) -> bool:
    return any(map(guest.exists, ("/usr/sbin/adduser", "/sbin/adduser")))


def set_shadow_field(shadow: bytes, user: str, value: str, today: int) -> bytes | None:
    """Set the password field of a user in shadow(5), and the day of the change; None without that user.

    With the day of the old password the new one might count as expired.
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

    Addresses, blanks, comments and other names stay; ``localhost`` names are never replaced.
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


def parse_key_selector(text: str) -> tuple[str, ...]:
    """Return the public keys of a selector, one line each.

    It is ``file:PATH``, ``string:KEY``, or empty for the newest key of the user of this host.
    """
    if not text:
        return _read_keys(newest_key(Path("~/.ssh")))
    kind, _colon, rest = text.partition(":")
    if kind == "file" and rest:
        return _read_keys(Path(rest))
    if kind == "string" and rest:
        return public_keys(tuple(rest.split("\n")))
    raise UsageError(
        "the ssh key selector is not valid", hint="write USER, USER:file:PATH or USER:string:KEY"
    )


def newest_key(folder: Path) -> Path:
    """Return the newest ``id*.pub`` of a folder that is not a certificate."""
    try:
        found = [path for path in folder.expanduser().glob("id*.pub") if not path.name.endswith("-cert.pub")]
        return max(found, key=lambda path: path.stat().st_mtime)
    except (ValueError, OSError, RuntimeError) as error:  # no key; unreadable; no home
        raise UsageError(
            f"no public key was found: {folder}/id*.pub",
            hint="make one with ssh-keygen, or name one: USER:file:PATH",
        ) from error


def public_keys(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Accept lines of public keys, without empty lines and comments; a private key is never quoted."""
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if any(_PRIVATE.search(line) for line in lines):
        raise UsageError("this is a private key", hint="use the public key, whose name ends in .pub")
    if not keys:
        raise UsageError("no ssh public key was given")
    if any("\n" in key or "\r" in key or not _KEY.search(key) for key in keys):
        raise UsageError(
            "this is not an ssh public key",
            hint="a key looks like: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5... you@host",
        )
    return keys


def optional_keys(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Accept lines of public keys, or no line."""
    return public_keys(lines) if lines else ()


def add_keys(content: bytes, keys: tuple[str, ...]) -> bytes:
    """Add lines of keys to an ``authorized_keys`` file, except those already in it with whatever comment."""
    present = {_identity(line) for line in content.decode(errors="surrogateescape").splitlines()}
    result = content
    for key in keys:
        if _identity(key) in present:
            continue
        if result and not result.endswith(b"\n"):
            result += b"\n"
        result += f"{key}\n".encode(errors="surrogateescape")
        present.add(_identity(key))
    return result


def _identity(line: str) -> tuple[str, ...] | None:
    match = None if line.lstrip().startswith("#") else _KEY.search(line)
    return match.groups() if match else None


def _read_keys(path: Path) -> tuple[str, ...]:
    with contextlib.suppress(RuntimeError):  # no such user: the file will not be found
        path = path.expanduser()
    content = read_given(path, "the ssh key file", lambda file: file.read(_LARGEST_KEYS + 1))
    if len(content) > _LARGEST_KEYS:
        raise UsageError(f"{path} is too large for a file of ssh public keys")
    try:
        return public_keys(tuple(content.decode(errors="surrogateescape").splitlines()))
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from error

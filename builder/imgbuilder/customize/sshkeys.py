"""Reads public keys of ssh, and adds them to the content of ``authorized_keys``."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from imgbuilder.customize.values import read_given
from imgbuilder.errors import UsageError

_KEY = re.compile(r"(?:^|\s)((?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+)\s+(AAAA[A-Za-z0-9+/]*={0,2})(?=\s|$)")
"""Type and key as in sshd(8), AUTHORIZED_KEYS FILE FORMAT; options may come before."""

_PRIVATE = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----|PuTTY-User-Key-File|SSH PRIVATE KEY FILE")
_LARGEST = 64 * 1024


def parse_key_selector(text: str) -> tuple[str, ...]:
    """Return the public keys of a selector, one line each.

    Args:
        text: ``file:PATH``, ``string:KEY``, or empty for the newest key of the user of this host.
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
    """Add keys to an ``authorized_keys`` file.

    Args:
        content: The file as it is; a missing last newline is repaired.
        keys: Lines of public keys.

    Returns:
        The new content; the same bytes when every key is there already, whatever its comment.
    """
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
    content = read_given(path, "the ssh key file", lambda file: file.read(_LARGEST + 1))
    if len(content) > _LARGEST:
        raise UsageError(f"{path} is too large for a file of ssh public keys")
    try:
        return public_keys(tuple(content.decode(errors="surrogateescape").splitlines()))
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from error

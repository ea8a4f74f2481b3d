"""Where the values of secrets come from."""

from __future__ import annotations

import os
import re
from pathlib import Path

from imgbuilder.customize.secrecy import SHORTEST
from imgbuilder.errors import UsageError
from imgindex.environment import withhold
from imgindex.files import open_given

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKEN = {"PATH", "HOME", "IFS", "ENV", "LC_ALL", "TERM", "PWD", "SHELL"}
"""Variables without which the commands themselves would not work as meant."""
_LARGEST = 64 * 1024
"""Bytes; the kernel allows 128 KiB per variable."""


def variable_name(name: str) -> str:
    """Accept the name of an environment variable.

    Raises:
        UsageError: It is none, or the commands need it for themselves.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not the name of a variable", hint="use letters, digits and '_'")
    if name in _TAKEN or name.startswith("LD_"):
        raise UsageError(f"the variable {name} cannot hold a secret", hint="choose another name")
    return name


def secret_value(value: str) -> str:
    """Accept the value of a secret; it is never quoted.

    Raises:
        UsageError: It is too short to be hidden, or too long for a variable.
    """
    if len(value.strip()) < SHORTEST:
        raise UsageError(f"a secret needs at least {SHORTEST} characters, or it could not be hidden in logs")
    if len(value.encode(errors="surrogateescape")) > _LARGEST:
        raise UsageError(f"the secret is longer than {_LARGEST} bytes")
    return value


def parse_source(text: str) -> str:
    """Read the value that ``env:VARIABLE`` or ``file:PATH`` names, at once (SE-1).

    Raises:
        UsageError: The variable is not set, the file cannot be read, or the text names neither.
    """
    kind, colon, name = text.partition(":")
    if kind == "env" and colon:
        value = os.environ.get(name)
        if value is None:
            raise UsageError(f"the variable {name!r} is not set", hint=f"export {name} first")
        withhold(name)
        return value
    if kind == "file" and colon:
        return _content(Path(name))
    raise UsageError(
        "the source of the secret is not valid",
        hint="give NAME=env:VARIABLE or NAME=file:PATH, not the value",
    )


def _content(path: Path) -> str:
    try:
        with open_given(path) as file:
            content = file.read(_LARGEST + 3)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"the secret file {str(path)!r} cannot be read: {reason}") from error
    return content.removesuffix(b"\n").removesuffix(b"\r").decode(errors="surrogateescape")

"""Looking at a script's first line before it is run (Z11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.customize import values
from imgbuilder.errors import UsageError
from imgindex.regular import open_file

if TYPE_CHECKING:
    from pathlib import Path

_BOM = b"\xef\xbb\xbf"
_LONGEST = 256
"""Bytes of the first line that Linux looks at (BINPRM_BUF_SIZE)."""


def local_script(path: Path) -> Path:
    r"""Accept a local script or program.

    Raises:
        UsageError: It cannot be read, or its first line could not work in any guest: Windows line ends
            in ``#!...``, which make the kernel look for an interpreter called ``sh\r``, or a byte order
            mark before it.
    """
    values.local_file(path)
    line = _first_line(path)
    if line.startswith(_BOM + b"#!"):
        raise UsageError(
            f"{path} begins with a byte order mark before its #! line", hint="save it as UTF-8 without BOM"
        )
    if line.startswith(b"#!") and line.endswith(b"\r"):
        raise UsageError(f"{path} has Windows line ends (CRLF)", hint=f"convert it: sed -i 's/\\r$//' {path}")
    return path


def interpreter(path: Path) -> str | None:
    """Return the interpreter that a local script names, or None when it names none."""
    line = _first_line(path)
    words = line.removeprefix(b"#!").decode(errors="replace").split() if line.startswith(b"#!") else []
    return words[0] if words else None


def _first_line(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(_LONGEST).partition(b"\n")[0]
    except OSError as error:
        raise UsageError(f"the local file {path} cannot be read: {error.strerror}") from error

"""``--machine-readable``: messages once more as JSON lines, for programs (``virt-builder.md`` 0.3)."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.streams import text_output

if TYPE_CHECKING:
    from collections.abc import Callable

CAPABILITIES = ("virt-builder", "arch", "config-file", "customize", "json-list", "pxzcat")
"""What virt-builder says that it can do, and what programs that start it look for."""

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def open_stream(where: str) -> TextIO:
    """Open what the option's value names.

    Args:
        where: Empty for standard output, or ``file:NAME``, ``stream:stdout``, ``stream:stderr``, ``fd:N``.

    Raises:
        UsageError: It is something else.
        WorkspaceError: The file or descriptor cannot be written to.
    """
    kind, _, value = where.partition(":")
    try:
        match kind, value:
            case ("", "") | ("stream", "stdout"):
                return sys.stdout
            case ("stream", "stderr"):
                return sys.stderr
            case ("file", name) if name:
                return text_output(os.open(name, _NEW_FILE, 0o666), name)
            case ("fd", number) if number.isdecimal():
                return text_output(int(number), f"descriptor {number}")
    except (OSError, OverflowError, ValueError) as error:
        raise WorkspaceError(
            f"--machine-readable={where}: {getattr(error, 'strerror', None) or error}"
        ) from error
    raise UsageError(
        f"--machine-readable={where} is no place for messages",
        hint="known are file:NAME, stream:stdout, stream:stderr and fd:NUMBER",
    )


def json_lines(stream: TextIO) -> Callable[[str, str], None]:
    """Return what writes a message's kind and text as a line of JSON, with the time, at once."""

    def tell(kind: str, text: str) -> None:
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        local = time.localtime(seconds)
        zone = time.strftime("%z", local)
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{nanoseconds:09d}{zone[:3]}:{zone[3:]}"
        stream.write(f"{json.dumps({'message': text, 'timestamp': moment, 'type': kind})}\n")
        stream.flush()

    return tell

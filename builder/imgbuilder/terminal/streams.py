r"""Streams for text that show everything, and fail as what they are.

A terminal's encoding may have no sign for what a publisher, a guest or a file
name says: that is shown as ``\uXXXX``, which is also right in JSON. And a full
disk behind standard output is not an error of the file, the source or the cache
that was worked on when something was printed: it ends the command as ``OutputLostError``.
"""

from __future__ import annotations

import codecs
import io
import select
import sys
from typing import TYPE_CHECKING, TextIO

from imgbuilder.host.text import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_ESCAPES = "imgbuilder.escapes"


class OutputLostError(BaseException):
    """Standard output, or another stream of messages, cannot be written to: the command ends.

    Like a signal, and unlike an error of a source or file, it ends the command at once.
    """

    def __init__(self, name: str, cause: OSError) -> None:
        super().__init__(f"{name}: {cause.strerror or cause}")
        self.errno = cause.errno


def text_output(descriptor: int, name: str, *, like: TextIO | None = None, needed: bool = True) -> TextIO:
    """Return a stream of text over an open descriptor, which stays open when the stream is closed.

    Args:
        descriptor: The descriptor it writes to.
        name: Its name in errors.
        like: A stream whose encoding and buffering it gets; without one it is UTF-8, and flushed by lines.
        needed: False if what cannot be written is dropped without a word.
    """
    raw = _Output(descriptor, name, needed=needed)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=like.encoding if like is not None else "utf-8",
        errors=_ESCAPES,
        newline="\n",
        line_buffering=like.line_buffering if isinstance(like, io.TextIOWrapper) else True,
    )


def show(text: str) -> None:
    """Print a result line by line, made printable: names and notes come from publishers."""
    sys.stdout.write("\n".join(printable(line) for line in text.split("\n")))


class _Output(io.FileIO):
    def __init__(self, descriptor: int, name: str, *, needed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._called = name
        self._needed = needed

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            # Another process that shares the descriptor may have made it non-blocking.
            while (count := super().write(data)) is None:
                select.select([], [self.fileno()], [])
        except OSError as error:
            if self._needed:
                raise OutputLostError(self._called, error) from error
            return memoryview(data).nbytes
        return count


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end


codecs.register_error(_ESCAPES, _escaped)

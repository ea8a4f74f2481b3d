r"""Showing events and results on a terminal or in a log: the only reporter that people see, and its streams.

Lines for steps look like virt-builder's, ``[   1.2] Downloading: URL``, on
standard output. Progress bars go to standard error, and only to a terminal
that can go back in a line; elsewhere a long transfer prints a line every ten
seconds. What ends within half a second has no bar.

A terminal's encoding may have no sign for what a publisher, a guest or a file
name says: that is shown as ``\uXXXX``, which is also right in JSON. And a full
disk behind standard output is not an error of the file, the source or the cache
that was worked on when something was printed: it ends the command as ``OutputLostError``.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.events import Notice, Progress, ProgressEnd, Severity, Step
from imgbuilder.fetch.urls import without_secrets
from imgbuilder.host.text import printable
from imgbuilder.sizes import human_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer
    from tqdm import tqdm

    from imgbuilder.events import Event


_PLAIN_INTERVAL = 10.0
"""Seconds between two lines about the same transfer when there is no terminal."""
_BAR_AFTER = 0.5
"""Seconds after which a transfer has a bar."""
_NARROW = 76
"""Columns below which a bar shows only percentage and time: the label and all numbers take 60."""
_WRAP_COLUMN = 76
_GREEN, _BLUE, _MAGENTA, _RED, _RESET = "\x1b[0;32m", "\x1b[1;34m", "\x1b[1;35m", "\x1b[1;31m", "\x1b[0m"


class ConsoleReporter:
    """A reporter for people.

    Args:
        started: ``time.monotonic()`` at the program's start, from which elapsed time counts.
        out: Where steps and notices go; standard output by default.
        err: Where progress and debug lines go; standard error by default.
    """

    def __init__(
        self,
        program: str,
        *,
        quiet: bool = False,
        verbose: bool = False,
        started: float | None = None,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self._program = program
        self.quiet = quiet
        self.verbose = verbose
        self._started = time.monotonic() if started is None else started
        self.out, self._given_err = out, err
        self._bar: tqdm[NoReturn] | None = None
        self._label = ""
        self._last_line = 0.0
        self._first = (0.0, 0)
        self._known: set[str] = set()
        self.colour = False
        """True: colours are written even where there is no terminal."""
        self.wrap = False
        """True: notices and errors are wrapped as virt-builder's are."""
        self.machine: Callable[[str, str], None] | None = None
        """Called with kind (message, info, warning, error) and text of each message before it is shown."""

    @property
    def _out(self) -> TextIO:
        return self.out or sys.stdout  # which may be opened after this object was made

    @property
    def _err(self) -> TextIO:
        return self._given_err or sys.stderr

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Progress():
                self._progress(event)
            case ProgressEnd():
                self.close()
            case Step(text):
                if self.machine is not None:
                    self.machine("message", without_secrets(text))
                if not self.quiet:
                    elapsed = time.monotonic() - self._started
                    self._line(self._out, f"[{elapsed:6.1f}] ", text, _GREEN)
            case Notice(severity, text):
                self._notice(severity, text)

    def close(self) -> None:
        """Take away a progress bar that is still there."""
        self._label = ""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def error(self, message: str, hint: str | None) -> None:
        """Show why the program ends."""
        self.close()
        if self.machine is not None:
            self.machine("error", without_secrets(message))
        self._line(self._err, f"{self._program}: error: ", message, _RED)
        if hint:
            self._line(self._err, "  ", hint, "")

    def _notice(self, severity: Severity, text: str) -> None:
        if severity is Severity.INFO:
            if text in self._known:  # such as the reason for emulation, at each start of an appliance
                return
            self._known.add(text)
        if self.machine is not None and severity is not Severity.DEBUG:
            self.machine(severity.value, without_secrets(text))
        match severity:
            case Severity.DEBUG:
                if self.verbose:
                    self._line(self._err, f"{self._program}: debug: ", text, "")
            case Severity.INFO:
                self._line(self._out, f"{self._program}: ", text, _MAGENTA)
            case Severity.WARNING:
                # virt-builder writes warnings to standard output, into the middle of its JSON.
                self._line(self._err, f"{self._program}: warning: ", text, _BLUE)

    def _line(self, stream: TextIO, prefix: str, text: str, colour: str) -> None:
        shown = printable(without_secrets(text))  # it may quote a publisher or a guest
        if self.wrap and colour != _GREEN:
            shown = _wrapped(prefix, shown)
        if colour and (self.colour or _likes_colours(stream)):
            shown = f"{colour}{shown}{_RESET}"
        if self._bar is not None:
            self._bar.clear()
        stream.write(f"{prefix}{shown}\n")
        stream.flush()
        if self._bar is not None:
            self._bar.refresh()

    def _progress(self, event: Progress) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        if event.label != self._label:
            self.close()
            self._label, self._last_line = event.label, now
            self._first = (now, event.done)
        if not self._err.isatty() or _is_dumb():
            self._plain_progress(event, now)
            return
        if self._bar is None:
            if now - self._first[0] < _BAR_AFTER:
                return
            from tqdm import tqdm  # late: most commands show no bar

            self._bar = tqdm(
                total=event.total, unit="B", unit_scale=True, unit_divisor=1024, file=self._err, leave=False,
                miniters=0, **_shape(self._err, printable(event.label), event.total),
                initial=event.done,  # bytes of an earlier run do not count for the speed
            )  # fmt: skip
        self._bar.update(event.done - self._bar.n)

    def _plain_progress(self, event: Progress, now: float) -> None:
        if now - self._last_line < _PLAIN_INTERVAL:
            return
        self._last_line = now
        since, before = self._first
        text = transfer_line(event, now - since, before)
        self._line(self._out, f"[{now - self._started:6.1f}] ", text, "")


def _is_dumb() -> bool:
    """Return whether the terminal only writes on."""
    return os.environ.get("TERM") == "dumb"


def _likes_colours(stream: TextIO) -> bool:
    """Return whether a stream gets colours by default (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and not _is_dumb()


def _wrapped(prefix: str, text: str) -> str:
    """Break lines at column 76; words that are longer, such as paths, stay whole."""
    import textwrap  # late: a rare wish

    wrapper = textwrap.TextWrapper(_WRAP_COLUMN, break_long_words=False, break_on_hyphens=False)
    lines = f"{prefix}{text}".split("\n")
    return "\n".join("\n".join(wrapper.wrap(line)) or line for line in lines)[len(prefix) :]


def _shape(terminal: TextIO, label: str, total: int | None) -> dict[str, Any]:
    """Return tqdm's arguments for the width: without a size, as on a serial line, it would show no bar."""
    try:
        columns = os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    size: dict[str, Any] = {"dynamic_ncols": True} if columns else {"ncols": 79, "nrows": 24}
    columns = columns or 79
    most = columns // 3
    size["desc"] = label if len(label) <= most else f"{label[: most - 3]}..."
    if columns < _NARROW:
        all_of_it = "{percentage:3.0f}%|{bar}| {remaining}"
        size["bar_format"] = "{desc}: " + ("{n_fmt}" if total is None else all_of_it)
    return size


def transfer_line(event: Progress, seconds: float, before: int) -> str:
    """Return one line about a transfer: bytes done (those ``before`` cost no time), speed and time left."""
    words = f"{event.label}: {human_size(event.done)}"
    if event.total:
        words += f" of {human_size(event.total)} ({event.done * 100 // event.total}%)"
    rate = (event.done - before) / seconds if seconds > 0 else 0.0
    if rate < 1:
        return words
    words += f", {human_size(int(rate))}/s"
    if event.total and event.total > event.done:
        left = int((event.total - event.done) / rate)
        words += f", {left // 60}:{left % 60:02d} left"
    return words


# ``--machine-readable``: messages also as JSON lines, for programs (``docs/compatibility.md``).


CAPABILITIES = ("virt-builder", "arch", "config-file", "customize", "json-list", "pxzcat")
"""virt-builder's list of its capabilities, which programs that start it look for."""

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def open_stream(where: str) -> TextIO:
    """Open ``file:NAME``, ``stream:stdout``, ``stream:stderr`` or ``fd:N``; standard output if empty."""
    kind, _, value = where.partition(":")
    try:
        match kind, value:
            case ("", "") | ("stream", "stdout"):
                return sys.stdout
            case ("stream", "stderr"):
                return sys.stderr
            case ("file", name) if name:
                return text_output(_new_file(name), name)
            case ("fd", number) if number.isdecimal():
                return text_output(int(number), f"descriptor {number}")
    except (OSError, OverflowError, ValueError) as error:
        unread = isinstance(error, OSError) and error.errno == errno.ENXIO
        problem = "no process reads this pipe" if unread else getattr(error, "strerror", None) or error
        raise WorkspaceError(
            f"--machine-readable={where}: {problem}",
            hint="start the program that reads it first" if unread else None,
        ) from error
    raise UsageError(
        f"--machine-readable={where} is not a place for messages",
        hint="use file:NAME, stream:stdout, stream:stderr or fd:NUMBER",
    )


def _new_file(name: str) -> int:
    """Open a file for writing; a named pipe that no process reads is an error, not a wait."""
    descriptor = os.open(name, _NEW_FILE | os.O_NONBLOCK, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def json_lines(stream: TextIO) -> Callable[[str, str], None]:
    """Return a function that writes a message's kind and text as a line of JSON, with the time, at once."""

    def write(kind: str, text: str) -> None:
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        local = time.localtime(seconds)
        zone = time.strftime("%z", local)
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{nanoseconds:09d}{zone[:3]}:{zone[3:]}"
        stream.write(f"{json.dumps({'message': text, 'timestamp': moment, 'type': kind})}\n")
        stream.flush()

    return write


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

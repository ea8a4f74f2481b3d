"""Maps exceptions to messages and exit codes: the outermost frame of every program."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, TextIO

from imgbuilder.errors import OperationError, PybuilderError, UsageError
from imgbuilder.events import warn
from imgbuilder.fetch.urls import without_secrets
from imgbuilder.host import paths
from imgbuilder.host.interrupts import Interrupted, interruptible
from imgbuilder.host.text import printable
from imgbuilder.terminal.reporter import OutputLostError, text_output

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgbuilder.terminal.reporter import ConsoleReporter


_BROKEN_PIPE = 128 + signal.SIGPIPE
"""The code that a shell reports for programs that died of this signal, such as virt-builder."""


def run_command(body: Callable[[], object], console: ConsoleReporter, *, verbose: bool) -> int:
    """Run a command to its end and report its errors.

    Args:
        body: The command. A number that it returns is the exit code; else the code is 0.
        console: Shows errors.
        verbose: Whether an error also shows its traceback.

    Returns:
        The exit code: 0, or 1 for a failure, 2 for wrong usage, 3 for missing trust, 128 plus a signal.
    """
    _open_standard_streams()
    try:
        return _run(body, console, verbose=verbose)
    except OutputLostError as error:  # possibly while another error was shown
        _write_no_more()
        # The reader of our output has ended, as in `pybuilder list | head -1`.
        if error.errno == errno.EPIPE:
            return _BROKEN_PIPE
        console.machine = None
        console.error(str(error), None)
        return 1


def _run(body: Callable[[], object], console: ConsoleReporter, *, verbose: bool) -> int:
    try:
        with interruptible(ends_program=True):
            for problem in paths.settle_home(os.environ):
                warn(console, problem)
            code = body()
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
    except Interrupted as stop:
        if not stop.quiet:
            console.error(stop.message, stop.hint)
        return stop.exit_code
    except PybuilderError as error:
        console.error(error.message, error.hint)
        if isinstance(error, OperationError) and error.log_tail:
            sys.stderr.write("\n".join(printable(line) for line in error.log_tail.split("\n")) + "\n")
        if verbose and not isinstance(error, UsageError):  # a traceback says nothing about a wrong word
            import traceback  # late: most runs end well

            sys.stderr.write(printable(without_secrets(traceback.format_exc())))
        return error.exit_code
    except OSError as error:
        console.error(f"{error.filename or 'the system'}: {error.strerror or error}", None)
        return 1


def _open_standard_streams() -> None:
    """Prepare the three standard streams so that printing cannot break the command.

    /dev/null replaces a stream that our caller closed (``docs/threat-model.md`` B24). Otherwise the next file
    that is opened would become standard output, also for the programs that we start, and receive messages.
    What standard error does not accept is dropped: there is no other place to report it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(number, True)  # noqa: FBT003 - it has no other way
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    if _is_real(sys.stdout, 1):
        sys.stdout = text_output(1, "standard output", like=sys.stdout)
    if _is_real(sys.stderr, 2):
        sys.stderr = text_output(2, "standard error", like=sys.stderr, needed=False)


def _is_real(stream: TextIO, number: int) -> bool:
    """Return whether a stream is the process's, and not a replacement by our caller."""
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == number
    except (OSError, ValueError):
        return False


def _write_no_more() -> None:
    """Drop what is still to be printed: at the exit, Python would fail to print it once more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)

"""Where errors become words and exit codes: the outermost frame of every command."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from imgbuilder.console import printable
from imgbuilder.errors import OperationError, PybuilderError, UsageError
from imgbuilder.interrupts import Interrupted, interruptible

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgbuilder.console import ConsoleReporter


_BROKEN_PIPE = 128 + signal.SIGPIPE
"""What a shell says of virt-builder, head's other victims, and all that die of the signal."""


def run_command(body: Callable[[], object], console: ConsoleReporter, *, verbose: bool) -> int:
    """Run a command to its end, whatever that is.

    Args:
        body: The command. What it returns is the exit code when that is a number; else the code is 0.
        console: Shows errors.
        verbose: Whether an error shows its traceback, too.

    Returns:
        The exit code: 0, or 1 for a failure, 2 for wrong usage, 3 for missing trust, 128 plus a signal.
    """
    _open_standard_streams()
    output = sys.stdout
    try:
        with interruptible(ends_program=True):
            code = body()
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
    except Interrupted as stop:
        console.error(stop.message, stop.hint)
        return stop.exit_code
    except PybuilderError as error:
        console.error(error.message, error.hint)
        if isinstance(error, OperationError) and error.log_tail:
            sys.stderr.write("\n".join(printable(line) for line in error.log_tail.split("\n")) + "\n")
        if verbose and not isinstance(error, UsageError):  # a wrong word is nobody's code
            import traceback  # late: most runs end well

            traceback.print_exc()
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has had enough, as in `pybuilder --list | head -1`.
        _write_no_more()
        return _BROKEN_PIPE
    except SystemExit:
        if sys.stdout is output:
            raise
        # At a broken pipe, click puts something in the place of the outputs, and ends with code 1.
        return _BROKEN_PIPE
    except OSError as error:
        console.error(f"{error.filename or 'the system'}: {error.strerror or error}", None)
        _write_no_more()
        return 1


def _open_standard_streams() -> None:
    """Put /dev/null where our caller closed a stream (``reliability.md`` B24).

    Otherwise the next file that is opened would become standard output, for us and for the programs that
    we start, and receive what was meant for people.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(number, True)  # noqa: FBT003 - it has no other way
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _write_no_more() -> None:
    """Drop what is still to be printed: at the exit, Python would fail to print it once more."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)

"""Where errors become words and exit codes: the outermost frame of every command."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from imgbuilder.console import printable
from imgbuilder.errors import OperationError, PybuilderError
from imgbuilder.interrupts import interruptible

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgbuilder.console import ConsoleReporter


def run_command(body: Callable[[], object], console: ConsoleReporter, *, verbose: bool) -> int:
    """Run a command to its end, whatever that is.

    Args:
        body: The command. What it returns is the exit code when that is a number; else the code is 0.
        console: Shows errors.
        verbose: Whether an error shows its traceback, too.

    Returns:
        The exit code: 0, or 1 for a failure, 2 for wrong usage, 3 for missing trust, 128 plus a signal.
    """
    try:
        with interruptible(ends_program=True):
            code = body()
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
    except PybuilderError as error:
        console.error(error.message, error.hint)
        if isinstance(error, OperationError) and error.log_tail:
            sys.stderr.write("\n".join(printable(line) for line in error.log_tail.split("\n")) + "\n")
        if verbose:
            import traceback  # late: most runs end well

            traceback.print_exc()
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has had enough, as in `pybuilder --list | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        console.error(f"{error.filename or 'the system'}: {error.strerror or error}", None)
        return 1

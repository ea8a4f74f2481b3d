"""Starts programs of the system; no other module of the client does.

Programs get an argument list, never a shell; a plain locale, so that their output can be parsed; and a
separate session, so that Ctrl-C on the terminal reaches only pybuilder, which decides when they end. However
a call ends, its program has ended as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imgbuilder.errors import ProgramKilledError, ToolError, WorkspaceError
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.packages import install_hint
from imgindex.environment import plain_environment

_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Folders that are missing from a user's PATH on Debian; sfdisk is in one of them."""

PIPE = subprocess.PIPE
"""For ``start``: a pipe that the caller reads and closes."""
Popen = subprocess.Popen
"""A running program; for annotations elsewhere, since only this module starts programs."""

STDIN = "/proc/self/fd/0"
"""The path by which a program reads its standard input as a file: a minimal container has no /dev/stdin."""

_STDERR_TAIL = 4096
"""Bytes of a failed program's output that an error quotes."""


_UNLESS_ORPHAN = '[ "$PPID" -eq "$0" ] && exec "$@"'


@dataclass(frozen=True)
class Completed:
    """The end of a program."""

    status: int
    """Its exit status; negative is minus the number of the signal that ended it."""
    stdout: bytes
    stderr: str


def find_program(name: str) -> str | None:
    """Return the full path of a program, or None; the system's folders are searched as well."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join([path, *_SYSTEM_FOLDERS]))


def require_program(name: str) -> str:
    """Return the full path of a program."""
    found = find_program(name)
    if found is None:
        raise ToolError(f"the program {name} is not installed", hint=install_hint(name))
    return found


def bound_to(parent: int, *, by: str = "KILL") -> list[str]:
    """Return the words before a command that make the kernel end it when its parent ends.

    setpriv asks the kernel for that. The shell then compares the parent, which may have ended before.

    Args:
        parent: The number of the process that starts the command.
        by: The signal.
    """
    return [require_program("setpriv"), "--pdeathsig", by, "--", "/bin/sh", "-c", _UNLESS_ORPHAN, str(parent)]


def end_group(process: subprocess.Popen[bytes], *, grace: float = 0.0) -> None:
    """End a program that leads its own session, with its children; by SIGTERM first if there is a grace."""
    if process.poll() is not None:
        return  # reaped already: its number may belong to another process by now
    if grace > 0:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a program that leads its own session, and to its children; nothing if it has ended."""
    if process.returncode is None:  # else its number may belong to another process by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait a moment for the end of a program; return whether it has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    return process.returncode is not None


def last_status(process: subprocess.Popen[bytes], *, patience: float) -> int:
    """Return the exit status of a program that is about to end; negative is minus a signal's number."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=patience)
    end_group(process)
    return int(process.returncode)


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: Program name and arguments.
        check: A status other than 0 is an error.
        stdin: Bytes for its standard input; None for an empty one.
        env: Variables to add to ``plain_environment()``.
        cwd: Folder to run it in.
        timeout: Seconds until it is killed; None for no limit.
    """
    name = os.fspath(argv[0])
    program = require_program(name)
    process: subprocess.Popen[bytes] | None = None
    try:
        with uninterrupted():  # a signal must not come between the start and the assignment
            process = subprocess.Popen(
                [program, *[os.fspath(word) for word in argv[1:]]],
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=plain_environment(env),
                cwd=cwd,
                start_new_session=True,
            )
        out, err = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{name} did not end within {timeout:.0f} seconds and was stopped") from error
    finally:
        if process is not None:
            end_group(process)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
    result = Completed(process.returncode, out, err.decode(errors="replace"))
    if check and result.status != 0:
        raise failure(name, result)
    return result


def failure(name: str, result: Completed) -> ToolError:
    """Make the error for a program that ended badly; a ``ProgramKilledError`` when a signal ended it."""
    words = result.stderr[-_STDERR_TAIL:].strip()
    ending = f": {words}" if words else ""
    if result.status >= 0:
        return ToolError(f"{name} failed with status {result.status}{ending}")
    try:
        number = signal.Signals(-result.status).name
    except ValueError:  # a real-time signal has no name
        number = f"signal {-result.status}"
    # A SIGKILL that was not sent by us comes from the kernel.
    hint = "probably out of memory (see: dmesg)" if result.status == -signal.SIGKILL else None
    return ProgramKilledError(f"{name} was killed by {number}{ending}", hint=hint)


@dataclass(frozen=True)
class OutputStream:
    """A running program whose standard output is read while it runs."""

    stdout: IO[bytes]


@contextlib.contextmanager
def streaming(
    argv: Sequence[str | Path], *, stdin: IO[bytes] | None = None, env: Mapping[str, str] | None = None
) -> Iterator[OutputStream]:
    """Run a program and read its output while it runs.

    Leaving the block normally waits for the program and checks its status; read to
    the end first. Leaving it by an exception kills the program.
    """
    name = os.fspath(argv[0])
    program = require_program(name)
    with _scratch_file(name) as words:
        process: subprocess.Popen[bytes] | None = None
        try:
            with uninterrupted():
                process = subprocess.Popen(
                    [program, *[os.fspath(word) for word in argv[1:]]],
                    stdin=subprocess.DEVNULL if stdin is None else stdin,
                    stdout=subprocess.PIPE,
                    stderr=words,
                    env=plain_environment(env),
                    start_new_session=True,
                )
            assert process.stdout is not None
            yield OutputStream(process.stdout)
            process.stdout.close()
            process.wait()
        finally:
            if process is not None:
                assert process.stdout is not None
                process.stdout.close()
                end_group(process)
        if process.returncode != 0:
            words.seek(0)
            raise failure(name, Completed(process.returncode, b"", words.read().decode(errors="replace")))


def _scratch_file(name: str) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise WorkspaceError(
            f"no temporary file can be made for {name}: {error.strerror or error}",
            hint="free some space in the folder for temporary files, or set TMPDIR to another one",
        ) from error


def run_on_terminal(argv: Sequence[str | Path]) -> int:
    """Run a program that has our terminal and our session; return its status, negative for a signal."""
    program = require_program(os.fspath(argv[0]))
    process: subprocess.Popen[bytes] | None = None
    try:
        with uninterrupted():
            process = subprocess.Popen(
                [program, *[os.fspath(word) for word in argv[1:]]], env=plain_environment()
            )
        return process.wait()
    finally:
        if process is not None and process.poll() is None:
            process.terminate()
            process.wait()


def start(
    argv: Sequence[str | Path],
    *,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that the caller ends with ``end_group``.

    Call it under ``uninterrupted()``, inside the ``try`` whose ``finally`` ends the program: otherwise a
    signal between the start and the assignment would leave it running.
    """
    program = require_program(os.fspath(argv[0]))
    return subprocess.Popen(
        [program, *[os.fspath(word) for word in argv[1:]]],
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.DEVNULL if stdout is None else stdout,
        stderr=subprocess.DEVNULL if stderr is None else stderr,
        pass_fds=tuple(pass_fds),
        env=plain_environment(env),
        start_new_session=True,
    )

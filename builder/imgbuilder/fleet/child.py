"""The process that builds one host: ``pybuilder build``, with the recipe in a file that has no name.

So nothing about the host is in its arguments. It ends with the process that started it. An image that goes to
another machine is built and put there by one process, ``delivery``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgbuilder.errors import ProgramKilledError
from imgbuilder.fleet.state import Record
from imgbuilder.host import process
from imgbuilder.host.text import one_line
from imgbuilder.outputs.store import Remote
from imgindex.files import open_file

_TAIL = 4096
_LONGEST = 300
_NO_SPACE = re.compile("no space left|not enough space", re.IGNORECASE)
"""Words of errors about a full disk, our own and the system's."""
PROGRAM: Sequence[str] = (sys.executable, "-m", "imgbuilder")
"""The program that builds a host."""
BUILD = ("build", "--recipe", "/dev/stdin")


@dataclass(frozen=True)
class Delivery:
    """The way of a finished image to another machine.

    Attributes:
        host: The host.
        remote: The place there.
        format: The format of the image.
        arch: The architecture of its template.
        state: The folder of the fleet's records.
    """

    host: str
    remote: Remote
    format: str
    arch: str
    state: str

    def as_data(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    @classmethod
    def from_data(cls, fields: Mapping[str, Any]) -> Delivery:
        """Return the delivery that ``as_data`` described."""
        return cls(**{**fields, "remote": Remote.from_data(fields["remote"])})


def start_build(
    recipe: str,
    log: Path,
    words: Sequence[str],
    variables: Mapping[str, str] | None = None,
    delivery: Delivery | None = None,
) -> process.Popen[bytes]:
    """Start the build of a recipe; the caller ends it with ``process.end_group``.

    Args:
        recipe: The recipe.
        log: The file for its messages, in place of an earlier one.
        words: Options of ``pybuilder build``.
        variables: What is added to its environment.
        delivery: What follows the build, for an image that goes to another machine.

    Raises:
        OSError: It cannot be started.
    """
    command, given = [*PROGRAM, *BUILD, *words], recipe
    if delivery is not None:
        given = json.dumps({"recipe": recipe, "command": command, "delivery": delivery.as_data()})
        command = [sys.executable, "-m", "imgbuilder.fleet.delivery"]
    with tempfile.TemporaryFile() as file, _new_file(log) as output:
        file.write(given.encode())
        file.seek(0)
        # Our own program gets our whole environment: it may have the values of secrets.
        return process.start(
            [*process.bound_to(os.getpid(), by="TERM"), *command],
            stdin=file,
            stdout=output,
            stderr=output,
            env={**os.environ, **(variables or {})},
        )


def ended(record: Record, status: int, seconds: float, log: Path) -> Record:
    """Complete the record of a build that ended with an exit status, negative for a signal."""
    record = replace(
        record,
        built=status == 0,
        seconds=round(seconds, 1),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if record.built:
        _forget(Path(record.output))
        return record
    message, hint = _error_in(_tail(log))
    if not message:
        failure = process.failure("the build", process.Completed(status, b"", ""))
        message, hint = failure.message, failure.hint or ""
        if not isinstance(failure, ProgramKilledError):
            hint = f"see {log}"
    return replace(record, message=message, hint=hint)


def is_passing(record: Record, status: int) -> bool:
    """Return whether the machine may be to blame for a failed build: its memory, or its disk."""
    return not record.built and (status < 0 or _NO_SPACE.search(record.message) is not None)


def last_line(log: Path) -> str:
    """Return the last line of a log."""
    return one_line(_tail(log).rstrip("\n").split("\n")[-1], _LONGEST)


def _forget(image: Path) -> None:
    """Give back the memory that an image takes, which is on the disk: the next ones need it."""
    with contextlib.suppress(OSError), open_file(image) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _tail(log: Path) -> str:
    """Return the end of a log."""
    try:
        with open_file(log, os.O_NOFOLLOW) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read(_TAIL).decode(errors="replace")
    except OSError:
        return ""


def _error_in(text: str) -> tuple[str, str]:
    """Return the last error of a log, and its hint, which is indented below it."""
    lines = text.split("\n")
    for at in range(len(lines) - 1, -1, -1):
        start, mark, message = lines[at].partition("pybuilder: error: ")
        if mark and not start:
            hint = lines[at + 1].strip() if at + 1 < len(lines) and lines[at + 1].startswith("  ") else ""
            return one_line(message, _LONGEST), one_line(hint, _LONGEST)
    return "", ""

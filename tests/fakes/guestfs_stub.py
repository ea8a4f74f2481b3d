"""A stand-in for the libguestfs binding, loaded by the real worker process in unit tests.

``install`` makes an "interpreter" that runs the worker with this file in place
of the binding. What a call does is its own name.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

EVENT_APPLIANCE, EVENT_LIBRARY, EVENT_WARNING, EVENT_TRACE, EVENT_PROGRESS = 1, 2, 4, 8, 16


class GuestFS:
    """A handle whose methods misbehave on request."""

    def __init__(self, **_options: Any) -> None:
        self._callbacks: list[tuple[Any, int]] = []

    def set_event_callback(self, callback: Any, events: int) -> None:
        self._callbacks.append((callback, events))

    def _tell(self, event: int, text: str, array: list[int]) -> None:
        for callback, events in self._callbacks:
            if events & event:
                callback(event, 0, text, array)

    def version(self) -> dict[str, Any]:
        return {"major": 1, "minor": 2, "release": 3, "extra": ""}

    def echo(self, value: Any, **options: Any) -> Any:
        return [value, sorted(options)] if options else value

    def mapping(self) -> dict[str, int]:
        return {"a": 1}

    def refuse(self) -> None:
        raise RuntimeError("refuse: /x: No such file or directory")

    def gone(self) -> None:
        raise RuntimeError("gone: appliance closed the connection unexpectedly.")

    def killed(self) -> None:
        raise RuntimeError(
            "/tmp/.pybuilder-run-x/hypervisor killed by signal 9 (Killed).\nTo see full error ..."
        )

    def talk(self) -> str:
        self._tell(EVENT_APPLIANCE, "first line\r\nsecond ", [])
        self._tell(EVENT_APPLIANCE, "half\n", [])
        self._tell(EVENT_PROGRESS, "", [0, 0, 5, 10])
        return "said"

    def chown(self, owner: int, group: int, path: str) -> None:
        raise OverflowError("signed integer is greater than maximum")

    def surprise(self) -> None:
        raise MemoryError

    def names(self, count: int) -> list[str]:
        return [f"{number:0200}" for number in range(count)]

    def download_offset(self, remote: str, local: str, offset: int, size: int) -> None:
        Path(local).write_bytes(bytes(size))

    def blame(self, size: int) -> None:
        raise RuntimeError("begin " + "x" * size + ": No such file or directory")

    def chatter(self) -> None:
        while True:
            time.sleep(0.05)
            self._tell(EVENT_APPLIANCE, "still printing\n", [])

    def hang(self) -> None:
        time.sleep(600)

    def die(self) -> None:
        sys.stderr.write("worker says why\n")
        sys.stderr.flush()
        os._exit(3)

    def complain(self, size: int) -> None:
        try:
            for _ in range(size >> 12):
                os.write(2, b"x" * 4096)
        finally:
            os._exit(3)

    def close(self) -> None:
        return


def install(folder: Path) -> Path:
    """Write an interpreter that has this binding; return its path."""
    (folder / "guestfs.py").write_text(Path(__file__).read_text())
    interpreter = folder / "python"
    # The worker is started with -I, which would ignore PYTHONPATH: drop that one option.
    interpreter.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    return interpreter

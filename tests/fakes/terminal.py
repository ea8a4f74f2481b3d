"""A real terminal, on which a test starts a program, reads and types."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal with a program that it controls.

    Args:
        words: The program and its arguments.
        environment: Its environment.
        folder: Its working folder.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self._ours, self._theirs = pty.openpty()
        self.before = self.settings()
        self.text = ""
        self._read_to = 0
        self.process = subprocess.Popen(
            ["env", "--default-signal=HUP,INT,QUIT,TERM", "setsid", "--ctty", *words],
            stdin=self._theirs, stdout=self._theirs, stderr=self._theirs, env=environment, cwd=folder,
        )  # fmt: skip

    def settings(self) -> tuple[list[object], int]:
        """Return the terminal's settings, and the flags of its open file."""
        return termios.tcgetattr(self._theirs), fcntl.fcntl(self._theirs, fcntl.F_GETFL)

    def wait_for(self, pattern: str, limit: float = 30) -> re.Match[str]:
        """Wait until the output has a pattern after the one that was found last; colours are left out."""
        end = time.monotonic() + limit
        while not (found := re.compile(pattern).search(self.text, self._read_to)):
            assert time.monotonic() < end, f"no {pattern!r} after {limit} s:\n{self.text[-4000:]}"
            if select.select([self._ours], [], [], 0.1)[0]:
                piece = os.read(self._ours, 4096).decode(errors="replace")
                self.text = _COLOURS.sub("", self.text + piece)
        self._read_to = found.end()
        return found

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait(self, limit: float = 30) -> int:
        """Return the exit status of the program; what it writes meanwhile is read."""
        end = time.monotonic() + limit
        while self.process.poll() is None:
            assert time.monotonic() < end, f"no end after {limit} s:\n{self.text[-4000:]}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self.text += os.read(self._ours, 4096).decode(errors="replace")
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

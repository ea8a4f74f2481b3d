"""A machine on a real terminal: its settings come back, however QEMU and pybuilder end."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.qemu_on_terminal import Programs
from tests.fakes.template import make_disk

WAITING = "the console of the guest"


class Terminal:
    """A terminal on which pybuilder runs an image."""

    def __init__(self, image: Path, environment: dict[str, str]) -> None:
        self.ours, self.theirs = pty.openpty()
        self.before = self.settings()
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "imgbuilder", "run", str(image)],
            stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, env=environment,
            start_new_session=True,
        )  # fmt: skip

    def settings(self) -> tuple[list[object], int]:
        return termios.tcgetattr(self.theirs), fcntl.fcntl(self.theirs, fcntl.F_GETFL)

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 30
        while text not in self.text:
            assert time.monotonic() < end, self.text
            if select.select([self.ours], [], [], 0.1)[0]:
                self.text += os.read(self.ours, 4096).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Programs:
    return Programs(tmp_path / "programs", monkeypatch)


@pytest.fixture
def terminal(tmp_path: Path, programs: Programs) -> Iterator[Terminal]:
    programs.how("wait")
    made = Terminal(make_disk(tmp_path / "disk.img"), {**os.environ, "TMPDIR": str(tmp_path)})
    made.wait_for(WAITING)
    while not (programs.folder / "pid").exists() or not (programs.folder / "pid").read_text():
        time.sleep(0.01)
    yield made
    made.close()


def _is_alive(programs: Programs) -> bool:
    return Path(f"/proc/{(programs.folder / 'pid').read_text()}").exists()


def _wait_until_gone(programs: Programs) -> None:
    end = time.monotonic() + 10
    while _is_alive(programs):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_both_and_puts_the_terminal_right(
    terminal: Terminal, programs: Programs, number: signal.Signals
) -> None:
    assert terminal.settings() != terminal.before
    terminal.process.send_signal(number)
    assert terminal.process.wait(20) == 128 + number
    assert not _is_alive(programs)
    assert terminal.settings() == terminal.before


def test_a_hypervisor_that_is_killed_leaves_a_usable_terminal(terminal: Terminal, programs: Programs) -> None:
    os.kill(int((programs.folder / "pid").read_text()), signal.SIGKILL)
    assert terminal.process.wait(20) == 1
    terminal.wait_for("ended with status -9")
    assert terminal.settings() == terminal.before


def test_the_hypervisor_ends_when_pybuilder_is_killed(terminal: Terminal, programs: Programs) -> None:
    terminal.process.kill()
    terminal.process.wait()
    _wait_until_gone(programs)


def test_temporary_files_are_where_tmpdir_says(
    terminal: Terminal, tmp_path: Path, programs: Programs
) -> None:
    assert f"TMPDIR={tmp_path}" in programs.calls[-1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".pybuilder")) == []

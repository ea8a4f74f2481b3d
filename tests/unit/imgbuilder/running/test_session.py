"""A machine on a real terminal: its settings come back, however QEMU and pybuilder end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.qemu_on_terminal import Programs
from tests.fakes.template import make_disk
from tests.fakes.terminal import Terminal

WAITING = "the console of the guest"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Programs:
    return Programs(tmp_path / "programs", monkeypatch)


@pytest.fixture
def terminal(tmp_path: Path, programs: Programs) -> Iterator[Terminal]:
    programs.how("wait")
    words = [sys.executable, "-m", "imgbuilder", "run", str(make_disk(tmp_path / "disk.img"))]
    made = Terminal(words, {**os.environ, "TMPDIR": str(tmp_path)}, tmp_path)
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
    assert terminal.wait() == 128 + number
    assert not _is_alive(programs)
    assert terminal.settings() == terminal.before


def test_a_hypervisor_that_is_killed_leaves_a_usable_terminal(terminal: Terminal, programs: Programs) -> None:
    os.kill(int((programs.folder / "pid").read_text()), signal.SIGKILL)
    assert terminal.wait() == 1
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

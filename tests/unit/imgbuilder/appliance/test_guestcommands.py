"""The shell text around a guest's commands, run by a real shell in place of the guest's."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING, Any, cast

import psutil
import pytest

from imgbuilder.appliance.guestcommands import GuestCommands

if TYPE_CHECKING:
    from pathlib import Path

    from imgbuilder.appliance.connection import Connection


class HostShell:
    """Answers libguestfs's ``sh`` with this host's shell."""

    def __init__(self, path: str = "/usr/bin:/bin") -> None:
        self.limits: list[float | None] = []
        self._path = path

    def call(self, method: str, *args: Any, limit: float | None = 600.0) -> str:
        assert method == "sh"
        self.limits.append(limit)
        return subprocess.run(
            ["/bin/sh", "-c", args[0]], capture_output=True, text=True, check=True, env={"PATH": self._path}
        ).stdout


def commands(shell: HostShell, scratch: Path) -> GuestCommands:
    return GuestCommands(cast("Connection", shell), scratch)


@pytest.mark.parametrize("limit", [None, 60.0])
def test_status_and_output(tmp_path: Path, limit: float | None) -> None:
    done = commands(HostShell(), tmp_path).sh("echo one; echo two >&2; read x; exit 7", limit=limit)
    assert (done.status, done.output) == (7, "one\ntwo\n")


@pytest.mark.parametrize("limit", [None, 60.0])
def test_a_signal_is_a_status(tmp_path: Path, limit: float | None) -> None:
    assert commands(HostShell(), tmp_path).sh("kill -SEGV $$", limit=limit).status == 128 + 11


def test_b8_what_takes_too_long_is_stopped_with_its_children(tmp_path: Path) -> None:
    shell = HostShell()
    started = time.monotonic()
    pids = tmp_path / "pids"
    done = commands(shell, tmp_path).sh(f"sleep 300 & echo $! >{pids}; echo begun; sleep 300", limit=0.9)
    assert done.status == 124
    assert done.output == "begun\n"
    assert time.monotonic() - started < 60
    with contextlib.suppress(psutil.NoSuchProcess):  # or nobody has asked how it ended yet
        assert psutil.Process(int(pids.read_text())).status() == psutil.STATUS_ZOMBIE
    assert shell.limits == [60.9]


def test_b8_a_guest_without_timeout_is_stopped_with_the_request(tmp_path: Path) -> None:
    for program in ("mktemp", "tail", "rm"):
        (tmp_path / program).symlink_to(f"/usr/bin/{program}")
    shell = HostShell(str(tmp_path))
    assert commands(shell, tmp_path).sh("echo done", limit=2).output == "done\n"
    assert shell.limits == [62]

"""The script around a guest's commands, run by a real shell in place of the guest's."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from imgbuilder.appliance.connection import Connection
from imgbuilder.appliance.guestcommands import GuestCommands
from imgbuilder.errors import GuestCallError
from tests.fakes.libguestfs import HostLibguestfs


class HostShell:
    """Answers libguestfs's ``sh`` with this host's shell."""

    def __init__(self, path: str = "/usr/bin:/bin") -> None:
        self.limits: list[float | None] = []
        self._path = path

    def call(self, method: str, *args: Any, most: int | None, limit: float | None = 600.0) -> str:
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


class LyingShell(HostShell):
    """A guest's shell with an arbitrary answer, within the size of a message."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self._answer = answer

    def call(self, method: str, *args: Any, most: int | None, limit: float | None = 600.0) -> str:
        return self._answer


@pytest.mark.parametrize(
    "answer",
    ["", "no status", "\n", "\n none", "\n-1 none", "\n256 none", "\n+0 none", "\n1_0 none", "\n\u0663 none",
     f"\n{'9' * 5000} none", "\n0x1 none", "\0\n\0 none", "\n0 none\n", "\ufffd" * 4_000_000],
)  # fmt: skip
def test_a_shell_that_prints_no_status_is_a_readable_error(tmp_path: Path, answer: str) -> None:
    with pytest.raises(GuestCallError, match="unexpected answer of the guest's shell") as raised:
        commands(LyingShell(answer), tmp_path).sh("true")
    assert len(raised.value.message) < 1000
    assert raised.value.message.isprintable()


def test_only_the_end_of_the_output_is_kept(tmp_path: Path) -> None:
    done = commands(LyingShell("a" * 4_000_000 + "z\n7 none"), tmp_path).sh("true")
    assert (done.status, done.output[-1], len(done.output)) == (7, "z", 64 * 1024)


def _runs(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.row("B8")
def test_a_command_beyond_its_limit_is_stopped_with_its_children(tmp_path: Path) -> None:
    shell = HostShell()
    started = time.monotonic()
    pids = tmp_path / "pids"
    done = commands(shell, tmp_path).sh(f"sleep 300 & echo $! >{pids}; echo begun; sleep 300", limit=0.9)
    assert done.status == 124
    assert done.output == "begun\n"
    assert time.monotonic() - started < 60
    child, end = int(pids.read_text()), time.monotonic() + 10
    while _runs(child) and time.monotonic() < end:  # it may be just ending
        time.sleep(0.01)
    assert not _runs(child)
    assert shell.limits == [60.9]


@pytest.mark.row("B8")
def test_a_guest_without_timeout_is_stopped_with_the_request(tmp_path: Path) -> None:
    for program in ("mktemp", "tail", "rm"):
        (tmp_path / program).symlink_to(f"/usr/bin/{program}")
    shell = HostShell(str(tmp_path))
    assert commands(shell, tmp_path).sh("echo done", limit=2).output == "done\n"
    assert shell.limits == [62]


OWN = "search example.org\n"


@pytest.mark.parametrize("network", [True, False])
@pytest.mark.parametrize("own", [OWN, "link", None])
@pytest.mark.parametrize(
    ("script", "result"),
    [
        ("true", "own"),
        ("cat /etc/resolv.conf; exit 3", "own"),
        ("echo nameserver 192.0.2.53 >/etc/resolv.conf", "nameserver 192.0.2.53\n"),
        ("echo options rotate >>/etc/resolv.conf; false", "own and options rotate\n"),
        ("ln -sf ../run/stub.conf /etc/resolv.conf", "-> ../run/stub.conf"),
        ("rm /etc/resolv.conf", None),
    ],
)
def test_changes_of_resolv_conf_stay(
    tmp_path: Path, network: bool, own: str | None, script: str, result: str | None
) -> None:
    """libguestfs replaces the file while commands run, and drops all changes afterwards."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    file = tmp_path / "etc/resolv.conf"
    if own == "link":
        file.symlink_to("../run/resolv.conf")  # to nothing, as in images of Ubuntu
    elif own is not None:
        file.write_text(own)
    if not network and own == "link" and result not in ("own", "-> ../run/stub.conf", None):
        pytest.skip("the command writes through the link, as it would in the guest")
    host = HostLibguestfs(tmp_path, network=network)
    GuestCommands(cast("Connection", host), tmp_path).sh(script)
    if result is not None and result.startswith("own"):
        text = OWN if own == OWN else ""
        result = text + result.removeprefix("own and ").removeprefix("own") or None
        if own == "link" and result is None:
            result = "-> ../run/resolv.conf"
    if result is not None and result.startswith("-> "):
        assert file.readlink() == type(file)(result.removeprefix("-> "))
    elif result is None:
        assert not file.exists()
    else:
        assert file.read_text() == result
        assert not file.is_symlink()
    assert [path.name for path in (tmp_path / "etc").iterdir() if path != file] == []

"""A machine on a real terminal: its settings come back, however QEMU and pybuilder end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.running.console import run_key_file
from tests.fakes.bootsector import SECTOR, make_guest
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


@pytest.mark.row("Q1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_both_and_puts_the_terminal_right(
    terminal: Terminal, programs: Programs, number: signal.Signals
) -> None:
    assert terminal.settings() != terminal.before
    terminal.process.send_signal(number)
    assert terminal.wait() == 128 + number
    assert not _is_alive(programs)
    assert terminal.settings() == terminal.before


@pytest.mark.row("Q1")
def test_a_hypervisor_that_is_killed_leaves_a_usable_terminal(terminal: Terminal, programs: Programs) -> None:
    os.kill(int((programs.folder / "pid").read_text()), signal.SIGKILL)
    assert terminal.wait() == 1
    terminal.wait_for("ended with status -9")
    assert terminal.settings() == terminal.before


@pytest.mark.row("Q1")
def test_the_hypervisor_ends_when_pybuilder_is_killed(terminal: Terminal, programs: Programs) -> None:
    terminal.process.kill()
    terminal.process.wait()
    _wait_until_gone(programs)


def test_temporary_files_are_where_tmpdir_says(
    terminal: Terminal, tmp_path: Path, programs: Programs
) -> None:
    assert f"TMPDIR={tmp_path}" in programs.calls[-1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".pybuilder")) == []


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed")
@pytest.mark.parametrize(("ending", "keep"), [("q", False), ("\x01x", False), ("q", True)])
def test_a_guest_has_the_terminal_until_it_is_off(
    tmp_path: Path, home: Path, ending: str, keep: bool
) -> None:
    image = make_guest(tmp_path / "guest.img")
    words = [sys.executable, "-m", "imgbuilder", "run", str(image), "--memory", "16"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    terminal = Terminal([*words, *(["--keep"] if keep else [])], environment, tmp_path)
    try:
        terminal.wait_for(r"tiny guest\s")
        terminal.type("\x03 and \x1a write")  # Ctrl-C and Ctrl-Z, which a terminal would show as ^C and ^Z
        terminal.wait_for("\x03 and \x1a write")
        terminal.type(ending)
        assert terminal.wait() == 0
        assert terminal.settings() == terminal.before
    finally:
        terminal.close()
    assert image.read_bytes()[512:1024] == (SECTOR if keep else bytes(512))
    assert [path.name for path in tmp_path.iterdir() if path.name not in {"home", "out"}] == ["guest.img"]


_SSHD = """\
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {key}.pub
PermitRootLogin yes
StrictModes no
PasswordAuthentication no
PidFile none
"""


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH's client is not installed")
def test_first_runs_at_once_make_one_pair_of_keys(tmp_path: Path) -> None:
    program = "from imgbuilder.running.console import run_key_file; print(run_key_file())"
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    words = [sys.executable, "-c", program]
    makers = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    (key,) = {maker.communicate()[0].strip() for maker in makers}
    assert {maker.returncode for maker in makers} == {0}
    public = subprocess.run(["ssh-keygen", "-y", "-f", key], check=True, capture_output=True, text=True)
    assert Path(f"{key}.pub").read_text().startswith(public.stdout.strip())
    assert {path.name for path in Path(key).parent.iterdir()} == {"id_ed25519", "id_ed25519.pub", "lock"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be logged in as root")
@pytest.mark.skipif(shutil.which("sshd") is None, reason="OpenSSH's server is not installed")
def test_a_real_ssh_logs_in_at_a_real_server(tmp_path: Path, programs: Programs) -> None:
    (programs.folder / "ssh").unlink()
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # the server insists, as root
    key = run_key_file()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "host"], check=True)
    configuration = tmp_path / "sshd_config"
    configuration.write_text(_SSHD.format(folder=tmp_path, key=key))
    programs.how(f"sshd {configuration}")
    words = [
        sys.executable,
        "-m",
        "imgbuilder",
        "run",
        str(make_guest(tmp_path / "guest.img")),
        "--ssh",
        "--keep",
    ]
    terminal = Terminal(words, {**os.environ, "TMPDIR": str(tmp_path), "TERM": "dumb"}, tmp_path)
    try:
        terminal.wait_for("Waiting for the SSH server of the guest")
        terminal.wait_for("[#$] ")
        terminal.type("echo $((6 * 7)) $TERM\r")
        terminal.wait_for("\n42 dumb")
        terminal.type("exit 3\r")
        assert terminal.wait() == 3
        assert terminal.settings() == terminal.before
        assert "was switched off" in terminal.text, "a server of SSH has no power button"
    finally:
        terminal.close()

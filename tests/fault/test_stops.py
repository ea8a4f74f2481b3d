"""A signal ends every command in every phase; no other source, image or file is tried instead.

Each command first runs to its end with programs that write down that they were
started. Then it runs again once for each of them: that program waits for ever,
and the signal comes. Afterwards nothing more may have been started, but what
cleans up.
"""

from __future__ import annotations

import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import guestfs_build
from tests.fakes.keys import KeyMaker
from tests.fakes.template import make_disk, make_site

LIMIT = 30.0
"""Seconds that catch a command that hangs; it ends in a tenth of one on an idle machine."""
PROGRAMS = ("gpg", "gpgv", "xz", "zstd", "qemu-img", "qemu-io", "sfdisk", "qemu-system-x86_64")

SHIM = """#!/bin/sh
exec 9>>{log}; flock 9
echo {name} >&9
turn=$(wc -l <{log})
flock -u 9
if [ "$turn" = "$STALL_AT" ]; then touch {marker}; exec sleep 600; fi
exec {real} "$@"
"""


@dataclass(frozen=True)
class Desk:
    """A user's and a publisher's folders, with programs that can be stopped.

    Attributes:
        base: All of it.
        key: The publisher's key.
        gnupg: The home of that key.
    """

    base: Path
    key: str
    gnupg: Path

    def environment(self, stall_at: int) -> dict[str, str]:
        return {
            "HOME": str(self.base / "home"), "PATH": f"{self.base / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin",
            "TMPDIR": str(self.base / "tmp"), "VIRT_BUILDER_DIRS": "/nonexistent", "LANG": "C.UTF-8",
            "PYBUILDER_GUESTFS_PYTHON": str(self.base / "stub/python"), "GNUPGHOME": str(self.gnupg),
            "LIBGUESTFS_HV": str(self.base / "bin/hypervisor"), "PYBUILDER_INSTANT": "no",
            "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg", "PYBUILDER_HOSTSIDE": "never",
            "STALL_AT": str(stall_at),
        }  # fmt: skip

    def start(self, words: list[str], stall_at: int = 0) -> subprocess.Popen[bytes]:
        for name in ("log", "marker"):
            (self.base / name).unlink(missing_ok=True)
        (self.base / "log").touch()
        for name in ("out", "home", "tmp"):
            shutil.rmtree(self.base / name, ignore_errors=True)
            (self.base / name).mkdir()
        shutil.copytree(self.base / "skeleton", self.base / "home", dirs_exist_ok=True)
        module = {"pybuilder": "imgbuilder", "pybuilder-repo": "imgrepo"}[words[0]]
        # Tests in the background ignore some signals, and the command would inherit that.
        command = ["env", "--default-signal=HUP,INT,QUIT,TERM", sys.executable, "-m", module, *words[1:]]
        with (self.base / "said").open("wb") as said:
            return subprocess.Popen(
                command, cwd=self.base, env=self.environment(stall_at), stdin=subprocess.DEVNULL,
                stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def watch(self, name: str, real: str | Path) -> None:
        """Let a program write down that it was started; it waits when its turn has come."""
        shim = self.base / "bin" / name
        shim.write_text(SHIM.format(log=self.base / "log", marker=self.base / "marker", name=name, real=real))
        shim.chmod(0o755)

    def said(self) -> str:
        return (self.base / "said").read_text(errors="replace")

    def started(self) -> list[str]:
        return (self.base / "log").read_text().split()


@pytest.fixture
def desk(tmp_path: Path, keys: KeyMaker) -> Desk:
    for name in ("bin", "stub", "images", "first", "second"):
        (tmp_path / name).mkdir()
    made = Desk(tmp_path, keys.make("publisher"), keys.home)
    for program in PROGRAMS:
        real = shutil.which(program, path="/usr/bin:/bin:/usr/sbin:/sbin")
        assert real is not None
        made.watch(program, real)
    (tmp_path / "bin/hypervisor").write_text('#!/bin/sh\nexec sleep "$1"\n')
    (tmp_path / "bin/hypervisor").chmod(0o755)
    guestfs_build.install(tmp_path / "stub")
    repos = tmp_path / "skeleton/.config/pybuilder/repos.d"
    repos.mkdir(parents=True)
    for name in ("first", "second"):
        site = make_site(tmp_path / name, keys)
        site.configure(tmp_path / "skeleton/.config")
        (repos / "test.conf").rename(repos / f"{name}.conf")
        text = (repos / f"{name}.conf").read_text().replace("[test]", f"[{name}]")
        (repos / f"{name}.conf").write_text(text)
        make_disk(tmp_path / "images" / f"{name}.img")
    return made


IMAGES = ["images/first.img", "images/second.img"]
COMMANDS = {
    "list": ["pybuilder", "--list"],
    "plan": ["pybuilder", "tiny", "--dry-run", "--size", "64M"],
    "build": ["pybuilder", "tiny", "-o", "out/x.qcow2", "--format", "qcow2", "--size", "64M"],
    "cache-all": ["pybuilder", "--cache-all-templates"],
    "bundle": ["pybuilder", "cache", "export", "out/b.pybundle", "tiny"],
    "doctor": ["pybuilder", "doctor"],
    "add-source": ["pybuilder", "source", "add", "third", "first/index.asc", "--gpgkey", "first/key.gpg"],
    "publish": ["pybuilder-repo", "publish", "images", "-o", "out", "-K", "{key}", "--zstd"],
    "validate": ["pybuilder-repo", "validate", "--full", "--gpgkey", "first/key.gpg", "first/index.asc"],
    "boot-check": [
        "pybuilder-repo",
        "boot-check",
        "images/first.img",
        "images/second.img",
        "--time",
        "5",
        "-o",
        "out",
    ],
}


def stop(desk: Desk, running: subprocess.Popen[bytes], number: signal.Signals, where: str) -> None:
    """Send a signal to a command that waits; see that it ends with it, and starts nothing more."""
    before = desk.started()
    running.send_signal(number)
    assert running.wait(LIMIT) == 128 + number, f"{where}: {desk.said()}"
    assert f"stopped by {number.name}" in desk.said(), where
    assert "Traceback" not in desk.said(), where
    assert desk.started() == before, where
    assert list((desk.base / "out").rglob("*.part")) == [], where
    assert list((desk.base / "tmp").iterdir()) == [], where


def wait_for(running: subprocess.Popen[bytes], reached: Callable[[], object], desk: Desk, where: str) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert running.poll() is None, f"{where}: it ended by itself: {desk.said()}"
        assert time.monotonic() < end, f"{where} was never reached: {desk.said()}"
        time.sleep(0.01)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_ends_it_in_every_program(desk: Desk, command: str) -> None:
    words = [word.format(key=desk.key) for word in COMMANDS[command]]
    if command == "doctor":  # the real one tries KVM, which may take 15 seconds
        quick = desk.base / "quick"
        quick.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "QEMU emulator version 7.2"\n')
        quick.chmod(0o755)
        desk.watch("qemu-system-x86_64", quick)
    whole = desk.start(words)
    assert whole.wait(60) in {0, 1}, desk.said()
    programs = desk.started()
    # The first start of each program: with what follows, it is where another source or image would be next.
    turns = sorted({programs.index(name) for name in programs})
    assert turns, desk.said()
    for count, turn in enumerate(turns):
        where = f"{command}: {programs[turn]}, the {turn + 1}th program"
        running = desk.start(words, turn + 1)
        wait_for(running, (desk.base / "marker").exists, desk, where)
        stop(desk, running, (signal.SIGINT, signal.SIGTERM)[count % 2], where)


NETWORK = {
    "list": ["pybuilder", "--list"],
    "plan": ["pybuilder", "tiny", "--dry-run"],
    "build": ["pybuilder", "tiny", "-o", "out/x.img"],
    "cache-all": ["pybuilder", "--cache-all-templates"],
    "bundle": ["pybuilder", "cache", "export", "out/b.pybundle", "tiny"],
    "add-source": ["pybuilder", "source", "add", "third", "{url}index.asc", "--gpgkey", "first/key.gpg"],
    "mirror": ["pybuilder-repo", "mirror", "{url}index.asc", "out", "--key", "first/key.gpg"],
    "import": ["pybuilder-repo", "import", "{url}disk.qcow2", "out", "--checksum", "0" * 128],
}


@pytest.mark.parametrize("command", NETWORK)
def test_a_signal_ends_it_while_a_server_is_silent(desk: Desk, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        first = desk.base / "skeleton/.config/pybuilder/repos.d/first.conf"
        first.write_text(first.read_text().replace(str(desk.base / "first/index.asc"), f"{url}index.asc"))
        running = desk.start([word.format(url=url) for word in NETWORK[command]])
        wait_for(running, lambda: select.select([silent], [], [], 0)[0], desk, command)
        time.sleep(0.2)
        stop(desk, running, signal.SIGINT, command)

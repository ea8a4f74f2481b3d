"""Programs that end with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from imgbuilder.host import process

SLOW = """#!/bin/sh
echo $$ >{folder}/new && mv {folder}/new {folder}/started
while [ ! -e {folder}/go ]; do sleep 0.01; done
exec {real} "$@"
"""
"""A setpriv that waits before it asks the kernel for anything."""


def start_slowly(folder: Path, code: str) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """Run Python code that starts one program by setpriv; return both, the program still waiting."""
    slow = folder / "setpriv"
    slow.write_text(SLOW.format(folder=folder, real=process.require_program("setpriv")))
    slow.chmod(0o755)
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    )
    deadline = time.monotonic() + 30
    while not (folder / "started").exists():
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return parent, psutil.Process(int((folder / "started").read_text()))


def ends(program: psutil.Process) -> bool:
    try:
        return not psutil.wait_procs([program], timeout=10)[1]
    finally:
        if program.is_running():
            program.kill()


BY_HELPER = """
import os, time
from imgbuilder.host import process
process.start([*process.bound_to(os.getpid(), by={by!r}), "sleep", "600"])
time.sleep(600)
"""
BY_WRAPPER = """
import os, subprocess, time
from pathlib import Path
from imgbuilder.appliance import launch
folder = Path({folder!r})
wrapper = launch._hypervisor(launch._Folders(folder, folder), Path("/usr/bin/python3"), os.getpid(), None)
subprocess.Popen([wrapper, {first!r}, "600"])
time.sleep(600)
"""


@pytest.mark.row("F16")
@pytest.mark.parametrize("early", [True, False], ids=["before setpriv asks for it", "later"])
@pytest.mark.parametrize("what", ["KILL", "TERM", "-kernel", "-help"])
def test_a_program_ends_with_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, early: bool
) -> None:
    hypervisor = tmp_path / "qemu"
    hypervisor.write_text('#!/bin/sh\nexec sleep "$2"\n')
    hypervisor.chmod(0o755)
    monkeypatch.setenv("LIBGUESTFS_HV", str(hypervisor))
    code = BY_WRAPPER if what.startswith("-") else BY_HELPER
    parent, program = start_slowly(tmp_path, code.format(by=what, folder=str(tmp_path), first=what))
    if early:
        parent.kill()
        parent.wait()
        (tmp_path / "go").touch()
    else:
        (tmp_path / "go").touch()
        deadline = time.monotonic() + 30
        while program.name() != "sleep" or "600" not in program.cmdline():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert ends(program)

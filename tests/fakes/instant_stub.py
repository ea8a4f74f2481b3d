"""A libguestfs binding and a hypervisor that go together, for tests of resuming an appliance.

The binding starts the "hypervisor" as libguestfs does: with the command line
of its direct backend, and a socket on which it waits for the daemon. The
hypervisor is a script that sends the daemon's first message when it boots, and
nothing when it resumes. The appliance's answers are in files of the folder.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EVENT_APPLIANCE, EVENT_LIBRARY, EVENT_WARNING, EVENT_TRACE, EVENT_PROGRESS = 1, 2, 4, 8, 16
HERE = Path(__file__).parent

HYPERVISOR = """#!{python}
import socket, struct, sys, time
words = sys.argv[1:]
open({log!r}, "a").write("resumed\\n" if "-incoming" in words else "booted\\n")
channel = words[words.index("-chardev") + 1].split(",")[1]
if channel.startswith("path="):
    daemon = socket.socket(socket.AF_UNIX)
    daemon.connect(channel[5:])
    daemon.sendall(struct.pack(">I", 0xF5F55FF5))
else:
    (control,) = [word for word in words if "id=monitor" in word]
    monitor, _peer = socket.socket(fileno=int(control.split(",")[1][3:])).accept()
    monitor.sendall(b'{{"QMP": {{}}}}\\n')
    while monitor.recv(4096):
        monitor.sendall(b'{{"return": {{"running": true}}}}\\n')
time.sleep(600)
"""


class GuestFS:
    """A handle whose appliance's answers are in files."""

    def __init__(self, **_options: Any) -> None:
        self._hypervisor = ""
        self._pid = 0
        self._disks: list[str] = []

    def set_event_callback(self, callback: Any, events: int) -> None:
        return

    def set_hv(self, path: str) -> None:
        self._hypervisor = path

    def config(self, _option: str, _value: str) -> None:
        return

    def get_pid(self) -> int:
        return self._pid

    def add_drive_opts(self, path: str, **_options: Any) -> None:
        self._disks.append(path)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("set_"):
            return lambda *_words: None
        raise AttributeError(name)

    def launch(self) -> None:
        before = _starts()
        place = HERE / f"sock{time.monotonic_ns()}"
        place.mkdir()
        daemon = socket.socket(socket.AF_UNIX)
        daemon.bind(f"{place}/guestfsd.sock")
        daemon.listen()
        child = subprocess.Popen(
            [self._hypervisor, *command_line(HERE, f"{place}/guestfsd.sock", self._disks)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self._pid = child.pid
        daemon.settimeout(0.1)
        while True:
            try:
                self._channel, _peer = daemon.accept()
                break
            except TimeoutError:
                if child.poll() is not None:
                    raise RuntimeError("guestfs_launch failed.") from None
        assert self._channel.recv(4) == b"\xf5\xf5\x5f\xf5"
        while child.poll() is None and _starts() == before:
            time.sleep(0.01)  # so that the start is recorded before the process can be ended

    def debug_upload(self, local: str, path: str, mode: int) -> None:
        with (HERE / "calls").open("a") as log:
            log.write(f"upload {Path(local).stat().st_size} {path} {mode:o}\n")

    def debug(self, what: str, words: list[str]) -> str:
        with (HERE / "calls").open("a") as log:
            log.write("sh\n")
        answer = (HERE / "answer").read_text()
        if answer == "hang":
            time.sleep(600)
        if answer == "die":
            os._exit(3)
        return answer

    def close(self) -> None:
        return


def _starts() -> int:
    log = HERE / "starts"
    return log.stat().st_size if log.exists() else 0


def command_line(folder: Path, sock: str, disks: list[str]) -> list[str]:
    """Arguments that libguestfs 1.48 gives to the hypervisor."""
    words = ["-global", "virtio-blk-pci.scsi=off", "-no-user-config", "-nodefaults", "-display", "none"]
    words += ["-machine", "accel=tcg", "-cpu", "max,la57=off", "-m", "1280", "-no-reboot"]
    words += ["-rtc", "driftfix=slew", "-no-hpet", "-global", "kvm-pit.lost_tick_policy=discard"]
    words += ["-kernel", f"{folder}/kernel", "-initrd", f"{folder}/initrd"]
    words += ["-object", "rng-random,filename=/dev/urandom,id=rng0", "-device", "virtio-rng-pci,rng=rng0"]
    words += ["-device", "virtio-scsi-pci,id=scsi"]
    for number, disk in enumerate(disks):
        words += ["-drive", f"file={disk},cache=unsafe,format=raw,discard=unmap,id=hd{number},if=none"]
        words += ["-device", f"scsi-hd,drive=hd{number}"]
    words += ["-drive", f"file={folder}/root,snapshot=on,id=appliance,cache=unsafe,if=none,format=raw"]
    words += ["-device", "scsi-hd,drive=appliance", "-device", "virtio-serial-pci", "-serial", "stdio"]
    words += ["-chardev", f"socket,path={sock},id=channel0"]
    words += ["-device", "virtserialport,chardev=channel0,name=org.libguestfs.channel.0"]
    return [*words, "-append", "panic=1 console=ttyS0 quiet root=UUID=1 TERM=linux"]


def install(folder: Path) -> tuple[Path, Path]:
    """Write the binding, the hypervisor and the appliance's files; return interpreter and hypervisor."""
    (folder / "guestfs.py").write_text(Path(__file__).read_text())
    interpreter = folder / "python"
    interpreter.write_text(
        f'#!/bin/sh\ncase "$*" in *worker.py*) shift;; esac\nPYTHONPATH={folder} exec {sys.executable} "$@"\n'
    )
    hypervisor = folder / "hypervisor"
    hypervisor.write_text(HYPERVISOR.format(python=sys.executable, log=str(folder / "starts")))
    for name in ("kernel", "initrd", "root"):
        (folder / name).write_bytes(os.urandom(64))
    for path in (interpreter, hypervisor):
        path.chmod(0o755)
    return interpreter, hypervisor

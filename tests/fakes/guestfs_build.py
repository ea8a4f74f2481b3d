"""A stand-in for the libguestfs binding that a whole build runs through, loaded by the real worker process.

It starts the hypervisor that it is given, and answers like a small Debian
guest. In the call that ``STUB_BLOCK`` names it says so by making the file
``STUB_MARKER``, and then hangs, as a call into C does: no signal handler runs.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EVENT_APPLIANCE, EVENT_LIBRARY, EVENT_WARNING, EVENT_TRACE, EVENT_PROGRESS = 1, 2, 4, 8, 16

FILES = {
    "/etc/os-release": b'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Tiny"\n',
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
    "/etc/shadow": b"root:*:1::::::\n",
    "/etc/machine-id": b"",
}
FOLDERS = {"/", "/etc", "/tmp", "/root", "/var", "/var/lib", "/var/lib/systemd"}
ANSWERS: dict[str, Any] = {
    "version": {"major": 1, "minor": 2, "release": 3, "extra": ""},
    "glob_expand": [],
    "ls": [],
    "mountpoints": {},
    "dmesg": "",
    "statvfs": {"flag": 0},
    "sh": "said\n0",
    "mktemp": "/tmp/x",
    "lgetxattrs": [],
    "statns": {"st_mode": 0o100644, "st_uid": 0, "st_gid": 0, "st_size": 1, "st_nlink": 1},
}


class GuestFS:
    """A handle that knows a guest."""

    def __init__(self, **_options: Any) -> None:
        self._hypervisor: subprocess.Popen[bytes] | None = None
        self._program = "sleep"
        self._callbacks: list[tuple[Any, int]] = []

    def set_event_callback(self, callback: Any, events: int) -> None:
        self._callbacks.append((callback, events))

    def _say(self, text: str) -> None:
        for callback, events in self._callbacks:
            if events & EVENT_APPLIANCE:
                callback(EVENT_APPLIANCE, 0, text, [])

    def set_hv(self, program: str) -> None:
        self._program = program

    def launch(self) -> None:
        # As root's libguestfs does, whatever XDG_RUNTIME_DIR says; it is not removed by shutdown.
        sockets = Path(f"/tmp/libguestfs{secrets.token_hex(3)}")
        sockets.mkdir(mode=0o755)
        (sockets / "token").write_text(os.environ.get("TEST_TOKEN", ""))
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{sockets}/guestfsd.sock")
        arguments = ["600", "-chardev", f"socket,path={sockets}/guestfsd.sock,id=channel0"]
        self._hypervisor = subprocess.Popen([self._program, *arguments], stdin=subprocess.DEVNULL)
        self._say("stub: the machine starts\n")
        _block("launch")
        time.sleep(0.05)
        if self._hypervisor.poll() is not None:
            self._say("stub: the machine stopped\n")
            raise RuntimeError("guestfs_launch failed")

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **_options: Any) -> Any:
            _block(name)
            if self._hypervisor is not None and self._hypervisor.poll() is not None:
                raise RuntimeError(f"{name}: appliance closed the connection unexpectedly.")
            if name == "get_pid":
                return None if self._hypervisor is None else self._hypervisor.pid
            if name == "shutdown":
                self.close()
            if name == "realpath":
                return args[0]
            if name in {"statns", "lstatns"}:
                if args[0] not in FILES and args[0] not in FOLDERS:
                    raise RuntimeError(f"statns: {args[0]}: No such file or directory")
                kind = stat.S_IFREG if args[0] in FILES else stat.S_IFDIR
                size = len(FILES.get(args[0], b""))
                return {"st_mode": kind | 0o644, "st_uid": 0, "st_gid": 0, "st_size": size, "st_nlink": 1}
            if name == "pread":
                if args[0] not in FILES:
                    raise RuntimeError(f"pread: {args[0]}: No such file or directory")
                return FILES[args[0]]
            if name == "write":
                FILES[args[0]] = args[1] if isinstance(args[1], bytes) else args[1].encode()
            return ANSWERS.get(name)

        return call

    def close(self) -> None:
        if self._hypervisor is not None:
            self._hypervisor.kill()
            self._hypervisor.wait()


def _block(name: str) -> None:
    if os.environ.get("STUB_BLOCK") == name:
        Path(os.environ["STUB_MARKER"]).touch()
        time.sleep(600)


def install(folder: Path) -> Path:
    """Write an interpreter that has this binding; return its path."""
    (folder / "guestfs.py").write_text(Path(__file__).read_text())
    interpreter = folder / "python"
    # pybuilder starts it with -I, which would ignore PYTHONPATH: drop that one option.
    interpreter.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    return interpreter

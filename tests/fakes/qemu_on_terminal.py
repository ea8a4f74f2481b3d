"""Stands in for QEMU and ssh that ``pybuilder run`` starts: they write down how they were called.

The folder of the programs may hold ``how``: ``status N`` ends with it; ``killed`` dies of SIGKILL; ``wait``
runs until a signal comes; ``ssh`` answers at the port of the guest's SSH server, and ends when it shall shut
down; ``sshd FILE`` becomes a real server there, with that configuration; ``off`` ends together with the
session. Standard input, if it is a terminal, gets other settings, as from QEMU.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

_QEMU = """#!{python} -SE
import json, os, re, signal, socket, sys, threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
if "help" in sys.argv:
    print("Available display backend types:\\n" + (HERE / "displays").read_text())
    raise SystemExit
with open(HERE / "calls", "a") as file:
    file.write(json.dumps([*sys.argv, "TMPDIR=" + os.environ.get("TMPDIR", "")]) + "\\n")
how = (HERE / "how").read_text() if (HERE / "how").exists() else "status 0"
if os.isatty(0):
    import fcntl, tty
    tty.setraw(0)
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_NONBLOCK)
print("the console of the guest", flush=True)
(HERE / "pid").write_text(str(os.getpid()))
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how in ("ssh", "off") or how.startswith("sshd"):
    port = int(re.search("127.0.0.1:([0-9]+)-:22$", sys.argv[sys.argv.index("-nic") + 1])[1])
    if how.startswith("sshd"):
        os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-e", "-p", str(port), "-f", how.split()[1]])
    server = socket.create_server(("127.0.0.1", port))
    def greet():
        while True:
            server.accept()[0].sendall(b"SSH-2.0-guest\\r\\n")
    threading.Thread(target=greet, daemon=True).start()
    monitor = socket.socket(socket.AF_UNIX)
    monitor.bind(re.search("unix:([^,]*)", sys.argv[sys.argv.index("-qmp") + 1])[1])
    monitor.listen()
    if how == "off":
        while not (HERE / "session").exists():
            signal.sigtimedwait([], 0.05)
        raise SystemExit
    connection, _ = monitor.accept()
    connection.sendall(b'{{"QMP": {{}}}}\\n')
    while piece := connection.recv(4096):
        connection.sendall(b'{{"return": {{}}}}\\n')
        if b"system_powerdown" in piece:
            (HERE / "shut-down").touch()
            raise SystemExit
if how == "wait":
    signal.pause()
raise SystemExit(int(how.split()[1]))
"""

_SSH = """#!{python} -SE
import json, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
(HERE / "session").write_text(json.dumps(sys.argv))
raise SystemExit(int((HERE / "ssh-status").read_text()))
"""


class Programs:
    """The folder with the programs."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        for name, text in (("qemu-system-x86_64", _QEMU), ("qemu-system-aarch64", _QEMU), ("ssh", _SSH)):
            (folder / name).write_text(text.format(python=sys.executable))
            (folder / name).chmod(0o755)
        self.path = os.pathsep.join([str(folder), os.environ["PATH"]])
        patch.setenv("PATH", self.path)
        patch.setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")  # KVM is not tested with the stand-in

    def how(self, text: str, ssh: int = 0) -> None:
        (self.folder / "how").write_text(text)
        (self.folder / "ssh-status").write_text(str(ssh))

    @property
    def calls(self) -> list[list[str]]:
        """The command lines of QEMU, one for each start."""
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def session(self) -> list[str]:
        """The command line of ssh."""
        words: list[str] = json.loads((self.folder / "session").read_text())
        return words

    def value(self, option: str) -> str:
        """Return what followed an option of QEMU's last start."""
        words = self.calls[-1]
        return words[words.index(option) + 1]

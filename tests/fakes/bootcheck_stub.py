"""Stands in for QEMU: shows a console from a file, takes orders (QMP), and misbehaves on command.

The folder of the program holds ``console`` (bytes for standard output), ``how`` (a word), and gets ``calls``
(the command line) and ``alive`` (its process id). Words: ``stay`` goes on until it is ended, ``exit`` ends
after the console, ``die`` ends with a complaint, ``hang`` shows nothing and takes no orders, ``deaf`` shows
the console and takes no orders, ``flood`` never stops to write, ``fill`` writes to its
disk until that fails, ``change FILE`` adds a sector to a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python}
import json, os, re, socket, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
if "--version" in sys.argv:
    print("QEMU emulator version 7.2.22 (Debian)")
    raise SystemExit
(HERE / "calls").write_text(json.dumps(sys.argv))
(HERE / "alive").write_text(str(os.getpid()))
how = (HERE / "how").read_text()
if how == "hang":
    time.sleep(600)
monitor = next(word for word in sys.argv if word.startswith("socket,id=monitor"))
listener = socket.socket(socket.AF_UNIX)
listener.bind(re.search("path=([^,]*)", monitor)[1])
listener.listen()
sys.stdout.buffer.write((HERE / "console").read_bytes())
sys.stdout.flush()
if how.startswith("change "):
    with open(how[7:], "ab") as file:
        file.write(bytes(512))
if how == "exit":
    raise SystemExit
if how == "die":
    sys.exit("qemu: could not set up the virtual processor")
if how == "fill":
    with tempfile.TemporaryFile(buffering=0) as disk:
        try:
            while True:
                disk.write(bytes(1 << 16))
        except OSError:  # as a guest sees it; the threads of QEMU block SIGXFSZ
            (HERE / "filled").write_text(str(disk.tell()))
while how == "flood":
    sys.stdout.buffer.write(b"nothing new \\x1b[2J" * 4096)
while how == "deaf":
    time.sleep(600)

def order(name, arguments):
    if name == "screendump":
        picture = b"P6\\n64 32\\n255\\n" + bytes([200, 30, 30]) * (64 * 32)
        Path(arguments["filename"]).write_bytes(b"junk" if how == "junk" else picture)
        return {{}}
    if name == "human-monitor-command":
        return (HERE / "table").read_text()
    return {{}}

while True:
    connection, _ = listener.accept()
    version = {{"qemu": {{"major": 7, "minor": 2, "micro": 22}}, "package": ""}}
    connection.sendall(json.dumps({{"QMP": {{"version": version, "capabilities": []}}}}).encode() + b"\\n")
    waiting = ""
    while piece := connection.recv(4096):
        waiting = (waiting + piece.decode()).lstrip()
        while waiting:
            try:
                asked, end = json.JSONDecoder().raw_decode(waiting)  # nothing ends an order but its brace
            except ValueError:
                break
            waiting = waiting[end:].lstrip()
            answer = {{"return": order(asked["execute"], asked.get("arguments", {{}}))}}
            answer.update({{"id": asked["id"]}} if "id" in asked else {{}})
            connection.sendall(json.dumps(answer).encode() + b"\\n")
    connection.close()
"""


class Stub:
    """A stand-in for QEMU in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / "qemu-system-x86_64"
        program.write_text(PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
        self.set(b"", "stay")

    def set(self, console: bytes, how: str = "stay", table: str = "") -> None:
        (self.folder / "console").write_bytes(console)
        (self.folder / "how").write_text(how)
        (self.folder / "table").write_text(table)

    def process(self) -> int:
        """Return its process id, once it was started."""
        return int((self.folder / "alive").read_text())

    def started(self) -> bool:
        alive = self.folder / "alive"
        return alive.exists() and alive.read_text() != ""

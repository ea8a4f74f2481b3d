"""Stands in for QEMU that a script starts: opens the image, takes orders (QMP) until it shall end.

The folder of the program holds ``how``, a word: ``well``; ``write`` opens the image for writing; ``nothing``
does not open it; ``die`` ends with a complaint; ``busy`` complains of a port that is taken; ``deaf`` takes no
orders; ``change`` adds a sector to the image; ``odd`` ends with a status when it shall end.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python}
import json, os, re, socket, sys, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
if "--version" in sys.argv:
    print("QEMU emulator version 7.2.22 (Debian)")
    raise SystemExit
if "stdio" in sys.argv:
    raise SystemExit(1)  # no KVM
(HERE / "calls").write_text(json.dumps([os.getcwd(), *sys.argv]))
how = (HERE / "how").read_text()
if how == "die":
    sys.exit("qemu: \\x1b[2Jno such device")
if how == "busy":
    sys.exit("qemu: Could not set up host forwarding rule 'tcp:127.0.0.1:8080-:80'")
if how == "deaf":
    time.sleep(600)
after = lambda word: sys.argv[sys.argv.index(word) + 1]
Path(after("-pidfile")).write_text(f"{{os.getpid()}}\\n")
image = re.search("file=(.*),format=", after("-drive"))[1].replace(",,", ",")
if how == "change":
    with open(image, "ab") as file:
        file.write(bytes(512))
opened = None if how == "nothing" else open(image, "r+b" if how == "write" else "rb")
listener = socket.socket(socket.AF_UNIX)
listener.bind(re.search("unix:([^,]*)", after("-qmp"))[1])
listener.listen()
connection, _ = listener.accept()
version = {{"qemu": {{"major": 7, "minor": 2, "micro": 22}}, "package": ""}}
connection.sendall(json.dumps({{"QMP": {{"version": version, "capabilities": []}}}}).encode() + b"\\n")
waiting = ""
while piece := connection.recv(4096):
    waiting = (waiting + piece.decode()).lstrip()
    while waiting:
        try:
            asked, end = json.JSONDecoder().raw_decode(waiting)
        except ValueError:
            break
        waiting = waiting[end:].lstrip()
        answer = {{"status": "prelaunch"}} if asked["execute"] == "query-status" else {{}}
        answer = {{"return": answer, **({{"id": asked["id"]}} if "id" in asked else {{}})}}
        connection.sendall(json.dumps(answer).encode() + b"\\n")
        if asked["execute"] == "quit":
            raise SystemExit(3 if how == "odd" else 0)
"""


class QemuStub:
    """A stand-in for QEMU in a folder of its own."""

    def __init__(self, folder: Path, name: str = "qemu-system-x86_64") -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / name
        program.write_text(PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
        self.set("well")

    def set(self, how: str) -> None:
        (self.folder / "how").write_text(how)

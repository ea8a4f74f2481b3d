"""Processes that fill a cache, to be killed, stopped and lied to from outside.

One process loads everything once and forks a child for each run, so that a run
costs milliseconds. What a good run imported late, the process loads for the next ones.
A child stops itself before it begins; strace can be attached then, and sees nothing
but the work itself.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
DISK = b"boot" + random.Random(4).randbytes(300_000).ljust(1 << 20, b"\0") + bytes(508)
PACKED = lzma.compress(DISK, preset=0)
SHA = hashlib.sha512(PACKED).hexdigest()
RIGHT, CLEAN_ERROR, TRACEBACK = 0, 10, 11

_PROGRAM = """
import hashlib, importlib, json, os, resource, signal, socket, sys, traceback
from pathlib import Path
import filelock
from imgbuilder.cache.store import open_cache
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.errors import PybuilderError
from imgbuilder.events import Notice
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.transfer import Limits
from imgbuilder.fetch import web
from imgbuilder.host.interrupts import Interrupted, interruptible
from imgindex.model import Entry, FurtherFile

pipe = socket.socket(fileno=int(sys.argv[1]))  # not write(2), which the test may replace
imports, report_imports = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
imports.setblocking(False)

def paused(name, real):
    def step(*arguments, **named):
        pipe.send(f"before {name}".encode())
        pipe.recv(10)
        result = real(*arguments, **named)
        pipe.send(f"after {name}".encode())
        pipe.recv(10)
        return result
    return step

def digest_of(path):
    while True:  # the next call to fail may be one of these, which are not what is looked at
        try:
            with open(path, "rb") as file:
                return hashlib.sha512(file.read()).hexdigest()
        except OSError:
            pass

def work(wish):
    printed = []
    def report(event):
        if isinstance(event, Notice):
            printed.append(event.text)
            if wish["talk"]:
                pipe.send(event.text.encode())
    for name in wish["steps"]:
        setattr(os, name, paused(name, getattr(os, name)))
    if wish["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (wish["file_limit"],) * 2)
    facts = {"sha512": wish["sha"], "format": "raw", "compressed_size": wish["packed"]}
    further = {name: FurtherFile(**values) for name, values in wish["further"].items()}
    entry = Entry("x", "d.xz", "x86_64", wish["size"], **facts, **further)
    chosen = Selection(Source("s", wish["url"]), entry, wish["url"])
    fetcher = SourceFetcher(Limits(timeout=10, backoff=0.0, retries=0, resumes=1))
    try:
        with interruptible(), open_cache(Path(wish["root"]), Path(wish["scratch"]), report) as cache:
            disk = cache.get_disk(chosen, fetcher, report)
            digest = digest_of(disk)
        return {"digest": digest, "printed": printed}, 0
    except (PybuilderError, Interrupted) as error:
        return {"error": error.message, "hint": error.hint, "printed": printed}, 10
    except BaseException:
        return {"traceback": traceback.format_exc(), "printed": printed}, 11

def load_what_was_imported():
    try:
        names = json.loads(imports.recv(1 << 16))
    except BlockingIOError:
        return  # not a good run
    for name in names:
        importlib.import_module(name)

for line in sys.stdin:
    wish = json.loads(line)
    child = os.fork()
    if child == 0:
        if wish["stopped"]:
            os.kill(os.getpid(), signal.SIGSTOP)
        known = set(sys.modules)
        answer, code = work(wish)
        if code == 0:
            report_imports.send(json.dumps(sorted(set(sys.modules) - known)).encode())
        pipe.send(b"done " + json.dumps(answer).encode())
        os._exit(code)
    if wish["stopped"]:
        os.waitpid(child, os.WUNTRACED)
    print(child, flush=True)
    status = os.waitpid(child, 0)[1]
    load_what_was_imported()
    print(status, flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """Result of a run: its exit code, or minus the signal that killed it, and what it said."""

    code: int
    said: dict[str, Any]

    @property
    def right(self) -> bool:
        return self.code == RIGHT and self.said["digest"] == hashlib.sha512(DISK).hexdigest()


class Workers:
    """Makes runs, one after the other; a context manager.

    Args:
        root: The cache.
        url: Where the template comes from.
        scratch: Folder for a temporary cache.
    """

    def __init__(self, root: Path, url: str, scratch: Path) -> None:
        import socket

        self.root, self.url, self.scratch = root, url, scratch
        self.pipe, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pipe.settimeout(50)
        self._last = b""
        folders = os.pathsep.join(str(ROOT / name) for name in ("builder", "index"))
        environ = {**os.environ, "PYTHONPATH": folders, "no_proxy": "*", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environ,
            pass_fds=[theirs.fileno()], start_new_session=True,
        )  # fmt: skip
        theirs.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_error: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self.pipe.close()

    def start(self, *, stopped: bool = False, root: Path | None = None, **wishes: Any) -> int:
        """Begin a run and return its process; a stopped one waits for SIGCONT."""
        wish = {
            "root": str(root or self.root), "url": self.url, "scratch": str(self.scratch), "sha": SHA,
            "size": len(DISK), "packed": len(PACKED), "steps": [], "talk": False, "file_limit": 0,
            "further": {}, "stopped": stopped, **wishes,
        }  # fmt: skip
        _pipe(self._process.stdin).write(json.dumps(wish) + "\n")
        return int(_pipe(self._process.stdout).readline())

    def words(self) -> Iterator[str]:
        """Yield what a run says until it ends; with ``steps``, it waits for an answer after each."""
        while not (data := self.pipe.recv(1 << 16)).startswith(b"done "):
            yield data.decode()
        self._last = data

    def finish(self) -> Outcome:
        """Wait for the end of a run."""
        status = os.waitstatus_to_exitcode(int(_pipe(self._process.stdout).readline()))
        said: dict[str, Any] = {}
        if status >= 0:
            if not self._last:
                list(self.words())
            said = json.loads(self._last[5:])
        self._last = b""
        return Outcome(status, said)

    def run(self, **wishes: Any) -> Outcome:
        self.start(**wishes)
        return self.finish()

    def traced(self, *options: str, **wishes: Any) -> Outcome:
        """Make a run under strace."""
        child = self.start(stopped=True, **wishes)
        words = ["strace", "--follow-forks", "--quiet=exit", *options, "--attach", str(child)]
        tracer = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        if "attached" not in line:
            os.kill(child, signal.SIGKILL)
            self.finish()
            tracer.communicate()
            raise RuntimeError(f"strace: {line}")
        os.kill(child, signal.SIGCONT)
        outcome = self.finish()
        tracer.communicate(timeout=50)
        return outcome

    def leftovers(self) -> list[str]:
        """Return what should not be there after a run that ended well."""
        places = ((self.root, "*/.part-*"), (self.root, "partial/*"), (self.scratch, ".pybuilder*"))
        return [str(path) for folder, pattern in places for path in folder.glob(pattern)]


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def count_calls(trace: str, names: Sequence[str]) -> dict[str, int]:
    """Count calls in the output of strace: of each kind, those of the task that makes most of them.

    strace counts for each task on its own as well when it waits for the n-th call.
    """
    counts: dict[str, dict[str, int]] = {name: {} for name in names}
    for line in trace.splitlines():
        task, _, call = line.partition(" ")
        name = call.strip().partition("(")[0]
        if name in counts:
            counts[name][task] = counts[name].get(task, 0) + 1
    return {name: max(found.values()) for name, found in counts.items() if found}

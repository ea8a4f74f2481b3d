"""B1 to B5, B10: builds stopped by any signal in any phase leave nothing; killed ones leave no hypervisor.

All programs are real but the binding and the hypervisor. In each phase
something waits for ever (a server, a program, a call of the appliance) and
says so, and then the signal comes. ``PYBUILDER_SIGNAL_ROUNDS=10`` makes the
360 runs of a release; in every second round another signal follows at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from tests.fakes import guestfs_build
from tests.fakes.keys import KeyMaker
from tests.fakes.template import MIB, Site, make_site

ROUNDS = int(os.environ.get("PYBUILDER_SIGNAL_ROUNDS", "1"))
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
LIMIT = 30.0
"""Seconds; a run takes under one on an idle machine, and the row asks for five."""
GIANT = 64 << 30
TIMES: list[float] = []
"""Seconds from each signal to the end."""


class Server:
    """Serves a folder over HTTP; the named file stops after its first bytes, or before them."""

    def __init__(self, folder: Path, marker: Path, stall: str) -> None:
        self._folder, self._marker, self._stall = folder, marker, stall
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            name = client.recv(65536).split()[1].decode().lstrip("/")
            content = (self._folder / name).read_bytes()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
            if name == self._stall:
                if not name.endswith(".asc"):
                    client.sendall(head.encode() + content[:1000])
                self._marker.touch()
                continue
            client.sendall(head.encode() + content)
            client.close()

    def close(self) -> None:
        for thing in (self._listener, *self._open):
            thing.close()


@dataclass(frozen=True)
class Scene:
    """A place where builds can be run.

    Attributes:
        base: Folder of everything.
        site: A signed source.
        token: In the environment of all that a build starts.
    """

    base: Path
    site: Site
    token: str

    @property
    def marker(self) -> Path:
        return self.base / "marker"

    @property
    def out(self) -> Path:
        return self.base / "out"

    @property
    def cache(self) -> Path:
        return self.base / "home/.cache/pybuilder"

    def environment(self, **extra: str) -> dict[str, str]:
        bins = f"{self.base / 'bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return {
            "HOME": str(self.base / "home"), "PATH": bins, "TMPDIR": str(self.base / "tmp"),
            "VIRT_BUILDER_DIRS": "/nonexistent", "PYBUILDER_GUESTFS_PYTHON": str(self.base / "stub/python"),
            "LIBGUESTFS_HV": str(self.base / "hypervisor"), "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
            "STUB_MARKER": str(self.marker), "TEST_TOKEN": self.token, "LANG": "C.UTF-8", **extra,
        }  # fmt: skip

    def start(self, *words: str, **extra: str) -> subprocess.Popen[bytes]:
        # Tests in the background ignore some signals, and pybuilder would inherit that.
        command = ["env", "--default-signal=HUP,INT,QUIT,TERM"]
        command += [sys.executable, "-m", "imgbuilder", "tiny", "-o", "out/x.img", "--size", "64M"]
        command += ["--root-password", "disabled", "--run-command", "true", *words]
        with (self.base / "said").open("wb") as said:
            return subprocess.Popen(
                command, cwd=self.base, env=self.environment(**extra), stdin=subprocess.DEVNULL,
                stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return (self.base / "said").read_text(errors="replace")

    def shim(self, name: str) -> None:
        """Let a program say that it was started, and then wait for ever."""
        path = self.base / "bin" / name
        path.write_text(f"#!/bin/sh\ntouch {self.marker}\nexec sleep 600\n")
        path.chmod(0o755)

    def family(self) -> list[psutil.Process]:
        """Return all living processes that a build here started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TEST_TOKEN") == self.token:
                    found.append(process)
            except psutil.Error:
                continue
        return [
            process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]

    def names(self) -> list[str]:
        """Return the names of those processes."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                found.append(process.name())
        return found

    def wait_for_marker(self, running: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 60
        while not self.marker.exists():
            assert running.poll() is None, f"it ended by itself:\n{self.said()}"
            assert time.monotonic() < end, f"the phase was never reached:\n{self.said()}"
            time.sleep(0.01)


def free(path: Path) -> bool:
    """Return True if no process has a lock on a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def abandoned(scene: Scene) -> list[Path]:
    """Return the private folders that builds here left; others belong to tests that run at the same time."""
    found = []
    for path in Path("/tmp").glob(".pybuilder-run-*"):
        try:
            if str(scene.base) in (path / "hypervisor").read_text() and free(path):
                found.append(path)
        except OSError:
            continue
    return [path for path in found if path.exists()]


def sockets(scene: Scene) -> list[Path]:
    """Return the folders that builds here left in /tmp, where root's libguestfs makes them."""
    found = []
    for path in Path("/tmp").glob("libguestfs*/token"):
        try:
            if path.read_text() == scene.token:
                found.append(path.parent)
        except OSError:
            continue
    return found


@pytest.fixture
def scene(tmp_path: Path, keys: KeyMaker) -> Iterator[Scene]:
    for name in ("site", "home", "stub", "bin", "tmp", "out"):
        (tmp_path / name).mkdir()
    made = Scene(tmp_path, make_site(tmp_path / "site", keys), uuid.uuid4().hex)
    made.site.configure(tmp_path / "home/.config")
    guestfs_build.install(tmp_path / "stub")
    (tmp_path / "hypervisor").write_text('#!/bin/sh\nexec sleep "$1"\n')
    (tmp_path / "hypervisor").chmod(0o755)
    yield made
    for process in made.family():
        process.kill()


@pytest.fixture(scope="module", autouse=True)
def printed() -> Iterator[None]:
    """Say at the end how long the runs took; with -s it is seen."""
    yield
    if TIMES:
        ordered = sorted(TIMES)
        late = ordered[-1 - len(ordered) // 100]
        print(f"\n{len(ordered)} runs ended within {ordered[-1]:.2f} s, 99 of 100 within {late:.2f} s")


def from_server(stall: str) -> Callable[[Scene], dict[str, str]]:
    def prepare(scene: Scene) -> dict[str, str]:
        server = Server(scene.site.folder, scene.marker, stall)
        scene.site.configure(scene.base / "home/.config", uri=f"http://127.0.0.1:{server.port}/index.asc")
        return {}

    return prepare


def hashing(scene: Scene) -> dict[str, str]:
    """A cached template whose record is gone is hashed again; this one is 64 GiB of nothing."""
    entry = scene.site.entry
    assert entry.sha512 is not None
    scene.site.sign(replace(entry, compressed_size=GIANT))
    folder = scene.cache / "templates"
    folder.mkdir(parents=True, mode=0o700)
    with (folder / entry.sha512).open("wb") as file:
        file.truncate(GIANT)
    return {"WATCH": str(folder / entry.sha512)}


def shimmed(name: str) -> Callable[[Scene], dict[str, str]]:
    def prepare(scene: Scene) -> dict[str, str]:
        scene.shim(name)
        return {}

    return prepare


def blocked(call: str) -> Callable[[Scene], dict[str, str]]:
    return lambda _scene: {"STUB_BLOCK": call}


def writing(scene: Scene) -> dict[str, str]:
    """The image is written from the overlay: qemu-img waits when it converts."""
    path = scene.base / "bin" / "qemu-img"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = convert ]; then touch {scene.marker}; exec sleep 600; fi\n'
        'exec /usr/bin/qemu-img "$@"\n'
    )
    path.chmod(0o755)
    return {"FORMAT": "vmdk"}


PHASES: dict[str, Callable[[Scene], dict[str, str]]] = {
    "index": from_server("index.asc"),
    "download": from_server("tiny.xz"),
    "hash": hashing,
    "decompress": shimmed("xz"),
    "resize": shimmed("sfdisk"),
    "launch": blocked("launch"),
    "customize": blocked("sh"),
    "finish": blocked("shutdown"),
    "write": writing,
}


def reach(scene: Scene, phase: str) -> subprocess.Popen[bytes]:
    """Start a build and let it come to a phase."""
    extra = PHASES[phase](scene)
    running = scene.start(*(["--format", extra["FORMAT"]] if "FORMAT" in extra else []), **extra)
    if "WATCH" in extra:
        while extra["WATCH"] not in opened(running.pid):
            assert running.poll() is None, scene.said()
            time.sleep(0.01)
    else:
        scene.wait_for_marker(running)
    return running


def opened(pid: int) -> list[str]:
    try:
        return [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def nothing_left(scene: Scene) -> None:
    assert (scene.out / "x.img").read_text() == "precious"
    assert [path.name for path in scene.out.iterdir()] == ["x.img"]
    assert list((scene.base / "tmp").iterdir()) == []
    _gone, alive = psutil.wait_procs(scene.family(), timeout=10)  # they may be just ending
    assert alive == []
    assert abandoned(scene) == []
    assert sockets(scene) == []
    for folder in ("templates", "disks", "locks"):
        for path in (scene.cache / folder).glob("*"):
            assert not path.name.startswith(".part-"), f"{path} is left"
            assert free(path), f"{path} is still locked"


@pytest.mark.row("B1", "B2")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("turn", range(ROUNDS))
def test_a_signal_leaves_nothing(scene: Scene, phase: str, number: signal.Signals, turn: int) -> None:
    (scene.out / "x.img").write_text("precious")
    running = reach(scene, phase)
    began = time.monotonic()
    running.send_signal(number)
    if turn % 2:
        time.sleep(0.05)
        if running.poll() is None:
            running.send_signal(SIGNALS[(SIGNALS.index(number) + 1) % 4])
    assert running.wait(LIMIT) == 128 + number, scene.said()
    TIMES.append(time.monotonic() - began)
    assert "Traceback" not in scene.said()
    assert f"stopped by {number.name}" in scene.said()
    nothing_left(scene)


@pytest.mark.row("B3")
@pytest.mark.parametrize("phase", ["launch", "customize", "finish"])
def test_a_killed_build_leaves_no_hypervisor_and_the_next_one_sweeps(scene: Scene, phase: str) -> None:
    running = reach(scene, phase)
    end = time.monotonic() + LIMIT
    while "sleep" not in scene.names() and time.monotonic() < end:  # it is bound to its parent only then
        time.sleep(0.01)
    assert "sleep" in scene.names(), "the hypervisor"
    running.kill()
    running.wait(LIMIT)
    assert phase == "launch" or abandoned(scene), "what is looked for elsewhere can be seen"
    assert sockets(scene) != [], "what is looked for in the end can be seen"
    end = time.monotonic() + LIMIT
    while scene.family() and time.monotonic() < end:
        time.sleep(0.05)
    assert scene.family() == []
    assert [path.name for path in scene.out.iterdir()] != []
    again = scene.start()
    assert again.wait(60) == 0, scene.said()
    assert [path.name for path in scene.out.iterdir()] == ["x.img"]
    assert (scene.out / "x.img").stat().st_size == 64 * MIB
    assert abandoned(scene) == []
    assert sockets(scene) == []


@pytest.mark.row("B10")
def test_a_hypervisor_that_dies_is_an_error(scene: Scene) -> None:
    running = reach(scene, "customize")
    # The worker goes as well: the call in which it is would not notice.
    for process in scene.family():
        if process.name() == "sleep" or "worker.py" in " ".join(process.cmdline()):
            process.kill()
    assert running.wait(LIMIT) == 1
    assert "ended unexpectedly" in scene.said()
    assert list(scene.out.iterdir()) == []
    assert scene.family() == []


@pytest.mark.row("B4")
def test_a_hypervisor_that_stops_at_once_says_what_it_said(scene: Scene) -> None:
    (scene.base / "hypervisor").write_text("#!/bin/sh\nexit 1\n")
    running = scene.start()
    assert running.wait(60) == 1
    said = scene.said()
    assert "could not be started" in said
    assert "stub: the machine stopped" in said
    assert "libguestfs-test-tool" in said
    assert list(scene.out.iterdir()) == []


@pytest.mark.row("B5")
def test_a_hypervisor_that_hangs_is_given_up(scene: Scene) -> None:
    running = scene.start("--launch-timeout", "1", STUB_BLOCK="launch")
    assert running.wait(60) == 1
    said = scene.said()
    assert "no sign of life for 1 seconds" in said
    assert "stub: the machine starts" in said
    assert "--launch-timeout" in said
    assert scene.family() == []
    assert list(scene.out.iterdir()) == []

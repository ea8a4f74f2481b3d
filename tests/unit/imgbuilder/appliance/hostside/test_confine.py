"""Escape attempts from a confined process: as root, as an ordinary user, with and without Landlock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgbuilder.appliance.hostside import confine
from imgbuilder.appliance.hostside.connection import open_hostside
from imgbuilder.appliance.options import Attachment
from tests.unit.imgbuilder.appliance.hostside.conftest import make_image

pytestmark = pytest.mark.row("B27")

SIZE = 1 << 20
INTERPRETERS = [path for path in ("/usr/bin/python3", sys.executable) if Path(path).exists()]
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

DRIVER = """
import ctypes, json, os, resource, signal, socket, sys, tempfile
sys.path.insert(0, {folder!r})
import confine
libc = ctypes.CDLL(None, use_errno=True)
numbers = ctypes.CDLL("libseccomp.so.2")
def call(name, *arguments):
    number = numbers.seccomp_syscall_resolve_name(name.encode())
    assert number >= 0, name
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    if libc.syscall(ctypes.c_long(number), *words) < 0:
        raise OSError(ctypes.get_errno(), name)
image = {image}
pair = socket.socketpair()
connection = pair[0].fileno()
unnamed = os.open("/dev/null", os.O_RDWR)
{change}
outcomes = {{}}
for name, code in {attempts!r}.items():
    output = tempfile.TemporaryFile()
    child = os.fork()
    if child == 0:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        parent = os.getppid()
        page = ctypes.create_string_buffer(8192)
        try:
            report = confine.worker(image, connection, pair[1].fileno())
            assert bool(report.landlock) == {landlock}, report
            os.write(1, b"confined ")
            exec(code)
            os.write(1, b"done")
        except BaseException as error:
            os.write(1, repr(error).encode())
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    output.seek(0)
    outcomes[name] = status, output.read().decode()
print(json.dumps(outcomes))
"""
"""Each attempt runs in a process that is forked for it: a start of Python takes longer than all of them."""

KILLED = {
    "execve": "os.execv('/bin/true', ['true'])",
    "execveat": "call('execveat', -100, b'/bin/true', None, None, 0)",
    "fork": "os.fork()",
    "vfork": "call('clone', 0x4111, 0, 0, 0, 0)",
    "thread": "import _thread; _thread.start_new_thread(print, ())",
    "clone3": "call('clone3', ctypes.create_string_buffer(88), 88)",
    "socket": "socket.socket(socket.AF_INET)",
    "unix socket": "socket.socket(socket.AF_UNIX)",
    "connect": "pair[0].connect('/run/x')",
    "send to an address": "libc.sendto(connection, b'x', 1, 0, b'/run/x', 6)",
    "ptrace": "call('ptrace', 16, parent, 0, 0)",
    "read memory": "call('process_vm_readv', parent, None, 0, None, 0, 0)",
    "write memory": "call('process_vm_writev', parent, None, 0, None, 0, 0)",
    "kill": "os.kill(parent, 0)",
    "tgkill": "call('tgkill', parent, parent, 0)",
    "pidfd": "os.pidfd_open(parent)",
    "owner of signals": "libc.fcntl(connection, 8, parent)",
    "number of the signal": "libc.fcntl(connection, 10, 9)",
    "openat2": "call('openat2', -100, b'/etc/passwd', ctypes.create_string_buffer(24), 24)",
    "open_by_handle_at": "call('open_by_handle_at', -100, None, 0)",
    "executable memory": "libc.mmap(0, 4096, 7, 0x22, -1, 0)",
    "memory becomes executable": "libc.mprotect(ctypes.addressof(page), 4096, 5)",
    "broken memory": "call('madvise', ctypes.addressof(page) & ~4095, 4096, 100)",
    "pkey_mprotect": "call('pkey_mprotect', ctypes.addressof(page), 4096, 5, -1)",
    "io_uring": "call('io_uring_setup', 8, ctypes.create_string_buffer(120))",
    "bpf": "call('bpf', 0, None, 0)",
    "seccomp": "call('seccomp', 0, 0, None)",
    "mount": "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
    "unshare": "call('unshare', 0x10000000)",
    "other limits": "call('prlimit64', parent, 7, None, ctypes.create_string_buffer(16))",
    "own limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
    "userfaultfd": "call('userfaultfd', 0)",
    "shared memory": "call('shmget', 0, 4096, 0o1600)",
    "rename": "os.rename('/tmp/a', '/tmp/b')",
    "unlink": "os.unlink('/tmp/a')",
    "mkdir": "os.mkdir('/tmp/pybuilder-escape')",
    "chmod": "os.fchmod(image, 0o777)",
    "owner": "os.fchown(image, 0, 0)",
    "truncate": "os.ftruncate(image, 0)",
    "x32": "libc.syscall(ctypes.c_long(0x40000000 + 41), 1, 1, 0)",
    "sleep": "import time; time.sleep(1)",
}
REFUSED = {
    "open": "open('/etc/passwd')",
    "open the image by another name": "open(f'/proc/self/fd/{image}')",
    "memory file": "open('/proc/self/mem', 'wb')",
    "list": "os.listdir('/')",
    "stat": "os.stat('/etc/passwd')",
    "link": "os.readlink('/proc/self/exe')",
    "control": "import fcntl; fcntl.ioctl(image, 0x5401)",
    "prctl": "call('prctl', 38, 0, 0, 0, 0)",
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A copy of the module that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        shutil.copy(confine.__file__, name)
        Path(name, "confine.py").chmod(0o644)
        yield Path(name)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("confine") / "image"
    path.write_bytes(bytes(SIZE))
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


Outcomes = dict[str, tuple[int, str]]
Run = Callable[..., Outcomes]


@pytest.fixture(scope="module")
def run(folder: Path, image: int) -> Run:
    """Run code in confined processes; return their exit statuses and what they printed."""

    def run(
        attempts: dict[str, str],
        *,
        user: int | None = None,
        landlock: bool = True,
        change: str = "",
        python: str = INTERPRETERS[0],
    ) -> Outcomes:
        if not landlock:
            change += "\nconfine._LANDLOCK_CREATE = 100000"
        driver = DRIVER.format(
            folder=str(folder), image=image, landlock=landlock, attempts=attempts, change=change
        )
        result = subprocess.run(
            [python, "-I", "-S", "-c", driver],
            pass_fds=[image],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=50,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            check=False,
        )
        assert result.returncode == 0, result
        return {name: (status, text) for name, (status, text) in json.loads(result.stdout).items()}

    return run


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((None, True), id="this-user"),
        pytest.param((None, False), id="this-user-no-landlock"),
        pytest.param((NOBODY, True), id="ordinary-user", marks=needs_root),
        pytest.param((NOBODY, False), id="ordinary-user-no-landlock", marks=needs_root),
    ],
)
def outcomes(run: Run, request: pytest.FixtureRequest) -> Outcomes:
    user, landlock = request.param
    return run(KILLED | REFUSED, user=user, landlock=landlock)


@pytest.mark.parametrize("attempt", KILLED)
def test_an_escape_ends_the_process(outcomes: Outcomes, attempt: str) -> None:
    assert outcomes[attempt] == (-signal.SIGSYS, "confined ")


@pytest.mark.parametrize("attempt", REFUSED)
def test_what_libraries_try_is_refused(outcomes: Outcomes, attempt: str) -> None:
    status, said = outcomes[attempt]
    assert (status, said.partition("(")[0]) == (0, "confined PermissionError")
    assert "(1, " in said  # EPERM, the answer of seccomp; Landlock's is EACCES


WORK = """
assert os.pread(image, 4, 0) == bytes(4)
assert os.pwrite(image, b"data", 4096) == 4
os.fsync(image)
copy = os.dup(image)
assert os.fstat(copy).st_size == 1 << 20
os.close(copy)
os.write(connection, b"hello")
assert pair[1].recv(5) == b"hello"
pair[1].sendall(b"answer")
assert len(os.urandom(16)) == 16
big = [bytes(1 << 20) for _ in range(100)]
repr(pair[0])
"""


@pytest.mark.parametrize("python", INTERPRETERS)
def test_its_work_is_possible(run: Run, image: int, python: str) -> None:
    assert run({"work": WORK}, python=python) == {"work": (0, "confined done")}
    assert os.pread(image, 4, 4096) == b"data"


def test_the_worker_of_a_build_is_confined(tmp_path: Path) -> None:
    with open_hostside(Attachment(make_image(tmp_path / "disk"), "raw")) as guest:
        process = guest._connection._process
        assert process is not None
        status = Path(f"/proc/{process.pid}/status").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert {facts[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}


def test_limits(run: Run, image: int) -> None:
    found = run(
        {
            "memory": "bytearray(2 << 30)",
            "growth": f"os.pwrite(image, b'x', {SIZE})",
            "descriptors": "for _ in range(16): os.dup(image)",
            "unnamed descriptor": "os.write(unnamed, b'x')",
        }
    )
    assert found["memory"] == (0, "confined MemoryError()")
    assert "File too large" in found["growth"][1]
    assert "Too many open files" in found["descriptors"][1]
    assert "Bad file descriptor" in found["unnamed descriptor"][1]
    assert os.fstat(image).st_size == SIZE


def test_processor_time_is_limited(run: Run) -> None:
    found = run({"time": "while True: pass"}, change="assert confine.SECONDS == 120; confine.SECONDS = 1")
    assert found["time"] in {(-signal.SIGKILL, "confined "), (-signal.SIGXCPU, "confined ")}


def test_without_libseccomp_it_refuses(run: Run) -> None:
    found = run({"none": ""}, change="confine.LIBRARY = 'libmissing.so.0'")
    assert found["none"] == (0, "ConfinementError('the library libmissing.so.0 is not installed')")


def test_this_host_is_examined_without_confining_it() -> None:
    found = confine.available()
    assert found.seccomp.count(".") == 2
    assert Path(confine.__file__).read_bytes()  # still allowed
    assert found == confine.available()

"""Escape attempts from a confined process: as root, as an ordinary user, with and without Landlock."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.appliance.hostside import confine

SIZE = 1 << 20
INTERPRETERS = [path for path in ("/usr/bin/python3", sys.executable) if Path(path).exists()]
NOBODY = 65534

PRELUDE = """
import ctypes, os, resource, signal, socket, sys
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
parent = os.getppid()
pair = socket.socketpair()
unnamed = os.open("/dev/null", os.O_RDWR)
connection = pair[0].fileno()
if not {landlock}:
    confine._LANDLOCK_CREATE = 100000
report = confine.worker(image, connection, pair[1].fileno())
assert bool(report.landlock) == {landlock}, report
os.write(1, b"confined ")
"""
AFTER = """
os.write(1, b"done")
"""

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
PAGE = "page = ctypes.create_string_buffer(8192)\n"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A copy of the module that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        shutil.copy(confine.__file__, name)
        Path(name, "confine.py").chmod(0o644)
        yield Path(name)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "image"
    path.write_bytes(bytes(SIZE))
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def run(
    folder: Path,
    image: int,
    code: str,
    *,
    user: bool = False,
    landlock: bool = True,
    python: str = INTERPRETERS[0],
) -> subprocess.CompletedProcess[bytes]:
    prelude = PRELUDE.format(folder=str(folder), image=image, landlock=landlock)
    return subprocess.run(
        [python, "-I", "-S", "-c", prelude + PAGE + code + AFTER],
        pass_fds=[image],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=50,
        user=NOBODY if user else None,
        group=NOBODY if user else None,
        extra_groups=[] if user else None,
        check=False,
    )


users = pytest.mark.parametrize(
    "user",
    [
        pytest.param(False, id="this-user"),
        pytest.param(
            True, id="ordinary-user", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
        ),
    ],
)
landlocks = pytest.mark.parametrize("landlock", [True, False], ids=["landlock", "no-landlock"])


@users
@landlocks
@pytest.mark.parametrize("attempt", KILLED)
def test_an_escape_ends_the_process(
    folder: Path, image: int, attempt: str, user: bool, landlock: bool
) -> None:
    result = run(folder, image, KILLED[attempt], user=user, landlock=landlock)
    assert result.stdout == b"confined ", result
    assert result.returncode == -signal.SIGSYS, result


@users
@landlocks
@pytest.mark.parametrize("attempt", REFUSED)
def test_what_libraries_try_is_refused(
    folder: Path, image: int, attempt: str, user: bool, landlock: bool
) -> None:
    result = run(folder, image, REFUSED[attempt], user=user, landlock=landlock)
    assert result.stdout == b"confined ", result
    assert result.returncode == 1, result
    assert b"[Errno 1]" in result.stderr, result


@pytest.mark.parametrize("python", INTERPRETERS)
def test_its_work_is_possible(folder: Path, image: int, python: str) -> None:
    code = """
assert os.pread(image, 4, 0) == bytes(4)
assert os.pwrite(image, b"data", 4096) == 4
os.fsync(image)
copy = os.dup(image)
assert os.fstat(copy).st_size == 1 << 20
os.close(copy)
os.write(connection, b"hello")
assert len(os.urandom(16)) == 16
import gc; big = [bytes(1 << 20) for _ in range(100)]; del big; gc.collect()
"""
    result = run(folder, image, code, python=python)
    assert (result.stdout, result.returncode) == (b"confined done", 0), result
    assert os.pread(image, 4, 4096) == b"data"


def test_descriptors_that_were_not_named_are_closed(folder: Path, image: int) -> None:
    result = run(folder, image, "os.write(unnamed, b'x')")
    assert b"Bad file descriptor" in result.stderr


def test_memory_is_limited(folder: Path, image: int) -> None:
    result = run(folder, image, "bytearray(2 << 30)")
    assert result.returncode == 1
    assert b"MemoryError" in result.stderr


def test_processor_time_is_limited(folder: Path, image: int) -> None:
    copy = folder / "confine.py"
    text = copy.read_text()
    assert "SECONDS = 120" in text
    copy.write_text(text.replace("SECONDS = 120", "SECONDS = 1"))
    try:
        result = run(folder, image, "while True: pass")
    finally:
        copy.write_text(text)
    assert result.returncode in {-signal.SIGKILL, -signal.SIGXCPU}


def test_the_image_does_not_grow(folder: Path, image: int) -> None:
    result = run(folder, image, f"os.pwrite(image, b'x', {SIZE})")
    assert b"File too large" in result.stderr
    assert os.fstat(image).st_size == SIZE


def test_there_are_few_descriptors(folder: Path, image: int) -> None:
    result = run(folder, image, "for _ in range(16): os.dup(image)")
    assert b"Too many open files" in result.stderr


def test_without_libseccomp_it_refuses(folder: Path, image: int) -> None:
    prelude = PRELUDE.format(folder=str(folder), image=image, landlock=True).replace(
        "image = ", "confine.LIBRARY = 'libmissing.so.0'\nimage = "
    )
    result = subprocess.run(
        [INTERPRETERS[0], "-I", "-S", "-c", prelude], pass_fds=[image], capture_output=True, check=False
    )
    assert result.returncode == 1
    assert b"ConfinementError: the library libmissing.so.0 is not installed" in result.stderr


def test_this_host_is_examined_without_confining_it() -> None:
    found = confine.available()
    assert found.seccomp.count(".") == 2
    assert Path(confine.__file__).read_bytes()  # still allowed
    assert found == confine.available()

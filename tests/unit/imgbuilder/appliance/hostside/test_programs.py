"""e2fsck and resize2fs, confined, on disks that mke2fs made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from imgbuilder import doctor
from imgbuilder.appliance.hostside import confine, connection, gate, programs
from imgbuilder.appliance.hostside.gate import Place
from imgbuilder.errors import ToolError, UnfitError
from imgbuilder.host import process
from imgbuilder.host.packages import install_hint
from tests.unit.imgbuilder.appliance.hostside import filesystems
from tests.unit.imgbuilder.disks import MIB, dump, verify

needs_landlock = pytest.mark.skipif(
    not confine.available().landlock, reason="the kernel has no Landlock, so no program runs confined"
)
pytestmark = [needs_landlock, pytest.mark.row("B27")]


NOW = 1_700_000_000


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def disk(tmp_path: Path) -> tuple[Path, Place]:
    path = tmp_path / "disk?offset=0"  # e2fsprogs would cut off such a name
    return path, filesystems.in_disk(path)


def blocks_of(path: Path) -> int:
    return gate.Superblock(filesystems.superblock(path, filesystems.OFFSET)).blocks


def test_a_clean_filesystem_passes(disk: tuple[Path, Place]) -> None:
    path, place = disk
    path.chmod(0o400)
    with opened(path, os.O_RDONLY) as image:
        programs.check(image, place)


def test_growth_keeps_the_disk_and_its_tables(disk: tuple[Path, Place]) -> None:
    path, place = disk
    table = dump(path)
    with opened(path) as image:
        programs.grow(image, place, NOW)
        programs.check(image, place)
    assert path.stat().st_size == 32 * MIB
    assert dump(path) == table
    verify(path)
    assert blocks_of(path) * 1024 == place.size


@pytest.mark.parametrize(
    "words",
    [
        ("-b", "4096"),
        ("-t", "ext2"),
        ("-O", "^64bit,^metadata_csum"),
        ("-L", "cloudimg-rootfs"),
        ("-L", "a b:c\n\x1c\x1b[31m\u2028"),
    ],
)
def test_other_kinds_grow(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "disk"
    place = filesystems.in_disk(path, *words)
    before = blocks_of(path)
    with opened(path) as image:
        programs.grow(image, place, NOW)
        programs.check(image, place)
    assert blocks_of(path) > before
    verify(path)


def test_growth_of_a_filesystem_that_fills_its_partition_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    place = filesystems.in_disk(path, size=30 * MIB)
    with opened(path) as image:
        programs.grow(image, place, NOW)
        programs.check(image, place)


def test_two_growths_of_one_disk_give_the_same_bytes(disk: tuple[Path, Place], tmp_path: Path) -> None:
    path, place = disk
    copy = tmp_path / "copy"
    shutil.copy(path, copy)
    for each in (path, copy):
        with opened(each) as image:
            programs.grow(image, place, NOW)
        time.sleep(1.1)  # they are written at different times
    assert path.read_bytes() == copy.read_bytes()
    assert gate.Superblock(filesystems.superblock(path, filesystems.OFFSET)).word(0x30) == NOW


def damage(path: Path, place: Place) -> None:
    """Make the bitmap of blocks wrong."""
    with opened(path) as image:
        for block in range(2, 64):
            os.pwrite(image, b"\xa5" * 64, place.offset + block * 1024)


def test_a_damaged_filesystem_does_not_pass(disk: tuple[Path, Place]) -> None:
    path, place = disk
    damage(path, place)
    with opened(path) as image, pytest.raises(UnfitError, match="e2fsck does not find the filesystem clean"):
        programs.check(image, place)


def test_the_checker_writes_nothing(disk: tuple[Path, Place]) -> None:
    path, place = disk
    damage(path, place)
    before = path.read_bytes()
    with opened(path) as image, pytest.raises(UnfitError):
        programs.check(image, place)
    assert path.read_bytes() == before


def test_something_else_does_not_pass(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(8 * MIB))
    with opened(path) as image:
        with pytest.raises(UnfitError, match=r"e2fsck does not find the filesystem clean: .*super-block"):
            programs.check(image, Place(MIB, 4 * MIB))
        with pytest.raises(UnfitError, match="resize2fs failed with status 1"):
            programs.grow(image, Place(MIB, 4 * MIB), NOW)


def test_a_missing_program_is_named(disk: tuple[Path, Place], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolError, match="the program e2fsck is not installed") as caught:
        programs.require_host()
    assert caught.value.hint == install_hint("e2fsck")
    path, place = disk
    with opened(path) as image, pytest.raises(UnfitError, match="the program e2fsck is not installed"):
        programs.check(image, place)


@pytest.mark.parametrize(
    ("module", "name", "value", "message", "hint"),
    [
        (programs, "_LIBRARY", "libmissing.so.0", "the library libmissing.so.0 is not", "libmissing.so.0"),
        (confine, "LIBRARY", "libmissing.so.0", "the library libmissing.so.0 is not", "libmissing.so.0"),
        (confine, "_LANDLOCK_CREATE", 100000, "Landlock is not available", "Linux 5.13"),
    ],
)
def test_what_a_host_must_have(
    module: ModuleType, name: str, value: object, message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert programs.require_host().landlock
    assert doctor._hostside().health is doctor.Health.GOOD
    monkeypatch.setattr(module, name, value)
    with pytest.raises(ToolError, match=message) as caught:
        programs.require_host()
    assert hint in str(caught.value.hint)
    found = doctor._hostside()
    assert found.health is doctor.Health.WORSE
    assert message in found.fact
    assert hint in (found.remedy or found.needs)


@pytest.mark.parametrize(
    ("module", "name", "value", "message"),
    [
        (programs, "_CONFINE", "/nonexistent", "e2fsck, confined, ends with status 2: "),
        (
            connection,
            "_START",
            "import os, signal; os.kill(os.getpid(), signal.SIGSYS)",
            "ended unexpectedly",
        ),
    ],
)
def test_a_host_whose_sandbox_ends_confined_processes(
    module: ModuleType, name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, value)
    found = doctor._hostside()
    assert found.health is doctor.Health.WORSE
    assert message in found.fact
    assert "seccomp" in (found.remedy or "")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of programs that are found first; under /usr, where confined programs may lie."""
    folder = Path("/usr/local/lib") / f"pybuilder-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("needs root")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    yield folder
    shutil.rmtree(folder)


def script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_growth_that_cuts_the_disk_is_found(
    disk: tuple[Path, Place], stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As resize2fs does it where nothing answers its call in its place."""
    path, place = disk
    monkeypatch.setattr(programs, "_CONFINE", stand_in / "unconfined.py")
    (stand_in / "unconfined.py").write_text("import os, sys\nos.execv(sys.argv[2], sys.argv[2:])\n")
    with opened(path) as image, pytest.raises(UnfitError, match="resize2fs changed the disk outside"):
        programs.grow(image, place, NOW)
    assert path.stat().st_size < 32 * MIB


def test_a_program_that_prints_without_end_is_stopped(disk: tuple[Path, Place], stand_in: Path) -> None:
    script(stand_in, "e2fsck", "while :; do echo Pass 1: again; done")
    path, place = disk
    with opened(path) as image, pytest.raises(UnfitError, match="e2fsck printed more than 65536 bytes"):
        programs.check(image, place)


def test_a_program_that_never_ends_is_stopped(
    disk: tuple[Path, Place], stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_SECONDS", 1.0)
    script(stand_in, "e2fsck", "while :; do :; done")
    path, place = disk
    with opened(path) as image, pytest.raises(UnfitError, match="e2fsck did not end within 1 seconds"):
        programs.check(image, place)


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ("e2fsck 1.47.0 (5-Feb-2023)", True),
        ("Pass 1: Checking inodes, blocks, and sizes", True),
        ("Inode 12 extent tree (at level 1) could be narrower.  Optimize? no", True),
        ("", True),
        ("Inode 12 extent tree (at level 1) could be narrower.  Optimize? yes", False),
        ("cloudimg-rootfs: 11/130560 files (0.0% non-contiguous), 39210/523247 blocks", True),
        ("a label: 11/130560 files (0.0% non-contiguous), 39210/523247 blocks", False),
        ("Superblock last mount time is in the future.", False),
        ("WARNING: bad format on line 1", False),
    ],
)
def test_any_complaint_counts(disk: tuple[Path, Place], stand_in: Path, said: str, good: bool) -> None:
    script(stand_in, "e2fsck", f"echo '{said}'")
    path, place = disk
    with opened(path) as image:
        if good:
            programs.check(image, place)
        else:
            with pytest.raises(UnfitError, match="does not find the filesystem clean"):
                programs.check(image, place)


# What a program that was taken over can do

NOBODY = 65534
users = pytest.mark.parametrize(
    "user",
    [
        pytest.param(None, id="this-user"),
        pytest.param(
            NOBODY, id="ordinary-user", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
        ),
    ],
)
PYTHON = "/usr/bin/python3"
ESCAPES = {
    "password file": "open('/etc/passwd')",
    "other file": "open('/tmp/pybuilder-escape', 'w')",
    "home": "os.listdir('/root')",
    "other process": "open(f'/proc/{os.getppid()}/environ')",
    "own memory": "open('/proc/self/mem', 'wb')",
    "device": "open('/dev/zero')",
    "socket": "import socket; socket.socket()",
    "unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "fork": "os.fork()",
    "thread": "import _thread; _thread.start_new_thread(print, ())",
    "kill": "os.kill(os.getppid(), 0)",
    "remove": "os.unlink('/usr/bin/env')",
    "folder": "os.mkdir('/usr/pybuilder-escape')",
    "write to the system": "open('/usr/bin/env', 'ab')",
    "mount": "import ctypes; assert ctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, None) == 0",
    "limits": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))",
    "file size": "os.pwrite(IMAGE, b'x', os.fstat(IMAGE).st_size)",
    "memory": "bytearray(2 << 30)",
}


@users
@pytest.mark.parametrize("attempt", ESCAPES)
def test_an_escape_fails(tmp_path: Path, attempt: str, user: int | None) -> None:
    result = confined(tmp_path, ESCAPES[attempt], user)
    assert b"begun" in result.stdout, result
    assert b"escaped" not in result.stdout, result
    assert result.returncode != 0, result


@users
def test_its_work_is_possible(tmp_path: Path, user: int | None) -> None:
    code = """
image = os.open(f'/proc/self/fd/{IMAGE}', os.O_RDWR)
assert os.pread(image, 1, 0) == b'\\0'
os.pwrite(image, b'written', 0)
os.ftruncate(image, 0)
os.fsync(image)
assert os.fstat(image).st_size == 1 << 20
"""
    result = confined(tmp_path, code, user)
    assert b"escaped" in result.stdout, result
    assert (tmp_path / "image").read_bytes()[:7] == b"written"


def confined(folder: Path, code: str, user: int | None) -> subprocess.CompletedProcess[bytes]:
    """Run Python code as the confined program."""
    path = folder / "image"
    path.write_bytes(bytes(MIB))
    path.chmod(0o666)
    # The code is an argument: another user may not be able to read the file.
    with opened(path) as image:
        head = f"import os\nIMAGE = {image}\nos.write(1, b'begun ')\n"
        command = [PYTHON, "-I", "-S", "-c", head + code + "\nos.write(1, b'escaped')\n"]
        source = Path(confine.__file__).read_text().partition("if __name__")[0]
        # Python, unlike e2fsprogs, lists the folders of its modules.
        launcher = f"{source}\n_PROGRAM += ('getdents64',)\nprogram({image}, {command!r})\n"
        return subprocess.run(
            [PYTHON, "-I", "-S", "-c", launcher],
            pass_fds=[image],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=50,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            check=False,
        )


def test_without_landlock_no_program_runs(
    disk: tuple[Path, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(confine.__file__).read_text()
    copy = tmp_path / "confine.py"
    assert "= 444, 445, 446" in source
    copy.write_text(source.replace("= 444, 445, 446", "= 100000, 445, 446"))
    monkeypatch.setattr(programs, "_CONFINE", copy)
    path, place = disk
    with opened(path) as image:
        with pytest.raises(UnfitError, match="Landlock is not available"):
            programs.check(image, place)
        with pytest.raises(UnfitError, match="Landlock is not available"):
            programs.grow(image, place, NOW)
    assert sys.executable


def test_a_program_ends_with_the_process_that_started_it(disk: tuple[Path, Place], stand_in: Path) -> None:
    script(stand_in, "e2fsck", "while :; do :; done")
    path, place = disk
    code = (
        "import os; from imgbuilder.appliance.hostside import gate, programs\n"
        f"programs.check(os.open({str(path)!r}, os.O_RDWR), gate.Place({place.offset}, {place.size}))\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 30
        started: list[psutil.Process] = []
        while not started and time.monotonic() < deadline:
            started = [child for child in psutil.Process(starter.pid).children() if "-fn" in child.cmdline()]
            started = [child for child in started if "confine.py" not in " ".join(child.cmdline())]
        assert started
    finally:
        starter.kill()
        starter.wait()
    assert not psutil.wait_procs(started, timeout=10)[1]

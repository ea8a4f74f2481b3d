"""Builds without an appliance as a user types them: by whom, stopped, killed, and what they leave."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from imgbuilder.appliance.hostside import confine
from imgindex.model import Entry
from tests.fakes.keys import KeyMaker
from tests.fakes.template import MIB, Site

pytestmark = [
    pytest.mark.skipif(not confine.available().landlock, reason="the kernel has no Landlock"),
    pytest.mark.row("B27"),
]

SIZE = 24 * MIB
START = 2 * MIB
TABLE = b"label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\nstart=4096\n"
FILES = {
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Small"\n',
    "etc/machine-id": "",
    "etc/hostname": "old\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/shadow": "root:*:1::::::\n",
    "etc/fstab": "",
    "lib/systemd/systemd": "",
}
FOLDERS = ("root", "tmp", "srv", "var/lib/systemd", "etc/systemd/system", "usr/lib/systemd/system")
OPTIONS = (
    "--size", "64M", "--hostname", "new.example.org", "--root-password", "password:secret",
    "--write", "/etc/motd:hello\n", "--mkdir", "/srv/a/b", "--copy-in", "tree:/srv",
    "--ssh-inject", "root:string:ssh-ed25519 AAAA someone", "--firstboot-command", "echo hello",
)  # fmt: skip
CHANGES = ("--write", "/etc/motd:changed\n", "--copy-in", "tree:/var", "--delete", "/srv/tree")
LIMIT = 30.0
PATH = ":".join(path for path in sys.path if path)
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Place:
    """A place where builds are run, and the folder of what they need."""

    base: Path
    prefix: tuple[str, ...]

    @property
    def image(self) -> Path:
        return self.base / "out/x.img"

    def start(self) -> subprocess.Popen[bytes]:
        return self._start("imgbuilder", "small", "-o", str(self.image), *OPTIONS)

    def customize(self) -> subprocess.Popen[bytes]:
        return self._start("imgbuilder.cli.customize_main", "-a", str(self.image), *CHANGES)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        command = ["env", "--default-signal=HUP,INT,QUIT,TERM", *self.prefix, sys.executable, "-m", *words]
        command += ["--hostside", "always"]
        environment = {
            "HOME": str(self.base / "home"), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "TMPDIR": str(self.base / "tmp"), "VIRT_BUILDER_DIRS": "/nonexistent", "LANG": "C.UTF-8",
            "PYTHONPATH": PATH,
        }  # fmt: skip
        with (self.base / "said").open("wb") as said:
            return subprocess.Popen(
                command, cwd=self.base, env=environment, stdin=subprocess.DEVNULL, stdout=said,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def begin(self) -> subprocess.Popen[bytes]:
        """Start a build, and wait until its first step begins."""
        build = self.start()
        end = time.monotonic() + LIMIT
        while "Copying" not in self.said() and time.monotonic() < end:
            assert build.poll() is None, self.said()
            time.sleep(0.005)
        return build

    def said(self) -> str:
        return (self.base / "said").read_text(errors="replace")

    def nothing_left(self, *names: str) -> None:
        assert [path.name for path in (self.base / "out").iterdir()] == list(names), self.said()
        assert list((self.base / "tmp").iterdir()) == []
        end = time.monotonic() + LIMIT
        while running() and time.monotonic() < end:
            time.sleep(0.02)
        assert running() == []


def running() -> list[str]:
    """Return the programs that builds of this process left; it adopts those whose parent has ended."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return [
        words for words in found if "hostside" in words or "/proc/self/fd/" in words or "imgbuilder" in words
    ]


@pytest.fixture(scope="module", autouse=True)
def adopts() -> Iterator[None]:
    """Let processes whose parent ends become children of this one."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A packed disk with a small system on ext4."""
    base = tmp_path_factory.mktemp("small")
    for name, text in FILES.items():
        path = base / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in FOLDERS:
        (base / "tree" / name).mkdir(parents=True, exist_ok=True)
    disk = base / "disk"
    disk.write_bytes(bytes(SIZE))
    subprocess.run(["sfdisk", "-q", "--no-tell-kernel", disk], input=TABLE, check=True, capture_output=True)
    blocks = str((SIZE - START - MIB) // 1024) + "k"
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={START},root_owner=0:0",
         "-d", base / "tree", disk, blocks],
        check=True,
    )  # fmt: skip
    return subprocess.run(["xz", "-0c", disk], check=True, capture_output=True).stdout


USERS = {
    "root": (),
    "an ordinary user": ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"),
}


@pytest.fixture(params=USERS)
def place(request: pytest.FixtureRequest, template: bytes, keys: KeyMaker) -> Iterator[Place]:
    prefix = USERS[request.param]
    if os.geteuid() != 0 and prefix == ():
        pytest.skip("the tests do not run as root")
    if prefix and os.geteuid() == 0:
        probe = [*prefix, sys.executable, "-c", "import imgbuilder.cli.main"]
        if subprocess.run(probe, env={"PYTHONPATH": PATH}, cwd="/", capture_output=True).returncode != 0:
            pytest.skip("other users than root cannot read this checkout")
    base = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    for name in ("site", "home", "tmp", "out", "tree/folder"):
        (base / name).mkdir(parents=True)
    (base / "tree/folder/file").write_text("content")
    (base / "site/small.xz").write_bytes(template)
    entry = Entry(
        os_version="small", file="small.xz", arch="x86_64", size=SIZE, format="raw", name="Small",
        sha512=hashlib.sha512(template).hexdigest(), compressed_size=len(template), expand="/dev/sda2",
    )  # fmt: skip
    site = Site(base / "site", entry, keys, keys.publisher)
    site.sign()
    site.configure(base / "home/.config")
    if prefix and os.geteuid() == 0:
        subprocess.run(["chown", "-R", "65534:65534", base], check=True)
    yield Place(base, prefix if os.geteuid() == 0 else ())
    shutil.rmtree(base)


def inside(image: Path, request: str) -> str:
    done = subprocess.run(
        ["debugfs", "-R", request, f"{image}?offset={START}"], check=True, capture_output=True, text=True
    )
    return done.stdout


def test_a_build_is_complete(place: Place) -> None:
    build = place.start()
    assert build.wait(60) == 0, place.said()
    assert "Setting the hostname: new.example.org" in place.said()
    assert place.image.stat().st_size == 64 * MIB
    checks: list[list[str | Path]] = [
        ["e2fsck", "-fn", f"{place.image}?offset={START}"],
        ["sfdisk", "--verify", place.image],
    ]
    for command in checks:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert inside(place.image, "cat /etc/hostname") == "new.example.org\n"
    assert inside(place.image, "cat /etc/motd") == "hello\n"
    assert inside(place.image, "cat /srv/tree/folder/file") == "content"
    assert "User:     0   Group:     0" in inside(place.image, "stat /srv/tree/folder/file")
    assert inside(place.image, "cat /etc/shadow").startswith("root:$6$")
    assert "someone" in inside(place.image, "cat /root/.ssh/authorized_keys")
    assert len(inside(place.image, "cat /etc/machine-id")) == 33
    assert (
        int(inside(place.image, "show_super_stats -h").split("Block count:")[1].split()[0]) * 1024 > 50 * MIB
    )
    place.nothing_left("x.img")


@pytest.mark.row("B1", "B2")
def test_a_signal_at_any_time_leaves_nothing(place: Place) -> None:
    assert place.start().wait(60) == 0, place.said()  # the template is in the cache
    build = place.begin()
    began = time.monotonic()
    assert build.wait(60) == 0, place.said()
    whole = time.monotonic() - began
    stopped, moments = 0, 12 if place.prefix else 6
    for turn in range(moments):
        place.image.write_text("precious")
        number = (signal.SIGINT, signal.SIGTERM)[turn % 2]
        build = place.begin()
        time.sleep(whole * turn / moments)
        build.send_signal(number)
        code = build.wait(LIMIT)
        is_done = code == 0 or (code == -number and "Output file" in place.said())  # Python is ending
        assert is_done or code == 128 + number, place.said()
        assert "Traceback" not in place.said()
        if not is_done:
            stopped += 1
            is_whole = place.image.stat().st_size == 64 * MIB  # it came just after the last step
            assert is_whole or place.image.read_text() == "precious"
        place.nothing_left("x.img")
    assert stopped >= moments // 4, "most signals come while it builds"


@pytest.mark.row("B3")
def test_a_killed_build_leaves_no_process_and_the_next_one_sweeps(place: Place) -> None:
    assert place.start().wait(60) == 0, place.said()
    for turn in range(4):
        build = place.begin()
        time.sleep(0.1 * turn)
        build.kill()
        build.wait(LIMIT)
        end = time.monotonic() + LIMIT
        while running() and time.monotonic() < end:
            time.sleep(0.02)
        assert running() == []
    assert place.start().wait(60) == 0, place.said()
    place.nothing_left("x.img")


@pytest.mark.row("B3")
def test_a_customized_disk_is_whole_at_each_moment(place: Place) -> None:
    """Killed at any time, it is the old disk or the new one."""
    assert place.start().wait(60) == 0, place.said()
    old = place.image.read_bytes()
    began = time.monotonic()
    assert place.customize().wait(60) == 0, place.said()
    whole = time.monotonic() - began
    unchanged = 0
    for turn in range(8):
        place.image.write_bytes(old)
        customizing = place.customize()
        time.sleep(whole * (turn + 1) / 8)
        customizing.kill()
        customizing.wait(LIMIT)
        if place.image.read_bytes() == old:
            unchanged += 1
            continue
        assert inside(place.image, "cat /etc/motd") == "changed\n"
        assert "tree" in inside(place.image, "ls /var")
        assert "tree" not in inside(place.image, "ls /srv")
        subprocess.run(["e2fsck", "-fn", f"{place.image}?offset={START}"], check=True, capture_output=True)
    assert unchanged >= 3, "most come while it works"
    place.image.write_bytes(old)
    assert place.customize().wait(60) == 0, place.said()
    place.nothing_left("x.img")

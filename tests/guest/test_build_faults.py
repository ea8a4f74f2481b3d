"""B7 to B11, B19, B20: appliances, guests and disks that fail in the middle of a build.

Small templates of many kinds in a signed source, built as an ordinary user would type it; the hypervisor
is real, and what fails is its disk, its place, or its life.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment, open_appliance
from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.errors import ApplianceError
from imgindex.model import Entry
from tests.fakes.keys import KeyMaker
from tests.fakes.template import Site
from tests.guest import layouts
from tests.guest.conftest import long
from tests.guest.layouts import GROWN, MIB, SECRET, fill, partitioned, run
from tests.guest.person import Person, leftovers, person_id
from tests.guest.test_wrong_input import fails

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

QUIET = ("--root-password", "disabled", "--no-network")
BIOS = "21686148-6449-6E6F-744E-656564454649"
UUID = "d1d1d1d1-0000-4000-8000-00000000000a"


@dataclass(frozen=True)
class Library:
    """A signed source of small templates, in the configuration of a person.

    Attributes:
        person: Who builds.
        folder: The source.
        entries: Its templates by name.
    """

    person: Person
    folder: Path
    entries: dict[str, Entry]

    @property
    def env(self) -> dict[str, str]:
        return {"XDG_CONFIG_HOME": str(self.folder / "config")}

    def build(self, name: str, *words: str | Path, **env: str) -> tuple[Path, str]:
        """Build; return the image and all that was said."""
        image = self.person.home / f"{name}.img"
        done = self.person.run("pybuilder", name, "-o", image, *QUIET, *words, env={**self.env, **env})
        assert leftovers(self.person, [self.person.home]) == []
        return image, done.stdout + done.stderr

    def fails(self, name: str, *words: str | Path, **env: str) -> str:
        """Build something that must fail without traces; return the error."""
        image = self.person.home / f"{name}.img"
        return fails(
            self.person, "pybuilder", name, "-o", image, *QUIET, *words, env={**self.env, **env}, code=1
        )


def make_disks(folder: Path) -> dict[str, tuple[Path, Entry]]:
    """Make the disks; the kernel's part of them (LVM, LUKS, logs that were cut off) in appliances."""
    files = layouts.tree(folder / "tree")
    gpt = f"label: gpt\nsize=1M, type={BIOS}\nsize=+\n"

    def blank(name: str, size: int = layouts.SIZE) -> Path:
        path = folder / f"{name}.raw"
        path.touch()
        os.truncate(path, size)
        return path

    disks = {
        "xfs": partitioned(folder / "xfs.raw", gpt),
        "torn-ext4": partitioned(folder / "torn-ext4.raw", gpt),
        "btrfs": partitioned(folder / "btrfs.raw", "label: dos\nsize=1M\ntype=f\nsize=8M\nsize=+\n"),
        "lvm": partitioned(folder / "lvm.raw", "label: gpt\nsize=1M\nsize=+, type=V\n"),
        "luks": blank("luks"),
        "bare": blank("bare"),
        "tight": blank("tight", 32 * MIB),
        "asleep": partitioned(folder / "asleep.raw", "label: gpt\nsize=64M\nsize=+\n"),
    }
    fill(disks["xfs"], 2, "xfs", files)
    fill(disks["torn-ext4"], 2, "ext4", files)
    fill(disks["btrfs"], 6, "btrfs", files)
    fill(disks["luks"], None, "luks", folder, "--uuid", UUID)
    fill(disks["bare"], None, "ext4", files)
    fill(disks["tight"], None, "ext4", files)
    fill(disks["asleep"], 1, "ext4", files)
    fill(disks["asleep"], 2, "ntfs", files)
    furnish(disks, files)
    expands = {
        "xfs": "/dev/sda2", "torn-ext4": "/dev/sda2", "btrfs": "/dev/sda6", "lvm": "/dev/sda2",
        "luks": "/dev/sda",
        "bare": "/dev/sda", "tight": "/dev/sda", "asleep": "/dev/sda2",
    }  # fmt: skip
    return {
        name: (path, Entry(
            os_version=name, file=f"{name}.xz", arch="x86_64", size=path.stat().st_size, name=name,
            format="raw", expand=expands[name], lvexpand="/dev/grow-vg/root" if name == "lvm" else None,
        ))
        for name, path in disks.items()
    }  # fmt: skip


def furnish_root(guest: LibguestfsAppliance, folder: str, files: Path) -> None:
    """Put in what a build looks at."""
    for name in ("etc", "tmp", "var/log"):
        guest.mkdir_p(f"{folder}/{name}")
    guest.upload(files / "etc/os-release", f"{folder}/etc/os-release")
    guest.write(f"{folder}/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    guest.write(f"{folder}/etc/shadow", b"root:*:19000:0:99999:7:::\n")


def furnish(disks: dict[str, Path], files: Path) -> None:
    """Fill what needs a kernel, then kill the hypervisor: filesystems stay with unfinished logs.

    In two appliances, since no more than four disks are resumed.
    """

    def attached(*names: str) -> list[Attachment]:
        return [Attachment(disks[name], "raw") for name in names]

    with open_appliance(attached("lvm", "luks", "bare", "tight")) as guest:
        call = guest._connection.call
        guest.open_luks("/dev/sdb", SECRET, "opened")
        call("pvcreate", "/dev/sda2")
        call("vgcreate", "grow-vg", ["/dev/sda2"])
        call("lvcreate", "root", "grow-vg", 200)
        for device in ("/dev/grow-vg/root", "/dev/mapper/opened"):
            guest.make_filesystem("ext4", device)
        for device in ("/dev/grow-vg/root", "/dev/mapper/opened", "/dev/sdc", "/dev/sdd"):
            guest.mount(device, "/")
            furnish_root(guest, "", files)
            guest.unmount_all()
        guest.shutdown()
    started = time.monotonic()
    with (
        pytest.raises(ApplianceError) as caught,
        open_appliance(attached("btrfs", "asleep", "xfs", "torn-ext4")) as guest,
    ):
        call = guest._connection.call
        for device in ("/dev/sda6", "/dev/sdb1"):
            guest.mount(device, "/")
            furnish_root(guest, "", files)
            guest.unmount_all()
        guest.mount("/dev/sdb2", "/")
        guest.write("/hiberfil.sys", b"hibr" + bytes(8188))
        guest.unmount_all()
        guest.mount("/dev/sdc2", "/")
        guest.mkdir_p("/second")
        guest.mount("/dev/sdd2", "/second")
        for folder in ("", "/second"):
            furnish_root(guest, folder, files)
            for number in range(50):
                guest.write(f"{folder}/etc/torn-{number}", b"after the crash " * 100)
        call("sync")
        hypervisor = call("get_pid")
        started = time.monotonic()
        threading.Timer(1.0, os.kill, (hypervisor, signal.SIGKILL)).start()
        call("debug", "sh", ["sleep 300"], limit=120.0)
    assert time.monotonic() - started < 60, "B10: the death of the hypervisor is noticed at once"
    assert "appliance" in str(caught.value)


@pytest.fixture(scope="module")
def library(person: Person) -> Iterator[Library]:
    folder = person.home / "library"
    folder.mkdir()
    work = folder / "work"
    work.mkdir()
    with KeyMaker() as keys:
        entries = {}
        for name, (path, entry) in make_disks(work).items():
            packed = folder / entry.file
            packed.write_bytes(subprocess.run(["xz", "-0c", path], check=True, capture_output=True).stdout)
            content = packed.read_bytes()
            entries[name] = replace(
                entry, sha512=hashlib.sha512(content).hexdigest(), compressed_size=len(content)
            )
        shutil.rmtree(work)
        site = Site(folder, entries["bare"], keys, keys.make("publisher"))
        site.sign(*entries.values())
        site.configure(folder / "config")
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    yield Library(person, folder, entries)
    shutil.rmtree(folder)


def part_of(image: Path, number: int | None, tmp_path: Path) -> Path:
    return layouts.cut(image, number, tmp_path / "part")


@pytest.mark.row("B19")
@pytest.mark.parametrize(
    ("name", "number", "checker"),
    [
        ("xfs", 2, ["xfs_repair", "-n", "-f"]),
        ("torn-ext4", 2, ["e2fsck", "-fn"]),
        ("btrfs", 6, ["btrfs", "check"]),
        ("bare", None, ["e2fsck", "-fn"]),
        ("lvm", None, None),
        ("luks", None, None),
    ],
)
def test_every_layout_grows_by_the_command(
    library: Library, tmp_path: Path, name: str, number: int | None, checker: list[str] | None
) -> None:
    """B19: logs that a crash left are replayed first, and nothing that was synced is lost."""
    secret = library.person.home / "secret"
    secret.write_text(f"{SECRET}\n")
    os.chown(secret, person_id(library.person), -1)
    words = ["--size", f"{GROWN}b", "--write", "/etc/motd:built"]
    words += ["--key", f"{UUID}:file:{secret}"] if name == "luks" else []
    image, said = library.build(name, *words)
    secret.unlink()
    assert image.stat().st_size == GROWN
    assert "canary" not in said
    if checker is not None:
        program = shutil.which(checker[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
        assert program is not None
        part = part_of(image, number, tmp_path)
        done = subprocess.run([program, *checker[1:], part], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        if name == "torn-ext4":
            for number_ in (0, 49):
                shown = run("/usr/sbin/debugfs", "-R", f"cat /etc/torn-{number_}", part)
                assert shown.count("after the crash") == 100
        part.unlink()
    image.unlink()


@pytest.mark.row("B20")
def test_a_windows_that_sleeps_is_left_alone(library: Library) -> None:
    words = library.fails("asleep", "--size", f"{GROWN}b")
    assert "hibernated" in words


@pytest.mark.row("B18")
def test_without_the_key(library: Library) -> None:
    assert "--key" in library.fails("luks", "--size", f"{GROWN}b")


@pytest.mark.row("B9")
def test_a_full_guest(library: Library, tmp_path: Path) -> None:
    """The error names the file, and how much space the guest has."""
    large = library.person.home / "large"
    large.write_bytes(os.urandom(48 * MIB))
    large.chmod(0o644)
    try:
        words = library.fails("tight", "--upload", f"{large}:/opt", "--mkdir", "/x")
    finally:
        large.unlink()
    assert "/opt" in words
    assert re.search(r"in the guest, / has \S+ of \S+M free", words)
    assert "--size" in words


FAULTS = {
    "flush": "f'file.inject-error.0.event=none,file.inject-error.0.iotype=flush,file.inject-error.0.errno=5'",
    "write": "','.join(f'file.inject-error.{n}.event=none,file.inject-error.{n}.iotype=write,"
    "file.inject-error.{n}.sector={n * 4096 + 65536},file.inject-error.{n}.errno=5' for n in range(150))",
}


@pytest.mark.row("B11")
@pytest.mark.parametrize("fault", ["flush", pytest.param("write", marks=long)])
def test_a_disk_that_fails(library: Library, fault: str) -> None:
    """QEMU's own fault driver: no flush ever succeeds, or no write to some places."""
    hypervisor = library.person.home / "faulty"
    hypervisor.write_text(
        "#!/usr/bin/python3\n"
        "import os, re, sys\n"
        "def faulty(word):\n"
        "    found = re.match(r'file=(.*\\.pybuilder[^,]*),cache=(\\w+),format=raw,(.*)', word)\n"
        "    if not found: return word\n"
        "    path, cache, rest = found.groups()\n"
        "    return (f'driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={path},'\n"
        f"            + {FAULTS[fault]} + f',cache=writeback,{{rest}}')\n"
        "os.execv('/usr/bin/qemu-system-x86_64', ['qemu'] + [faulty(word) for word in sys.argv[1:]])\n"
    )
    hypervisor.chmod(0o755)
    large = library.person.home / "large"
    large.write_bytes(os.urandom(60 * MIB))
    large.chmod(0o644)
    try:
        words = library.fails(
            "bare", "--no-instant", "--upload", f"{large}:/x", LIBGUESTFS_HV=str(hypervisor)
        )
    finally:
        hypervisor.unlink()
        large.unlink()
    assert "I/O error" in words or "Input/output error" in words or "JBD2" in words
    assert "check the host's disk" in words


@pytest.mark.row("B7")
def test_places_of_the_appliance(library: Library) -> None:
    """Not writable, owned by another user, a file: said in one line."""
    person = library.person
    places = person.home / "places"
    places.mkdir()
    (places / "file").write_text("")
    (places / "closed").mkdir(mode=0o500)
    for path, said in ((places / "file", "file"), (places / "closed", "closed"), (places / "none", "none")):
        words = library.fails("bare", "--no-instant", LIBGUESTFS_CACHEDIR=str(path))
        assert said in words
        assert "LIBGUESTFS_CACHEDIR" in words
    foreign = places / "foreign"
    foreign.mkdir(mode=0o777)
    foreign.chmod(0o1777)
    planted = foreign / f".guestfs-{person_id(person)}"
    planted.mkdir(mode=0o777)
    if os.geteuid() == 0:
        words = library.fails("bare", "--no-instant", LIBGUESTFS_CACHEDIR=str(foreign))
        assert str(planted) in words
        assert "another user" in words
    shutil.rmtree(places)


@long
@pytest.mark.row("B7")
def test_two_builds_make_the_appliance_at_once(library: Library) -> None:
    person = library.person
    place = person.home / "place"
    place.mkdir()
    os.chown(place, person_id(person), -1)
    env = {**library.env, "LIBGUESTFS_CACHEDIR": str(place)}
    images = [person.home / f"at-once-{number}.img" for number in range(2)]
    started = [
        person.start("pybuilder", "bare", "-o", image, *QUIET, "--no-instant", env=env) for image in images
    ]
    for process in started:
        output, error = process.communicate(timeout=400)
        assert process.returncode == 0, output + error
    for image in images:
        image.unlink()
    shutil.rmtree(place)


@pytest.mark.row("B8")
def test_commands_that_fail(configured: Person) -> None:
    """A signal after 100 MB of output, and silence for ever; test_operations has other commands."""
    output = configured.home / "b8.img"

    def failure(command: str, *words: str) -> str:
        return fails(
            configured,
            "pybuilder",
            "debian-12",
            "-o",
            output,
            *QUIET,
            *words,
            "--run-command",
            command,
            code=1,
        )

    words = failure("head -c 100000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo the end; kill -SEGV $$")
    assert "SIGSEGV" in words
    assert "the end" in words
    assert len(words) < 10_000
    before = time.monotonic()
    words = failure("sleep 3600", "--command-timeout", "3")
    assert "3 seconds" in words
    assert "--command-timeout" in words
    assert time.monotonic() - before < 300

"""A small guest with a few programs of this machine: made, copied and packed in less than a second."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from imgindex.model import Entry
from tests.fakes.keys import KeyMaker
from tests.fakes.template import Site
from tests.guest.layouts import MIB, fill, partitioned

DEBIAN = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Small 12"\n'
SMALL_ROOT = "/dev/sda2"
"""The root of a small disk, as the appliance names it."""
_TABLE = "label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\nstart=4096\n"
_FILES = {
    "etc/debian_version": "12.1\n",
    "etc/fstab": "",
    "etc/group": "root:x:0:\n",
    "etc/hostname": "small\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/machine-id": "",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
}
_FOLDERS = ("dev", "proc", "root", "run", "srv", "sys", "tmp", "var/log", "var/lib/systemd")
_PROGRAMS = ("sh", "cp", "tail", "mktemp", "rm", "timeout", "cat", "head")
"""Programs that the shell code around a guest's commands needs."""


def copy_program(root: Path, name: str) -> None:
    """Copy a program of this machine, given by its name or path, with the libraries that it wants."""
    found = shutil.which(name)
    assert found is not None, name
    target = root / "usr/bin" / Path(name).name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(found, target)
    copy_libraries(root, Path(found))


def copy_libraries(root: Path, program: Path) -> None:
    """Copy the libraries that a program or a library of this machine wants."""
    needed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+) \(0x", needed):
        place = root / library.removeprefix("/").removeprefix("usr/")
        place = root / "usr" / place.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy(library, place)


def small_system(folder: Path, *programs: str, release: str = DEBIAN) -> Path:
    """Make the root of a system."""
    root = folder / "root"
    for name in (*_PROGRAMS, *programs):
        copy_program(root, name)
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    (root / "etc").mkdir()
    for name, text in {"etc/os-release": release, **_FILES}.items():
        (root / name).write_text(text)
    return root


def small_disk(image: Path, root: Path, *, size: int = 96 * MIB) -> Path:
    """Make a disk: GPT, a BIOS boot partition, ext4 as the last partition."""
    partitioned(image, _TABLE, size=size)
    fill(image, 2, "ext4", root, "-b", "4096", "-E", "root_owner=0:0")
    return image


@functools.cache
def _packed_disk() -> tuple[bytes, int]:
    """Return the template ``small`` in xz, and the size of its disk; it is made once."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        disk = small_disk(folder / "disk", small_system(folder))
        content = subprocess.run(["xz", "-0c", disk], check=True, capture_output=True).stdout
        return content, disk.stat().st_size


def small_site(folder: Path, keys: KeyMaker) -> Site:
    """Make a signed source with the template ``small``."""
    content, size = _packed_disk()
    (folder / "small.xz").write_bytes(content)
    entry = Entry(
        os_version="small", file="small.xz", arch="x86_64", size=size, name="Small",
        format="raw", sha512=hashlib.sha512(content).hexdigest(), compressed_size=len(content),
        expand=SMALL_ROOT,
    )  # fmt: skip
    site = Site(folder, entry, keys, keys.publisher)
    site.sign()
    return site

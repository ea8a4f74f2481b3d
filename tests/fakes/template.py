"""A tiny template and a signed source of it: a real partition table and a real ext4, packed by real xz."""

from __future__ import annotations

import functools
import hashlib
import itertools
import subprocess
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from imgbuilder.building.request import BuildRequest
from imgbuilder.guests.ports import CommandResult, FilesystemUse
from imgbuilder.host.sparse import SparseWriter
from imgindex.model import Entry, Index
from imgindex.write import write_index
from tests.fakes.appliance import FakeAppliance, FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest
from tests.fakes.keys import KeyMaker
from tests.fakes.operations import parse_operation

MIB = 1024 * 1024
SIZE = 8 * MIB
_SECONDS = itertools.count(1)
_TABLE = b"label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\nstart=4096\n"


def make_disk(path: Path, mark: bytes = b"") -> Path:
    """Write a raw disk: GPT, a BIOS boot partition, ext4 as the last partition, and then ``mark``."""
    with path.open("wb") as file:
        writer = SparseWriter(file.fileno())
        writer.write(_disk(mark))
        writer.finish()
    return path


@functools.cache
def _disk(mark: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        disk, filesystem = Path(folder, "disk"), Path(folder, "ext4")
        disk.write_bytes(bytes(SIZE))
        filesystem.write_bytes(bytes(5 * MIB))
        subprocess.run(
            ["/usr/sbin/sfdisk", "-q", "--no-tell-kernel", disk],
            input=_TABLE,
            check=True,
            capture_output=True,
        )
        subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", filesystem], check=True)
        with disk.open("r+b") as file:
            file.seek(2 * MIB)
            file.write(filesystem.read_bytes() + mark)
        return disk.read_bytes()


@functools.cache
def _packed(image_format: str, mark: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        disk = image = make_disk(Path(folder, "disk"), mark)
        if image_format != "raw":
            image = Path(folder, "image")
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", image_format, disk, image], check=True)
        return subprocess.run(["xz", "-0c", image], check=True, capture_output=True).stdout


@functools.cache
def _public(keys: KeyMaker, key: str) -> bytes:
    return keys.export(key)


@functools.cache
def _first_index(keys: KeyMaker, key: str, entry: Entry) -> bytes:
    return keys.sign(write_index(Index((entry,))), key)


@dataclass(frozen=True)
class Site:
    """A signed source in a local folder.

    Attributes:
        folder: The folder.
        entry: Its only template.
        keys: Who signs.
        key: The signing key.
    """

    folder: Path
    entry: Entry
    keys: KeyMaker
    key: str

    @property
    def index(self) -> Path:
        return self.folder / "index.asc"

    def sign(self, *entries: Entry) -> None:
        """Write and sign the index again, a second later than the last time: an index has one text only."""
        moment = f"{datetime.now(UTC) + timedelta(seconds=next(_SECONDS)):%Y%m%dT%H%M%S}!"
        text = write_index(Index(entries or (self.entry,)))
        self.index.write_bytes(self.keys.sign(text, self.key, at=moment))

    def configure(self, folder: Path, **fields: str) -> None:
        """Write a configuration with this source in ``folder``/pybuilder/repos.d."""
        place = folder / "pybuilder" / "repos.d"
        place.mkdir(parents=True, exist_ok=True)
        public = self.folder / "key.gpg"
        public.write_bytes(_public(self.keys, self.key))
        lines = {"uri": str(self.index), "gpgkey": str(public), **fields}
        text = "".join(f"{key}={value}\n" for key, value in lines.items() if value)
        (place / "test.conf").write_text(f"[test]\n{text}")


def make_site(folder: Path, keys: KeyMaker, *, template_format: str = "raw", mark: bytes = b"") -> Site:
    """Make a template and a signed source of it; another ``mark`` makes another template."""
    make_disk(folder / "disk.raw", mark)
    content = _packed(template_format, mark)
    (folder / "tiny.xz").write_bytes(content)
    entry = Entry(
        os_version="tiny", file="tiny.xz", arch="x86_64", size=SIZE, name="Tiny Linux",
        format=template_format,
        sha512=hashlib.sha512(content).hexdigest(), compressed_size=len(content), expand="/dev/sda2",
    )  # fmt: skip
    site = Site(folder, entry, keys, keys.publisher)
    site.index.write_bytes(_first_index(keys, site.key, entry))
    return site


def tiny_guest() -> FakeGuest:
    """A Debian-like guest in memory."""
    guest = FakeGuest()
    for folder in ("/etc", "/tmp", "/root", "/var/lib/systemd"):
        guest.add_dir(folder)
    guest.add("/etc/os-release", b'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Tiny"\n')
    guest.add("/etc/machine-id", b"")
    guest.add("/etc/shadow", b"root:*:1::::::\n", mode=0o640)
    guest.add("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    guest.add("/etc/fstab", b"UUID=x / ext4 defaults 0 1\n")
    return guest


class TinyAppliances(FakeAppliances):
    """Opens any disk as the tiny template's: an empty first partition, the guest on the second."""

    def __init__(self) -> None:
        super().__init__(prepare=self._teach)
        self.guest = tiny_guest()
        self.roots: dict[str, dict[str, str]] = {}
        self.answers: dict[str, CommandResult] = {}
        self.kinds: dict[int, str] = {}
        self.uses: list[FilesystemUse] | None = None

    def _teach(self, appliance: FakeAppliance) -> None:
        for pattern, answer in self.answers.items():
            appliance.on_sh(pattern, answer)
        if self.uses is not None:
            appliance.uses = self.uses

    def _disk(self, path: Path) -> FakeDisk:
        filesystems = {1: FakeFilesystem(self.kinds.get(1, "unknown")), 2: FakeFilesystem("ext4", self.guest)}
        return FakeDisk(filesystems, self.roots, size=path.stat().st_size)


def tiny_request(**fields: Any) -> BuildRequest:
    """Return a request for the tiny template that sets no random password."""
    base = BuildRequest(
        template="tiny", arch="x86_64", operations=(parse_operation("root-password", "disabled"),)
    )
    return replace(base, **fields)

"""A publisher's folders and a client of them: real gpg, gpgv and xz, guests in memory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import lzma
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgbuilder.events import Event, Notice, Severity
from imgindex.gpg import GpgVerifier
from imgindex.model import Entry, Index
from imgindex.parse import parse_index
from imgindex.signer import GpgSigner
from imgindex.trust import TrustedKeys
from imgindex.write import write_index
from imgrepo.publishing.publish import PublishResult, publish
from imgrepo.publishing.request import PublishRequest
from imgrepo.services import Services, Signing
from imgrepo.webroot.state import PACKED_NAME
from tests.fakes.appliance import FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest

ELF_X86_64 = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 62) + bytes(44)
OS_RELEASE = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'
SIZE = 1 << 20
TABLE = (
    b"label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\nstart=4096, size=4096\n"
)


@functools.cache
def signer(home: Path, valid_for: timedelta | None = None) -> GpgSigner:
    """Return what signs with the keys of a home; it looks for a key once, not in each command."""
    return GpgSigner(home, ask=False, valid_for=valid_for)


def debian(*, release: str = OS_RELEASE, shell: bytes = ELF_X86_64) -> FakeDisk:
    """Return a disk with a small Debian on its second partition."""
    guest = FakeGuest()
    guest.add("/usr/lib/os-release", release)
    guest.add_link("/etc/os-release", "../usr/lib/os-release")
    guest.add("/usr/bin/dash", shell, mode=0o755)
    guest.add_link("/bin", "usr/bin")
    guest.add_link("/usr/bin/sh", "dash")
    guest.add("/var/lib/dpkg/status", "Package: dash\nVersion: 0.5.12-2\nArchitecture: amd64\n")
    return FakeDisk({1: FakeFilesystem("unknown"), 2: FakeFilesystem("ext4", guest)})


def image(path: Path, fill: bytes = b"x", size: int = SIZE) -> Path:
    """Write a raw image without a partition table, with some bytes in it."""
    with path.open("wb") as file:
        file.truncate(size)
        file.write(fill * 4096)
    return path


def partitioned(path: Path, table: bytes = TABLE) -> Path:
    """Write a raw image with a partition table."""
    image(path, size=8 << 20)
    subprocess.run(["/usr/sbin/sfdisk", "--quiet", "--no-tell-kernel", path], input=table, check=True)
    return path


def stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, *, program: str = "mmdebstrap"
) -> None:
    """Put a shell script in front of the real program."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    path = folder / program
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@dataclass
class Repository:
    """A publisher's two folders below ``base``; ``later`` puts the clock ahead of gpg's."""

    base: Path
    gpg_home: Path
    pin: TrustedKeys
    key: str
    appliances: FakeAppliances = field(default_factory=FakeAppliances)
    events: list[Event] = field(default_factory=list)
    later: timedelta = timedelta()

    def __post_init__(self) -> None:
        self.images.mkdir(exist_ok=True)
        self.web.mkdir(exist_ok=True)

    @property
    def images(self) -> Path:
        return self.base / "images"

    @property
    def web(self) -> Path:
        return self.base / "web"

    def add(self, name: str, fill: bytes = b"x", disk: FakeDisk | None = None) -> Path:
        """Put an image into the publisher's folder."""
        self.appliances.disks[name] = disk or debian()
        return image(self.images / name, fill)

    def services(self) -> Services:
        return Services(
            open_appliance=self.appliances,
            make_keys=lambda signing: signer(self.gpg_home, signing.valid_for),
            verifier=GpgVerifier(),
            clock=lambda: datetime.now(UTC) + self.later,
        )

    def signing(self, key: str | None = None, **changes: object) -> Signing:
        """Return the options for signing as this publisher."""
        return dataclasses.replace(Signing(self.key if key is None else key), **changes)  # type: ignore[arg-type]

    def publish(self, **changes: object) -> PublishResult:
        """Publish as a publisher does."""
        plain = PublishRequest(self.images, self.web, self.signing(), preset="0")
        request = dataclasses.replace(plain, **changes)  # type: ignore[arg-type]
        return publish(request, self.services(), self.events.append)

    def notices(self, *kinds: Severity) -> str:
        """Return what was reported, one notice a line; by default of every kind."""
        found = [event for event in self.events if isinstance(event, Notice)]
        return "\n".join(event.text for event in found if event.severity in (kinds or Severity))

    def names(self) -> list[str]:
        """Return the names of the templates in the served index."""
        return [entry.os_version for entry in self.read().entries]

    def read(self) -> Index:
        """Read the served index as a client does: verified, every file there and right."""
        signed = GpgVerifier().verify((self.web / "index.asc").read_bytes(), self.pin, where="web")
        index = parse_index(signed, where="web")
        for entry in index.entries:
            named = [(entry.file, entry.compressed_size, entry.sha512)]
            if entry.zstd is not None:
                named.append((entry.zstd.file, entry.zstd.compressed_size, entry.zstd.sha512))
            for name, size, digest in named:
                data = (self.web / name).read_bytes()
                assert len(data) == size
                assert hashlib.sha512(data).hexdigest() == digest
        return index

    def entry_texts(self) -> str:
        """Return the served index as text."""
        if (self.web / "index.asc").exists():
            self.read()
        return (self.web / "index").read_text()

    def entry(self, name: str) -> Entry:
        """Return one template of the served index."""
        (found,) = [entry for entry in self.read().entries if entry.os_version == name]
        return found

    def unpack(self, entry: Entry) -> bytes:
        """Unpack a served template."""
        return lzma.decompress((self.web / entry.file).read_bytes())

    def rewrite(self, index: Index) -> None:
        """Sign an index that a person wrote, as the manual says."""
        signed = signer(self.gpg_home).clearsign(write_index(index), self.key)
        (self.web / "index.asc").write_bytes(signed)
        text = GpgVerifier().verify(signed, self.pin, where="by hand").text
        (self.web / "index").write_text(text)

    def snapshot(self) -> dict[str, tuple[bytes, int]]:
        """Return the content and time of all files there, but for the records of images and files."""
        return {
            path.name: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in self.web.iterdir()
            if path.is_file() and not path.name.startswith((".pybuilder-repo-images-", PACKED_NAME))
        }

    @property
    def record(self) -> Path:
        """Return the publisher's record of the images."""
        (path,) = self.web.glob(".pybuilder-repo-images-*.json")
        return path

    def forget(self) -> None:
        """Lose what the publisher remembers of images and files."""
        self.record.unlink()
        (self.web / PACKED_NAME).unlink()

    def copy(self, base: Path) -> Repository:
        """Copy both folders, so that each killed publisher starts from the same state."""
        base.mkdir()
        twin = self.empty_twin(base)
        twin.fill_from(self)
        return twin

    def empty_twin(self, base: Path) -> Repository:
        """Return an empty repository of the same publisher."""
        return Repository(base, self.gpg_home, self.pin, self.key)

    def fill_from(self, other: Repository) -> None:
        """Copy both folders of another repository, and what is in its images."""
        for name in ("images", "web"):
            shutil.copytree(other.base / name, self.base / name, dirs_exist_ok=True)
        self.appliances.disks = dict(other.appliances.disks)

    def served(self) -> Index | None:
        """Return the index that a client accepts; None while nothing is published."""
        return self.read() if (self.web / "index.asc").exists() else None

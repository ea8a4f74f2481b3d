"""An image whose sources are in a fake archive behind a real web server."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imgrepo.cli.main import run
from tests.fakes.appliance import FakeAppliances
from tests.fakes.debarchive import DebArchive
from tests.fakes.keys import KeyMaker
from tests.fakes.webfolder import WebFolder
from tests.unit.imgrepo.contents.guests import debian_guest, disk_of
from tests.unit.imgrepo.repository import Repository, image

COVERED = [
    ["bash", "5.2.15-2"],
    ["busybox", "1:1.35.0-4"],
    ["glibc", "2.36-9"],
    ["libxcrypt", "1:4.4.33-2"],
    ["libz", "1.0-1"],
]
"""Copyleft ones, that with an unknown licence, and what busybox-static was built using; not openssl."""

SUITES = ("bookworm", "bookworm-updates", "bookworm-security")


@dataclass
class Bench:
    """A repository with the image ``demo.img``, and an archive of its sources on the web."""

    repository: Repository
    archive: DebArchive
    web: WebFolder
    keyring: Path

    @property
    def image(self) -> Path:
        return self.repository.images / "demo.img"

    @property
    def folder(self) -> Path:
        return self.repository.images / "demo.sources"

    def run(self, *words: str | Path, target: Path | None = None) -> int:
        mirrors = ["--mirror", self.web.url, "--security-mirror", self.web.url, "--keyring", self.keyring]
        given = [str(word) for word in ("sources", target or self.image, *mirrors, *words)]
        return run(given, self.repository.services())

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "sources.json").read_text())
        return found


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        found = {}
        for member in tar:
            assert (member.uid, member.gid, member.mtime, member.mode) == (0, 0, 946684800, 0o644)
            content = tar.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
    return found


@pytest.fixture(scope="session")
def archive_key(keys: KeyMaker) -> str:
    return keys.make("Archive <archive@example.org>")


@pytest.fixture
def bench(repository: Repository, keys: KeyMaker, archive_key: str, tmp_path: Path) -> Iterator[Bench]:
    image(repository.images / "demo.img")
    repository.appliances = FakeAppliances({"demo.img": disk_of(debian_guest())})
    (tmp_path / "mirror").mkdir()
    archive = DebArchive(tmp_path / "mirror", keys, archive_key, {suite: [] for suite in SUITES})
    # What the guest of the tests has and needs sources of: see tests/unit/imgrepo/contents/guests.py.
    archive.add("bookworm", "bash", "5.2.15-2")
    archive.add("bookworm", "busybox", "1:1.35.0-4")
    archive.add("bookworm", "glibc", "2.36-9")
    archive.add("bookworm-updates", "libxcrypt", "1:4.4.33-2")
    archive.add("bookworm-security", "libz", "1.0-1")
    archive.add("bookworm", "openssl", "3.0.11-1")
    archive.write()
    keyring = tmp_path / "archive.gpg"
    keyring.write_bytes(keys.export(archive_key))
    with WebFolder(archive.root) as web:
        yield Bench(repository, archive, web, keyring)

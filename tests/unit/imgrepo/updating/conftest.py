"""Fixtures of the tests of updates."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgrepo.bootcheck import boot as booting
from imgrepo.sharing.serve import PublishedFolderServer
from imgrepo.updating import images as updating
from tests.fakes.bootcheck_stub import Stub
from tests.fakes.keys import KeyMaker
from tests.fakes.webfolder import WebFolder
from tests.unit.imgrepo.bootcheck import consoles
from tests.unit.imgrepo.repository import Repository, debian, stand_in
from tests.unit.imgrepo.updating.libraries import RECIPE, Library

SSH = """#!/bin/sh
[ "$1" = -l ] && shift 2
shift
exec /bin/sh -c "$*"
"""


@pytest.fixture(scope="session")
def distribution_key(keys: KeyMaker) -> str:
    return keys.make("Distribution <cloud@example.org>")


@pytest.fixture
def library(
    tmp_path: Path,
    repository: Repository,
    keys: KeyMaker,
    distribution_key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Library]:
    """Return a library of three templates, nothing of which is made yet."""
    stub = Stub(tmp_path / "stub")
    stub.set(consoles.DEBIAN)
    stand_in(tmp_path, monkeypatch, "exit 1")
    (tmp_path / "bin" / "ssh").write_text(SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.folder}:{os.environ['PATH']}")
    monkeypatch.setenv("RSYNC_RSH", str(tmp_path / "bin" / "ssh"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
    monkeypatch.setattr(booting, "_SETTLE", 0.0)
    cloud, there = tmp_path / "cloud", tmp_path / "there"
    cloud.mkdir()
    there.mkdir()
    (there / "index.asc").touch()  # the server serves no folder without one
    with (
        WebFolder(cloud) as server,
        PublishedFolderServer(there, ("127.0.0.1", 0), lambda _line: None) as web,
    ):
        (there / "index.asc").unlink()
        serving = threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True)
        serving.start()
        url = f"http://127.0.0.1:{web.server_port}/"
        made = Library(repository, stub, keys, distribution_key, cloud, there, server.url, url)
        monkeypatch.setattr(updating, "make_template", made.make_template)
        for name in ("debian-12.img", "nova.qcow2", "web.img"):
            disk = debian()
            disk.roots["/dev/sda2"] = {"distro": "debian", "arch": "x86_64"}
            repository.appliances.disks[name] = disk
        (made.folder / "distribution.gpg").write_bytes(keys.export(distribution_key, armor=True))
        (made.folder / "web.toml").write_text(RECIPE)
        (made.folder / "page.html").write_text("one")
        made.offer(1)
        made.settle(everything=False)
        yield made
        web.shutdown()
        serving.join()

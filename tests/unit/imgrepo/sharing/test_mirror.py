"""Mirroring a published folder over real HTTP."""

from __future__ import annotations

import dataclasses
import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from imgbuilder.errors import (
    DigestMismatchError,
    DiskError,
    RepositoryError,
    RolledBackError,
    TrustError,
    WorkspaceError,
)
from imgbuilder.host.fileserver import Part
from imgindex.model import Index
from imgrepo.cli.main import run
from imgrepo.sharing import serve as module
from imgrepo.sharing.mirror import MirrorRequest, MirrorResult, mirror
from tests.fakes.keys import KeyMaker
from tests.fakes.machine import locked
from tests.unit.imgrepo.sharing.conftest import Site


def copy(site: Site, folder: Path, **changes: object) -> MirrorResult:
    folder.mkdir(exist_ok=True)
    repository = site.repository
    request = MirrorRequest(site.url, folder, repository.web / "index.gpg", **changes)  # type: ignore[arg-type]
    services = repository.services()
    return mirror(request, services, repository.events.append)


def served(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_mirror_is_a_copy_byte_by_byte(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    result = copy(site, folder)
    assert served(folder) == served(site.repository.web)
    assert len(result.fetched) == 3
    assert {
        path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file() and path.name[0] != "."
    } == {0o644}
    requests = len(site.lines)
    assert copy(site, folder).fetched == ()
    assert len(site.lines) == requests + 1  # the index
    site.repository.add("a.img", b"new")
    site.repository.publish()
    old = result.fetched
    assert len(copy(site, folder).fetched) == 3
    assert all((folder / name).exists() for name in old)
    site.repository.later = timedelta(days=8)
    copy(site, folder, prune=True)
    assert not any((folder / name).exists() for name in old)
    assert (folder / "index.asc").read_bytes() == (site.repository.web / "index.asc").read_bytes()


def test_a_mirror_without_room_fetches_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    copy(site, folder)
    before = served(folder)
    site.repository.add("b.img", b"new")
    site.repository.publish()
    missing = sum(
        len(content)
        for name, content in served(site.repository.web).items()
        if name not in before and "." in name
    )
    requests = len(site.lines)
    facts = os.statvfs(folder)

    def no_room(_path: Path) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=missing - 1, f_frsize=1)

    monkeypatch.setattr("imgbuilder.host.workspace.os.statvfs", no_room)
    with pytest.raises(WorkspaceError, match="not enough space"):
        copy(site, folder)
    assert len(site.lines) == requests + 1, "the index"
    assert served(folder) == before
    monkeypatch.setattr("imgbuilder.host.workspace.os.statvfs", lambda _path: facts)
    copy(site, folder)
    assert served(folder) == served(site.repository.web)


def test_a_broken_connection_is_continued(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[str] = []
    real = module._Handler._send

    def send(handler: module._Handler, file: object, part: Part) -> None:
        name = handler.path
        if name.endswith(".xz") and not broken:
            broken.append(name)
            real(handler, file, Part(part.start, part.end // 2))  # type: ignore[arg-type]
            handler.close_connection = True
            return
        real(handler, file, part)  # type: ignore[arg-type]

    monkeypatch.setattr(module._Handler, "_send", send)
    copy(site, tmp_path / "copy")
    assert broken
    assert any("206" in line for line in site.lines)
    assert served(tmp_path / "copy") == served(site.repository.web)


def test_a_damaged_file_never_gets_its_name_and_the_old_index_stays(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    copy(site, folder)
    before = served(folder)
    site.repository.add("a.img", b"new")
    site.repository.publish()
    path = site.repository.web / site.repository.entry("a").file
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatchError):
        copy(site, folder)
    assert served(folder) == before


def test_a_file_that_was_damaged_here_is_fetched_again(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    name = copy(site, folder).fetched[0]
    data = bytearray((folder / name).read_bytes())
    data[50] ^= 1
    (folder / name).write_bytes(data)
    assert copy(site, folder).fetched == (name,)


def test_the_disk_of_a_running_machine_is_not_replaced(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    name = copy(site, folder).fetched[0]
    disk = folder / name
    disk.write_bytes(b"what the machine wrote")
    requests = len(site.lines)
    with locked(disk), pytest.raises(DiskError, match="used by another program"):
        copy(site, folder)
    assert disk.read_bytes() == b"what the machine wrote"
    assert len(site.lines) == requests + 1, "the index"
    assert copy(site, folder).fetched == (name,)


def test_an_index_by_another_key_is_not_copied(site: Site, tmp_path: Path, keys: KeyMaker) -> None:
    stranger = keys.make("Stranger <s@example.org>")
    text = (site.repository.web / "index").read_bytes()
    (site.repository.web / "index.asc").write_bytes(keys.sign(text, stranger))
    with pytest.raises(TrustError):
        copy(site, tmp_path / "copy")
    assert served(tmp_path / "copy") == {}


def test_an_older_index_does_not_replace_a_newer_copy(site: Site, tmp_path: Path) -> None:
    folder, old = tmp_path / "copy", (site.repository.web / "index.asc").read_bytes()
    site.repository.add("b.img", b"b")
    site.repository.publish()
    copy(site, folder)
    (site.repository.web / "index.asc").write_bytes(old)
    with pytest.raises(RolledBackError):
        copy(site, folder)


@pytest.mark.parametrize("name", ["index.asc", "index.gpg", "index", ".hidden/a.xz"])
def test_a_template_with_the_name_of_something_else_is_not_copied(
    site: Site, tmp_path: Path, name: str
) -> None:
    (entry,) = site.repository.read().entries
    site.repository.rewrite(Index((dataclasses.replace(entry, file=name, zstd=None, blocks=None),)))
    with pytest.raises(RepositoryError, match="not copied"):
        copy(site, tmp_path / "copy")
    assert served(tmp_path / "copy") == {}


def test_an_expired_index_is_not_copied(site: Site, tmp_path: Path) -> None:
    month = site.repository.signing(valid_for=timedelta(days=30))
    site.repository.publish(signing=month)
    site.repository.later = timedelta(days=31)
    with pytest.raises(TrustError):
        copy(site, tmp_path / "copy")


def test_the_commands_as_they_are_typed(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, key = tmp_path / "copy", str(site.repository.web / "index.gpg")
    services = site.repository.services()
    words = ["mirror", f"{site.url}/index.asc", str(folder), "--key", key]
    assert run(["mirror", site.url, str(folder / "below"), "--key", key], services) == 2
    assert run(["mirror", f"{site.url}/none", str(folder), "--key", key], services) == 1
    assert not folder.exists()
    assert run(words, services) == 0
    assert "1 template; new files: a-" in capsys.readouterr().out
    assert run(["mirror", str(site.repository.web), str(folder), "--key", key], services) == 0
    assert "new files: none" in capsys.readouterr().out
    assert run(["mirror", f"{site.url}/none", str(folder), "--key", key], services) == 1
    assert run(["mirror", site.url, str(folder), "--key", "/nonexistent"], services) == 2
    assert run(["mirror", "ftp://x/", str(folder), "--key", key], services) == 2
    assert run(["serve", str(tmp_path)], services) == 2

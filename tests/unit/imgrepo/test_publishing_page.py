"""docs/publishing.md, typed from top to bottom: all its commands work in that order."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from imgindex.signer import GpgSigner
from imgrepo.cli.main import run
from imgrepo.services import Services
from tests.fakes.debarchive import DebArchive
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.library.entries import TEXT, add
from tests.unit.imgrepo.repository import Repository, debian, image

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "publishing.md"
_LATER = "--dry-run"
"""The first command of the page before which the publisher has a new image."""


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", "").splitlines()]


def distribution(folder: Path, name: str, keys: KeyMaker, key: str) -> Path:
    """Make what a distribution serves: an image, its checksum, a signature; return the image."""
    folder.mkdir()
    made = image(folder / name)
    text = f"{hashlib.sha256(made.read_bytes()).hexdigest()} *{name}\n".encode()
    (folder / "SHA256SUMS").write_bytes(text)
    (folder / "SHA256SUMS.gpg").write_bytes(keys.gpg("--local-user", key, "--detach-sign", data=text))
    (folder / "key.gpg").write_bytes(keys.export(key))
    return made


def debian_archive(folder: Path, keys: KeyMaker, key: str) -> Path:
    """Make an archive with the source of what is in the images; return its folder."""
    suites = ("bookworm", "bookworm-updates", "bookworm-security")
    archive = DebArchive(folder / "archive", keys, key, {suite: [] for suite in suites})
    archive.add("bookworm", "dash", "0.5.12-2")
    archive.write()
    (folder / "archive.gpg").write_bytes(keys.export(key))
    return archive.root


def type_all(
    folder: Path, services: Services, images: Repository, keys: KeyMaker, stranger: str
) -> list[str]:
    """Type all commands of the page; those that need an archive or never end are stood in for."""
    done = []
    for words in commands():
        match words:
            case ["gpg", *_] | ["mkdir", *_]:
                subprocess.run(words, check=True, capture_output=True, cwd=folder)
            case ["pybuilder-repo", "make-template", _, output]:
                image(folder / output)
                images.appliances.disks[Path(output).name] = debian()
            case ["pybuilder-repo", "import", address, into, "--key", _, "--name", template]:
                made = distribution(folder / "theirs", address.rpartition("/")[2], keys, stranger)
                images.appliances.disks[f"{template}.img"] = debian()
                key = str(folder / "theirs" / "key.gpg")
                assert run(["import", str(made), into, "--key", key, "--name", template], services) == 0
            case ["pybuilder-repo", "upload", web, _]:
                (folder / "elsewhere").mkdir()
                assert run(["upload", web, f"www.example.org:{folder}/elsewhere"], services) == 0
                assert (folder / "elsewhere" / "index.asc").is_file()
            case ["pybuilder-repo", "stats", web, *_]:
                (name,) = [path.name for path in (folder / "copy").glob("*.xz")]
                log = folder / "access.log"
                log.write_text(
                    f'203.0.113.9 - - [01/Nov/2026:10:00:00 +0000] "GET /{name} HTTP/1.1" 200 1 "-" "x"\n'
                )
                assert run(["stats", web, str(log)], services) == 0
            case ["pybuilder-repo", "serve", *_]:
                assert run(["serve", "--help"], services) == 0
            case ["pybuilder-repo", "mirror", _, copy, "--key", _]:
                assert run(["mirror", "web", copy, "--key", "web/index.gpg"], services) == 0
            case ["pybuilder-repo", "sources", *rest]:
                archive = debian_archive(folder, keys, stranger)
                key, root = str(folder / "archive.gpg"), f"file://{archive}"
                where = ["--mirror", root, "--security-mirror", root, "--keyring", key]
                assert run(["sources", *rest, *where], services) == 0
            case ["pybuilder-repo", "entry", "new", name, *_]:
                assert run(words[1:], services) == 0
                images.appliances.disks[f"{name}.img"] = debian()
            case ["pybuilder-repo", *rest]:
                if _LATER in rest:
                    image(folder / "images" / "debian-12.img", b"new")
                assert run(rest, services) == 0, words
            case _:
                raise AssertionError(f"unknown kind of command: {words}")
        done.append(" ".join(words[:2]))
    return done


def test_every_command_of_the_page_works_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KeyMaker() as keys:
        monkeypatch.setenv("GNUPGHOME", str(keys.home))
        monkeypatch.chdir(tmp_path)
        ssh = tmp_path / "ssh"
        ssh.write_text('#!/bin/sh\nshift\nexec /bin/sh -c "$*"\n')  # this machine is the other one as well
        ssh.chmod(0o755)
        monkeypatch.setenv("RSYNC_RSH", str(ssh))
        (tmp_path / "other").mkdir()
        other = keys.make("Other <other@example.com>")
        images = Repository(tmp_path / "other", keys.home, keys.pin(other), other)
        plain = images.services()
        services = replace(
            plain,
            make_keys=lambda signing: GpgSigner(
                ask=False, valid_for=signing.valid_for, command=signing.command
            ),
        )
        done = type_all(tmp_path, services, images, keys, other)
        assert len(done) >= 20
        assert len(set(done)) >= 12
        assert (tmp_path / "copy" / "index.asc").read_bytes() == (tmp_path / "web" / "index.asc").read_bytes()


def test_every_command_and_example_is_on_the_page() -> None:
    text = PAGE.read_text()
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (PAGE.parent / path).exists(), path
    assert {path.name for path in (ROOT / "repo-tools/imgrepo/setup").iterdir()} <= set(
        re.findall(r"repo-tools/imgrepo/setup/([\w.-]+)", text)
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units() -> None:
    units = sorted((ROOT / "repo-tools/imgrepo/setup").glob("pybuilder-*.*"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    wrong = [line for line in done.stderr.splitlines() if "Unknown" in line or "parse" in line.lower()]
    assert wrong == []


def test_the_units_of_a_library_do_what_they_say(repository: Repository) -> None:
    """Before the first day, and on it."""
    lines = (ROOT / "repo-tools/imgrepo/setup/pybuilder-library.service").read_text().splitlines()
    said = dict(line.split("=", 1) for line in lines if line.startswith("Exec"))
    places = {"/srv/library": str(repository.images)}
    settings = f'webroot = "../web"\nkeys = ["{repository.key}"]\nsteps = ["catalogue"]\n'
    (repository.images / "library.toml").write_text(settings)
    nothing = int(next(line for line in lines if line.startswith("Success")).partition("=")[2])

    def type_(command: str) -> int:
        program, *words = [places.get(word, word) for word in shlex.split(command)]
        assert program == "pybuilder-repo"
        return run(words, repository.services())

    entry = add(repository, text=f"{TEXT}not-before = 2999-12-01\n")
    assert type_(said["ExecStart"]) == nothing
    assert not (repository.web / "index.asc").exists()
    entry.description.write_text(f"{TEXT}not-before = 2020-12-01\n")
    assert type_(said["ExecStart"]) == 0
    assert "A demo" in (repository.web / "catalogue" / "index.html").read_text()
    assert type_(said["ExecStart"]) == nothing

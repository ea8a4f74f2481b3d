"""R20: the real virt-builder reads what we publish, with everything in it that it does not know."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from imgindex.fields import Deprecation, with_deprecation
from imgindex.model import Comment, ExtraField, Index, Note
from imgrepo.webroot import edit
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.repository import Repository

pytestmark = pytest.mark.skipif(shutil.which("virt-builder") is None, reason="virt-builder is not installed")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """A folder published with all that we can say: zstd files, ends of life, comments, unknown fields."""
    with KeyMaker() as keys:
        key = keys.make()
        repository = Repository(tmp_path_factory.mktemp("published"), keys.home, keys.pin(key), key)
        repository.add("old.img", b"old")
        repository.add("new.img", b"new")
        repository.publish(zstd_level=1)
        old, new = sorted(repository.read().entries, key=lambda entry: entry.os_version != "old")
        old = dataclasses.replace(
            with_deprecation(old, Deprecation(date(2027, 1, 31), "new")),
            notes=(
                Note("", "For tests.\n\n - not a list\n[no section]\n# no comment"),
                Note("de", "Nur Tests."),
            ),
            comments=(Comment("", "# Goes soon."), Comment("size", "# In bytes.")),
        )
        new = dataclasses.replace(
            new, aliases=("stable", "default"), extra=(ExtraField("owner", "x.y", "we"),)
        )
        repository.rewrite(Index((old, new), head="# Ours.", tail="# The end."))
        repository.add("new.img", b"newer")
        repository.publish(zstd_level=1, signing=repository.signing())
        edit.edit(
            repository.web, repository.signing(), repository.services(),
            lambda index: edit.hide(index, "old", None, hidden=False), repository.events.append,
        )  # fmt: skip
        yield repository


def virt_builder(repository: Repository, *words: str) -> str:
    source = ["--source", f"file://{repository.web}/index.asc", "--fingerprint", repository.key]
    environment = os.environ | {
        "GNUPGHOME": str(repository.gpg_home), "VIRT_BUILDER_DIRS": "/nonexistent", "LC_ALL": "C.UTF-8",
        "XDG_CONFIG_HOME": "/nonexistent", "HOME": str(repository.base),
    }  # fmt: skip
    done = subprocess.run(
        ["virt-builder", "--no-cache", *source, *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.row("R20")
def test_it_lists_what_we_publish(repository: Repository) -> None:
    out = virt_builder(repository, "--list", "--long")
    assert "os-version:              old" in out
    assert "Full name:               Debian GNU/Linux 12 (bookworm)" in out
    assert out.count("Minimum/default size:    1.0M") == 2
    assert "Aliases:                 stable default" in out
    assert "For tests." in out


@pytest.mark.row("R20")
def test_it_shows_the_notes(repository: Repository) -> None:
    out = virt_builder(repository, "--notes", "old")
    assert out.strip() == "For tests.\n\n - not a list\n[no section]\n# no comment"


@pytest.mark.row("R20")
def test_it_finds_a_template_by_its_alias(repository: Repository) -> None:
    virt_builder(repository, "--notes", "stable")


@pytest.mark.row("R20")
def test_it_says_that_the_index_is_valid(repository: Repository) -> None:
    path: Path = repository.web / "index.asc"
    done = subprocess.run(["virt-index-validate", path], capture_output=True, text=True, check=False)
    assert (done.returncode, "validated OK" in done.stdout) == (0, True), done.stderr


@pytest.mark.row("R20")
def test_an_index_signed_by_two_keys_is_read_with_the_key_file_of_both(repository: Repository) -> None:
    """With ``--fingerprint`` virt-builder knows one key only, and refuses: the manual says so."""
    command = ["gpg", "--homedir", str(repository.gpg_home), "--batch", "--quiet", "--passphrase", ""]
    subprocess.run([*command, "--quick-generate-key", "Next", "ed25519", "sign"], check=True)
    edit.rotate(
        repository.web, repository.key, "Next", repository.signing(), repository.services(),
        repository.events.append, finish=False,
    )  # fmt: skip
    folder = repository.base / "config" / "virt-builder" / "repos.d"
    folder.mkdir(parents=True)
    (folder / "x.conf").write_text(
        f"[x]\nuri=file://{repository.web}/index.asc\ngpgkey=file://{repository.web}/index.gpg\n"
    )
    environment = os.environ | {
        "XDG_CONFIG_HOME": str(repository.base / "config"), "VIRT_BUILDER_DIRS": "/nonexistent",
        "HOME": str(repository.base), "GNUPGHOME": str(repository.gpg_home),
    }  # fmt: skip
    done = subprocess.run(
        ["virt-builder", "--no-cache", "--list"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "old " in done.stdout

"""Commands that take a library's settings from its ``library.toml``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from imgindex.gpg import GpgVerifier
from imgrepo.cli.main import run
from tests.unit.imgrepo.repository import Repository


def settle(repository: Repository, more: str = "") -> Path:
    """Write a library.toml next to the images."""
    text = f'webroot = "../web"\nkeys = ["{repository.key}"]\nexpire = 30\nxz-preset = "0"\n{more}'
    (repository.images / "library.toml").write_text(text)
    return repository.images


def expiry(repository: Repository) -> timedelta | None:
    data = (repository.web / "index.asc").read_bytes()
    signed = GpgVerifier().verify(data, repository.pin, where="web")
    return None if signed.expires_at is None else signed.expires_at - signed.signed_at


def test_all_commands_need_only_the_folder(
    repository: Repository, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    library = settle(repository, 'zstd = true\nzstd-level = 1\ntitle = "Our images"\n')

    def type_(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert run([*words], repository.services()) == code, words
        return capsys.readouterr().out

    repository.add("a.img")
    type_("publish", str(library))
    assert repository.entry("a").zstd is not None
    assert expiry(repository) == timedelta(days=30)
    type_("hide", str(library), "a")
    type_("refresh", str(library), "--expire", "20")  # an option overrides the file
    assert expiry(repository) == timedelta(days=20)
    repository.add("b.img", b"b")
    out = type_("status", str(library))
    assert "b.img is not published" in out
    type_("catalogue", str(library))
    assert "<h1>Our images</h1>" in (repository.web / "catalogue" / "index.html").read_text()
    type_("prune", str(library), "--dry-run")
    type_("publish", str(library), "--output", str(tmp_path / "other"))
    assert (tmp_path / "other" / "index.asc").exists()


def test_only_options_of_the_same_meaning_take_settings(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    """``entry new --title`` and the images of ``boot-check`` have nothing to do with a library's settings."""
    library = settle(repository, 'title = "Our images"\ntargets = ["www.example.org:/srv"]\n')
    assert run(["entry", "new", "demo", "--library", str(library)], repository.services()) == 0
    assert "Our images" not in (library / "demo" / "entry.toml").read_text()
    capsys.readouterr()
    assert run(["boot-check", "--library", str(library)], repository.services()) == 2
    assert "www.example.org" not in capsys.readouterr().err
    repository.add("demo/demo.img")
    assert run(["entry", "list", "--library", str(library)], repository.services()) == 0
    assert "demo" in capsys.readouterr().out


def test_proof_that_the_library_requires_is_required(repository: Repository) -> None:
    library = settle(repository, 'require = ["booted"]\n')
    repository.add("a.img")
    assert run(["publish", str(library)], repository.services()) == 1
    assert not (repository.web / "index.asc").exists()


def test_a_library_file_with_a_fault_stops_every_command(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    library = settle(repository, "expires = 3\n")
    for words in (["publish"], ["refresh"], ["status"], ["entry", "list", "--library"]):
        assert run([*words, str(library)], repository.services()) == 1
        assert "library.toml:5: expires: unknown key" in capsys.readouterr().err

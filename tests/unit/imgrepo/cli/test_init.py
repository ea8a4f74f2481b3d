"""``pybuilder-repo init``: from nothing to a library that the next commands need only the folder of."""

from __future__ import annotations

import configparser
import getpass
import shlex
from pathlib import Path

import pytest

from imgindex.gpg import trusted_keys_from_file
from imgrepo.cli.main import run
from imgrepo.publishing.settings import read_settings
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.repository import Repository, debian, image


def test_the_commands_that_come_next_work(
    repository: Repository, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    library, services = tmp_path / "mine", repository.services()
    url = "https://images.example.com/vm"
    words = ["--new-key", "New Images <new@example.com>", "--base-url", url, "--title", 'Our "best"']
    assert run(["init", str(library), *words], services) == 0
    out = capsys.readouterr().out
    settings = read_settings(library)
    assert settings is not None
    (fingerprint,) = settings.keys
    assert (settings.webroot, settings.expire, settings.title) == ("web", 30, 'Our "best"')
    assert f"key: {fingerprint}, made now" in out
    trusted = trusted_keys_from_file(library / "setup" / "mine.gpg", where="mine")
    assert fingerprint in trusted.fingerprints
    commands = [shlex.split(line) for line in out.splitlines() if line.startswith("  pybuilder-repo ")]
    assert [command[1] for command in commands] == ["make-template", "publish", "status", "serve"]
    image(Path(commands[0][-1]))
    repository.appliances.disks["debian-12.img"] = debian()
    for command in commands[1:3]:
        assert run(command[1:], services) == 0, command
    assert "all is well" in capsys.readouterr().out
    assert (library / "web" / "index.asc").exists()


def test_the_files_for_users_servers_and_timers_have_the_names_of_the_library(
    repository: Repository, tmp_path: Path
) -> None:
    library, web = tmp_path / "mine", tmp_path / "served"
    words = ["--gpg-key", repository.key, "--webroot", str(web), "--base-url", "http://vm.example.com/x/"]
    assert run(["init", str(library), *words], repository.services()) == 0
    settings = read_settings(library)
    assert settings is not None
    assert (settings.webroot, settings.keys, settings.base_url) == (
        str(web), (repository.key,), "http://vm.example.com/x/",
    )  # fmt: skip
    source = configparser.ConfigParser()
    source.read(library / "setup" / "mine.conf")
    assert source["mine"]["uri"] == "http://vm.example.com/x/index.asc"
    texts = {path.name: path.read_text() for path in (library / "setup").iterdir()}
    assert len(texts) == 12
    for name, text in texts.items():
        for foreign in ("/srv/", "images.example.org", "images@example.org", "User=publisher"):
            assert foreign not in text, name
    assert f"root {web};" in texts["nginx.conf"]
    assert f"DocumentRoot {web}" in texts["apache.conf"]
    assert "server_name vm.example.com;" in texts["nginx.conf"]
    service = texts["pybuilder-library.service"]
    assert f"update {library} " in service
    assert f"User={getpass.getuser()}" in service


def test_what_cannot_be_set_up_is_refused_before_anything_is_made(
    repository: Repository, keys: KeyMaker, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    taken = keys.make("Taken <taken@example.org>")
    for words, code, hint in (
        (["x"], 2, "--new-key"),
        (["x", "-K", taken, "--new-key", "A name <a@example.org>"], 2, "choose the key"),
        (["x", "-K", "missing@example.org"], 1, "no secret key"),
        (["x", "--new-key", "Taken <taken@example.org>"], 1, "already"),
        (["x", "--new-key", "no address"], 1, "Images <images@example.org>"),
        (["x", "--new-key", "Name-Real: x\n%shell <a@example.org>"], 1, "not a name"),
        (["a b", "-K", taken], 2, "choose a path"),
        (["no/where", "-K", taken], 2, "no/where"[:2]),
        (["x", "-K", taken, "--base-url", "ftp://x"], 2, "http://"),
    ):
        assert run(["init", str(tmp_path / words[0]), *words[1:]], repository.services()) == code, words
        assert hint in capsys.readouterr().err
        assert not (tmp_path / words[0]).exists()
    assert run(["init", str(tmp_path / "x"), "-K", taken], repository.services()) == 0
    assert run(["init", str(tmp_path / "x"), "-K", taken], repository.services()) == 2
    assert "has a library.toml already" in capsys.readouterr().err

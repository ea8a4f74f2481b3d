"""Files that the user can name: a FIFO without a writer is refused instead of blocking."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.guests.unlocking import parse_key
from imgbuilder.recipe.reader import read_recipe
from imgbuilder.terminal.configuration import apply_configuration
from imgindex.gpg import keys_in_file, trusted_keys_from_file
from imgrepo.contents.diff import read_list
from imgrepo.library.description import read_with_digest
from imgrepo.stats import read_log
from imgrepo.webroot.entries import read_draft
from tests.fakes.operations import parse_operation, read_commands_file

OPERATIONS = {
    "upload": "{}:/x",
    "copy-in": "{}:/srv",
    "run": "{}",
    "firstboot": "{}",
    "root-password": "file:{}",
    "password": "me:locked:file:{}",
    "secret": "NAME=file:{}",
    "ssh-inject": "root:file:{}",
    "tar-in": "{}:/srv",
    "cloud-init": "{}",
}
READERS: dict[str, Callable[[Path], object]] = {
    "commands file": read_commands_file,
    "disk key": lambda path: parse_key(f"all:file:{path}"),
    "recipe": read_recipe,
    "publisher's key": lambda path: trusted_keys_from_file(path, where="test"),
    "reviewer's key": lambda path: keys_in_file(path, where="test"),
    "list of contents": read_list,
    "draft of an index": read_draft,
    "description of an entry": read_with_digest,
    "log of a web server": lambda path: list(read_log(path)),
    "configuration": lambda path: apply_configuration({"XDG_CONFIG_HOME": str(path.parents[1])}),
}


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    folder = tmp_path / "pybuilder"
    folder.mkdir()
    os.mkfifo(folder / "pybuilder.toml")
    return folder / "pybuilder.toml"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("keyword", sorted(OPERATIONS))
def test_operations_refuse_a_fifo(fifo: Path, keyword: str) -> None:
    with pytest.raises(UsageError, match=r"not an ordinary file|not a regular file|neither a regular file"):
        parse_operation(keyword, OPERATIONS[keyword].format(fifo))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", sorted(READERS))
def test_readers_refuse_a_fifo(fifo: Path, what: str) -> None:
    with pytest.raises((PybuilderError, OSError), match="not an ordinary file"):
        READERS[what](fifo)


def test_a_secret_may_come_from_a_command(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"canary-from-a-pipe\n")
    os.close(writing)
    try:
        made = parse_operation("secret", f"NAME=file:/dev/fd/{reading}")
    finally:
        os.close(reading)
    assert vars(made)["value"] == "canary-from-a-pipe"

"""``list`` and ``show`` of a served folder."""

from __future__ import annotations

import json

import pytest

from imgrepo.cli.main import run
from tests.unit.imgrepo.conftest import MakeTwin
from tests.unit.imgrepo.repository import Repository


class Reader:
    """Types commands and returns what they print."""

    def __init__(self, repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
        self.repository, self._capsys = repository, capsys

    def type(self, command: str, *words: str, code: int = 0) -> str:
        self._capsys.readouterr()
        name, *more = command.split()
        assert run([name, str(self.repository.web), *more, *words], self.repository.services()) == code
        out, err = self._capsys.readouterr()
        return out + err


def one_in_each_state(repository: Repository) -> None:
    for name in "abc":
        repository.add(f"{name}.img", name.encode())
    repository.publish(zstd_level=1)
    for command, *words in (
        ("alias", "a", "stable"), ("hide", "b"), ("deprecate", "b", "--until", "2099-01-31", "--use", "a"),
        ("edit", "a", "--set", "notes=Two\nlines"), ("withdraw", "c"),
    ):  # fmt: skip
        words = [command, str(repository.web), *words, "-K", repository.key]
        assert run(words, repository.services()) == 0


@pytest.fixture
def reader(twin: MakeTwin, capsys: pytest.CaptureFixture[str]) -> Reader:
    return Reader(twin(one_in_each_state), capsys)


def test_each_state_is_listed(reader: Reader) -> None:
    rows = [line.split() for line in reader.type("list").splitlines()]
    assert [row[0] for row in rows] == ["a", "b", "c"]
    assert rows[0][-2:] == ["listed", "stable"]
    assert rows[1][-2:] == ["hidden,", "deprecated"]
    assert rows[2][-1] == "withdrawn"
    data = json.loads(reader.type("list --json"))
    assert [one["states"] for one in data["templates"]] == [
        ["listed"], ["hidden", "deprecated"], ["withdrawn"],
    ]  # fmt: skip
    assert data["signer"] == reader.repository.key
    assert data["templates"][1]["replaced_by"] == "a"
    assert data["templates"][2]["revision"] == 1
    (reader.repository.web / reader.repository.entry("a").file).unlink()
    assert "listed, file missing" in reader.type("list", code=1)


def test_a_template_is_shown_by_each_of_its_names(reader: Reader) -> None:
    entry = reader.repository.entry("a")
    assert entry.zstd is not None
    out = reader.type("show a")
    for words in (
        "also called: stable",
        entry.file,
        entry.zstd.file,
        "  Two\n  lines\n",
        "image:       sha512:",
    ):
        assert words in out
    assert reader.type("show stable") == out
    assert "2099-01-31" in reader.type("show b")
    assert "state:       withdrawn" in reader.type("show c")
    (shown,) = json.loads(reader.type("show stable --json"))["templates"]
    assert (shown["name"], shown["file"], shown["notes"]) == ("a", entry.file, {"": "Two\nlines"})
    assert "pybuilder-repo list" in reader.type("show d", code=2)
    reader.type("show a --arch ppc64le", code=2)


def test_a_withdrawn_template_without_a_known_entry(reader: Reader) -> None:
    (reader.repository.web / ".pybuilder-repo-former.json").unlink()
    assert reader.type("show c") == "name:        c (x86_64)\nstate:       withdrawn\n"
    assert "withdrawn" in reader.type("list")
    assert json.loads(reader.type("show c --json"))["templates"][0]["image_sha512"] is None

"""The command ``outdated``: origins, ages, and ends that come near."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from imgrepo.cli.main import run
from tests.unit.imgrepo.updating.libraries import Library


def found(library: Library, capsys: pytest.CaptureFixture[str], *words: str) -> list[tuple[str | None, str]]:
    """Type the command with --json, and return what is outdated; its exit code must fit."""
    capsys.readouterr()
    code = run(["outdated", str(library.folder), "--json", *words], library.repository.services())
    rows = json.loads(capsys.readouterr().out)["outdated"]
    assert code == (1 if rows else 0)
    return [(row["name"], row["reason"]) for row in rows]


def test_what_should_be_renewed_is_found_and_nothing_is_changed(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    assert library.update() == 0
    before = library.state()
    assert found(library, capsys) == []
    library.offer(2)
    library.edit('include = ["vim"]', 'include = ["vim", "curl"]')
    settings = library.state()
    assert found(library, capsys) == [
        ("debian-12", "its origin was changed"),
        ("nova", "a newer one is offered"),
        ("web", "its base debian-12 is renewed"),
    ]
    assert library.state() == settings != before
    web = str(library.repository.web)
    until = f"{library.repository.services().clock() + timedelta(days=5):%Y-%m-%d}"
    words = ["deprecate", web, "web", "--until", until, "-K", library.repository.key]
    assert run(words, library.repository.services()) == 0
    library.repository.later = timedelta(days=40)
    ages = found(library, capsys)
    old = [(name, "its image is 40 days old") for name in ("debian-12", "nova", "web")]
    assert set(old) <= set(ages)
    assert ("web", f"it is deprecated until {until}: withdraw it then") in ages
    assert [reason[:25] for name, reason in ages if name is None] == ["the signature has expired"]
    assert run(["outdated", web, "--days", "60"], library.repository.services()) == 1  # without origins
    assert "newer" not in capsys.readouterr().out


def test_wrong_folders_are_errors(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (library.folder, library.folder / "none"):
        assert run(["outdated", str(place)], library.repository.services()) == 2
        assert "nothing is published in" in capsys.readouterr().err
    assert run(["outdated", str(library.folder), "--days", "x"], library.repository.services()) == 2

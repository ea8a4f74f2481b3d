"""The example of a calendar: its entries and recipes are valid, and its programs do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from imgbuilder.customize.run import validate
from imgbuilder.recipe.reader import read_recipe
from imgrepo.cli.main import group
from imgrepo.library.folder import find_entries
from tests.fakes.catalogues import make_example
from tests.unit.imgrepo.catalogue.pages import pages_of
from tests.unit.imgrepo.repository import Repository

EXAMPLE = Path(__file__).parents[4] / "examples" / "calendar"
ENTRIES = find_entries(EXAMPLE)


def test_three_entries_on_three_days() -> None:
    days = [entry.read().not_before for entry in ENTRIES]
    assert len(set(days)) == len(ENTRIES) == 3
    readme = (EXAMPLE / "README.md").read_text()
    for entry, day in zip(ENTRIES, days, strict=True):
        assert day is not None
        assert re.search(rf"^\| `{entry.name}` \|.*\| {day.date()} \|$", readme, re.MULTILINE)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_tells_all_that_people_need(entry: object) -> None:
    folder = next(one for one in ENTRIES if one == entry)
    shown = folder.read()
    for words in (
        shown.title,
        shown.description,
        shown.hints,
        shown.licence,
        shown.contributor,
        shown.source_offer,
    ):
        assert words
    assert re.search(shown.boot.marker, f"{folder.name} login: player (automatic login)")
    recipe = read_recipe(folder.path / "recipe.toml")
    validate(recipe.make_operations())
    assert recipe.request().template == "debian-12"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", ["make", "guess/guess", "life/life", "carol/carol"])
def test_its_scripts_are_correct(name: str) -> None:
    assert subprocess.run(["shellcheck", EXAMPLE / name], check=False).returncode == 0


def test_a_number_is_guessed_and_nonsense_is_not_counted() -> None:
    guesses = "\n".join(["", "x", "-1", "1234", "007", *(str(number) for number in range(1, 101))])
    done = subprocess.run(
        ["sh", EXAMPLE / "guess" / "guess"], input=guesses, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("A number, please.") == 4
    tries = int(re.findall(r"Yes, after (\d+)\.", done.stdout)[0])
    assert tries == done.stdout.count("It is") + 1
    assert done.stderr == ""


def test_every_command_of_the_readme_exists() -> None:
    text = (EXAMPLE / "README.md").read_text() + (EXAMPLE / "make").read_text()
    used = set(re.findall(r"pybuilder-repo ([a-z-]+)", text))
    assert used - set(group.commands) == set()
    assert {"entry", "boot-check", "sbom", "sources", "publish", "catalogue"} <= used


def test_the_commands_of_the_readme_make_the_calendar(repository: Repository) -> None:
    """All except commands that boot something; images are in memory."""
    make_example(repository, EXAMPLE)
    site = repository.web / "catalogue"
    files = {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()}
    pages = pages_of(files)
    assert "24 December, closed" in pages["calendar/2099.html"].words
    assert "Guess my number" in pages["calendar/index.html"].words
    assert "The game of life" in pages["calendar/2025.html"].words
    assert b"bleak" not in b"".join(files.values()) + (repository.web / "index").read_bytes()
    shown = " ".join(pages["templates/guess/x86_64.html"].words.split())
    for words in ("Seven guesses are always enough.", "Booted in 42 seconds", "4 packages"):
        assert shown.count(words) == 1, words

"""The examples and the page about recipes are valid and complete."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from imgbuilder.customize.run import validate
from imgbuilder.recipe.reader import read_recipe

ROOT = Path(__file__).parents[4]
RECIPES = sorted((ROOT / "examples").glob("*/recipe.toml"))
SCRIPTS = [
    path
    for path in sorted((ROOT / "examples").rglob("*"))
    if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")
]
PAGE = (ROOT / "docs/recipes.md").read_text()
BLOCKS = [
    text
    for text in re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    if "#:schema" not in text
]


def test_there_are_examples() -> None:
    listed = set(re.findall(r"\]\(([\w-]+)/\)", (ROOT / "examples/README.md").read_text()))
    assert listed == {path.parent.name for path in RECIPES}
    assert len(RECIPES) >= 5


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_an_example_is_valid_and_plain(path: Path, validator: Draft202012Validator) -> None:
    validator.validate(tomllib.loads(path.read_text()))
    recipe = read_recipe(path)
    operations = recipe.make_operations()
    validate(operations)
    assert recipe.request().template == "debian-12"
    assert recipe.settings["description"]
    readme = (path.parent / "README.md").read_text()
    assert f"examples/{path.parent.name}/recipe.toml" in readme
    assert "The guest tests build this recipe" in readme or "**Not run here**" in readme
    # Every file of the folder is used by the recipe, or is the recipe or its README.
    for file in path.parent.iterdir():
        assert file.name in {"recipe.toml", "README.md"} or f'"{file.name}"' in path.read_text(), file


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_are_correct_shell(path: Path) -> None:
    assert subprocess.run(["sh", "-n", path], check=False).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", path], check=False).returncode == 0


@pytest.mark.parametrize("text", BLOCKS, ids=range(len(BLOCKS)))
def test_recipes_of_the_page_are_valid(text: str, tmp_path: Path, validator: Draft202012Validator) -> None:
    validator.validate(tomllib.loads(text))
    for name in ("base.toml", "../common/users.toml", "tools.iso"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_text("")
    path = tmp_path / "x" / "r.toml"
    path.write_text(text)
    assert read_recipe(path).make_operations() is not None


def test_the_table_of_the_page_is_correct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command line in the table has the same meaning as the recipe next to it."""
    from tests.fakes.debianguest import KEY
    from tests.fakes.operations import parse_operation

    monkeypatch.chdir(tmp_path)
    for name, content in (("a.conf", "x"), ("ann.pub", KEY), ("pw", "secret")):
        Path(name).write_text(content)
    rows = re.findall(r"^\| `--([a-z-]+)(?: ([^`]*))?` \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 7
    for keyword, argument, cell in rows:
        lines = [piece.strip("`") for piece in cell.split("<br>")]
        Path("r.toml").write_text("\n".join(["[[operation]]", *lines]))
        assert read_recipe(Path("r.toml")).make_operations() == (parse_operation(keyword, argument),)

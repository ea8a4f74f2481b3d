"""Reading ``library.toml``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from imgbuilder.errors import RepositoryError
from imgrepo.publishing.settings import parse_settings, read_settings, settings_schema
from imgrepo.review.results import Requirement

TEXT = 'webroot = "web"\nkeys = ["images@example.org"]\n'


def test_all_fields_are_read(tmp_path: Path) -> None:
    assert read_settings(tmp_path) is None
    assert read_settings(tmp_path / "none") is None
    (tmp_path / "library.toml").write_text(
        f'{TEXT}require = ["booted", "signed"]\nzstd-level = 3\ngrace = 0\n'
    )
    settings = read_settings(tmp_path)
    assert settings is not None
    assert settings.require == (Requirement.BOOTED, Requirement.SIGNED)
    assert (settings.zstd_level, settings.grace, settings.expire) == (3, 0, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{TEXT}\nexpires = 3\n", "library.toml:4: expires: unknown key"),
        (f"{TEXT}[origin]\na = 1\n", "library.toml:3: origin: unknown key"),
        (f"{TEXT}expire = -1\n", "library.toml:3: expire: "),
        (f"{TEXT}xz-preset = 'x'\n", "library.toml:3: xz-preset: it must be a digit"),
        (f"{TEXT}require = ['nice']\n", "library.toml:3: require.0: "),
        (f'{TEXT}title = "a\n', "library.toml:3: "),
        ("webroot = 'web'\nkeys = []\n", "library.toml:2: keys: "),
        ("keys = ['a']\n", "library.toml: webroot: "),
        ('webroot = "a\\u202e"\nkeys = ["a"]\n', "library.toml:1: webroot: it has control characters"),
        ("\ufeff\x00", "library.toml:1: "),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(RepositoryError) as refused:
        parse_settings(text, where="library.toml")
    assert problem in refused.value.message
    assert refused.value.hint == "see LIBRARY SETTINGS in pybuilder-repo(1)"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "library.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(RepositoryError, match="not UTF-8"):
        read_settings(tmp_path)
    path.write_bytes(b"#" * 300_000)
    with pytest.raises(RepositoryError, match="larger than"):
        read_settings(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RepositoryError, match="cannot read"):
        read_settings(tmp_path)


def test_the_schema_for_editors_names_every_key() -> None:
    schema = settings_schema()
    assert {"webroot", "keys", "zstd-level", "base-url"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    path = Path(__file__).parents[4] / "docs" / "library.schema.json"
    assert json.loads(path.read_text()) == schema

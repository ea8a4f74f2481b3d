"""Reading ``library.toml``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from imgbuilder.errors import RepositoryError
from imgrepo.publishing.settings import parse_settings, read_settings, settings_schema
from imgrepo.review.results import Requirement

MADE = "[made.a]\nrecipe = 'debian-12'\n"
BUILT = "[built.{}]\nbase = '{}'\nrecipe = 'x.toml'\n"
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
        (f"{TEXT}steps = ['boot']\n", "library.toml:3: steps.0: input should be 'boot-check', 'sbom'"),
        (f"{TEXT}{MADE}sizes = 1\n", "library.toml:5: made.a.sizes: unknown key"),
        (f"{TEXT}[made.a]\nrecipe = 'beos'\n", "library.toml:4: made.a.recipe: no recipe makes"),
        (f"{TEXT}{MADE}size = 'much'\n", "library.toml:5: made.a.size: "),
        (f"{TEXT}{MADE}every = 0\n", "library.toml:5: made.a.every: "),
        (f"{TEXT}[made.'a b']\nrecipe = 'debian-12'\n", "library.toml:3: made.a b.[key]: letters, digits"),
        (f"{TEXT}[imported.b]\naddress = 'https://x/b.img'\n", "library.toml:3: imported.b: it needs key ="),
        (f"{TEXT}[imported.b]\naddress = 'https://x/'\nunsigned = true\n", "library.toml:3: imported.b: "),
        (f"{TEXT}[built.b]\nbase = 'a'\n", "library.toml:3: built.b.recipe: "),
        (
            f"{TEXT}{MADE}{BUILT.format('a', 'a')}",
            "library.toml:5: built.a: this template has another origin",
        ),
        (
            f"{TEXT}{BUILT.format('b', 'c')}{BUILT.format('c', 'b')}",
            "library.toml:4: built.b.base: images are bases of each other: b <- c <- b",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(RepositoryError) as refused:
        parse_settings(text, where="library.toml")
    assert problem in refused.value.message
    assert refused.value.hint == "see LIBRARY SETTINGS in pybuilder-repo(1)"


def test_origins_come_after_their_bases() -> None:
    text = f"{TEXT}{BUILT.format('b', 'c')}{BUILT.format('c', 'z')}{BUILT.format('d', 'foreign')}[made.z]\n"
    origins = parse_settings(f"{text}recipe = 'debian-12'\nsize = '3G'\n", where="x").origins
    assert set(origins) == {"b", "c", "d", "z"}
    assert list(origins).index("z") < list(origins).index("c") < list(origins).index("b")
    assert origins["z"].model_dump()["size"] == 3 << 30


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

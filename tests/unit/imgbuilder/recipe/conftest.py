"""Fixtures of the tests of recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest


@pytest.fixture(scope="session")
def schema() -> Any:
    """The published schema of recipes."""
    return json.loads((Path(__file__).parents[4] / "docs/recipe.schema.json").read_text())


@pytest.fixture(scope="session")
def validator(schema: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema)

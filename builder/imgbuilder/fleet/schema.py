"""The JSON Schema of a fleet's file for editors (``docs/fleet.schema.json``)."""

from __future__ import annotations

from typing import Any

from imgbuilder.fleet.entries import LISTS, NAMES, TEXTS
from imgbuilder.recipe.variables import NAME

_TEXT = {"type": "string"}
_NAMED = {"type": "object", "propertyNames": {"pattern": f"^{NAME.pattern}$"}, "additionalProperties": _TEXT}


def fleet_schema() -> dict[str, Any]:
    """Return the schema, of draft 2020-12 (https://json-schema.org/draft/2020-12)."""
    shared = {
        **{name: {**_TEXT, "description": about} for name, about in TEXTS.items()},
        **{
            name: {"anyOf": [{"type": "array", "items": _TEXT}, _TEXT], "description": about}
            for name, about in LISTS.items()
        },
        "set": {**_NAMED, "description": "Variables of the recipe, and their values."},
    }
    names = {name: {**_TEXT, "description": about} for name, about in NAMES.items()}
    host = _closed({**names, **shared}) | {"oneOf": [{"required": [name]} for name in NAMES]}
    properties = {
        "description": {**_TEXT, "description": "A description for people."},
        "recipe": {**_TEXT, "description": "The recipe of all hosts, relative to this file's folder."},
        "hosts": {**_TEXT, "description": "A table of hosts in CSV; its first line names the columns."},
        "defaults": {**_closed(shared), "description": "What holds for hosts that do not say otherwise."},
        "secrets": {
            **_NAMED,
            "description": "Secrets by name, and where each value comes from: file:PATH or env:VARIABLE.",
        },
        "host": {"type": "array", "items": host, "description": "The hosts."},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A fleet of pybuilder",
        **_closed(properties),
    }


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}

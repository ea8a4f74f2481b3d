"""The JSON Schema of recipes for editors (``docs/recipe.schema.json``), made from settings and registry."""

from __future__ import annotations

import inspect
import re
from typing import Any

from imgbuilder.customize.argforms import ArgumentPart, Kind
from imgbuilder.customize.registry import Spec, all_operations
from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.recipe.recipe import SETTINGS, Setting, SettingKind
from imgbuilder.recipe.variables import NAME

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def recipe_schema() -> dict[str, Any]:
    """Return the schema, of draft 2020-12 (https://json-schema.org/draft/2020-12)."""
    properties: dict[str, Any] = {
        "include": {
            **_TEXTS,
            "description": "Recipes to read first; paths are relative to this file's folder.",
        },
        **{name: _setting(setting) for name, setting in SETTINGS.items()},
        "variables": {
            "type": "object",
            "description": "Variables and their defaults; ${{ name }} in a string is replaced by the value.",
            "propertyNames": {"pattern": f"^{NAME.pattern}$"},
            "additionalProperties": {
                "anyOf": [
                    _TEXT,
                    _closed({"default": _TEXT, "description": _TEXT}),
                ]
            },
        },
        "operation": {
            "type": "array",
            "description": "The customizations of the guest, in this order.",
            "items": {"oneOf": [_operation(spec) for _, spec in sorted(all_operations().items())]},
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of pybuilder",
        **_closed(properties),
    }


def _closed(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    needed = {"required": required} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": False}


def _setting(setting: Setting) -> dict[str, Any]:
    about = {"description": setting.summary}
    match setting.kind:
        case SettingKind.NUMBER:
            # A string may contain a variable.
            return {"anyOf": [{"type": "integer", "minimum": 1}, _TEXT], **about}
        case SettingKind.SWITCH:
            return {"type": "boolean", **about}
        case SettingKind.TEXTS:
            return {**_TEXTS, **about}
        case SettingKind.TABLES:
            required = [name for name, needed in setting.keys if needed]
            row = _closed({name: _TEXT for name, _needed in setting.keys}, required)
            return {"type": "array", "items": row, **about}
    if setting.name == "format":
        choice = {"enum": [item.value for item in OutputFormat]}
        return {"anyOf": [choice, {"type": "string", "pattern": r"\$\{\{"}], **about}
    return {**_TEXT, **about}


def _operation(spec: Spec) -> dict[str, Any]:
    if not spec.fields:
        return {"description": f"{spec.help}.", **_closed({spec.keyword: {"const": True}}, [spec.keyword])}
    about = _attributes(spec)
    properties = {
        name: {**_part(part), "description": about[field]}
        for (name, part), field in zip(spec.fields.items(), spec.field_names, strict=True)
    }
    required = [name for name, part in spec.fields.items() if not part.optional]
    return {"description": f"{spec.help}.", **_closed(properties, required)}


def _part(part: ArgumentPart) -> dict[str, Any]:
    match part.kind:
        case Kind.LIST:
            return dict(_TEXTS)
        case Kind.SWITCH:
            return {"type": "boolean"}
        case Kind.OWNER:
            return {"type": ["string", "integer"]}
        case _:
            return dict(_TEXT)


def _attributes(spec: Spec) -> dict[str, str]:
    """Return the docstring's description of each field."""
    section = inspect.cleandoc(spec.cls.__doc__ or "").partition("Attributes:\n")[2]
    return {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(section)}

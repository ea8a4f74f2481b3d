"""What a recipe says beside its operations: a table, from which reading, writing and the schema come."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from imgbuilder.disk.diskimage import parse_format, parse_output_format
from imgbuilder.errors import UsageError
from imgbuilder.guests.unlocking import parse_key
from imgbuilder.sizes import parse_size

_MOST = 2**30
"""Largest number that the options of the command line take."""


class SettingKind(enum.Enum):
    """What is written for a setting."""

    TEXT = "text"
    NUMBER = "number"
    SWITCH = "switch"
    TEXTS = "texts"
    TABLES = "tables"


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: Its key in a recipe.
        summary: One line about it.
        kind: What is written.
        check: Checks one text or number, or one item of a list; raises ``UsageError``.
        keys: For tables: their keys, and whether each must be there.
        paths: For tables: which of their keys name a local file.
        example: For the documentation.
    """

    name: str
    summary: str
    kind: SettingKind = SettingKind.TEXT
    check: Callable[..., object] = str
    keys: tuple[tuple[str, bool], ...] = ()
    paths: tuple[str, ...] = ()
    example: str = ""


def _filled(text: str) -> str:
    if not text.strip() or text.startswith("-") or any(ord(sign) < 32 for sign in text):
        raise UsageError("a name is expected here")
    return text


def _number(number: int) -> int:
    if not 0 < number < _MOST:
        raise UsageError("a positive whole number is expected here")
    return number


def _key(text: str) -> object:
    identity, _, rest = text.partition(":")
    if identity and rest.startswith("key:"):
        raise UsageError(
            "a key itself must not stand in a recipe", hint=f"put it into a file: {identity}:file:PATH"
        )
    return parse_key(text)


def _source(url: str, fingerprint: str) -> object:
    from imgbuilder.catalog.sources import sources_from_command_line
    from imgbuilder.customize.values import holds_credentials

    if holds_credentials(url):
        raise UsageError("a password must not stand in a recipe", hint="leave it out of the address")
    return sources_from_command_line([url], [fingerprint])


def _attached(_file: str, format: str | None = None) -> object:  # noqa: A002 - its name in recipes
    return None if format in (None, "auto") else parse_format(format)


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("description", "What the recipe is for; for people.", example="A web server"),
        Setting("template", "Name or alias of the template.", check=_filled, example="debian-12"),
        Setting("arch", "Architecture of the template; this host's by default.", check=_filled),
        Setting(
            "output", "File or block device for the image, from the current directory.", check=_filled,
            example="web.qcow2",
        ),
        Setting(
            "format", "Format of the image: raw (the default), qcow2, vmdk, vdi or vhdx.",
            check=parse_output_format, example="qcow2",
        ),
        Setting("compress", "Whether the qcow2 image is compressed.", SettingKind.SWITCH),
        Setting("size", "Size of its disk, such as 20G.", check=parse_size, example="20G"),
        Setting("memsize", "Memory of the appliance in MiB.", SettingKind.NUMBER, _number),
        Setting("smp", "Processors of the appliance.", SettingKind.NUMBER, _number),
        Setting(
            "network", "Whether the guest reaches the network; by default when commands run in it.",
            SettingKind.SWITCH,
        ),
        Setting(
            "keys", "Keys of the template's encrypted devices, as ID:file:PATH.", SettingKind.TEXTS, _key
        ),
        Setting(
            "attach", "Further disks for the appliance, to be read only.", SettingKind.TABLES, _attached,
            (("file", True), ("format", False)), ("file",),
        ),
        Setting(
            "source", "Indexes to use before all others, each with the key that must have signed it.",
            SettingKind.TABLES, _source, (("url", True), ("fingerprint", True)),
        ),
    )
}  # fmt: skip
"""Every setting by its key, in the order in which a recipe is written."""

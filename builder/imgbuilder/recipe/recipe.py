"""A recipe: its settings, each described once, and its operations."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.building.request import BuildRequest, NetworkMode
from imgbuilder.customize.operation import Operation
from imgbuilder.customize.registry import Written
from imgbuilder.disk.diskimage import parse_format, parse_output_format
from imgbuilder.errors import UsageError
from imgbuilder.guests.unlocking import parse_key
from imgbuilder.host.arch import host_arch
from imgbuilder.services import Settings
from imgbuilder.sizes import parse_size

_MOST = 2**30
"""The options of the command line accept smaller numbers."""


class SettingKind(enum.Enum):
    """The kind of a setting's value."""

    TEXT = "text"
    NUMBER = "number"
    SWITCH = "switch"
    TEXTS = "texts"
    TABLES = "tables"


@dataclass(frozen=True)
class Setting:
    """One setting."""

    name: str
    summary: str
    kind: SettingKind = SettingKind.TEXT
    check: Callable[..., object] = str
    """Checks one text or number, or one item of a list; raises ``UsageError``."""
    keys: tuple[tuple[str, bool], ...] = ()
    """For tables: their keys, and whether each is required."""
    paths: tuple[str, ...] = ()
    """For tables: the keys that name a local file."""


def _check_name(text: str) -> str:
    if not text.strip() or text.startswith("-") or any(ord(sign) < 32 for sign in text):
        raise UsageError("a name is expected here")
    return text


def _check_number(number: int) -> int:
    if not 0 < number < _MOST:
        raise UsageError("a positive whole number is expected here")
    return number


def _check_key(text: str) -> object:
    identity, _, rest = text.partition(":")
    if identity and rest.startswith("key:"):
        raise UsageError("a recipe must not contain a key", hint=f"put it into a file: {identity}:file:PATH")
    return parse_key(text)


def _check_source(url: str, fingerprint: str) -> object:
    from imgbuilder.catalog.sources import sources_from_command_line
    from imgbuilder.customize.values import holds_credentials

    if holds_credentials(url):
        raise UsageError("a recipe must not contain a password", hint="leave it out of the address")
    return sources_from_command_line([url], [fingerprint])


def _attached(file: str, format: str = "auto") -> Attachment:  # noqa: A002 - its name in recipes
    return Attachment(Path(file), None if format == "auto" else parse_format(format))


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("description", "A description for people."),
        Setting("template", "Name or alias of the template.", check=_check_name),
        Setting("arch", "Architecture of the template; this host's by default.", check=_check_name),
        Setting(
            "output", "File or block device for the image, from the current directory.", check=_check_name
        ),
        Setting(
            "format", "Format of the image: raw (the default), qcow2, vmdk, vdi or vhdx.",
            check=parse_output_format,
        ),
        Setting("compress", "Whether the qcow2 image is compressed.", SettingKind.SWITCH),
        Setting("linked", "Whether it lies over the template's disk in the cache.", SettingKind.SWITCH),
        Setting("seed", "Text from which all random numbers in the image are made."),
        Setting("size", "Size of its disk, such as 20G.", check=parse_size),
        Setting("memsize", "Memory of the appliance in MiB.", SettingKind.NUMBER, _check_number),
        Setting("smp", "Processors of the appliance.", SettingKind.NUMBER, _check_number),
        Setting(
            "network", "Whether the guest has a network; the default is to have one if commands run in it.",
            SettingKind.SWITCH,
        ),
        Setting(
            "keys", "Keys of the template's encrypted devices, as ID:file:PATH.",
            SettingKind.TEXTS, _check_key,
        ),
        Setting(
            "attach", "Further disks for the appliance, read-only.",
            SettingKind.TABLES, _attached, (("file", True), ("format", False)), ("file",),
        ),
        Setting(
            "source", "Indexes to use before all others, each with the fingerprint of its signing key.",
            SettingKind.TABLES, _check_source, (("url", True), ("fingerprint", True)),
        ),
    )
}  # fmt: skip
"""Every setting by its key, in the order in which a recipe is written."""


@dataclass(frozen=True)
class Recipe:
    """The checked content of a recipe and the recipes that it includes."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings by their keys, not converted."""
    operations: tuple[Written, ...] = ()
    """The operations in their order, not converted."""

    def make_operations(self) -> tuple[Operation, ...]:
        """Make the operations, reading the files and variables that they name; errors name file and line."""
        return tuple(written.make() for written in self.operations)

    def request(self) -> BuildRequest:
        """Return the recipe's build; use ``dataclasses.replace`` to change it."""
        given = self.settings
        if "template" not in given:
            raise UsageError("the recipe names no template", hint='add template = "debian-12"')
        return BuildRequest(
            template=given["template"],
            arch=given.get("arch") or host_arch(),
            output=Path(given["output"]) if "output" in given else None,
            format=parse_output_format(given.get("format") or ("qcow2" if given.get("linked") else "raw")),
            size=parse_size(given["size"]) if "size" in given else None,
            compressed=given.get("compress", False),
            linked=given.get("linked", False),
            seed=given.get("seed"),
            attachments=tuple(_attached(**row) for row in given.get("attach", ())),
            operations=self.make_operations(),
            keys=tuple(parse_key(text) for text in given.get("keys", ())),
            appliance=ApplianceOptions(memsize=given.get("memsize"), smp=given.get("smp")),
            network=_NETWORK[given.get("network")],
        )

    def sources(self, settings: Settings | None = None) -> Settings:
        """Return settings with the recipe's sources, if it names any, in place of the given ones."""
        base = settings or Settings()
        rows = self.settings.get("source", ())
        if not rows:
            return base
        return replace(
            base,
            sources=tuple(row["url"] for row in rows),
            fingerprints=tuple(row["fingerprint"] for row in rows),
        )


_NETWORK = {None: NetworkMode.AUTOMATIC, True: NetworkMode.ON, False: NetworkMode.OFF}

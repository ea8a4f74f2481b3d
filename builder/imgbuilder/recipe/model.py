"""What recipes say."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Recipe:
    """What a recipe and those that it includes say, checked.

    Attributes:
        settings: The settings by their keys (``recipe.settings``), as they are written.
        operations: The operations in their order, as they are written.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    operations: tuple[Written, ...] = ()

    def make_operations(self) -> tuple[Operation, ...]:
        """Make the operations; the files and variables that they name are read now.

        Raises:
            UsageError: A value does not fit; the message says where it stands.
        """
        return tuple(written.make() for written in self.operations)

    def request(self) -> BuildRequest:
        """Return the build that the recipe asks for; ``dataclasses.replace`` changes it.

        Raises:
            UsageError: It names no template, or a file that it names cannot be used.
        """
        given = self.settings
        if "template" not in given:
            raise UsageError("the recipe names no template", hint='add template = "debian-12"')
        return BuildRequest(
            template=given["template"],
            arch=given.get("arch") or host_arch(),
            output=Path(given["output"]) if "output" in given else None,
            format=parse_output_format(given.get("format", "raw")),
            size=parse_size(given["size"]) if "size" in given else None,
            compressed=given.get("compress", False),
            attachments=tuple(_attached(**row) for row in given.get("attach", ())),
            operations=self.make_operations(),
            keys=tuple(parse_key(text) for text in given.get("keys", ())),
            appliance=ApplianceOptions(memsize=given.get("memsize"), smp=given.get("smp")),
            network=_NETWORK[given.get("network")],
        )

    def sources(self, settings: Settings | None = None) -> Settings:
        """Return settings with the recipe's sources in the place of those that are there, if it names any."""
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


def _attached(file: str, format: str = "auto") -> Attachment:  # noqa: A002 - its name in recipes
    return Attachment(Path(file), None if format == "auto" else parse_format(format))

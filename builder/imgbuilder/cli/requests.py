"""From the command line's values to the objects that builds are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.building.getkernel import KernelRequest
from imgbuilder.building.request import BuildRequest, NetworkMode
from imgbuilder.cli.customizing import ATTACHED, given_operations
from imgbuilder.customize.failure import OnError
from imgbuilder.customize.operation import Operation
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat, parse_format, parse_output_format
from imgbuilder.guests.unlocking import DiskKey, parse_key
from imgbuilder.machine.model import Forward
from imgbuilder.sizes import parse_size


@dataclass(frozen=True)
class Values:
    """What is written on the command line, read: in every mode, whether that needs it or not.

    As in virt-builder, a wrong value is a mistake even where nothing is built; and what is read from a pipe
    is read once.

    Attributes:
        size: Of ``--size``, in bytes.
        format: Of ``--format``; None for the default, or ``auto``.
        keys: Of ``--key``.
        attachments: Of ``--attach``.
        forwards: Of ``--forward``.
        operations: Customizations.
    """

    size: int | None
    format: OutputFormat | None
    keys: tuple[DiskKey, ...]
    attachments: tuple[Attachment, ...]
    forwards: tuple[Forward, ...]
    operations: tuple[Operation, ...]


def read_values(ctx: click.Context, options: dict[str, Any]) -> Values:
    """Read the values of the options.

    Raises:
        UsageError: One of them cannot be read.
    """
    for kind in options["attach_format"]:
        _attached_format(kind)
    return Values(
        size=None if options["size"] is None else parse_size(options["size"]),
        format=None if options["format_"] in {None, "auto"} else parse_output_format(options["format_"]),
        keys=tuple(parse_key(text) for text in options["keys"]),
        attachments=tuple(
            Attachment(Path(path), _attached_format(kind)) for path, kind in ctx.meta[ATTACHED]
        ),
        forwards=tuple(Forward.parse(text) for text in options["forward"]),
        operations=given_operations(ctx),
    )


def _attached_format(kind: str) -> DiskFormat | None:
    return None if kind == "auto" else parse_format(kind)


def appliance_options(options: Mapping[str, Any]) -> ApplianceOptions:
    """Return what the command line says about the appliance."""
    return ApplianceOptions(
        memsize=options["memsize"],
        smp=options["smp"],
        launch_timeout=options["launch_timeout"],
        verbose=options["verbose"],
        trace=options["trace"],
        instant=not options["no_instant"],
    )


def kernel_request(image: str, options: dict[str, Any], values: Values) -> KernelRequest:
    """Make what ``--get-kernel`` asks for.

    Args:
        image: The disk image.
        options: The options' values.
        values: What they mean.

    Raises:
        UsageError: The format is not supported, or the prefix is no part of a file name.
    """
    return KernelRequest(
        image=Attachment(Path(image), None if values.format is None else parse_format(values.format)),
        folder=Path(options["output"] or "."),
        appliance=appliance_options(options),
        keys=values.keys,
        unversioned=options["unversioned_names"],
        prefix=options["prefix"],
    )


def build_request(name: str, arch: str, options: dict[str, Any], values: Values) -> BuildRequest:
    """Make what a build asks for.

    Args:
        name: Name of the template.
        arch: Its architecture.
        options: The options' values.
        values: What they mean.

    Raises:
        UsageError: The format is ``auto``.
    """
    network = {None: NetworkMode.AUTOMATIC, True: NetworkMode.ON, False: NetworkMode.OFF}[options["network"]]
    return BuildRequest(
        template=name,
        arch=arch,
        output=None if options["output"] is None else Path(options["output"]),
        format=parse_output_format(options["format_"] or "raw"),
        compressed=options["compress"],
        warn_if_partition=options["warn_if_partition"],
        size=values.size,
        operations=values.operations,
        keys=values.keys,
        attachments=values.attachments,
        appliance=appliance_options(options),
        command_timeout=options["command_timeout"],
        network=network,
        delete_on_failure=options["delete_on_failure"],
        on_error=OnError(options["on_error"]),
        sync=not options["no_sync"],
    )

"""From the command line's values to the objects that builds are made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgbuilder.cli.customizing import ATTACHED, given_operations
from imgbuilder.disk.diskimage import parse_format, parse_output_format
from imgbuilder.diskkeys import parse_key
from imgbuilder.failure import OnError
from imgbuilder.request import Attached, BuildRequest, NetworkMode
from imgbuilder.sizes import parse_size

if TYPE_CHECKING:
    import click

    from imgbuilder.getkernel import KernelRequest


def kernel_request(options: dict[str, Any]) -> KernelRequest:
    """Make what ``--get-kernel`` asks for.

    Raises:
        UsageError: The format is not supported.
    """
    from imgbuilder.appliance import ApplianceOptions
    from imgbuilder.getkernel import KernelRequest

    return KernelRequest(
        image=Path(options["get_kernel"]),
        format=None if options["format_"] in {None, "auto"} else parse_format(options["format_"]),
        folder=Path(options["output"] or "."),
        options=ApplianceOptions(
            memsize=options["memsize"],
            smp=options["smp"],
            launch_timeout=options["launch_timeout"],
            verbose=options["verbose"],
            trace=options["trace"],
            instant=not options["no_instant"] and not options["no_cache"],
            cache=None if options["cache"] is None else Path(options["cache"]),
        ),
        keys=tuple(parse_key(text) for text in options["keys"]),
    )


def build_request(ctx: click.Context, name: str, arch: str, options: dict[str, Any]) -> BuildRequest:
    """Make what a build asks for.

    Args:
        ctx: The parsed command line, for the order of its options.
        name: Name of the template.
        arch: Its architecture.
        options: The options' values.

    Raises:
        UsageError: A value cannot be read.
    """
    network = {None: NetworkMode.AUTOMATIC, True: NetworkMode.ON, False: NetworkMode.OFF}[options["network"]]
    return BuildRequest(
        template=name,
        arch=arch,
        output=None if options["output"] is None else Path(options["output"]),
        format=parse_output_format(options["format_"] or "raw"),
        compressed=options["compress"],
        warn_if_partition=options["warn_if_partition"],
        size=None if options["size"] is None else parse_size(options["size"]),
        operations=given_operations(ctx),
        keys=tuple(parse_key(text) for text in options["keys"]),
        attachments=_attachments(ctx),
        memsize=options["memsize"],
        smp=options["smp"],
        launch_timeout=options["launch_timeout"],
        command_timeout=options["command_timeout"],
        network=network,
        delete_on_failure=options["delete_on_failure"],
        on_error=OnError(options["on_error"]),
        sync=not options["no_sync"],
        verbose=options["verbose"],
        trace=options["trace"],
    )


def _attachments(ctx: click.Context) -> tuple[Attached, ...]:
    """Return the disks of ``--attach``, each with the format that ``--attach-format`` named last before it.

    Raises:
        UsageError: A format is not supported.
    """
    return tuple(
        Attached(Path(path), None if kind == "auto" else parse_format(kind))
        for path, kind in ctx.meta[ATTACHED]
    )

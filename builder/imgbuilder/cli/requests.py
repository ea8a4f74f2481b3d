"""The objects that the modes work with, made from the values of a command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.building.getkernel import KernelRequest
from imgbuilder.building.request import BuildRequest, HostsideMode, NetworkMode
from imgbuilder.cli.customizing import ATTACHED, given_operations
from imgbuilder.cli.program import Tools
from imgbuilder.customize.failure import OnError
from imgbuilder.customize.operation import Operation
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat, parse_format, parse_output_format
from imgbuilder.errors import UsageError
from imgbuilder.guests.unlocking import DiskKey, parse_key
from imgbuilder.host import arch
from imgbuilder.machine.model import Forward
from imgbuilder.services import Services, Settings
from imgbuilder.sizes import parse_size
from imgbuilder.terminal.reporter import ConsoleReporter

_LEAST_MEMORY = 256
"""MiB; libguestfs 1.48 refuses less in guestfs_set_memsize(3)."""


class Call:
    """A command line that was read."""

    def __init__(self, ctx: click.Context, options: dict[str, Any], label: str) -> None:
        self.ctx = ctx
        self.options = options
        self.label = label
        self.settings = settings_of(options)
        self.values = read_values(ctx, options)
        self.reporter: ConsoleReporter = ctx.obj.reporter

    @cached_property
    def services(self) -> Services:
        """The ports to the outside."""
        return self.services_with()

    def services_with(self, **ports: Any) -> Services:
        """Return the ports with some of them replaced."""
        tools: Tools = self.ctx.obj
        return tools.make_services(self.settings, **ports)

    @property
    def names(self) -> tuple[str, ...]:
        """The words that are not options."""
        names: tuple[str, ...] = self.options["names"]
        return names

    @property
    def arch(self) -> str:
        """The architecture of the template or image."""
        return self.options["arch_"] or arch.host_arch()

    def no_name(self) -> None:
        """Refuse words that are not options."""
        if self.names:
            raise UsageError(f"{self.label} takes no OS-VERSION, but {self.names[0]!r} was given")

    def one_name(self, what: str = "OS-VERSION", hint: str = "see which there are: pybuilder list") -> str:
        """Return the only word that is not an option."""
        if len(self.names) == 1:
            return self.names[0]
        given = f", but {len(self.names)} were given: {' '.join(self.names)}" if self.names else ""
        raise UsageError(f"{self.label} needs exactly one {what}{given}", hint=hint)


def settings_of(options: dict[str, Any]) -> Settings:
    """Return the sources and the cache of a command line."""
    return Settings(
        sources=options["sources"],
        fingerprints=options["fingerprints"],
        check_signature=options["check_signature"],
        cache=None if options["cache"] is None else Path(options["cache"]),
        use_cache=not options["no_cache"],
        cache_size=None if options["cache_size"] is None else parse_size(options["cache_size"]),
        offline=options["offline"],
        gpg=_gpg(options["gpg"]),
        reuse=tuple(map(Path, options["reuse"])),
    )


def _gpg(text: str | None) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split("gpg" if text is None else text))
    except ValueError as error:
        raise UsageError(f"--gpg {text!r}: {error}") from error
    if not words:
        raise UsageError("--gpg needs the name of a program", hint="such as gpg, or 'gpg --homedir DIR'")
    return words


@dataclass(frozen=True)
class Values:
    """Values of options, read in every mode, whether that needs them or not.

    As in virt-builder, a wrong value is a mistake even where nothing is built; and what is read from a pipe
    is read once.
    """

    size: int | None
    format: OutputFormat | None
    """Of ``--format``; None for the default, or ``auto``."""
    keys: tuple[DiskKey, ...]
    attachments: tuple[Attachment, ...]
    forwards: tuple[Forward, ...]
    operations: tuple[Operation, ...]


def read_values(ctx: click.Context, options: dict[str, Any]) -> Values:
    """Read the values of the options."""
    for kind in options["attach_format"]:
        _attached_format(kind)
    return Values(
        size=None if options["size"] is None else parse_size(options["size"]),
        format=None if options["format_"] in {None, "auto"} else parse_output_format(options["format_"]),
        keys=tuple(parse_key(text) for text in options["keys"]),
        attachments=tuple(
            Attachment(Path(path), _attached_format(kind)) for path, kind in ctx.meta[ATTACHED]
        ),
        forwards=tuple(Forward.parse(text) for text in options.get("forward", ())),
        operations=given_operations(ctx),
    )


def _attached_format(kind: str) -> DiskFormat | None:
    return None if kind == "auto" else parse_format(kind)


def appliance_options(options: Mapping[str, Any]) -> ApplianceOptions:
    """Return the options of the appliance."""
    memsize = options["memsize"]
    if memsize is not None and memsize < _LEAST_MEMORY:
        raise UsageError(
            f"the appliance cannot start with {memsize} MiB of memory",
            hint=f"give --memsize {_LEAST_MEMORY} or more",
        )
    return ApplianceOptions(
        memsize=memsize,
        smp=options["smp"],
        launch_timeout=options["launch_timeout"],
        verbose=options["verbose"],
        trace=options["trace"],
        instant=not options["no_instant"],
    )


def kernel_request(image: str, options: dict[str, Any], values: Values) -> KernelRequest:
    """Return the request to copy the kernel of a disk image."""
    return KernelRequest(
        image=Attachment(Path(image), None if values.format is None else parse_format(values.format)),
        folder=Path(options["output"] or "."),
        appliance=appliance_options(options),
        keys=values.keys,
        unversioned=options.get("unversioned_names", False),
        prefix=options.get("prefix"),
    )


def build_request(name: str, arch: str, options: dict[str, Any], values: Values) -> BuildRequest:
    """Return the request to build an image from the template of a name and an architecture."""
    network = {None: NetworkMode.AUTOMATIC, True: NetworkMode.ON, False: NetworkMode.OFF}[options["network"]]
    return BuildRequest(
        template=name,
        arch=arch,
        output=None if options["output"] is None else Path(options["output"]),
        format=parse_output_format(options["format_"] or ("qcow2" if options["linked"] else "raw")),
        linked=options["linked"],
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
        seed=options["seed"],
        hostside=None if options["hostside"] is None else HostsideMode(options["hostside"]),
    )

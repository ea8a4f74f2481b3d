"""The requests: for a build, and for the customization of existing disks."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.customize.failure import OnError
from imgbuilder.customize.operation import Operation
from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.guests.unlocking import DiskKey
from imgbuilder.host.arch import host_arch


class NetworkMode(enum.Enum):
    """The guest's access to the network while it is customized."""

    AUTOMATIC = "automatic"
    """Only when an operation runs commands in the guest."""
    ON = "on"
    OFF = "off"


class HostsideMode(enum.Enum):
    """When an image is written on the host, without an appliance."""

    AUTO = "auto"
    """When the image and the request allow it; a build, for templates of signed sources only."""
    NEVER = "never"
    ALWAYS = "always"
    """For all templates and disks; what needs an appliance is refused."""


@dataclass(frozen=True)
class BuildRequest:
    """All parameters of a build.

    Attributes:
        template: Name or alias of the template.
        arch: Architecture asked for; this host's by default.
        output: The file or block device to write; None for ``TEMPLATE.img`` (raw) or
            ``TEMPLATE.FORMAT`` in the current folder.
        format: Its format.
        size: Its virtual size in bytes; None for the template's, or for all of a block device.
        compressed: Whether its data are compressed; for qcow2 only.
        linked: Whether it lies over the template's disk in the cache; for qcow2 only.
        warn_if_partition: Warn when the output is a partition.
        attachments: Further disks, which commands in the guest may read.
        operations: Customizations in the user's order.
        keys: Keys of the guest's encrypted devices.
        appliance: Options of the appliance.
        command_timeout: Seconds after which a command in the guest is stopped; None for no limit.
        network: Whether the guest reaches the network.
        delete_on_failure: Whether a half-made image is removed when the build fails.
        on_error: The reaction to a customization that fails.
        sync: Whether to wait until the image is safe on the disk.
        seed: Text that the random numbers in the image follow from; None for true random numbers.
        hostside: When the image is written without an appliance; None for what the environment says.
    """

    template: str
    arch: str = field(default_factory=host_arch)
    output: Path | None = None
    format: OutputFormat = OutputFormat.RAW
    size: int | None = None
    compressed: bool = False
    linked: bool = False
    warn_if_partition: bool = True
    attachments: tuple[Attachment, ...] = ()
    operations: tuple[Operation, ...] = ()
    keys: tuple[DiskKey, ...] = ()
    appliance: ApplianceOptions = field(default_factory=ApplianceOptions)
    command_timeout: float | None = None
    network: NetworkMode = NetworkMode.AUTOMATIC
    delete_on_failure: bool = True
    on_error: OnError = OnError.ABORT
    sync: bool = True
    seed: str | None = None
    hostside: HostsideMode | None = None


@dataclass(frozen=True)
class CustomizeRequest:
    """The disks of a guest, and the operations to run on it.

    Attributes:
        disks: The disks of the guest, in its order.
        attachments: Further disks that commands in the guest may read.
        backing: Images that the disks may lie over; they are only read.
        operations: Customizations in the user's order.
        keys: Keys of encrypted devices.
        appliance: Options of the appliance; with ``verbose``, the output of commands is reported as well.
        command_timeout: Seconds after which a command in the guest is stopped; None for no limit.
        network: Whether the guest reaches the network.
        dry_run: Whether the disks stay as they are: changes go to a layer that is dropped.
        on_copy: Whether a copy is customized, which replaces the disk after success.
        on_error: The reaction to a customization that fails.
        hostside: When a copy is customized without an appliance, which replaces the disk after success.
    """

    disks: tuple[Attachment, ...]
    attachments: tuple[Attachment, ...] = ()
    backing: tuple[Path, ...] = ()
    operations: tuple[Operation, ...] = ()
    keys: tuple[DiskKey, ...] = ()
    appliance: ApplianceOptions = field(default_factory=ApplianceOptions)
    command_timeout: float | None = None
    network: bool = True
    dry_run: bool = False
    on_copy: bool = False
    on_error: OnError = OnError.ABORT
    hostside: HostsideMode = HostsideMode.NEVER

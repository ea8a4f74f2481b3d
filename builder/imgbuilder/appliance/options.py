"""Options and disks of an appliance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ApplianceOptions:
    """Options of the appliance.

    Attributes:
        memsize: Its memory in MiB; None for libguestfs's default.
        smp: Number of its processors; None for libguestfs's default.
        network: Whether it reaches the network. Builds and customizations decide this themselves.
        launch_timeout: Seconds without a sign of life until a start counts as hung; None for the default.
        verbose: Whether its console is reported line by line.
        trace: Whether every libguestfs call is reported.
        instant: Whether it may be resumed from a saved state; the environment may forbid it all the same.
        cache: The private cache that keeps the saved states; None for the usual one.
    """

    memsize: int | None = None
    smp: int | None = None
    network: bool = False
    launch_timeout: float | None = None
    verbose: bool = False
    trace: bool = False
    instant: bool = True
    cache: Path | None = None


@dataclass(frozen=True)
class Attachment:
    """A disk for the appliance.

    Attributes:
        path: An image file or a block device.
        format: Its format, ``raw`` or ``qcow2``; None until its header was checked. The appliance starts only
            with disks whose format is known: libguestfs must not probe it (``docs/threat-model.md`` T13).
        readonly: Whether the appliance may only read it.
        sector_size: Bytes per sector that the appliance sees.
        attached: Whether only the guest's commands see it, because it is not a disk of the guest.
        backing: Images that it lies over, known when its header was checked.
    """

    path: Path
    format: str | None = None
    readonly: bool = False
    sector_size: int = 512
    attached: bool = False
    backing: tuple[Path, ...] = ()

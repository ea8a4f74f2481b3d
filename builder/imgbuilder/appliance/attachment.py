"""A disk of the appliance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Attachment:
    """A disk image for the appliance.

    Attributes:
        path: The image file or block device.
        format: Its format, ``raw`` or ``qcow2``; never probed (``reliability.md`` T13).
        readonly: Whether the appliance may only read it.
        sector_size: Bytes per sector that the appliance sees.
        attached: Whether it is no disk of the guest's: only the guest's commands see it.
    """

    path: Path
    format: str
    readonly: bool = False
    sector_size: int = 512
    attached: bool = False

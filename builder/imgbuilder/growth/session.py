"""Growing what is on the disk, in the appliance session that customizes the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.growth.decide import ADVICE

if TYPE_CHECKING:
    from imgbuilder.growth.decide import Growth
    from imgbuilder.guest import Appliance


def grow_content(appliance: Appliance, growth: Growth, root: str) -> None:
    """Grow the mounted filesystem to its partition.

    Args:
        appliance: The appliance with the guest mounted.
        growth: What grows.
        root: The device of the guest's root.

    Raises:
        GuestError: It could not be grown.
    """
    if not growth.is_named and root != growth.device:
        raise GuestError(
            f"the index does not say what grows (expand=), and the system is on {root}, "
            f"which does not lie last on the disk: {growth.device} does",
            hint=f"tell the publisher of the template, or {ADVICE}",
        )
    try:
        appliance.grow_ext(growth.device)
    except GuestCallError as error:
        raise GuestError(
            f"the filesystem on {growth.device} could not grow: {error.message}", hint=ADVICE
        ) from error

"""Looking into an image for what is nobody else's business: read-only, in an appliance.

Where it is a copy that may be written to, the free space of its filesystems is
given back in the same launch, as ``publish`` does before it packs.
"""

from __future__ import annotations

from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.errors import ApplianceError, GuestCallError, GuestError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.guests.osrelease import has_os_release
from imgbuilder.guests.ports import Appliance
from imgbuilder.guests.roots import NO_FILES, mounted_read_only
from imgbuilder.host.text import printable
from imgrepo.contents.mounting import mount_by_inspection, mount_root
from imgrepo.images.scan import SourceImage
from imgrepo.review.checkrecord import Inside
from imgrepo.review.findings import Findings
from imgrepo.review.passwords import homes, judge_passwords, read_passwords
from imgrepo.services import OpenAppliance

_PLACES = ("/etc", "/home", "/root", "/srv", "/usr", "/var")


def look_inside(
    image: SourceImage,
    hints: str,
    open_appliance: OpenAppliance,
    options: ApplianceOptions,
    on_event: Reporter,
    *,
    copy: Path | None = None,
) -> Inside:
    """Look for a machine's identity and for secrets.

    Args:
        image: The image; its header was judged before.
        hints: What its contributor tells people.
        open_appliance: Starts an appliance.
        options: What shapes it.
        on_event: Called with each event.
        copy: A copy of the image to look into instead; free space in it is given back.

    Returns:
        What was seen; ``hints`` in it is left empty.

    Raises:
        ApplianceError: No appliance can be started, or it died.
    """
    on_event(Step(f"Looking into {image.name}"))
    attachment = Attachment((copy or image.path).absolute(), image.format.value, readonly=copy is None)
    with open_appliance([attachment], options, on_event) as appliance:
        try:
            found = _look(appliance, image, hints, on_event)
        except ApplianceError:
            raise
        except GuestError as error:
            found = Inside(system=False, reason=printable(error.message))
        if copy is not None:
            _give_back(appliance, image, on_event)
    return found


def _look(appliance: Appliance, image: SourceImage, hints: str, on_event: Reporter) -> Inside:
    if not mount_root(appliance, image, _PLACES, on_event):
        mount_by_inspection(appliance, image, _PLACES, on_event)
    if not (has_os_release(appliance) or appliance.is_file("/etc/passwd")):
        raise GuestError(f"{image.name} holds a system whose places are not known here")
    found = Findings(appliance)
    found.look_for_identity()
    passwd, shadow = (found.text(path) for path in ("/etc/passwd", "/etc/shadow"))
    found.look_at_homes(homes(passwd))
    found.look_at_system()
    accounts = judge_passwords(read_passwords(passwd, shadow), hints)
    return Inside(system=True, seen=found.seen(), accounts=accounts)


def _give_back(appliance: Appliance, image: SourceImage, on_event: Reporter) -> None:
    """Give the free space of all filesystems back; where that does not work, the copy is only larger."""
    appliance.unmount_all()
    for device, kind in sorted(appliance.filesystems().items()):
        if kind in NO_FILES:
            continue
        try:
            with mounted_read_only(appliance, device):
                appliance.trim("/")
        except GuestCallError as error:
            debug(on_event, f"{image.name}: free space of {device} is not given back: {error.message}")

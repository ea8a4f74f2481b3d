"""The appliance: libguestfs in a worker process, behind the ports of ``imgbuilder.guests.ports``."""

from imgbuilder.appliance.launch import ApplianceOptions, open_appliance
from imgbuilder.guests.ports import Attachment

__all__ = ["ApplianceOptions", "Attachment", "open_appliance"]

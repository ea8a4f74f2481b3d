"""The appliance: libguestfs in a worker process, behind the ports of ``imgbuilder.guests.ports``."""

from imgbuilder.appliance.launch import open_appliance
from imgbuilder.appliance.options import ApplianceOptions, Attachment

__all__ = ["ApplianceOptions", "Attachment", "open_appliance"]

"""The appliance: libguestfs in a worker process, behind the ports of ``imgbuilder.guest``."""

from imgbuilder.appliance.attachment import Attachment
from imgbuilder.appliance.launch import ApplianceOptions, open_appliance

__all__ = ["ApplianceOptions", "Attachment", "open_appliance"]

"""The same machine for libvirt: a domain in XML, and a command line of virt-install."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from imgbuilder.errors import UsageError
from imgbuilder.machine.model import Firmware, Machine, board

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.+-]+")


def domain_name(machine: Machine) -> str:
    """Return a name that libvirt and shells accept."""
    return _NOT_IN_NAMES.sub("-", machine.name).strip("-.") or "guest"


@dataclass(frozen=True)
class Setting:
    """The surroundings of a domain in libvirt.

    Attributes:
        pool: The storage pool with its image; empty if the image is a local file.
        network: The network of its card; empty for that of QEMU itself, which needs no rights.
        mac: The MAC address of the card; empty for one that libvirt chooses.
        uuid: The domain that it replaces; empty for a new one.
    """

    pool: str = ""
    network: str = "default"
    mac: str = ""
    uuid: str = ""


_ALONE = Setting()


def libvirt_xml(machine: Machine, *, kvm: bool = True, setting: Setting = _ALONE) -> str:
    """Write the domain, for ``virsh define`` or ``virsh create``.

    Ports are not forwarded: guests of libvirt have addresses of their own.
    """
    facts = board(machine.arch)
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) <= 0xDFFF for letter in str(machine.image)):
        raise UsageError(
            f"the name of the image {str(machine.image)!r} cannot be written in XML", hint="rename it"
        )
    domain = ET.Element("domain", type="kvm" if kvm else "qemu")
    ET.SubElement(domain, "name").text = domain_name(machine)
    if setting.uuid:
        ET.SubElement(domain, "uuid").text = setting.uuid
    ET.SubElement(domain, "memory", unit="MiB").text = str(machine.memory)
    ET.SubElement(domain, "vcpu").text = str(machine.processors)
    system = ET.SubElement(domain, "os", {"firmware": "efi"} if machine.firmware is Firmware.UEFI else {})
    ET.SubElement(system, "type", arch=machine.arch, machine=facts.machine).text = "hvm"
    ET.SubElement(system, "boot", dev="hd")
    features = ET.SubElement(domain, "features")
    if machine.arch != "aarch64":
        ET.SubElement(features, "acpi")
    ET.SubElement(domain, "cpu", mode="host-passthrough" if kvm else "maximum")
    devices = ET.SubElement(domain, "devices")
    disk = ET.SubElement(devices, "disk", type="volume" if setting.pool else "file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type=machine.format.value, discard="unmap")
    image = str(machine.image)
    ET.SubElement(
        disk, "source", {"pool": setting.pool, "volume": image} if setting.pool else {"file": image}
    )
    ET.SubElement(disk, "target", dev="vda", bus="virtio")
    card = ET.SubElement(devices, "interface", type="network" if setting.network else "user")
    if setting.mac:
        ET.SubElement(card, "mac", address=setting.mac)
    if setting.network:
        ET.SubElement(card, "source", network=setting.network)
    ET.SubElement(card, "model", type="virtio")
    ET.SubElement(ET.SubElement(devices, "console", type="pty"), "target", type="serial")
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    ET.SubElement(
        ET.SubElement(devices, "rng", model="virtio"), "backend", model="random"
    ).text = "/dev/urandom"
    if machine.graphic:
        ET.SubElement(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
        ET.SubElement(ET.SubElement(devices, "video"), "model", type="virtio")
        ET.SubElement(devices, "input", type="tablet", bus="virtio")
        ET.SubElement(devices, "input", type="keyboard", bus="virtio")
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def virt_install_command(machine: Machine, *, kvm: bool = True) -> str:
    """Write the command line that makes and starts the same guest with virt-install(1)."""
    board(machine.arch)
    path = str(machine.image).replace(",", ",,")
    words = [
        "virt-install", "--import", "--name", domain_name(machine), "--arch", machine.arch,
        "--virt-type", "kvm" if kvm else "qemu", "--memory", str(machine.memory),
        "--vcpus", str(machine.processors), "--disk", f"path={path},format={machine.format.value},bus=virtio",
        "--network", "network=default,model=virtio", "--rng", "/dev/urandom",
        "--channel", "unix,target.type=virtio,target.name=org.qemu.guest_agent.0",
        "--osinfo", "detect=on,require=off",
        "--graphics", "vnc" if machine.graphic else "none",
    ]  # fmt: skip
    if machine.firmware is Firmware.UEFI:
        words += ["--boot", "uefi"]
    return shlex.join(words) + "\n"

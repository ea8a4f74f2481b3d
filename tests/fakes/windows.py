"""A Windows guest: in memory, and the files of which the guest tests make one on NTFS."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from imgbuilder.guests.registry import number, text
from imgbuilder.guests.windows import WindowsFacts
from tests.fakes.guest import FakeGuest

SYSTEM = "/Windows/System32/config/SYSTEM"
SOFTWARE = "/Windows/System32/config/SOFTWARE"
WINDOWS_FACTS = WindowsFacts(
    "Windows 10 Pro", "win10", "x86_64", (10, 0), "/Windows", SYSTEM, "ControlSet001"
)
RUNNER = b"MZ a program that starts scripts"

_TIME = 0x01D5000000000000
_NONE = 0xFFFFFFFF
_PAGE = 0x1000


def empty_hive() -> bytes:
    """Return the smallest file of a registry: a header, and a page with the root and its access rights."""
    name = b"root"
    root, rights = 0x20, 0x78
    node = struct.pack(
        "<i2sHQIIIIIIIIIIIIIIIHH",
        root - rights, b"nk", 0x2C, _TIME, 0, 0, 0, 0, _NONE, _NONE, 0, _NONE, rights, _NONE,
        0, 0, 0, 0, 0, len(name), 0,
    ) + name  # fmt: skip
    local_system = b"\x01\x01\0\0\0\0\0\x05\x12\0\0\0"
    descriptor = struct.pack("<BBHIIII", 1, 0, 0x8004, 20, 32, 0, 44) + 2 * local_system
    descriptor += b"\x02\0\x08\0\0\0\0\0"
    security = struct.pack("<2sHIIII", b"sk", 0, rights, rights, 1, len(descriptor)) + descriptor
    size = -(-(len(security) + 4) // 8) * 8
    page = struct.pack("<4sIIIIQI", b"hbin", 0, _PAGE, 0, 0, _TIME, 0)
    page += node.ljust(rights - root, b"\0") + struct.pack("<i", -size) + security.ljust(size - 4, b"\0")
    page += struct.pack("<i", _PAGE - len(page))
    head = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, _TIME, 1, 5, 0, 1, root, _PAGE, 1).ljust(508, b"\0")
    checksum = 0
    for (word,) in struct.iter_unpack("<I", head):
        checksum ^= word
    return (head + struct.pack("<I", checksum)).ljust(_PAGE, b"\0") + page.ljust(_PAGE, b"\0")


def hive(path: Path, keys: str) -> Path:
    """Make a hive of keys and values in the form of regedit, with hivex's tool."""
    path.write_bytes(empty_hive())
    subprocess.run(
        ["hivexregedit", "--merge", path], input=keys.replace("\n[", "\n\n["), text=True, check=True
    )
    return path


SOFTWARE_KEYS = r"""
[\Microsoft]
[\Microsoft\Windows NT]
[\Microsoft\Windows NT\CurrentVersion]
"ProductName"="Windows 10 Pro"
"CurrentVersion"="6.3"
"CurrentMajorVersionNumber"=dword:0000000a
"CurrentMinorVersionNumber"=dword:00000000
"CurrentBuildNumber"="19045"
"InstallationType"="Client"
"EditionID"="Professional"
"SystemRoot"="C:\\Windows"
"""
SYSTEM_KEYS = r"""
[\Select]
"Current"=dword:00000001
"Default"=dword:00000001
[\ControlSet001]
[\ControlSet001\Services]
[\ControlSet001\Services\Tcpip]
[\ControlSet001\Services\Tcpip\Parameters]
"Hostname"="old"
"NV Hostname"="old"
[\ControlSet001\Control]
[\ControlSet001\Control\ComputerName]
[\ControlSet001\Control\ComputerName\ComputerName]
"ComputerName"="OLD"
[\DriverDatabase]
[\DriverDatabase\DriverInfFiles]
"""


def program(machine: int = 0x8664) -> bytes:
    """Return the head of a program, by which inspection knows the architecture."""
    header = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, 1, 0, 0, 0, 240, 0x22)
    optional = struct.pack("<H", 0x20B).ljust(68, b"\0") + struct.pack("<H", 3)
    return (header + coff + optional.ljust(240, b"\0")).ljust(512, b"\0")


def fill_windows(guest: FakeGuest) -> FakeGuest:
    """Add the files of a Windows 10 to a guest in memory, and return it."""
    guest.add("/Windows/System32/cmd.exe", program())
    for path in (SYSTEM, SOFTWARE):
        guest.add(path, empty_hive())
        guest.hives[path] = {}
    guest.hives[SYSTEM] = {
        ("controlset001",): {},
        ("controlset001", "control", "computername", "computername"): {"ComputerName": text("OLD")},
        ("select",): {"Current": number(1)},
    }
    for folder in ("/Program Files", "/Users/Public", "/Windows/System32/drivers", "/Windows/Temp"):
        guest.add_dir(folder)
    for name in ("a", "b", "tree/c"):
        guest.add(f"/srv/{name}", "old\n")
    return guest


def virtio_win(folder: Path) -> Path:
    """Make a folder like the content of virtio-win's ISO image."""
    files = {
        "viostor/w10/amd64": ("viostor.sys", "viostor.inf", "viostor.pdb"),
        "viostor/w7/amd64": ("viostor.sys",),
        "viostor/w10/x86": ("viostor.sys",),
        "NetKVM/w10/amd64": ("netkvm.sys", "NETKVM.INF", "vioprot.sys"),
        "NetKVM/w10/amd64/sriov": ("netkvm.sys",),
        "fwcfg/w10/amd64": ("fwcfg.inf",),
        "qemufwcfg/w10/amd64": ("qemufwcfg.inf",),
        "Balloon/w10/amd64": ("blnsvr.exe", "balloon.sys"),
        "guest-agent": ("qemu-ga-x86_64.msi", "qemu-ga-i386.msi"),
    }
    for place, names in files.items():
        (folder / place).mkdir(parents=True)
        for name in names:
            (folder / place / name).write_text(f"{place}/{name}")
    return folder

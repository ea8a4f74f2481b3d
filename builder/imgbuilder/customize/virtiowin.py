"""The drivers for Windows of the virtio-win project: a folder or an ISO image that the user gives.

A file is for a version of Windows if its path has folders that say so, such as ``viostor/w10/amd64`` in the
ISO image, or ``drivers/by-os/amd64/w10`` in the folder that distributions install.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.windowsboot import in_windows
from imgbuilder.errors import OperationError, ToolError, UsageError
from imgbuilder.events import warn
from imgbuilder.guests.ports import Guest
from imgbuilder.guests.registry import RegistryKey, RegistryValue, ValueKind, number, text, texts
from imgbuilder.guests.windows import WindowsFacts
from imgbuilder.host import process
from imgbuilder.host.paths import temporary_dir

_GONE_METHODS = ("osinfo", "libosinfo")
_READER = "bsdtar"
_LIMIT = 600.0
"""Seconds for reading an ISO image."""
_LARGEST_LIST = 16 << 20
_MOST_FILES = 2000
_LARGEST_FILE = 512 << 20

_ARCHES = {"x86": "i386", "i386": "i386", "amd64": "x86_64"}
"""Architectures by the names of folders."""
_SYSTEMS = {
    "xp": {"winxp"},
    "2k3": {"win2k3", "win2k3r2"},
    "2k8": {"win2k8", "winvista"},
    "w7": {"win7"},
    "2k8r2": {"win2k8r2"},
    "w8": {"win8"},
    "2k12": {"win2k12"},
    "w8.1": {"win8.1"},
    "2k12r2": {"win2k12r2"},
    "w10": {"win10"},
    "w11": {"win11"},
    "2k16": {"win2k16"},
    "2k19": {"win2k19"},
    "2k22": {"win2k22"},
    "2k25": {"win2k25"},
}
"""Names of Windows in libosinfo by the names of folders."""
_AGENTS = {
    "i386": ("qemu-ga-x86.msi", "qemu-ga-i386.msi", "rhev-qga.msi"),
    "x86_64": ("qemu-ga-x64.msi", "qemu-ga-x86_64.msi", "rhev-qga64.msi"),
}
"""Installers of the guest agent by architecture."""

Wanted = Callable[[WindowsFacts, str], bool]
"""Returns whether a path of the source is wanted for a Windows."""


def is_driver(facts: WindowsFacts, path: str) -> bool:
    """Tell whether a file belongs to a driver for this Windows."""
    *folders, name = path.lower().split("/")
    if name.endswith(".pdb") or name.startswith("vioprot.") or "sriov" in folders:
        return False  # for debugging; and a protocol driver that keeps the network driver from its place
    arches = {_ARCHES[folder] for folder in folders if folder in _ARCHES}
    return facts.arch in arches and any(facts.osinfo in _SYSTEMS.get(folder, ()) for folder in folders)


def is_agent(facts: WindowsFacts, path: str) -> bool:
    """Tell whether a file installs the guest agent in this Windows."""
    return PurePosixPath(path).name.lower() in _AGENTS.get(facts.arch, ())


def is_balloon_server(facts: WindowsFacts, path: str) -> bool:
    """Tell whether a file is the balloon service for this Windows."""
    return is_driver(facts, path) and PurePosixPath(path).name.lower() == "blnsvr.exe"


def source(path: Path) -> Path:
    """Accept a folder or an ISO image with drivers."""
    if str(path) in _GONE_METHODS:
        raise UsageError(
            f"the method {str(path)!r} is not supported", hint="give an ISO image of virtio-win, or a folder"
        )
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path} cannot be used: {error.strerror}") from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise UsageError(f"{path} is neither a folder nor an ISO image")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read", hint=f"ls -ld {path}")
    return path


def check_host(path: Path) -> None:
    """Check that this host can read the source."""
    if path.is_file():
        process.require_program(_READER)


def listed(path: Path, facts: WindowsFacts, wanted: Wanted) -> list[str]:
    """Return the paths in a source that are wanted for a Windows, sorted."""
    names = _in_folder(path) if path.is_dir() else _in_image(path)
    found = sorted({name for name in names if wanted(facts, name)})
    if len(found) > _MOST_FILES:
        raise OperationError(f"{path} has {len(found)} files for this Windows, more than {_MOST_FILES}")
    return found


def require(path: Path, facts: WindowsFacts, wanted: Wanted, what: str, keyword: str) -> None:
    """Refuse a source that has nothing for a Windows."""
    if not listed(path, facts, wanted):
        raise OperationError(
            f"--{keyword}: {path} has no {what} for this Windows ({facts.osinfo}, {facts.arch})",
            hint="use a virtio-win that is made for it: an older one, or the newest",
        )


def _in_folder(path: Path) -> Iterator[str]:
    for folder, _folders, names in os.walk(path):
        for name in names:
            file = Path(folder) / name
            if file.is_file():
                yield str(file.relative_to(path))


def _in_image(path: Path) -> list[str]:
    try:
        result = process.run([_READER, "-tf", str(path)], timeout=_LIMIT)
    except ToolError as error:
        raise OperationError(
            f"{path} cannot be read: {error.message}", hint="check that it is an ISO image of virtio-win"
        ) from error
    if len(result.stdout) > _LARGEST_LIST:
        raise OperationError(f"{path} has a list of files of more than {_LARGEST_LIST} bytes")
    names = result.stdout.decode(errors="surrogateescape").split("\n")
    return [name for name in names if name[:1] not in ("", "/") and ".." not in name.split("/")]


@contextlib.contextmanager
def files(path: Path, facts: WindowsFacts, wanted: Wanted) -> Iterator[dict[str, Path]]:
    """Yield local files of a source by their new names: in lower case, without folders."""
    names = listed(path, facts, wanted)
    with contextlib.ExitStack() as stack:
        folder = path
        if not path.is_dir():
            parent = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="pybuilder-iso-", dir=temporary_dir())
            )
            folder = Path(parent)
            _extract(path, names, folder)
        found: dict[str, Path] = {}
        for name in names:
            file = folder / name
            if not file.is_file() or (folder != path and file.is_symlink()):
                continue  # a link of an image could lead to a file of this host
            if file.stat().st_size > _LARGEST_FILE:
                raise OperationError(f"{name} in {path} has more than {_LARGEST_FILE} bytes")
            found.setdefault(file.name.lower(), file)
        yield found


def _extract(path: Path, names: Sequence[str], folder: Path) -> None:
    # The list has patterns, in which these characters are special.
    patterns = "".join(re.sub(r"([\\*?\[\]])", r"\\\1", name) + "\0" for name in names)
    try:
        process.run(
            [_READER, "-xf", str(path), "-C", str(folder), "--no-same-owner", "--null", "-T", process.STDIN],
            stdin=patterns.encode(errors="surrogateescape"),
            timeout=_LIMIT,
        )
    except ToolError as error:
        raise OperationError(f"{path} cannot be unpacked: {error.message}") from error


_BLOCK_DRIVERS = ("virtio_blk", "vrtioblk", "viostor")
"""Names of the driver for disks, the newest first."""
_DEVICES = ("VEN_1AF4&DEV_1001&REV_00", "VEN_1AF4&DEV_1042&REV_01")
"""The disk as a PCI device, before and since virtio 1.0."""
_SCSI_CLASS = "{4D36E97B-E325-11CE-BFC1-08002BE10318}"
_SCSI_CLASS_BYTES = bytes.fromhex("7be9364d25e3ce11bfc108002be10318")
_INF, _CONFIGURATION = "guestor.inf", "guestor_conf"
"""Names that virt-v2v gives to a driver that no installer has entered."""
_INF_ARCHES = {"i386": "x86", "x86_64": "amd64"}


def inject(guest: Guest, context: GuestContext, facts: WindowsFacts, path: Path, keyword: str) -> None:
    """Copy the drivers into the guest, and let it start from a virtio disk."""
    folder = f"{facts.folder}/Drivers/VirtIO"
    guest.mkdir_p(folder)
    with files(path, facts, is_driver) as found:
        stub = {name for name in found if name.startswith("qemufwcfg.")} if "fwcfg.inf" in found else set()
        for name, file in found.items():
            if name not in stub:  # both claim the same device
                guest.upload(file, f"{folder}/{name}")
        driver = next((name for name in _BLOCK_DRIVERS if f"{name}.sys" in found), None)
        if driver is None:
            warn(
                context.on_event,
                f"--{keyword}: {path} has no driver for disks for this Windows ({facts.osinfo}, "
                f"{facts.arch}): it will not start from a virtio disk",
            )
            return
        guest.upload(found[f"{driver}.sys"], f"{facts.folder}/System32/drivers/{driver}.sys")
    guest.edit_registry(facts.system_hive, _boot_driver(guest, facts, driver))


def _boot_driver(guest: Guest, facts: WindowsFacts, driver: str) -> list[RegistryKey]:
    """Return the keys that let Windows start a driver at boot; what else it needs is plug and play."""
    service = {
        "Type": number(1),
        "Start": number(0),
        "Group": text("SCSI miniport"),
        "ErrorControl": number(1),
        "ImagePath": text(f"system32\\drivers\\{driver}.sys", ValueKind.EXPAND_SZ),
    }
    keys = [RegistryKey((facts.control_set, "Services", driver), service)]
    if guest.read_registry(facts.system_hive, ["DriverDatabase"]) is None:  # before Windows 8
        critical = {"Service": text(driver), "ClassGUID": text(_SCSI_CLASS)}
        place = (facts.control_set, "Control", "CriticalDeviceDatabase")
        return keys + [RegistryKey((*place, f"PCI#{device}"), critical) for device in _DEVICES]
    label = f"{_INF}_{_INF_ARCHES[facts.arch]}_0000000000000000"
    database, package = ("DriverDatabase",), ("DriverDatabase", "DriverPackages", label)
    version = bytes.fromhex("00ff090000000000") + _SCSI_CLASS_BYTES + bytes(24)
    keys += [
        RegistryKey(
            (*database, "DriverInfFiles", _INF),
            {"": texts(label), "Active": text(label), "Configurations": texts(_CONFIGURATION)},
        ),
        RegistryKey(package, {"Version": RegistryValue(ValueKind.BINARY, version)}),
        RegistryKey(
            (*package, "Configurations", _CONFIGURATION), {"ConfigFlags": number(0), "Service": text(driver)}
        ),
    ]
    for device in _DEVICES:
        inf = {_INF: RegistryValue(ValueKind.BINARY, b"\x01\xff\x00\x00")}
        keys += [
            RegistryKey((*database, "DeviceIds", "PCI", device), inf),
            RegistryKey((*package, "Descriptors", "PCI", device), {"Configuration": text(_CONFIGURATION)}),
        ]
    return keys


_AGENT_SCRIPT = """\
Write-Host "Installing the QEMU guest agent"
$log = "{installer}.log"
$code = 1
foreach ($attempt in 1..10) {{
    if ($attempt -gt 1) {{ Start-Sleep -Seconds 60 }}
    $arguments = "/i", '"{installer}"', "/qn", "/norestart", "/l+*vx", "`"$log`""
    $code = (Start-Process -Wait -PassThru -FilePath "msiexec.exe" -ArgumentList $arguments).ExitCode
    Write-Host "Attempt ${{attempt}}: exit code $code"
    if ($code -eq 0 -or $code -eq 3010) {{ break }}
}}
exit $code
"""
"""Another installer may be at work when Windows starts; 3010 asks for a restart, which follows."""


def agent_script(facts: WindowsFacts, installer: str) -> str:
    """Return the PowerShell script that runs an installer of the guest agent, which lies in the guest."""
    return _AGENT_SCRIPT.format(installer=in_windows(facts, installer))

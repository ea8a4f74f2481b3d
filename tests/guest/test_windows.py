"""A hand-made Windows on NTFS: customized, and compared with virt-customize's on a copy of the same disk."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgbuilder.appliance.launch import LibguestfsAppliance, open_appliance
from imgbuilder.appliance.options import Attachment
from imgbuilder.errors import GuestCallError
from imgbuilder.guests.windowsfiles import WindowsGuest
from tests.fakes.windows import RUNNER, SOFTWARE_KEYS, SYSTEM_KEYS, empty_hive, hive, program, virtio_win
from tests.guest.conftest import long
from tests.guest.images import copy, same_bytes
from tests.guest.layouts import run
from tests.guest.person import Person

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("hivexregedit") is None, reason="hivexregedit is not installed"),
]

SIZE = 64 << 20
CONFIG = "/Windows/System32/config"
BOOT = "/Program Files/Guestfs/Firstboot"


@dataclass(frozen=True)
class Disks:
    """Disks with a Windows: one in order, one that sleeps, and one whose registry is none."""

    good: Path
    asleep: Path
    broken: Path


def _fill(guest: LibguestfsAppliance, device: str, files: Path, registry: bytes | None = None) -> None:
    guest.mount(device, "/")
    for folder in (CONFIG, "/Windows/System32/drivers", "/Program Files", "/Users/Public/old", "/srv"):
        guest.mkdir_p(folder)
    for name in ("SYSTEM", "SOFTWARE"):
        guest.upload(files / name, f"{CONFIG}/{name}")
    if registry is not None:
        guest.write(f"{CONFIG}/SOFTWARE", registry)
    guest.write("/Windows/System32/cmd.exe", program())
    guest.write("/Users/Public/old/hosts", b"one\r\ntwo")
    guest.write("/srv/gone1", b"")


def _junction(guest: LibguestfsAppliance, path: str, target: str) -> None:
    """Make a junction as Windows does: an absolute path with a drive letter."""
    guest.mkdir_p(path)
    long_name, name = f"\\??\\{target}".encode("utf-16-le"), target.encode("utf-16-le")
    names = long_name + b"\0\0" + name + b"\0\0"
    head = struct.pack("<HHHH", 0, len(long_name), len(long_name) + 2, len(name))
    data = struct.pack("<IHH", 0xA0000003, len(head) + len(names), 0) + head + names
    # libguestfs's setxattr takes no NUL.
    command = f"setfattr -n system.ntfs_reparse_data -v 0x{data.hex()} '/sysroot{path}'"
    guest._call("debug", "sh", [command])


@pytest.fixture(scope="module")
def disks(person: Person) -> Iterator[Disks]:
    folder = person.home / "windows"
    folder.mkdir()
    for name, keys in (("SOFTWARE", SOFTWARE_KEYS), ("SYSTEM", SYSTEM_KEYS)):
        hive(folder / name, keys)
    made = Disks(*(folder / f"{name}.img" for name in ("good", "asleep", "broken")))
    paths = (made.good, made.asleep, made.broken)
    for path in paths:
        with path.open("wb") as file:
            file.truncate(SIZE)
        run("/usr/sbin/mkfs.ntfs", "-q", "-F", "-f", path)
    with open_appliance([Attachment(path, "raw") for path in paths]) as guest:
        assert isinstance(guest, LibguestfsAppliance)
        _fill(guest, "/dev/sda", folder)
        _junction(guest, "/Documents and Settings", "C:\\Users")
        with pytest.raises(GuestCallError, match="/Documents and Settings is a junction"):
            WindowsGuest(guest, "C").write("C:\\documents and settings\\Public\\x", b"text")
        # ntfs-3g cannot list a folder that has it.
        guest._call(
            "debug", "sh", ["setfattr -x system.ntfs_reparse_data '/sysroot/Documents and Settings'; true"]
        )
        guest.unmount_all()
        _fill(guest, "/dev/sdb", folder)
        guest.write("/hiberfil.sys", b"hibr" + bytes(4096))
        guest.unmount_all()
        _fill(guest, "/dev/sdc", folder, empty_hive()[:4096] + b"garbage" * 1000)
        guest.unmount_all()
        guest.shutdown()
    person.owns(folder)
    yield made
    shutil.rmtree(folder)


def tree(image: Path) -> dict[str, bytes | None]:
    """Return all files with their content, and all folders, by a program that needs no appliance."""
    listing = run("ntfsls", "-R", image)
    folders = {
        place.rstrip("/"): [name for name in names.split("\n") if name and name not in (".", "..")]
        for place, names in re.findall(r"^(/.*):\n((?:.+\n?)*)", listing, re.MULTILINE)
    }
    found: dict[str, bytes | None] = {}
    for folder, names in folders.items():
        for name in names:
            path = f"{folder}/{name}"
            found[path] = None if path in folders else _content(image, path)
    return found


def _content(image: Path, path: str) -> bytes:
    return subprocess.run(["ntfscat", image, path], capture_output=True, check=False).stdout


def registry(folder: Path, name: str, content: bytes) -> dict[str, dict[str, str]]:
    """Return the keys and values of a hive, as hivex's tool prints them."""
    path = folder / name
    path.write_bytes(content)
    keys: dict[str, dict[str, str]] = {}
    for line in run("hivexregedit", "--export", path, "\\").split("\n"):
        if line.startswith("["):
            keys[line.strip("[]")] = values = {}
        elif "=" in line:
            left, _equals, right = line.partition("=")
            values[left.strip('"')] = right
    return keys


def text(value: str) -> str:
    """Return the text of a value as it is printed: ``hex(1):4f,00``."""
    return bytes.fromhex(value.partition(":")[2].replace(",", "")).decode("utf-16-le").rstrip("\0")


def test_the_same_tree_and_registry_as_virt_customize(person: Person, disks: Disks, tmp_path: Path) -> None:
    home = disks.good.parent
    ours, theirs = copy(disks.good, home / "ours.img"), copy(disks.good, home / "theirs.img")
    tools = home / "tools"
    (home / "tree" / "deep").mkdir(parents=True)
    (home / "tree" / "deep" / "f").write_text("f")
    (home / "page").write_text("<p>\n")
    (home / "script.bat").write_text("echo two\nexit 250\n")
    tools.mkdir()
    (tools / "rhsrvany.exe").write_bytes(RUNNER)
    image = home / "virtio-win.iso"
    run("genisoimage", "-quiet", "-J", "-r", "-o", image, virtio_win(tmp_path / "virtio-win"))
    person.owns(home)
    both: list[str | Path] = [
        "--mkdir", "/Users/Public/new/deep", "--write", "/Users/Public/w:text",
        "--append-line", "/Users/Public/old/hosts:three", "--append-line", "/Users/Public/lines:one",
        "--touch", "/Users/Public/t", "--upload", f"{home / 'page'}:/Users/Public",
        "--copy-in", f"{home / 'tree'}:/Users/Public", "--move", "/Users/Public/w:/Users/Public/new/w",
        "--write", "/Users/Public/cut:x", "--truncate", "/Users/Public/cut", "--delete", "/srv/gone*",
        "--edit", "/Users/Public/old/hosts:s/one/ONE/",
        "--firstboot-command", "echo one", "--firstboot", home / "script.bat",
    ]  # fmt: skip
    only_ours: list[str | Path] = [
        "--windows-runner", tools / "rhsrvany.exe", "--hostname", "new.example.org",
        "--write", "c:\\users\\PUBLIC\\drive.txt:text",
        "--upload", f"{home / 'page'}:C:\\Users\\Public\\PAGE", "--mkdir", "/program files/guestfs",
        "--inject-virtio-win", image, "--inject-qemu-ga", image, "--inject-blnsvr", image,
    ]  # fmt: skip
    env = {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    person.run("pybuilder-customize", "--format", "raw", "-a", ours, *both, *only_ours, env=env, timeout=900)
    env["VIRT_TOOLS_DATA_DIR"] = str(tools)
    person.run("virt-customize", "--format", "raw", "-a", theirs, *both, env=env, timeout=900)

    left, right = tree(ours), tree(theirs)
    assert left["/Users/Public/old/hosts"] == b"ONE\r\ntwo\r\nthree\r\n"
    assert left["/Users/Public/drive.txt"] == b"text"
    added = {path for path in left.keys() - right.keys() if not path.startswith("/Windows/Drivers")}
    scripts = f"{BOOT}/scripts"
    assert added == {
        "/Users/Public/drive.txt", "/Windows/System32/drivers/viostor.sys",
        f"{BOOT}/Temp", f"{BOOT}/Temp/install-qemu-ga.ps1", f"{BOOT}/Temp/qemu-ga-x86_64.msi",
        f"{scripts}/5000-0003-install-qemu-ga.bat", f"{scripts}/5000-0004-install-blnsvr.bat",
    }  # fmt: skip
    assert {path for path in left if path.startswith("/Windows/Drivers/VirtIO/")} == {
        f"/Windows/Drivers/VirtIO/{name}" for name in
        ("viostor.sys", "viostor.inf", "netkvm.sys", "netkvm.inf", "fwcfg.inf", "blnsvr.exe", "balloon.sys")
    }  # fmt: skip
    assert left["/Windows/System32/drivers/viostor.sys"] == b"viostor/w10/amd64/viostor.sys"
    # The path of the local script is in its name, and was given in the same way to both.
    assert right.keys() - left.keys() == set()
    different = {path: (left[path], right[path]) for path in right if left[path] != right[path]}
    # Our driver runs each script in a processor of its own; virt-customize 1.48 also moves it first.
    for path in (f"{CONFIG}/SYSTEM", f"{BOOT}/firstboot.bat"):
        del different[path]
    # Ours ends its line.
    assert different == {f"{scripts}/5000-0001-echo-one.bat": (b"echo one\r\n", b"echo one")}

    ours_keys, theirs_keys = (
        registry(tmp_path, name, found[f"{CONFIG}/SYSTEM"] or b"")
        for name, found in (("ours", left), ("theirs", right))
    )
    service = "\\ControlSet001\\Services\\firstboot"
    quoted = ours_keys[service].pop("ImagePath")
    assert text(quoted).replace('"', "") == text(theirs_keys[service].pop("ImagePath"))
    assert ours_keys[service] == theirs_keys[service]
    parameters = f"{service}\\Parameters"
    assert ours_keys[parameters] == theirs_keys[parameters]
    assert text(ours_keys["\\ControlSet001\\Control\\ComputerName\\ComputerName"]["ComputerName"]) == "NEW"
    network = ours_keys["\\ControlSet001\\Services\\Tcpip\\Parameters"]
    assert {name: text(value) for name, value in network.items()} == {
        "Hostname": "new", "NV Hostname": "new", "Domain": "example.org", "NV Domain": "example.org",
    }  # fmt: skip
    assert ours_keys["\\ControlSet001\\Services\\viostor"]["Start"] == "dword:00000000"
    assert "\\DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_1001&REV_00" in ours_keys


def test_a_windows_that_sleeps_is_refused(person: Person, disks: Disks) -> None:
    good, asleep = (copy(disk, disk.with_suffix(".used")) for disk in (disks.good, disks.asleep))
    person.owns(good.parent)
    refused = person.run(
        "pybuilder-customize", "--format", "raw", "-a", good, "-a", asleep, "--mkdir", "/new",
        check=False, timeout=900,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "hibernated" in refused.stderr
    assert "shutdown /s" in refused.stderr
    assert same_bytes(good, disks.good)
    assert same_bytes(asleep, disks.asleep)


@long
def test_a_registry_that_is_none_is_refused(person: Person, disks: Disks) -> None:
    broken = copy(disks.broken, disks.broken.with_suffix(".used"))
    person.owns(broken.parent)
    refused = person.run(
        "pybuilder-customize", "--format", "raw", "-a", broken, "--mkdir", "/new", check=False, timeout=900
    )
    assert refused.returncode == 1
    assert "nothing was changed" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert same_bytes(broken, disks.broken)

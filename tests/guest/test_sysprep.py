"""Tasks of --sysprep that change devices, on a disk with LVM; the same by virt-sysprep on a copy of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment, open_appliance
from imgbuilder.appliance.hostside.devices import Disk
from tests.fakes.exttree import read_tree
from tests.guest.conftest import long
from tests.guest.images import copy, look_into
from tests.guest.layouts import MIB, fill, partitioned, place
from tests.guest.person import Person
from tests.guest.smallguest import SMALL_ROOT, small_system

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

TASKS = "fs-uuids,lvm-uuids,backup-files,flag-reconfiguration"
_TABLE = """label: gpt
start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649
start=4096, size=163840
size=32768
size=65536
"""
BACKUPS = ("/etc/fstab~", "/root/notes.bak", "/var/deep/x~")


def uuids(disk: Path) -> dict[str, str]:
    """The UUIDs on a disk, as this machine's blkid sees them."""
    found = {}
    # The first extent of a volume group begins at one MiB.
    for name, number, skip in (("root", 2, 0), ("swap", 3, 0), ("pv", 4, 0), ("data", 4, MIB)):
        offset = place(disk, number)[0] + skip
        found[name] = subprocess.run(
            ["/usr/sbin/blkid", "-p", "-O", str(offset), "-s", "UUID", "-o", "value", disk],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
    start, size = place(disk, 4)
    with disk.open("rb") as file:
        file.seek(start)
        texts = re.findall(rb'vg \{\nid = "([\w-]{38})"\nseqno = (\d+)', file.read(min(size, MIB)))
    found["vg"] = max(texts, key=lambda found: int(found[1]))[0].decode()
    return found


@pytest.fixture
def disk(person: Person) -> Path:
    """A small guest with swap and a volume, which its files name by their UUIDs."""
    folder = person.home / "sysprep"
    folder.mkdir()
    image = partitioned(folder / "ours.img", _TABLE, size=144 * MIB)
    root = small_system(folder)
    for name in (*BACKUPS, "/usr/kept~"):
        (root / name[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / name[1:]).write_text("x")
    fill(image, 2, "ext4", root, "-b", "4096", "-E", "root_owner=0:0")
    fill(image, 3, "swap", root)
    with open_appliance([Attachment(image, "raw")]) as guest:
        guest.make_filesystem("ext4", guest.make_volume("/dev/sda4", "vg", "data"))
        guest.unmount_all()
        guest.shutdown()
    now = uuids(image)
    plain = now["vg"].replace("-", "")
    fstab = f"UUID={now['root']} / ext4 defaults 0 1\nUUID={now['swap']} none swap sw 0 0\n"
    fstab += (
        f"UUID={now['data']} /srv ext4 defaults 0 2\n/dev/disk/by-id/dm-uuid-LVM-{plain} /x ext4 noauto 0 0\n"
    )
    with open_appliance([Attachment(image, "raw")]) as guest:
        guest.mount(SMALL_ROOT, "/")
        guest.write("/etc/fstab", fstab.encode())
        guest.unmount_all()
        guest.shutdown()
    person.owns(folder)
    return image


@long
@pytest.mark.skipif(shutil.which("virt-sysprep") is None, reason="virt-sysprep is not installed")
def test_the_same_tasks_by_virt_sysprep(person: Person, disk: Path) -> None:
    theirs = copy(disk, disk.with_name("theirs.img"))
    person.owns(theirs)
    before = uuids(disk)
    with look_into(disk, root=SMALL_ROOT) as guest:
        fstab = guest.read("/etc/fstab").decode()
    dry = person.run("pybuilder-customize", "-n", "-v", "-a", disk, "--sysprep", TASKS, timeout=600)
    assert uuids(disk) == before, "a dry run changes nothing"
    for what in (before["root"], before["data"], before["pv"], *BACKUPS[:2], "/.unconfigured", "/etc/fstab"):
        assert re.search(f"--sysprep: .*{re.escape(what)}", dry.stdout + dry.stderr), what
    person.run("pybuilder-customize", "-a", disk, "--sysprep", TASKS, timeout=600)
    env = {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    person.run("virt-sysprep", "--format", "raw", "-a", theirs, "--operations", TASKS, env=env, timeout=600)
    ours, oracle = uuids(disk), uuids(theirs)
    changed = {name for name, old in before.items() if ours[name] != old}
    assert changed == set(before)
    assert {name for name, old in before.items() if oracle[name] != old} <= changed
    left, right = (read_tree(image, Disk(image).find(SMALL_ROOT).start) for image in (disk, theirs))
    assert "/.unconfigured" in left
    assert "/usr/kept~" in left
    assert not left.keys() & set(BACKUPS)
    assert (left.keys() ^ right.keys()) - {"/var/lib/systemd/random-seed", "/tmp/builder.log"} == set()
    for name in ("root", "swap", "data"):
        fstab = fstab.replace(before[name], ours[name])
    fstab = fstab.replace(before["vg"].replace("-", ""), ours["vg"].replace("-", ""))
    with look_into(disk, root=SMALL_ROOT) as guest:
        assert guest.read("/etc/fstab").decode() == fstab
    shutil.rmtree(disk.parent)

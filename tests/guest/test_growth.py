"""Every kind of layout grows in place, and is whole afterwards: judged by each filesystem's own checker.

Two appliances: one that makes what needs a kernel (LVM, LUKS, boot loaders), one that grows all disks. One
of them is a real Debian system, whose boot loader, kernel and initial RAM disk then find the grown root with
BIOS; in long runs another boots with UEFI.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.appliance import ApplianceOptions, Attachment, open_appliance
from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.disk import diskimage, partition
from imgbuilder.disk.devicenames import mapper_name
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import GuestError
from imgbuilder.events import Event
from imgbuilder.growth import decide, session
from imgbuilder.guests.unlocking import DiskKey
from tests.guest import layouts
from tests.guest.conftest import LONG, long
from tests.guest.layouts import GROWN, MIB, SECRET, Layout, fill, partitioned, run
from tests.guest.machine import booted
from tests.guest.person import Person

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1200)]

BIOS = "21686148-6449-6E6F-744E-656564454649"
GPT = f"label: gpt\nsize=1M, type={BIOS}\nsize=+\n"
SMALL_ROOT = "label: gpt\nsize=64M\nsize=+\n"
UUIDS = {"disk": "d1d1d1d1-0000-4000-8000-000000000001", "volume": "d1d1d1d1-0000-4000-8000-000000000002"}
QCOW2 = DiskFormat.QCOW2
UNSAVED = ApplianceOptions(instant=False)
"""No other test needs so many disks: saved, it would take the place of a state that is used again."""


def make_plain(folder: Path) -> dict[str, Layout]:
    """Make the disks that need no appliance."""
    files = layouts.tree(folder / "tree")

    def disk(name: str, script: str | None, **fields: object) -> Path:
        if script is None:
            path = folder / f"{name}.raw"
            path.write_bytes(b"")
            with path.open("r+b") as file:
                file.truncate(layouts.SIZE)
            return path
        return partitioned(folder / f"{name}.raw", script, **fields)  # type: ignore[arg-type]

    made = {
        "xfs": Layout(disk("xfs", GPT), "xfs", 2),
        "btrfs": Layout(
            disk("btrfs", "label: dos\nsize=1M\ntype=f\nsize=8M\nsize=+\n"), "btrfs", 6, format=QCOW2
        ),
        "large": Layout(
            disk("large", "label: gpt\n14 : start=256, size=256\n1 : start=512\n", sector=4096),
            "ext4", 1, format=QCOW2,
        ),
        "f2fs": Layout(disk("f2fs", SMALL_ROOT), "f2fs", 2, root=1),
        "ntfs": Layout(disk("ntfs", "label: dos\nstart=2048, type=7\n"), "ntfs", 1, root=None),
        "swap": Layout(disk("swap", SMALL_ROOT), "swap", 2, root=1, format=QCOW2),
        "offline": Layout(disk("offline", None), "ext2", None),
        "errors": Layout(disk("errors", "label: dos\nsize=2M\nsize=+, bootable\n"), "ext4", 2),
    }  # fmt: skip
    for name, layout in made.items():
        if layout.root is not None:
            fill(layout.path, layout.root, "ext4", files)
        words = {"offline": ("-b", "1024", "-O", "^resize_inode"), "large": ("-b", "4096")}.get(name, ())
        fill(layout.path, layout.number, layout.kind, files, *words)
    errors = made["errors"]
    at = f"{errors.path}?offset={errors.start()}"
    run("/usr/sbin/debugfs", "-w", "-R", "set_super_value state 3", at)
    return made


def make_layered(folder: Path) -> dict[str, Layout]:
    """Make the disks whose content the appliance must make."""
    lvm = partitioned(folder / "lvm.raw", "label: gpt\nsize=1M\nsize=+, type=V\n")
    encrypted = folder / "luks.raw"
    with encrypted.open("wb") as file:
        file.truncate(layouts.SIZE)
    both = partitioned(folder / "both.raw", "label: dos\nsize=4M\nsize=+\n")
    fill(encrypted, None, "luks", folder, "--uuid", UUIDS["disk"])
    fill(both, 2, "luks", folder, "--uuid", UUIDS["volume"])
    return {
        "lvm": Layout(lvm, "ext4", 2, volume="/dev/mapper/grow--vg-root", format=QCOW2),
        "luks": Layout(encrypted, "ext4", None, keys=(DiskKey(UUIDS["disk"].upper(), SECRET),)),
        "both": Layout(
            both, "ext4", 2, volume="/dev/inner/root",
            keys=(DiskKey(UUIDS["volume"], "wrong"), DiskKey(UUIDS["volume"], SECRET)),
        ),
    }  # fmt: skip


def make_bootable(folder: Path, template: Path) -> dict[str, Layout]:
    """Make disks with the template's system: an MBR for BIOS, and in long runs a GPT for UEFI."""
    root = layouts.cut(template, 3, folder / "debian.part")
    bios = partitioned(folder / "bios.raw", "label: dos\nstart=2048, bootable\n", size=3 << 30)
    made = {"bios": Layout(bios, "ext4", 1)}
    if LONG:
        table = "label: gpt\n15 : start=2048, size=131072, type=U\n1 : start=133120\n"
        uefi = partitioned(folder / "uefi.raw", table, size=3 << 30)
        made["uefi"] = Layout(uefi, "ext4", 1, format=QCOW2)
    for layout in made.values():
        layouts.put(root, layout.path, layout.start())
    root.unlink()
    return made


def furnish(made: dict[str, Layout], files: Path) -> None:
    """Make LVM, LUKS contents and boot loaders, in one session."""
    names = ["lvm", "luks", "both", "bios", *(["uefi"] if "uefi" in made else [])]
    options = UNSAVED if LONG else ApplianceOptions()  # four disks at most can be resumed
    with open_appliance([Attachment(made[name].path, "raw") for name in names], options) as guest:
        call = guest._connection.call
        for name, device in (("luks", "/dev/sdb"), ("both", "/dev/sdc2")):
            guest.open_luks(device, SECRET, f"make-{name}")
        call("pvcreate", "/dev/sda2")
        call("pvcreate", "/dev/mapper/make-both")
        call("vgcreate", "grow-vg", ["/dev/sda2"])
        call("vgcreate", "inner", ["/dev/mapper/make-both"])
        call("lvcreate", "data", "grow-vg", 50)
        for group, mib in (("grow-vg", 200), ("inner", 300)):
            call("lvcreate", "root", group, mib)
        for device in ("/dev/grow-vg/root", "/dev/mapper/make-luks", "/dev/inner/root"):
            guest.make_filesystem("ext4", device)
            guest.mount(device, "/")
            guest.mkdir_p("/etc")
            guest.upload(files / "etc/os-release", "/etc/os-release")
            guest.unmount_all()
        guest.mount("/dev/sdd1", "/")
        done = guest.sh("grub-install --target=i386-pc --modules='part_msdos ext2' /dev/sdd")
        assert done.status == 0, done.output
        guest.unmount_all()
        if "uefi" in made:
            furnish_uefi(guest)
        guest.shutdown()


def furnish_uefi(guest: LibguestfsAppliance) -> None:
    """Let the firmware's shell start the kernel."""
    guest.make_filesystem("vfat", "/dev/sde15")
    guest.mount("/dev/sde1", "/")
    guest.mkdir_p("/efi")
    guest.mount("/dev/sde15", "/efi")
    done = guest.sh("cp /boot/vmlinuz-* /efi/linux.efi && cp /boot/initrd.img-* /efi/initrd.img")
    assert done.status == 0, done.output
    guest.write("/efi/startup.nsh", b"fs0:\r\nlinux.efi root=/dev/vda1 console=ttyS0 initrd=\\initrd.img\r\n")
    guest.unmount_all()


@dataclasses.dataclass
class Outcome:
    """Results of growing all disks.

    Attributes:
        made: The disks.
        roots: The device of each root.
        totals: Bytes of each root filesystem.
        words: All that was reported, traces included.
    """

    made: dict[str, Layout]
    roots: dict[str, str]
    totals: dict[str, int]
    words: list[str]


@pytest.fixture(scope="module")
def grown(template: Path) -> Iterator[Outcome]:
    """All disks, grown in one session."""
    folder = Path(tempfile.mkdtemp(prefix="pybuilder-guest-growth-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        made = make_plain(folder) | make_layered(folder) | make_bootable(folder, template)
        furnish(made, folder / "tree")
        attachments = []
        growths = {}
        for letter, (name, layout) in zip("abcdefghijklmnop", made.items(), strict=False):
            layout.letter = letter
            growths[name] = decide.check_growable(
                layout.path, DiskFormat.RAW, layout.expand, layout.volume, size_of(layout),
                has_keys=bool(layout.keys),
            )  # fmt: skip
            layout.image = layouts.as_image(layout)
            diskimage.extend(layout.image, layout.format, size_of(layout))
            decide.grow_table(layout.image, layout.format, growths[name])
            attachments.append(
                Attachment(
                    layout.image, layout.format,
                    sector_size=partition.sector_size(layout.path, DiskFormat.RAW),
                )
            )  # fmt: skip
        outcome = Outcome(made, {}, {}, [])

        def on_event(event: Event) -> None:
            outcome.words.append(str(event))

        with open_appliance(attachments, dataclasses.replace(UNSAVED, trace=True, smp=2), on_event) as guest:
            for name, layout in made.items():
                try:
                    grow(guest, name, layout, growths[name], outcome)
                except BaseException as error:
                    error.add_note(f"disk {name}; the last reports:\n" + "\n".join(outcome.words[-12:]))
                    raise
            guest.shutdown()
        yield outcome
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def size_of(layout: Layout) -> int:
    """Return the size to which a disk grows: by a little, or, where a system is on it, to 4 GiB."""
    return GROWN if layout.path.stat().st_size == layouts.SIZE else 4 << 30


def grow(
    guest: LibguestfsAppliance, name: str, layout: Layout, growth: decide.Growth, outcome: Outcome
) -> None:
    growth = dataclasses.replace(growth, disk=f"/dev/sd{layout.letter}")
    if layout.kind == "ntfs":  # no tool makes an NTFS with files in it
        guest.mount(growth.device, "/")
        guest.mkdir_p("/etc")
        guest.write("/etc/os-release", b"ID=tiny\n")
        guest.unmount_all()
    root = f"/dev/sda{layout.root}" if layout.root else None
    if name == "both":
        with pytest.raises(GuestError, match="no key given with --key opens") as caught:
            session.open_guest(
                guest, expand=root, lvexpand=layout.volume, growth=growth,
                keys=[DiskKey(UUIDS["volume"], "wrong-canary")],
                on_event=lambda event: outcome.words.append(str(event)),
            )  # fmt: skip
        assert "canary" not in str(caught.value)
    outcome.roots[name] = session.open_guest(
        guest, expand=root, lvexpand=layout.volume, growth=growth, keys=layout.keys,
        on_event=lambda event: outcome.words.append(str(event)),
    )  # fmt: skip
    assert guest.is_file("/etc/os-release")
    outcome.totals[name] = max(use.total for use in guest.filesystem_use())
    guest.unmount_all()
    if layout.volume or layout.keys:  # what only the appliance can look into
        guest.check_ext(outcome.roots[name])


@pytest.mark.parametrize("name", ["xfs", "btrfs", "large", "ntfs", "offline", "errors", "luks", "both"])
def test_the_filesystem_reaches_to_the_end(grown: Outcome, name: str) -> None:
    layout = grown.made[name]
    room = GROWN - layout.start()
    assert room * 0.85 < grown.totals[name] <= room


@pytest.mark.row("B21")
def test_lvm_gives_all_free_space_to_the_named_volume(grown: Outcome) -> None:
    assert mapper_name(grown.roots["lvm"]) == "/dev/mapper/grow--vg-root"
    room = GROWN - grown.made["lvm"].start() - 52 * MIB
    assert room * 0.85 < grown.totals["lvm"] <= room
    groups = subprocess.run(["/usr/sbin/vgs"], capture_output=True, text=True, check=False).stdout
    assert "grow-vg" not in groups, "the host's LVM saw nothing"


@pytest.mark.row("B18", "Z18")
def test_keys_open_and_do_not_leak(grown: Outcome) -> None:
    """Z18: neither the right nor the wrong keys are in anything that was reported, traces included."""
    words = "\n".join(grown.words)
    assert "cryptsetup_open" in words, "the traces are there"
    assert "canary" not in words
    assert SECRET not in words


@pytest.mark.parametrize(
    ("name", "checker"),
    [
        ("xfs", ["xfs_repair", "-n", "-f"]),
        ("btrfs", ["btrfs", "check"]),
        ("large", ["e2fsck", "-fn"]),
        ("f2fs", ["fsck.f2fs", "--dry-run"]),
        ("ntfs", ["ntfsfix", "-n"]),
        ("offline", ["e2fsck", "-fn"]),
        ("errors", ["e2fsck", "-fn"]),
        ("bios", ["e2fsck", "-fn"]),
        pytest.param("uefi", ["e2fsck", "-fn"], marks=long),
    ],
)
def test_the_checker_finds_nothing(grown: Outcome, name: str, checker: list[str], tmp_path: Path) -> None:
    layout = grown.made[name]
    raw = layouts.as_raw(layout)
    part = layouts.cut(raw, layout.number, tmp_path / "part")
    raw.unlink()
    program = shutil.which(checker[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert program is not None, f"{checker[0]} comes with libguestfs"
    done = subprocess.run([program, *checker[1:], part], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    if name == "f2fs":
        sectors = re.search(r"total FS sectors = (\d+) \((\d+) MB\)", said)
        assert sectors is not None, said
        assert int(sectors.group(2)) > 600
    if name in {"bios", "uefi"}:
        dump = run("/usr/sbin/dumpe2fs", "-h", part)
        blocks = re.search(r"Block count: +(\d+)", dump)
        assert blocks is not None
        assert int(blocks.group(1)) * 4096 > 3.9 * (1 << 30) - (layout.start() if name == "uefi" else 0)
    part.unlink()


def test_swap_keeps_its_names(grown: Outcome, tmp_path: Path) -> None:
    layout = grown.made["swap"]
    part = layouts.cut(layouts.as_raw(layout), 2, tmp_path / "part")
    facts = run("/usr/sbin/blkid", "-p", part)
    assert 'LABEL="tired"' in facts
    assert 'UUID="aaaaaaaa-1111-2222-3333-444444444444"' in facts
    with part.open("rb") as file:
        file.seek(1024 + 4)
        last_page = int.from_bytes(file.read(4), "little")
    assert (last_page + 1) * 4096 == part.stat().st_size // 4096 * 4096


@pytest.mark.parametrize(
    ("name", "firmware"),
    [("bios", ()), pytest.param("uefi", ("-bios", "/usr/share/ovmf/OVMF.fd"), marks=long)],
)
def test_the_grown_system_boots(grown: Outcome, person: Person, name: str, firmware: tuple[str, ...]) -> None:
    layout = grown.made[name]
    layout.image.chmod(0o644)
    with booted(person, layout.image, layout.format, extra=firmware, network=False) as machine:
        # What follows is the system's own; the images of other tests boot to their logins.
        machine.wait_for("EXT4-fs (vda1): mounted filesystem", 400)
        machine.wait_for("running in system mode", 400)

"""The kernel's messages about lost writes, and the scripts that hide and show attached disks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.appliance.storage import ScsiAddress, hide_script, lost_writes, read_places, show_script
from imgbuilder.errors import GuestCallError, GuestError

LOST = [
    "[   25.6] critical space allocation error, dev sda, sector 45186 op 0x1:(WRITE) flags 0x4000",
    "[   25.6] I/O error, dev sda, sector 2048 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
    "[    9.1] blk_update_request: I/O error, dev sda, sector 2048",
    "[   25.6] EXT4-fs warning (device sda1): ext4_end_bio:343: I/O error 3 writing to inode 20 ...",
    "[   25.7] JBD2: Detected IO errors while flushing file data on sda1-8",
    "[   25.7] Buffer I/O error on dev sda1, logical block 261, lost async page write",
    "[   26.4] EXT4-fs error (device sda1): ext4_put_super:1305: comm umount: Couldn't clean up the journal",
    '[   30.0] XFS (sda2): metadata I/O error in "xfs_buf_ioend" at daddr 0x2 len 1 error 28',
]
HARMLESS = [
    "",
    "[    1.0] EXT4-fs (sda1): mounted filesystem with ordered data mode. Quota mode: none.",
    "[    1.0] I/O error, dev sdb, sector 0 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2",
    "[    1.0] critical target error, dev sda, sector 8 op 0x3:(DISCARD) flags 0x800 phys_seg 1",
    "[    1.0] operation not supported error, dev sda, sector 8 op 0x9:(WRITE_ZEROES) flags 0x800",
    "[    1.0] I/O error handling enabled",
    "[    1.0] EXT4-fs (sda1): re-mounted. Quota mode: none.",
]


@pytest.mark.parametrize("line", LOST)
def test_lost(line: str) -> None:
    assert lost_writes("\n".join([*HARMLESS, line, *HARMLESS])) == line


def test_harmless() -> None:
    for line in HARMLESS:
        assert lost_writes(line) is None
    assert lost_writes("\n".join(HARMLESS)) is None


class Kernel:
    """A folder that looks like /sys, with one SCSI host and some disks, and one that looks like /dev."""

    def __init__(self, folder: Path, names: dict[int, str]) -> None:
        self.sys = folder / "sys"
        self.devices = self.sys / "bus/scsi/devices"
        for target, name in names.items():
            (self.devices / f"2:0:{target}:0/block" / name).mkdir(parents=True)
        (self.sys / "class/scsi_host/host2").mkdir(parents=True)
        self.dev = folder / "dev"
        self.dev.mkdir()

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script; the kernel's part, when disks go and come, is done whenever the script sleeps."""
        kernel = (
            "udevadm() { :; }; lvm() { :; }; mdadm() { :; }; btrfs() { :; }; ldmtool() { :; }\n"
            f'sleep() {{ for file in {self.devices}/*/delete; do [ ! -e "$file" ] || '
            'rm -r "${file%/delete}"; done; '
            f"if [ -e {self.sys}/free ]; then mkdir -p {self.devices}/2:0:1:0/block/sdb; fi; "
            f'for disk in {self.devices}/*/block/*; do : >"{self.dev}/${{disk##*/}}"; done; }}\n'
        )
        script = script.replace("/sys/", f"{self.sys}/").replace("-b /dev/", f"-e {self.dev}/")
        script = script.replace("-gt 6000", "-gt 20")
        return subprocess.run(["sh", "-c", kernel + script], capture_output=True, text=True, check=False)


def test_disks_are_hidden_by_their_place_whatever_the_kernel_calls_them(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, {0: "sdb", 1: "sda", 2: "sdd", 3: "sdc"})
    done = kernel.run(hide_script([1, 2]))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in kernel.devices.iterdir()) == ["2:0:0:0", "2:0:3:0"]
    assert read_places(done.stdout, 2) == [ScsiAddress("2", "0 1 0", "sda"), ScsiAddress("2", "0 2 0", "sdd")]


@pytest.mark.parametrize("names", [{0: "sda"}, {0: "sda", 1: "sdb/x", 2: "sdc"}])
def test_a_disk_that_is_not_found_is_an_error(names: dict[int, str], tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, {target: name for target, name in names.items() if "/" not in name})
    if len(names) > 1:  # a disk that stays, because nothing deletes it
        (kernel.devices / "2:0:1:0/block/sdb").mkdir(parents=True)
        (kernel.devices / "2:0:1:0/delete").mkdir()
    done = kernel.run(hide_script([1]))
    assert done.returncode != 0
    assert "2:0:1:0" in done.stderr or ":0:1:0" in done.stderr, "the message says what was not so"


def test_disks_come_back_in_the_order_of_their_names(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, {0: "sda"})
    places = [ScsiAddress("2", "0 1 0", "sdaa"), ScsiAddress("2", "0 2 0", "sdb")]
    script = show_script(places)
    assert script.index("0 2 0") < script.index("0 1 0")
    none = kernel.run(script)
    assert none.returncode != 0
    assert "2:0:2:0 sdb" in none.stderr, "the message says which did not come"
    assert (kernel.sys / "class/scsi_host/host2/scan").read_text() == "0 2 0\n"
    for target, name in ((1, "sdaa"), (2, "sdb")):
        (kernel.devices / f"2:0:{target}:0/block" / name).mkdir(parents=True)
    done = kernel.run(script)
    assert done.returncode == 0, done.stderr
    assert (kernel.dev / "sdaa").exists(), "the guest's commands find it"


def test_a_disk_whose_name_is_still_taken_goes_again(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, {0: "sda", 1: "sdc"})
    script = show_script([ScsiAddress("2", "0 1 0", "sdb")])
    assert kernel.run(script).returncode != 0, "the name is never free"
    (kernel.devices / "2:0:1:0/block/sdc").mkdir(parents=True)
    (kernel.sys / "free").touch()
    done = kernel.run(script)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (kernel.devices / "2:0:1:0/block").iterdir()] == ["sdb"]


@pytest.mark.parametrize(
    "text", ["", "place 2 0 1 0 sda\nplace 2 0 2 0 sdb\n", "place 2 0 1 0 sda;x\n", "no\n"]
)
def test_other_answers_are_refused(text: str) -> None:
    with pytest.raises(GuestError):
        read_places(text, 1)


class Worker:
    """Answers scripts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails = False

    def call(self, method: str, *args: Any, **_kwargs: Any) -> str:
        if self.fails:
            raise GuestCallError("sh: no")
        script = args[1][0]
        self.asked.append("show" if "/scan" in script else "hide")
        return "" if "/scan" in script else "place 2 0 1 0 sdb\n"


def test_the_appliance_hides_and_shows_only_attached_disks(tmp_path: Path) -> None:
    worker = Worker()
    opened = LibguestfsAppliance(worker, tmp_path, [1])  # type: ignore[arg-type]
    for _twice in range(2):
        opened.hide_attached()
        opened.hide_attached()
        opened.show_attached()
        opened.show_attached()
    assert worker.asked == ["hide", "show", "hide", "show"]
    worker.fails = True
    with pytest.raises(GuestError, match="cannot be hidden") as caught:
        opened.hide_attached()
    assert "--attach" in (caught.value.hint or "")
    none = LibguestfsAppliance(worker, tmp_path)  # type: ignore[arg-type]
    none.hide_attached()
    none.show_attached()

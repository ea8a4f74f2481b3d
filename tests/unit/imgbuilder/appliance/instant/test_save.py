"""The scripts that run in an appliance when it is saved or resumed, and their valid output."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.appliance.instant import save
from imgbuilder.appliance.instant.save import (
    Answer,
    BusyError,
    check_clock,
    check_draws,
    check_sizes,
    read_answer,
    reseed_interval,
)
from imgbuilder.errors import ApplianceError

A, B, C = ("ab" * 32, "cd" * 32, "ef" * 32)


def test_the_greeting_reseeds_first() -> None:
    script = save.greeting_script(1234.5, 1, network=True)
    assert script.index("0x5207") < script.index("sysread") < script.index('pack("qq", 1234, 500000)')
    assert script.startswith(f"exec {save.PERL}"), "nothing else runs before"


def test_disks_that_are_forgotten_are_noted() -> None:
    subprocess.run(["sh", "-n"], input=save.park_script(), text=True, check=True)
    assert save.PARKED in save.park_script()
    assert save.PARKED in save.greeting_script(1, 4, network=True)


def run_on(folder: Path, disks: int, *, network: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the part of the greeting that is about devices on a stand-in for the appliance's folders."""
    program = save.greeting_script(1, disks, network=network).partition('die "clock: $!\\n";')[2].rstrip("'")
    for old, new in {
        "/sys/": f"{folder}/sys/", "/dev/": f"{folder}/dev/", save.PARKED: f"{folder}/parked", '">"': '">>"',
        "-b ": "-e ", "ioctl($d, 0x1261, 0)": "1", "ioctl($d, 0x125f, 0)": "1",
        'exec("udevadm", "settle") or die': "exit", "1 .. 1000": "1 .. 2",
    }.items():  # fmt: skip
        assert old in program
        program = program.replace(old, new)
    return subprocess.run(["perl", "-we", program], check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    """Four disks; the order of their names is different from that of their SCSI targets."""
    for name in ("sys/block", "sys/class/scsi_host/host2", "sys/class/net/lo", "dev"):
        (tmp_path / name).mkdir(parents=True)
    for target, name in enumerate(("sda", "sdd", "sde", "sdc")):
        disk = tmp_path / f"sys/devices/2:0:{target}:0/block/{name}"
        disk.mkdir(parents=True)
        (disk / "dev").write_text(f"250:{target}\n")
        (disk / "size").write_text(f"{target + 1}\n")
        (disk / "device").symlink_to(disk.parents[1])
        (tmp_path / "sys/block" / name).symlink_to(disk)
        (tmp_path / "dev" / name).touch()
    (tmp_path / "parked").write_text("sdd 2:0:1:0\nsde 2:0:2:0\nsdc 2:0:3:0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("count", "added", "removed"),
    [(1, [], ""), (2, ["3", "1"], "sdc"), (3, ["3", "1", "2"], "sdc"), (4, ["3", "1", "2"], "")],
)
def test_disks_come_back_under_their_names(disks: Path, count: int, added: list[str], removed: str) -> None:
    done = run_on(disks, count)
    assert (done.returncode, done.stderr) == (0, "")
    scan = disks / "sys/class/scsi_host/host2/scan"
    scanned = scan.read_text() if scan.exists() else ""
    assert scanned == "".join(f"0 {target} 0" for target in added)
    assert [path.parent.name for path in disks.glob("sys/devices/*/delete")] == (
        ["2:0:3:0"] if removed else []
    )
    rescanned = {path.parent.name for path in disks.glob("sys/devices/*/rescan")}
    assert rescanned == {"2:0:0:0", "2:0:1:0", "2:0:2:0", "2:0:3:0"}, "all that the kernel sees"
    assert sorted(read_answer(done.stdout).sizes) == [512, 1024, 1536, 2048]


@pytest.mark.parametrize("network", [True, False])
def test_network_cards_are_taken_away(disks: Path, network: bool) -> None:
    (disks / "sys/devices/virtio4/driver").mkdir(parents=True)
    (disks / "sys/class/net/eth0").mkdir()
    (disks / "sys/class/net/eth0/device").symlink_to("../../../devices/virtio4")
    done = run_on(disks, 1, network=network)
    assert (done.returncode, done.stderr) == (0, "")
    unbound = disks / "sys/devices/virtio4/driver/unbind"
    assert (unbound.read_text() if unbound.exists() else "") == ("" if network else "virtio4")


def test_a_disk_with_another_name_is_refused(disks: Path) -> None:
    (disks / "parked").write_text("sdc 2:0:1:0\nsdd 2:0:2:0\nsde 2:0:3:0\n")
    done = run_on(disks, 2)
    assert done.returncode != 0
    assert not done.stdout
    assert "sdc did not come back" in done.stderr


@pytest.mark.parametrize(
    "script", [save.renew_script(), save.record_script(), save.greeting_script(1, 4, network=False)]
)
def test_scripts_are_perl(script: str) -> None:
    program = script.partition("'")[2].rstrip("'")
    subprocess.run(["perl", "-c", "-e", program], check=True, capture_output=True)


def test_answer() -> None:
    answer = read_answer(f"draw {A}\ndraw {B}\nuptime 12.25\nsize 2048\n")
    assert answer == Answer((A, B), (1 << 20,), (12.25,))


@given(st.text(max_size=300))
def test_any_answer_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ApplianceError):
        read_answer(text)


@pytest.mark.parametrize("text", [f"draw {A}0", "draw ", "size -1", "size " + "9" * 20, "uptime nan"])
def test_wrong_answers_are_refused(text: str) -> None:
    with pytest.raises(ApplianceError):
        read_answer(text)


@pytest.mark.parametrize(
    ("draws", "message"),
    [((A, C), "repeats"), ((B, C), "repeats"), ((C, B), "repeats"), ((C, C), "no random"),
     ((C,), "no random"), ((), "no random")],
)  # fmt: skip
def test_draws_that_are_not_fresh_are_refused(draws: tuple[str, ...], message: str) -> None:
    with pytest.raises(ApplianceError, match=message):
        check_draws(Answer(draws, (), ()), frozenset({A, B}))


def test_fresh_draws_pass() -> None:
    check_draws(Answer((B, C), (), ()), frozenset({A}))


@pytest.mark.parametrize(
    ("seen", "expected", "fits"),
    [
        ((512,), (512,), True),
        ((512, 1024), (1024, 512), True),
        ((512, 1024), (None, 512), True),
        ((512,), (1024,), False),
        ((512,), (512, 512), False),
        ((512, 512), (512,), False),
        ((512, 1024), (512, 512), False),
        ((), (None,), False),
    ],
)
def test_sizes(seen: tuple[int, ...], expected: tuple[int | None, ...], fits: bool) -> None:
    if fits:
        check_sizes(Answer((), seen, ()), expected)
    else:
        with pytest.raises(ApplianceError, match="disk"):
            check_sizes(Answer((), seen, ()), expected)


@pytest.mark.parametrize(("uptime", "seconds"), [(0.5, 1), (15, 7), (21.9, 10), (119, 59), (121, 60)])
def test_interval_of_the_kernel(uptime: float, seconds: float) -> None:
    assert reseed_interval(uptime) == seconds


def test_a_clock_that_runs_ahead_is_not_saved() -> None:
    check_clock((16.3,), 16.0)
    check_clock((16.3,), 60.0)
    with pytest.raises(BusyError, match="516 seconds passed there, 100 here"):
        check_clock((516.0,), 100.0)
    with pytest.raises(ApplianceError):
        check_clock((), 16.0)

"""The decision to resume a machine from a state, or to boot it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.appliance.instant import commandline, program, resume
from imgbuilder.appliance.instant.commandline import UnusableStateError
from imgbuilder.appliance.instant.program import (
    CONTENT,
    DEVICES,
    MEMORY,
    RECORD,
)
from tests.fakes.instant_stub import command_line

if TYPE_CHECKING:
    from collections.abc import Callable

NETWORK = ["-netdev", "user,id=usernet,net=169.254.0.0/16", "-device", "virtio-net-pci,netdev=usernet"]


@pytest.fixture
def machine(tmp_path: Path) -> list[str]:
    for name in ("kernel", "initrd", "root", "hypervisor"):
        (tmp_path / name).write_text(name)
    return command_line(tmp_path, "/tmp/x/guestfsd.sock", ["/disk.img"])


def key(tmp_path: Path, args: list[str], recipe: str = "r") -> str:
    return program.state_key(
        program.machine_facts(commandline.read_shape(args), str(tmp_path / "hypervisor"), recipe)
    )


def replaced(args: list[str], old: str, new: str) -> list[str]:
    assert any(old in word for word in args)
    return [word.replace(old, new) for word in args]


def test_shape_of_libguestfs_is_recognised(tmp_path: Path, machine: list[str]) -> None:
    shape = commandline.read_shape([*machine, *NETWORK])
    assert (shape.value("-kernel"), shape.root) == (str(tmp_path / "kernel"), str(tmp_path / "root"))
    assert (shape.socket, shape.disks, shape.network) == ("/tmp/x/guestfsd.sock", 1, True)
    assert not commandline.read_shape(machine).network


def test_read_only_disks_are_recognised(machine: list[str]) -> None:
    """libguestfs puts a writable overlay over them."""
    drive = "file.file.filename=/tmp/y/overlay1.qcow2,file.driver=qcow2,file.backing.file.locking=off"
    args = replaced(machine, "file=/disk.img,cache=unsafe,format=raw,discard=unmap", f"{drive},cache=unsafe")
    assert commandline.read_shape(args).disks == 1


def test_shape_with_verbose_is_recognised(machine: list[str]) -> None:
    """libguestfs then sends the firmware's output to the serial line."""
    assert commandline.read_shape(replaced(machine, "accel=tcg", "accel=tcg,graphics=off")).disks == 1


def test_shape_of_later_libguestfs_is_recognised(machine: list[str]) -> None:
    """libguestfs 1.54 names the machine type, and has no option for the timer."""
    args = [word for word in replaced(machine, "accel=tcg", "q35,accel=tcg") if word != "-no-hpet"]
    assert commandline.read_shape(args).disks == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda args: [*args, "-smp", "2"],
        lambda args: [*args, "-netdev", "stream,id=usernet,server=off,addr.type=unix,addr.path=/x"],
        lambda args: [*args, "-device", "scsi-hd,drive=hd1,logical_block_size=4096"],
        lambda args: replaced(args, "scsi-hd,drive=hd0", "scsi-hd,drive=hd0,physical_block_size=4096"),
        lambda args: replaced(args, "accel=tcg", "accel=hvf"),
        lambda args: replaced(args, "snapshot=on,id=appliance", "id=appliance"),
        lambda args: [*args, "-incoming", "tcp:0:1"],
        lambda args: [*args, "-kernel", "/other"],
        lambda args: args[:-1],
        lambda args: [*args, "--"],
        lambda args: args[args.index("-kernel") + 2 :],
    ],
)
def test_other_shapes_are_booted(machine: list[str], change: Callable[[list[str]], list[str]]) -> None:
    with pytest.raises(UnusableStateError):
        commandline.read_shape(change(machine))


@pytest.mark.parametrize(("count", "fits"), [(0, False), (1, True), (4, True), (5, False)])
def test_number_of_disks(tmp_path: Path, count: int, fits: bool) -> None:
    args = command_line(tmp_path, "/s", [f"/d{number}" for number in range(count)])
    if fits:
        assert commandline.read_shape(args).disks == count
    else:
        with pytest.raises(UnusableStateError, match="disks"):
            commandline.read_shape(args)


@given(st.lists(st.text(max_size=40), max_size=30))
def test_any_command_line_is_known_or_unfit(args: list[str]) -> None:
    with pytest.raises(UnusableStateError):
        commandline.read_shape(args)


@given(st.data())
def test_a_shape_with_one_word_more_or_less_is_never_misread(data: st.DataObject) -> None:
    args = command_line(Path("/a"), "/s", ["/d"])
    at = data.draw(st.integers(0, len(args) - 1))
    extra = data.draw(st.sampled_from(["", "-smp", "2", "-drive", "-kernel", "x", "-device", args[at]]))
    changed = [*args[:at], extra, *args[at:]] if data.draw(st.booleans()) else args[:at] + args[at + 1 :]
    try:
        shape = commandline.read_shape(changed)
    except UnusableStateError:
        return
    assert shape.value("-kernel") == "/a/kernel"
    assert shape != commandline.read_shape(args) or changed == args


def test_key_ignores_what_differs_between_launches(tmp_path: Path, machine: list[str]) -> None:
    first = key(tmp_path, machine)
    assert first == key(tmp_path, command_line(tmp_path, "/tmp/z/guestfsd.sock", ["/other, disk.qcow2"]))
    os.utime(tmp_path / "root", (1, 1))  # each launch sets the times
    os.utime(tmp_path / "kernel", (2, 2))
    assert first == key(tmp_path, machine)
    assert re.fullmatch("[0-9a-f]{40}", first)


@pytest.mark.parametrize(
    "change",
    [
        lambda args: replaced(args, "1280", "1281"),
        lambda args: replaced(args, "la57=off", "la57=on"),
        lambda args: replaced(args, "root=UUID=1", "root=UUID=2"),
    ],
)
def test_key_differs_with_the_machine(
    tmp_path: Path, machine: list[str], change: Callable[[list[str]], list[str]]
) -> None:
    assert key(tmp_path, machine) != key(tmp_path, change(machine))


def test_key_differs_with_the_recipe(tmp_path: Path, machine: list[str]) -> None:
    assert key(tmp_path, machine) != key(tmp_path, machine, "other")


def test_one_state_for_all_disks_networks_and_messages(tmp_path: Path, machine: list[str]) -> None:
    loud = replaced(replaced(machine, " quiet", " guestfs_verbose=1"), "accel=tcg", "accel=tcg,graphics=off")
    four = command_line(tmp_path, "/s", ["/a", "/b", "/c", "/d"])
    connected = replaced([*machine, *NETWORK], " TERM", " guestfs_network=1 TERM")
    assert {key(tmp_path, args) for args in (loud, four, connected)} == {key(tmp_path, machine)}
    for args in (machine, loud, four, connected):
        shape = commandline.read_shape(args)
        words = commandline.resumed_arguments(shape, "/o", 5, 6, 7)
        assert [word for word in words if word.startswith("scsi-hd")] == [
            *(f"scsi-hd,drive=hd{number}" for number in range(4)), "scsi-hd,drive=appliance"
        ]  # fmt: skip
        assert len([word for word in words if "null-co" in word]) == 4 - shape.disks
        (network,) = [word for word in words if word.startswith("user,id=usernet")]
        assert network.endswith(",restrict=on") == (args is not connected)
        assert words[words.index("-append") + 1].split()[-2:] == ["quiet", "guestfs_network=1"]
        assert "restrict" not in " ".join(commandline.saved_arguments(shape, "/o", 5, "/m")), (
            "or it would get no route"
        )
        assert "verbose" not in " ".join(words)
        assert "graphics=off" not in " ".join(words)


@pytest.mark.parametrize("name", ["kernel", "initrd", "root", "hypervisor"])
def test_key_differs_with_each_file(tmp_path: Path, machine: list[str], name: str) -> None:
    first = key(tmp_path, machine)
    path = tmp_path / name
    kept = path.stat()
    path.write_text(name.upper())  # the same size and, below, the same time
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert key(tmp_path, machine) != first


def test_key_differs_with_the_processor(
    tmp_path: Path, machine: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program.processor(), "something is known of it"
    first = key(tmp_path, machine)
    monkeypatch.setattr(program, "processor", lambda: ["another"])
    assert key(tmp_path, machine) != first


def make_state(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True)
    for name in (*CONTENT, RECORD):
        (folder / name).touch(mode=0o600)
    for name in CONTENT:
        (folder / name).write_text(name * 100)
    record = {name: program.identity(str(folder / name))[1:] for name in CONTENT}
    (folder / RECORD).write_text(json.dumps(record))
    return folder


def test_untouched_state_opens(tmp_path: Path) -> None:
    folder = make_state(tmp_path / "s")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in (MEMORY, DEVICES):
        opened = program.open_state(str(folder), name)
        assert os.read(opened, 6).decode() == name[:6]
        os.close(opened)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def spoil_time(path: Path) -> None:
    os.utime(path, (1, 1))


def spoil_same_size(path: Path) -> None:
    kept = path.stat()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def spoil_truncated(path: Path) -> None:
    os.truncate(path, 10)


def spoil_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def spoil_mode(path: Path) -> None:
    path.chmod(0o640)


def spoil_missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize(
    "spoil", [spoil_time, spoil_same_size, spoil_truncated, spoil_link, spoil_mode, spoil_missing]
)
def test_touched_state_does_not_open(tmp_path: Path, name: str, spoil: Callable[[Path], None]) -> None:
    folder = make_state(tmp_path / "s")
    before = len(list(Path("/proc/self/fd").iterdir()))
    spoil(folder / name)
    with pytest.raises((UnusableStateError, OSError)):
        program.open_state(str(folder), MEMORY)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"memory": null}', "\x00"])
def test_damaged_record_does_not_open(tmp_path: Path, text: str) -> None:
    folder = make_state(tmp_path / "s")
    (folder / RECORD).write_text(text)
    with pytest.raises((UnusableStateError, ValueError)):
        program.open_state(str(folder), MEMORY)


def test_folder_that_others_may_enter_does_not_open(tmp_path: Path) -> None:
    folder = make_state(tmp_path / "s")
    folder.chmod(0o755)
    with pytest.raises(UnusableStateError, match="private"):
        program.open_state(str(folder), MEMORY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["", MEMORY, RECORD])
def test_state_of_another_user_does_not_open(tmp_path: Path, name: str) -> None:
    folder = make_state(tmp_path / "s")
    os.chown(folder / name, 12345, -1)
    with pytest.raises(UnusableStateError, match="private"):
        program.open_state(str(folder), MEMORY)


def test_arguments_of_a_resumed_machine(machine: list[str]) -> None:
    resumed = commandline.resumed_arguments(commandline.read_shape(machine), "/a,b/root.qcow2", 5, 6, 7)
    memory = "memory-backend-file,id=memory,size=1280M,mem-path=/proc/self/fd/5,share=off"
    assert resumed[:2] == ["-object", memory]
    assert resumed[-2:] == ["-incoming", "defer"]
    assert {"socket,fd=6,id=channel0", "socket,fd=7,id=monitor,server=on,wait=off"} <= set(resumed)
    assert "accel=tcg,memory-backend=memory" in resumed
    (drive,) = [word for word in resumed if "id=appliance" in word]
    assert drive == "file=/a,,b/root.qcow2,snapshot=on,id=appliance,cache=unsafe,if=none,format=qcow2"
    assert len([word for word in machine if word not in resumed]) == 4, "nothing else changes"


def test_arguments_of_a_machine_to_be_saved(machine: list[str]) -> None:
    saved = commandline.saved_arguments(commandline.read_shape(machine), "/o", 5, "/m")
    memory = "memory-backend-file,id=memory,size=1280M,mem-path=/proc/self/fd/5,share=on"
    assert saved[:2] == ["-object", memory]
    assert saved[-2:] == ["-qmp", "unix:/m,server=on,wait=off"]
    assert "file=/o,id=appliance,cache=unsafe,if=none,format=qcow2" in saved
    assert len([word for word in machine if word not in saved]) == 3


def test_mark_counts_for_a_day(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    assert program.read_mark(str(mark)) is None
    mark.write_text("too slow\n")
    assert program.read_mark(str(mark)) == "too slow"
    for moment in (time.time() - program.RETRY_AFTER - 1, time.time() + program.RETRY_AFTER + 9):
        os.utime(mark, (moment, moment))
        assert program.read_mark(str(mark)) is None


def test_runs_alone_under_an_isolated_interpreter(tmp_path: Path, machine: list[str]) -> None:
    """Without our packages and site-packages, as it is started."""
    job = tmp_path / "job"
    facts = {"mode": "resume", "hypervisor": "/bin/echo"}
    facts |= {"states": str(tmp_path), "recipe": "r", "report": str(tmp_path / "report")}
    facts |= {"monitor": str(tmp_path / "monitor")}
    job.write_text(json.dumps(facts))
    args = [sys.executable, *resume.PROGRAM, str(job), "/usr/bin/env", "/bin/echo"]
    unknown = subprocess.run([*args, *machine, "-smp", "2"], capture_output=True, text=True, check=True)
    assert unknown.stdout.split()[-2:] == ["-smp", "2"], "booted just as libguestfs wanted"
    assert "-smp" in json.loads((tmp_path / "report").read_text())["booted"]
    missing = subprocess.run([*args, *machine], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stdout, missing.stderr) == (1, "", "")
    assert json.loads((tmp_path / "report").read_text())["missing"] is True

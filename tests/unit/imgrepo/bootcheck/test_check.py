"""The whole check with a stand-in for QEMU: what is written down, and what is left after the worst."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from imgbuilder.appliance.accelerator import KvmVerdict
from imgbuilder.errors import DiskError
from imgrepo.bootcheck import boot as booting
from imgrepo.bootcheck import hypervisor
from imgrepo.bootcheck.hypervisor import write_pictures
from imgrepo.cli.main import run
from imgrepo.library.records import BOOT_FILE, BootRecord, Verdict
from imgrepo.services import Services
from tests.fakes.bootcheck_stub import Stub
from tests.fakes.machine import locked
from tests.unit.imgrepo.bootcheck import consoles

ENTRY = 'title = "Web"\n[boot]\nmarker = "login:"\n'


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub(tmp_path / "stub")
    monkeypatch.setenv("PATH", f"{made.folder}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(booting, "_SETTLE", 0.0)
    monkeypatch.setattr(hypervisor, "_MONITOR_LIMIT", 2.0)
    return made


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    folder = tmp_path / "library" / "web"
    folder.mkdir(parents=True)
    (folder / "entry.toml").write_text(ENTRY)
    (folder / "web.img").write_bytes(os.urandom(512) + bytes(1 << 20))
    return folder


def boot_check(*words: str | Path) -> int:
    return run(["boot-check", *map(str, words)], Services())


def recorded(entry: Path) -> BootRecord:
    record = BOOT_FILE.read(entry / "boot")
    assert record is not None
    return record


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_boot_is_recorded_with_its_pictures(
    stub: Stub, entry: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stub.set(consoles.DEBIAN + b"\r\n[   66.0] I/O error, dev vda, sector 1\r\n")
    before = (entry / "web.img").stat()
    assert boot_check(entry, "--keep-screenshot") == 0
    record = recorded(entry)
    assert (record.verdict, record.reason, record.qemu) == (Verdict.BOOTED, "", "7.2.22")
    assert (record.accelerator, record.pictures, record.ports) == ("tcg", True, ())
    assert record.concerns == ("[   66.0] I/O error, dev vda, sector 1",)
    assert files(entry / "boot") == {"boot.json", "serial.log", "screen.png", "thumbnail.png"}
    assert "debian-12 login:" in (entry / "boot" / "serial.log").read_text()
    with Image.open(entry / "boot" / "screen.png") as whole, Image.open(entry / "screenshot.png") as shot:
        assert whole.size == shot.size == (64, 32)
    with Image.open(entry / "boot" / "thumbnail.png") as small:
        assert small.size == (320, 240)
        assert small.getpixel((160, 120)) == (200, 30, 30)
    assert "web boots" in capfd.readouterr().out
    assert (entry / "web.img").stat() == before
    assert not psutil.pid_exists(stub.process())


def test_a_failed_boot_replaces_an_older_record(
    stub: Stub, entry: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stub.set(consoles.DEBIAN)
    assert boot_check(entry) == 0
    stub.set(consoles.INITRAMFS, "junk")
    assert boot_check("web", "--library", entry.parent) == 1
    record = recorded(entry)
    assert record.verdict is Verdict.FAILED
    assert "root was not found" in record.reason
    assert not record.pictures
    assert files(entry / "boot") == {"boot.json", "serial.log"}
    printed = capfd.readouterr().err
    assert "does not boot" in printed
    assert "(initramfs)" in printed
    assert "/etc/fstab" in printed
    assert "picture" in printed


@pytest.mark.parametrize(
    ("console", "how", "reason"),
    [
        (b"Linux version 6.1\r\n", "exit", "switched itself off"),
        (b"", "die", "could not set up the virtual processor"),
        (b"Linux version 6.1\r\n", "stay", "'login:' was not found on the serial console within"),
        (b"", "hang", "nothing was printed"),
        (b"", "flood", "'login:' was not found"),
        (consoles.NOTHING, "deaf", "found nothing to boot"),
    ],
)
def test_every_bad_end_has_its_reason(
    stub: Stub, entry: Path, console: bytes, how: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booting, "EMULATION", 0.02)
    stub.set(console, how)
    assert boot_check(entry) == 1
    record = recorded(entry)
    assert record.verdict is Verdict.FAILED
    assert reason in record.reason
    assert (entry / "boot" / "serial.log").stat().st_size < (2 << 20)
    assert not psutil.pid_exists(stub.process())


def test_the_record_of_an_image_alone_is_next_to_it_or_elsewhere(
    stub: Stub, entry: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stub.set(b"ready 7\r\n")
    alone = (entry / "web.img").rename(tmp_path / "alone.raw")
    assert boot_check(alone, "--marker", r"^ready \d$", "--memory", "64") == 0
    assert BOOT_FILE.read(tmp_path / "alone.boot") is not None
    assert "64" in json.loads((stub.folder / "calls").read_text())
    capfd.readouterr()
    assert boot_check(alone, "--marker", "^ready", "--output", tmp_path / "out", "--json") == 0
    printed = json.loads(capfd.readouterr().out)
    assert [one["verdict"] for one in printed["checks"]] == ["booted"]
    assert BOOT_FILE.read(tmp_path / "out" / "alone" / "boot") is not None


def test_an_image_that_refers_to_other_files_is_never_booted(
    stub: Stub, entry: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (entry / "web.img").rename(entry / "base.raw.kept")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw.kept", entry / "web.qcow2"],
        check=True,
    )
    assert boot_check(entry) == 1
    assert "backing file" in capfd.readouterr().err
    assert not stub.started()
    assert not (entry / "boot").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nosuch",), "the entry nosuch does not exist"),
        (("./nosuch.img",), "does not exist"),
        (("/",), "is not an entry"),
        (("/etc/passwd",), "does not have the name of an image"),
    ],
)
def test_wrong_targets_are_named(
    words: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert boot_check(*words) == 2
    assert message in capfd.readouterr().err


def test_a_marker_that_takes_forever_is_an_error(
    stub: Stub, entry: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stub.set(b"a" * 4000 + b"b\r\n")
    assert boot_check(entry, "--marker", "(a|a)+(a|aa)+$") == 1
    assert "--marker: looking for it" in capfd.readouterr().err
    assert not (entry / "boot").exists()
    assert not psutil.pid_exists(stub.process())


def test_kvm_that_shows_nothing_is_not_held_against_the_image(
    stub: Stub, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.set(consoles.DEBIAN)
    program = stub.folder / "qemu-system-x86_64"
    real = program.rename(stub.folder / "qemu-real")
    program.write_text(
        f'#!/bin/sh\ncase " $* " in *" -accel kvm "*) exec sleep 600;; esac\nexec {real} "$@"\n'
    )
    program.chmod(0o755)
    verdict = KvmVerdict(usable=True, reason="not tried", proved=False)
    monkeypatch.setattr(booting, "chosen_accelerator", lambda *_args: verdict)
    monkeypatch.setattr(booting, "EMULATION", 5)
    assert boot_check(entry, "--time", "5") == 0
    assert recorded(entry).accelerator == "tcg"


class Port:
    """A port of the host that behaves as QEMU's user network does."""

    def __init__(self, *, closes: bool, sends: bytes = b"") -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.number = self.socket.getsockname()[1]
        self._closes, self._sends = closes, sends
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread; else it would accept for the next test
        self._thread.join()
        self.socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            if self._sends:
                connection.sendall(self._sends)
            if self._closes:
                connection.close()
            else:
                self._kept.append(connection)


@pytest.fixture
def ports() -> Iterator[list[Port]]:
    made: list[Port] = []
    yield made
    for port in made:
        port.close()


def table(port: Port, guest: int, *states: str) -> str:
    head = "Hub -1 (net0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n"
    return head + "".join(
        f"  TCP[{state}]  12       127.0.0.1 {port.number}       10.0.2.15    {guest}     0     0\n"
        for state in ("HOST_FORWARD", *states)
    )


@pytest.mark.parametrize(
    ("closes", "sends", "states", "answers"),
    [
        (False, b"SSH-2.0-x\r\n", (), True),
        (False, b"", ("ESTABLISHED",), True),
        (False, b"", ("SYN_SENT",), False),
        (False, b"", (), False),
        (True, b"", ("ESTABLISHED",), False),
    ],
)
def test_a_port_answers_when_the_guest_does(
    stub: Stub,
    entry: Path,
    ports: list[Port],
    monkeypatch: pytest.MonkeyPatch,
    closes: bool,
    sends: bytes,
    states: tuple[str, ...],
    answers: bool,
) -> None:
    monkeypatch.setattr(booting, "EMULATION", 0.05)
    ports.append(Port(closes=closes, sends=sends))
    stub.set(consoles.DEBIAN, table=table(ports[0], 80, *states))
    assert boot_check(entry, "--port", "80") == (0 if answers else 1)
    record = recorded(entry)
    assert record.ports == ((80,) if answers else ())
    assert answers or "port 80 does not answer" in record.reason


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("stay", signal.SIGINT),
        ("hang", signal.SIGINT),
        ("deaf", signal.SIGTERM),
        ("stay", signal.SIGKILL),
    ],
)
def test_stopped_by_a_signal_nothing_is_left(
    stub: Stub, entry: Path, tmp_path: Path, how: str, number: signal.Signals
) -> None:
    stub.set(b"Linux version 6.1\r\n", how)
    before = set(Path("/tmp").glob(".pybuilder-*"))
    program = subprocess.Popen(
        ["env", "--default-signal=INT,TERM", sys.executable, "-m", "imgrepo", "boot-check", entry],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 40
        while not stub.started() and time.monotonic() < end:
            time.sleep(0.05)
        guest = psutil.Process(stub.process())
        time.sleep(0.5)
        program.send_signal(number)
        program.communicate(timeout=30)
    finally:
        program.kill()
    expected = -number if number is signal.SIGKILL else 128 + number
    assert program.returncode == expected
    psutil.wait_procs([guest], timeout=10)
    assert not guest.is_running() or guest.status() == psutil.STATUS_ZOMBIE
    if number is signal.SIGKILL:
        assert not (entry / "boot" / "boot.json").exists()
        return
    assert not (entry / "boot").exists()
    assert list((tmp_path / "temporary").iterdir()) == []
    mine = set(Path("/tmp").glob(".pybuilder-*")) - before
    assert [path for path in mine if str(path) in (stub.folder / "calls").read_text()] == []


def test_a_record_cannot_be_half(stub: Stub, entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any of its steps, there is a whole record or none."""
    stub.set(consoles.DEBIAN)
    assert boot_check(entry) == 0
    stub.set(consoles.PANIC)
    real, count = os.replace, 0
    for dying in range(6):
        count = 0

        def replace(self: Path, target: Path, dying: int = dying) -> Path:
            nonlocal count
            count += 1
            if count > dying:
                raise OSError(5, "Input/output error")
            real(self, target)
            return target

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            boot_check(entry)
        record, log = BOOT_FILE.read(entry / "boot"), (entry / "boot" / "serial.log").read_text()
        assert record is None or (record.verdict is Verdict.FAILED) == ("panic" in log)


def test_a_full_disk_leaves_the_older_record(
    stub: Stub, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.set(consoles.DEBIAN)
    assert boot_check(entry) == 0
    before = {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()}
    stub.set(consoles.PANIC)
    real = Path.write_bytes

    def write_bytes(self: Path, data: bytes) -> int:
        if "boot.json" in self.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert boot_check(entry) == 1
    assert {path: path.read_bytes() for path in entry.rglob("*") if path.is_file()} == before


def test_the_image_of_a_running_machine_is_not_booted(
    stub: Stub, entry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.set(consoles.DEBIAN)
    (image,) = entry.glob("*.img")
    with locked(image):
        assert boot_check(entry) == 1
    assert f"{image.name} is used by another program" in capsys.readouterr().err
    assert not (entry / "boot" / "boot.json").exists()


def test_pictures_of_any_shape_fit_the_thumbnail(tmp_path: Path) -> None:
    whole, small = tmp_path / "screen.png", tmp_path / "thumbnail.png"
    for width, height in ((1, 1000), (1280, 800), (320, 240), (10, 10)):
        (tmp_path / "in.ppm").write_bytes(
            b"P6\n%d %d\n255\n" % (width, height) + bytes([255] * (3 * width * height))
        )
        write_pictures(tmp_path / "in.ppm", whole, small)
        with Image.open(small) as opened:
            assert opened.size == (320, 240)


@pytest.mark.parametrize(
    ("data", "printed"),
    [
        (b"", "cannot be read"),
        (b"P6\n", "cannot be read"),
        (b"P6\n10 10\n255\nxx", "cannot be read"),
        (b"P6\n5000 5000\n255\n", "5000x5000 pixels is too large"),
        (b"P6\n60000 60000\n255\n", "cannot be read"),
        (b"GIF89a", "cannot be read"),
    ],
)
def test_a_file_that_is_not_a_picture_is_refused(tmp_path: Path, data: bytes, printed: str) -> None:
    (tmp_path / "in.ppm").write_bytes(data)
    with pytest.raises(DiskError, match=printed):
        write_pictures(tmp_path / "in.ppm", tmp_path / "a.png", tmp_path / "b.png")


def test_an_image_that_changes_meanwhile_gets_no_verdict(
    stub: Stub, entry: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stub.set(consoles.DEBIAN)
    assert boot_check(entry) == 0
    record = (entry / "boot" / "boot.json").read_bytes()
    stub.set(consoles.PANIC, f"change {entry / 'web.img'}")
    assert boot_check(entry) == 1
    assert "changed" in capfd.readouterr().err
    assert (entry / "boot" / "boot.json").read_bytes() == record


def test_a_guest_cannot_fill_the_disk_of_the_host(
    stub: Stub, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervisor, "_MOST_WRITTEN", 1 << 20)
    monkeypatch.setattr(hypervisor, "_LEAST_WRITTEN", 1 << 20)
    stub.set(b"Linux version 6.1\r\n", "fill")
    monkeypatch.setattr(booting, "EMULATION", 0.02)
    assert boot_check(entry) == 1
    assert (stub.folder / "filled").read_text() == str(1 << 20)


def test_a_guest_may_write_half_of_the_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    free = 1 << 30
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(0, 0, free))
    assert hypervisor._write_limit() == 512 << 20
    free = 1 << 40
    assert hypervisor._write_limit() == 4 << 30
    free = 0
    assert hypervisor._write_limit() == 256 << 20


def test_ports_that_never_answer_take_no_longer_than_allowed(
    stub: Stub, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervisor, "_MONITOR_LIMIT", 0.5)
    monkeypatch.setattr(booting, "EMULATION", 0.02)
    (entry / "entry.toml").write_text(f"{ENTRY}ports = {list(range(1, 41))}\n")
    stub.set(consoles.DEBIAN, "deaf")
    began = time.monotonic()
    assert boot_check(entry) == 1
    assert time.monotonic() - began < 15, "40 ports, each of them half a second"

"""The worker process and its end: the real worker with a stand-in for the binding."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imgbuilder.appliance.connection import Connection
from imgbuilder.appliance.worker import HEADER, pack, unpack
from imgbuilder.errors import ApplianceError, GuestCallError
from imgbuilder.events import Event, Notice, Progress, ProgressEnd
from imgbuilder.host.interrupts import Interrupted, interruptible
from tests.fakes import guestfs_stub


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def connection(tmp_path: Path, events: list[Event]) -> Iterator[Connection]:
    made = Connection(guestfs_stub.install(tmp_path), tmp_path, events.append)
    yield made
    made.close()


def workers(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any("worker.py" in word for word in process.cmdline()) and process.environ().get(
                "PYTHONPATH"
            ) == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("value", ["text", "üñí", 12, True, None, b"\x00\xff bytes", ["a", b"b"], []])
def test_values_travel_both_ways(connection: Connection, value: object) -> None:
    assert connection.call("echo", value) == value
    frame = pack({"value": value, "before": b"one", "after": {b"two": (b"", b"three")}})
    end = HEADER.size + HEADER.unpack_from(frame)[0]
    assert unpack(frame[HEADER.size : end], frame[end:]) == {
        "value": value, "before": b"one", "after": {b"two": [b"", b"three"]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "raw"),
    [
        (b"[]", b""),
        (b'{"a": {}}', b""),
        (b'{"a": {"bytes": 2}}', b"x"),
        (b'{"a": {"bytes": 1}}', b"xy"),
        (b'{"a": {"bytes": %d}}' % (1 << 80), b"xy"),
        (b'{"a": {"dict": [[[], 1]]}}', b""),
        (b"[" * 20_000, b""),
    ],
)
def test_frames_that_are_not_messages(body: bytes, raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(body, raw)


def test_options_and_mappings(connection: Connection) -> None:
    assert connection.call("echo", 1, readonly=True) == [1, ["readonly"]]
    assert connection.call("mapping") == {"a": 1}


def test_refusals_name_the_system_error(connection: Connection) -> None:
    with pytest.raises(GuestCallError, match="/x") as caught:
        connection.call("refuse")
    assert caught.value.errno_name == "ENOENT"
    assert connection.call("echo", "still there") == "still there"


def test_unknown_calls_are_refused(connection: Connection) -> None:
    with pytest.raises(GuestCallError):
        connection.call("no_such_call")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("chown", 99999999999, 0, "/x"), "greater"),
        (("surprise",), "MemoryError"),
        (("names", 150_000), "bytes"),
    ],
)
def test_whatever_a_call_meets_is_an_answer(
    connection: Connection, call: tuple[str | int, ...], message: str
) -> None:
    with pytest.raises(GuestCallError, match=message):
        connection.call(*call)  # type: ignore[arg-type]
    assert connection.call("echo", "still there") == "still there"


def test_no_file_on_this_host_grows_beyond_its_limit(connection: Connection, tmp_path: Path) -> None:
    local = tmp_path / "local"
    with pytest.raises(GuestCallError, match="File too large"):
        connection.call("download_offset", "/x", str(local), 0, 5000, most=1000)
    assert local.stat().st_size <= 1000
    connection.call("download_offset", "/x", str(local), 0, 5000)
    assert local.stat().st_size == 5000


def test_long_errors_of_a_guest_are_cut(connection: Connection) -> None:
    with pytest.raises(GuestCallError) as caught:
        connection.call("blame", 1 << 20)
    assert len(caught.value.message) < 5000
    assert caught.value.errno_name == "ENOENT"


def test_endless_output_of_a_guest_does_not_count_as_alive(connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match="no sign of life"):
        connection.call("chatter", limit=0.5)
    assert workers(tmp_path) == []


@pytest.mark.row("B10")
@pytest.mark.parametrize("call", ["gone", "killed"])
def test_a_dead_appliance_is_not_a_refusal(connection: Connection, call: str) -> None:
    with pytest.raises(ApplianceError):
        connection.call(call)


def test_console_and_progress_are_reported(connection: Connection, events: list[Event]) -> None:
    assert connection.call("talk", label="moving") == "said"
    assert [event.text for event in events if isinstance(event, Notice)] == ["first line", "second half"]
    assert Progress("moving", 5, 10) in events
    assert events[-1] == ProgressEnd()
    assert connection.console_tail() == "first line\nsecond half"


def test_silence_is_noticed_and_ended(connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match="no sign of life"):
        connection.call("hang", limit=0.5)
    assert workers(tmp_path) == []


def test_death_is_explained(connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match="worker says why"):
        connection.call("die")
    assert workers(tmp_path) == []
    with pytest.raises(ApplianceError):
        connection.call("echo", 1)


def test_endless_complaints_of_the_worker_take_no_room(connection: Connection) -> None:
    kept = os.dup(connection._stderr)
    with pytest.raises(ApplianceError, match="ended unexpectedly: x"):
        connection.call("complain", 3 << 20)
    assert os.fstat(kept).st_size == 1 << 20
    os.close(kept)


def test_a_signal_ends_a_blocked_call(connection: Connection, tmp_path: Path) -> None:
    """While libguestfs blocks, signals must still work."""
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted), interruptible():
        timer.start()
        try:
            connection.call("hang", limit=None)
        finally:
            connection.close()
    assert workers(tmp_path) == []


def test_a_missing_binding_is_reported(tmp_path: Path) -> None:
    interpreter = guestfs_stub.install(tmp_path)
    (tmp_path / "guestfs.py").write_text("raise ImportError('broken binding')")
    with pytest.raises(ApplianceError, match="broken binding"):
        Connection(interpreter, tmp_path, lambda _event: None)
    assert workers(tmp_path) == []


def test_the_worker_dies_with_us(tmp_path: Path) -> None:
    """SIGKILL of pybuilder leaves no worker."""
    interpreter = guestfs_stub.install(tmp_path)
    program = (
        "import sys; from pathlib import Path; from imgbuilder.appliance.connection import Connection\n"
        f"c = Connection(Path({str(interpreter)!r}), Path({str(tmp_path)!r}), lambda e: None)\n"
        "print('up', flush=True); c.call('hang', limit=None)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    assert len(workers(tmp_path)) == 1
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while workers(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert workers(tmp_path) == []


def test_an_interrupted_call_is_the_last(connection: Connection, tmp_path: Path) -> None:
    """The next call would get the answer of this one, and cleanup must not hide the signal."""
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted), interruptible():
        timer.start()
        try:
            connection.call("hang", limit=None)
        finally:
            assert workers(tmp_path) == []
            connection.call("echo", "unmount")
    with pytest.raises(Interrupted):
        connection.call("echo", "unmount")

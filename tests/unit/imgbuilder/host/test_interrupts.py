"""Signals: raised once, lost by nothing, and certain the second time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgbuilder.errors import PybuilderError, WorkspaceError
from imgbuilder.host.interrupts import Interrupted, interruptible, uninterrupted


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_is_not_an_error_that_the_next_thing_follows() -> None:
    with pytest.raises(Interrupted) as caught, interruptible():
        for _source in range(3):
            try:
                stop()
            except Exception:  # noqa: BLE001 - that none sees it is the point
                pytest.fail("a handler of errors saw it")
    assert (caught.value.exit_code, caught.value.message) == (143, "stopped by SIGTERM")


def test_an_error_of_cleaning_up_does_not_replace_it() -> None:
    with pytest.raises(Interrupted), interruptible():
        try:
            try:
                stop()
            finally:
                raise WorkspaceError("cannot be removed")
        except PybuilderError:
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_destructor_does_not_swallow_it() -> None:
    class Careless:
        def __del__(self) -> None:
            stop()

    with pytest.raises(Interrupted), interruptible():
        Careless()


def test_a_signal_that_was_held_back_is_raised_even_when_the_block_fails() -> None:
    with pytest.raises(Interrupted), interruptible():
        try:
            with uninterrupted():
                stop()
                raise WorkspaceError("no space left")
        except PybuilderError:
            pytest.fail("another source would follow")


def run(body: str, signals: list[int], *, pause: float = 0, limit: str = "") -> tuple[int, str]:
    """Run a command that does not end by itself; ``limit`` shortens a limit. Return exit code and errors."""
    program = (
        "import sys, time, ctypes, subprocess\n"
        "from imgbuilder.host import interrupts\n"
        f"{limit}\n"
        "from imgbuilder.terminal.boundary import run_command\n"
        "from imgbuilder.terminal.reporter import ConsoleReporter\n"
        "from imgbuilder.host.interrupts import interruptible, uninterrupted\n"
        "def wait():\n    print('up', flush=True)\n    time.sleep(60)\n"
        f"def body():\n{body}\n"
        "sys.exit(run_command(body, ConsoleReporter('it'), verbose=False))\n"
    )
    # Tests in the background ignore some of the signals, and the program would inherit that.
    words = ["env", "--default-signal=HUP,INT,QUIT,TERM", sys.executable, "-c", program]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        time.sleep(0.5)  # it says so just before it waits
        process.send_signal(signals[0])
        for number in signals[1:]:
            time.sleep(pause)
            process.send_signal(number)
        code = process.wait(30)
        return code, process.stderr.read()


CASES = {
    "cleaning up hangs": "    try:\n        wait()\n    finally:\n        time.sleep(60)",
    "a shielded block hangs": "    with uninterrupted():\n        wait()",
    "a loop goes on": "    while True:\n        try: wait()\n        except BaseException: pass",
}


@pytest.mark.parametrize("case", CASES)
def test_a_second_signal_ends_it_for_certain(case: str) -> None:
    code, errors = run(CASES[case], [signal.SIGINT, signal.SIGTERM], pause=1, limit="interrupts._GRACE = 0.4")
    assert code == 143
    assert "stopped at once" in errors


def test_two_signals_at_once_let_it_clean_up() -> None:
    body = "    try: wait()\n    finally:\n        time.sleep(1)\n        sys.stderr.write('cleaned up')"
    code, errors = run(body, [signal.SIGINT, signal.SIGINT], pause=0.2)
    assert code == 130
    assert "cleaned up" in errors
    assert "stopped by SIGINT" in errors


def test_a_call_of_the_system_that_returns_to_no_handler_is_ended() -> None:
    """As the resolver of the C library does while its servers are silent."""
    stuck = (  # a mutex that is locked twice is never free
        "    lock = ctypes.CDLL(None).pthread_mutex_lock\n"
        "    mutex = ctypes.create_string_buffer(64)\n"
        "    print('up', flush=True)\n    lock(mutex), lock(mutex)"
    )
    code, errors = run(stuck, [signal.SIGINT], limit="interrupts._PATIENCE = 1")
    assert code == 130
    assert "stopped at once" in errors


def test_what_it_started_ends_as_well() -> None:
    body = (
        "    child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    sys.stderr.write(f'{child.pid}\\n'); sys.stderr.flush()\n"
        "    with uninterrupted():\n        wait()"
    )
    code, errors = run(body, [signal.SIGTERM, signal.SIGTERM], pause=1, limit="interrupts._GRACE = 0.4")
    assert code == 143
    child = int(errors.split()[0])
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child lives")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_become_exceptions_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    cleaned = False
    with pytest.raises(Interrupted) as caught, interruptible():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # a second one, while cleaning up
            cleaned = True
    assert cleaned
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_signals_wait_for_what_must_not_be_torn() -> None:
    done = False
    with pytest.raises(Interrupted), interruptible():
        with uninterrupted():
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGINT)
            done = True
        pytest.fail("the signal was lost")
    assert done


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

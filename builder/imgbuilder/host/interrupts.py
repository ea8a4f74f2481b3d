"""Signals as an exception that no error handler catches.

Python turns only SIGINT into ``KeyboardInterrupt`` and dies of the other three. Here SIGINT, SIGTERM, SIGHUP
and SIGQUIT all raise ``Interrupted``, so that every ``finally`` runs. It is raised once, and never during
cleanup. It always leaves the ``interruptible`` block: code that swallows it, in a destructor or by another
error of a ``finally``, cannot turn it into success.

A second signal, some seconds after the first, ends the program at once, even where Python runs no signal
handler, such as in the resolver of the C library.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_GRACE = 2.0
"""Seconds of cleanup in which further signals are ignored: users press Ctrl-C twice."""
_PATIENCE = 10.0
"""Seconds that the main thread may be stuck in a system call before a signal ends it there.

On a busy machine, a healthy one can take some seconds to notice.
"""


class Interrupted(BaseException):
    """A signal asked the program to stop. It is not an error after which the next source or file is tried.

    Attributes:
        message: A sentence with the signal's name.
        hint: The next step, such as running the command again; None for none.
        exit_code: 128 plus the number of the signal, as in shells.
        quiet: Whether a signal is the normal end, which is not reported.
    """

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        self.message = f"stopped by {signal.Signals(signal_number).name}"
        self.hint: str | None = None
        self.exit_code = 128 + signal_number
        self.quiet = False
        super().__init__(self.message)


class _State:
    """State of the signal handler, one per process."""

    def __init__(self) -> None:
        self.raised: Interrupted | None = None
        self.pending: int | None = None
        self.shields = 0

    def reset(self) -> None:
        self.raised, self.pending, self.shields = None, None, 0

    def stop(self, number: int) -> Interrupted:
        self.pending = None
        self.raised = Interrupted(number)
        return self.raised


_state = _State()


def _handle(number: int, _frame: FrameType | None) -> None:
    if _state.raised is not None:
        return
    if _state.shields:
        _state.pending = _state.pending or number
        return
    raise _state.stop(number)


@contextlib.contextmanager
def interruptible(*, ends_program: bool = False) -> Iterator[None]:
    """Turn the four signals into ``Interrupted`` while the block runs. Main thread only.

    Args:
        ends_program: The program ends with the block: only the first signal is raised, and a second one
            ends the program at once.

    Raises:
        Interrupted: A signal came, even if the block swallowed it.
    """
    _state.reset()
    # A signal that the caller ignores, as nohup does with SIGHUP, stays ignored.
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _handle)
    watched = _watch_for_the_second() if ends_program else None
    try:
        yield
    finally:
        if watched is not None and _state.raised is not None:
            # The handler and the thread stay: at exit, Python would restore handlers that exit with another
            # code.
            atexit.register(_ignore)
        else:
            for number, handler in before.items():
                signal.signal(number, handler)
            if watched is not None:
                signal.set_wakeup_fd(-1)
                os.close(watched)  # which ends the thread
        if _state.raised is not None and sys.exception() is not _state.raised:
            raise _state.raised


def _ignore() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay signals while the block runs; a delayed signal is raised at its end, however it ends."""
    _state.shields += 1
    try:
        yield
    finally:
        _state.shields -= 1
        if not _state.shields and _state.pending is not None and _state.raised is None:
            raise _state.stop(_state.pending)


@contextlib.contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Count the four signals while the block runs, for work that decides itself how it ends.

    Yields:
        Returns how many came so far. The first one is raised at the end of the block.
    """
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    watcher = signal.set_wakeup_fd(-1)
    try:
        yield lambda: len(received)
    finally:
        signal.set_wakeup_fd(watcher, warn_on_full_buffer=False)
        for number, handler in before.items():
            signal.signal(number, handler)
        if received and _state.raised is None:
            raise _state.stop(received[0])


def _watch_for_the_second() -> int:
    """Start a thread that sees signals while the main thread does not; it ends with the returned pipe."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    return writer


def _watch(reader: int) -> None:
    ours = {int(number) for number in _SIGNALS}
    first: float | None = None
    earliest = 0
    while True:
        # After a signal, the main thread has some time to handle it.
        ready, _, _ = select.select([reader], [], [], None if first is None else _PATIENCE)
        if ready:
            received = os.read(reader, 1)
            if not received:
                os.close(reader)
                return
            if received[0] not in ours:
                continue
            if first is None:
                first, earliest = time.monotonic(), received[0]
            elif time.monotonic() - first >= _GRACE:
                _end_at_once(received[0])
        elif _state.raised is None and not _state.shields:
            _end_at_once(earliest)


def _end_at_once(number: int) -> None:
    """End the program and its children, as SIGKILL would: the next run removes leftover files."""
    with contextlib.suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                _kill(int(child))
    with contextlib.suppress(OSError):
        os.write(2, b"stopped at once; unfinished files are removed by the next run\n")
    os._exit(128 + number)


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(child) == child:
            os.killpg(child, signal.SIGKILL)
        else:
            os.kill(child, signal.SIGKILL)

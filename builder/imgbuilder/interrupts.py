"""Signals as an exception, raised once, and never in the middle of cleaning up.

Python would turn SIGINT alone into ``KeyboardInterrupt`` and die of the other
three. Here SIGINT, SIGTERM, SIGHUP and SIGQUIT all raise ``Interrupted``, so
that every ``finally`` runs; further signals are ignored, since the first one
already makes the program end (``reliability.md`` B1, B2).
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from imgbuilder.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class _State:
    """What the handler knows; one per process, as signal handlers are."""

    def __init__(self) -> None:
        self.raised = False
        self.pending: int | None = None
        self.shields = 0


_state = _State()


def _handle(number: int, _frame: FrameType | None) -> None:
    if _state.raised:
        return
    if _state.shields:
        _state.pending = _state.pending or number
        return
    _state.raised = True
    raise Interrupted(number, signal.Signals(number).name)


@contextlib.contextmanager
def interruptible(*, ends_program: bool = False) -> Iterator[None]:
    """Turn the four signals into ``Interrupted`` while the block runs. Main thread only.

    Args:
        ends_program: Once one of them was raised, ignore them for good: the program ends now, with the exit
            code of the first one (``reliability.md`` B2).
    """
    _state.raised, _state.pending, _state.shields = False, None, 0
    # A signal that our caller ignores, as nohup does with SIGHUP, stays ignored.
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ends_program and _state.raised else handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back while the block runs; one that came is raised at its end."""
    _state.shields += 1
    try:
        yield
    finally:
        _state.shields -= 1
    if not _state.shields and _state.pending is not None and not _state.raised:
        number, _state.pending = _state.pending, None
        _state.raised = True
        raise Interrupted(number, signal.Signals(number).name)

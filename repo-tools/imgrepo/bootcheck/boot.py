"""Boots an image and judges the outcome."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.appliance.accelerator import KvmVerdict, chosen_accelerator, remember_broken
from imgbuilder.errors import ApplianceError, DiskError
from imgbuilder.events import Reporter, info, warn
from imgbuilder.host import paths
from imgbuilder.host.text import printable
from imgbuilder.machine.model import Machine
from imgrepo.bootcheck.console import BootJudgement, BootMarker, BootState, Watcher
from imgrepo.bootcheck.hypervisor import Running, running, write_pictures

EMULATION = 5
"""Factor for the time limit of a boot without KVM."""
_QUIET = 0.3
"""Seconds without a byte after which an unfinished line is read as a prompt."""
_SETTLE = 1.0
"""Seconds after the outcome is known, more with emulation: for the rest of a panic and the screen."""
_PORTS_SHARE = 0.5
"""Time for ports to answer, as a share of the time for the boot."""


@dataclass(frozen=True)
class Trial:
    """A boot to try.

    Attributes:
        machine: The machine; the path of its image is absolute, and its header was checked.
        seconds: Time limit with KVM.
        exact: Whether ``seconds`` is the limit for emulation as well.
    """

    machine: Machine
    marker: BootMarker
    seconds: float
    exact: bool = False
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a boot.

    Attributes:
        accelerator: ``kvm`` or ``tcg``.
        seconds: From the start to the marker, or to the end of a failure.
        pictures: Whether ``screen.png`` and ``thumbnail.png`` were written.
        silent: Whether the hypervisor ended or nothing was printed: KVM may be the reason.
    """

    judgement: BootJudgement
    accelerator: str
    seconds: float
    concerns: tuple[str, ...] = ()
    answered: tuple[int, ...] = ()
    log: str = field(default="", repr=False)
    tail: tuple[str, ...] = ()
    pictures: bool = False
    silent: bool = False


ShowLine = Callable[[str], None]


def boot(trial: Trial, folder: Path, on_event: Reporter, show: ShowLine) -> Outcome:
    """Boot an image, with KVM where that works; ``folder`` gets ``screen.png`` and ``thumbnail.png``.

    ``show`` is called with the console's last line whenever it changes.
    """
    verdict = _accelerator(trial.machine, on_event)
    if verdict is None or not verdict.usable:
        return _attempt(trial, "tcg", folder, on_event, show)
    outcome = _attempt(trial, "kvm", folder, on_event, show)
    if verdict.proved or not outcome.silent or outcome.judgement.state is BootState.BOOTED:
        return outcome
    info(on_event, "nothing was printed with KVM, which may not work here; trying again with emulation")
    emulated = _attempt(trial, "tcg", folder, on_event, show)
    if emulated.judgement.state is BootState.BOOTED:
        remember_broken(paths.state_dir(), outcome.judgement.reason)
    return emulated


def _accelerator(machine: Machine, on_event: Reporter) -> KvmVerdict | None:
    """Return whether KVM can be used; None for a processor other than the host's."""
    family = {"i686": "x86_64", "i386": "x86_64", "arm64": "aarch64"}
    host, guest = (family.get(arch, arch) for arch in (platform.machine(), machine.arch))
    return chosen_accelerator(paths.state_dir(), on_event) if host == guest else None


def _attempt(trial: Trial, accelerator: str, folder: Path, on_event: Reporter, show: ShowLine) -> Outcome:
    scale = 1 if trial.exact or accelerator == "kvm" else EMULATION
    limit = trial.seconds * scale
    watcher = Watcher(trial.marker)
    with running(trial.machine, accelerator, trial.ports) as machine:
        began = time.monotonic()
        alive = _follow(machine, watcher, began + limit, show)
        seconds = time.monotonic() - began
        judgement = watcher.judgement
        answered: tuple[int, ...] = ()
        if judgement.state is BootState.BOOTING:
            reason = _ended(machine) if not alive else _too_long(trial.marker, limit, watcher)
            judgement = BootJudgement(BootState.FAILED, reason)
        elif alive:
            alive = _settle(machine, watcher, _SETTLE * scale, show)
        if alive and judgement.state is BootState.BOOTED:
            answered, alive = _ask_ports(machine, watcher, trial.ports, limit * _PORTS_SHARE, show)
            missing = [str(port) for port in trial.ports if port not in answered]
            if missing:
                judgement = BootJudgement(
                    BootState.FAILED, f"it booted, but port {', '.join(missing)} does not answer"
                )
        pictures = alive and _picture(machine, folder, on_event)
        silent = not alive or not watcher.log.tail(1)
    watcher.end()
    log, tail = watcher.log.text(), watcher.log.tail(10)
    return Outcome(judgement, accelerator, seconds, watcher.concerns, answered, log, tail, pictures, silent)


def _follow(machine: Running, watcher: Watcher, end: float, show: ShowLine) -> bool:
    """Read the console until the outcome is known or time is up; return whether the machine still runs."""
    while watcher.judgement.state is BootState.BOOTING:
        left = end - time.monotonic()
        if left <= 0:
            break
        if not _step(machine, watcher, min(left, _QUIET), show):
            return False
    return True


def _settle(machine: Running, watcher: Watcher, seconds: float, show: ShowLine) -> bool:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not _step(machine, watcher, min(left, _QUIET), show):
            return False
    return True


def _step(machine: Running, watcher: Watcher, seconds: float, show: ShowLine) -> bool:
    piece = machine.read(seconds)
    if piece is None:
        watcher.pause()
        return False
    if piece:
        watcher.feed(piece)
        show(watcher.last_line)
    else:
        watcher.pause()
    return True


def _ask_ports(
    machine: Running, watcher: Watcher, ports: tuple[int, ...], seconds: float, show: ShowLine
) -> tuple[tuple[int, ...], bool]:
    """Try until all ports answer or time is up; return those that do, and whether the machine still runs."""
    end = time.monotonic() + seconds
    answered: set[int] = set()
    alive = True
    while alive and answered != set(ports) and time.monotonic() < end:
        for port in ports:
            if time.monotonic() > end:  # each port may take seconds, and there may be hundreds
                break
            with contextlib.suppress(ApplianceError):  # if the machine has ended, the next read notices
                if port not in answered and machine.answers(port):
                    answered.add(port)
        alive = _step(machine, watcher, 0, show)
    return tuple(port for port in ports if port in answered), alive


def _ended(machine: Running) -> str:
    status, messages = machine.status(), printable(machine.messages())
    if status == 0:
        return "the guest switched itself off before it had booted"
    return f"QEMU ended with status {status}" + (f": {messages}" if messages else "")


def _too_long(marker: BootMarker, limit: float, watcher: Watcher) -> str:
    if not watcher.log.tail(1):
        return f"nothing was printed on the serial console within {limit:.0f} seconds"
    return f"{marker.expression!r} was not found on the serial console within {limit:.0f} seconds"


def _picture(machine: Running, folder: Path, on_event: Reporter) -> bool:
    try:
        write_pictures(machine.screen(), folder / "screen.png", folder / "thumbnail.png")
    except (ApplianceError, DiskError) as error:
        warn(on_event, f"no picture of the screen was taken: {error.message}")
        return False
    return True

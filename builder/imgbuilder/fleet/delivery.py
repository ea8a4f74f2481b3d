"""The process of a host whose image goes to another machine: it builds the image, and puts it there.

It reads what to do from its standard input, as JSON, and writes what it does like ``pybuilder build``. What
is put there is claimed in the fleet's records first, so that the next run knows it after any end of this one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imgbuilder.disk.diskimage import parse_output_format
from imgbuilder.fleet.child import Delivery
from imgbuilder.fleet.state import FleetState
from imgbuilder.host import process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.privatefolder import scratch_folder
from imgbuilder.outputs.store import Image, open_store
from imgbuilder.terminal.boundary import run_command
from imgbuilder.terminal.reporter import ConsoleReporter

_GRACE = 4.0
"""Seconds that a build has to end after a signal: less than the coordinator gives to this process."""


def main() -> int:
    """Build and deliver an image; return the exit status of the build, or of the delivery."""
    reporter = ConsoleReporter("pybuilder")
    order = json.loads(sys.stdin.buffer.read())
    delivery = Delivery.from_data(order["delivery"])
    return run_command(
        lambda: _deliver(order["recipe"], order["command"], delivery, reporter), reporter, verbose=False
    )


def _deliver(recipe: str, command: Sequence[str], delivery: Delivery, reporter: ConsoleReporter) -> int:
    with scratch_folder() as folder:
        path = folder / "image"
        status = _build(recipe, [*command, "-o", str(path)])
        if status == 0:
            _put(path, delivery, reporter)
    if status < 0:  # the coordinator learns which signal it was
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _build(recipe: str, command: Sequence[str]) -> int:
    """Build the image in a process of its own; return its exit status."""
    running: process.Popen[bytes] | None = None
    try:
        with tempfile.TemporaryFile() as file, uninterrupted():
            file.write(recipe.encode())
            file.seek(0)
            running = process.start(
                [*process.bound_to(os.getpid(), by="TERM"), *command],
                stdin=file, stdout=sys.stdout.fileno(), stderr=sys.stderr.fileno(), env=dict(os.environ),
            )  # fmt: skip
        return running.wait()
    finally:
        if running is not None:
            with uninterrupted():
                process.end_group(running, grace=_GRACE)


def _put(path: Path, delivery: Delivery, reporter: ConsoleReporter) -> None:
    remote, state = delivery.remote, FleetState(Path(delivery.state))
    store = open_store(remote)
    store.check(remote, ours=state.owns(delivery.host, remote))
    state.claim(delivery.host, remote)
    store.put(Image(path, parse_output_format(delivery.format), delivery.arch), remote, reporter)
    reporter.close()


if __name__ == "__main__":
    sys.exit(main())

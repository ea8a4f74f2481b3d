"""Shows the builds of a fleet: a table on a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

from imgbuilder.fleet.engine import Progress
from imgbuilder.fleet.state import Record
from imgbuilder.host.text import printable
from imgbuilder.terminal.reporter import show

_MOST_ROWS = 20


class FleetView:
    """Shows changes of the progress."""

    def __init__(self, total: int, *, as_json: bool, quiet: bool) -> None:
        self._total = total
        self._json = as_json
        self._quiet = quiet
        self._shown = 0
        self._drawn = 0
        self._said: str | None = None
        self._started = time.monotonic()
        self._table = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not quiet

    def __call__(self, progress: Progress) -> None:
        """Show what is new."""
        if self._table:
            self._erase()
        for record in progress.records[self._shown :]:
            self._shown += 1
            self._ended(record)
        note = self._note(progress)
        if note and note != self._said and not self._quiet and not self._json:
            show(f"{note}\n")
        self._said = note
        sys.stdout.flush()
        if self._table and progress.running:
            self._draw(progress)

    def _ended(self, record: Record) -> None:
        if self._json:
            show(json.dumps(vars(record)) + "\n")
            return
        if self._quiet and record.built:
            return
        ending = f"built in {record.seconds:.1f} s" if record.built else f"failed: {record.message}"
        if record.node and record.built:
            ending += f" on {record.node}"
        show(f"[{self._shown}/{self._total}] {record.host}: {ending}\n")
        if record.hint:
            show(f"    {record.hint}\n")

    def _note(self, progress: Progress) -> str | None:
        if progress.stopping > 1:
            return "stopping the running builds"
        if progress.stopping:
            return f"no more builds are started; waiting for {len(progress.running)}. Ctrl-C again stops them"
        if progress.obstacle in ("memory", "space", "nodes"):
            return f"waiting for {progress.obstacle}"
        return None

    def _draw(self, progress: Progress) -> None:
        """Draw the running builds, and a line about all."""
        columns, rows = shutil.get_terminal_size()
        lines = [
            f"  {running.job.host.name}  {running.says}"
            for running in progress.running[: max(1, min(_MOST_ROWS, rows - 3))]
        ]
        failed = sum(not record.built for record in progress.records)
        line = f"{len(progress.records) - failed} of {self._total} built, {len(progress.running)} running"
        line += f", {failed} failed" if failed else ""
        line += f", {left}" if (left := self._left(progress)) else ""
        text = "".join(f"{printable(line)[: columns - 1]}\n" for line in [*lines, line])
        self._drawn = text.count("\n")
        sys.stderr.write(text)
        sys.stderr.flush()

    def _left(self, progress: Progress) -> str:
        """Return the rate and the remaining time, as far as they are known."""
        done = len(progress.records)
        if not done:
            return ""
        rate = done / (time.monotonic() - self._started)
        left = int((self._total - done) / rate)
        return f"{rate * 60:.0f} a minute, {left // 60}:{left % 60:02d} left"

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}F\x1b[J")
            sys.stderr.flush()
            self._drawn = 0

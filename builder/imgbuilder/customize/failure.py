"""Handles failed customizations: keeps the log on the host, and opens a shell in the guest if wanted."""

from __future__ import annotations

import contextlib
import enum
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize.context import GuestContext
from imgbuilder.errors import GuestCallError, OperationError, UsageError
from imgbuilder.guests.ports import Appliance, Guest
from imgbuilder.host import paths
from imgbuilder.sizes import human_size
from imgindex.files import make_folder


class OnError(enum.Enum):
    """Choices for the disk of a guest whose customization failed."""

    ABORT = "abort"
    """It is removed."""
    KEEP = "keep"
    """It is unmounted cleanly and kept."""
    SHELL = "shell"
    """A shell is opened in the guest, where the user decides."""


_LARGEST_LOG = 4 << 20
"""Bytes at the end of a guest's log that are kept; a guest can make it any size."""
_MOST_LOGS = 20
_FULL = 256 * 1024
"""A filesystem with fewer free bytes is full."""
_SIGNS_OF_FULL = ("write error", "No space left on device")

GuestShell = Callable[["Guest", "GuestContext", OperationError], bool]
"""Opens a shell in a guest; returns whether the disk is to be kept."""


def no_shell(_guest: Guest, _context: GuestContext, _error: OperationError) -> bool:
    """Open no shell and keep nothing, for programs without a terminal."""
    return False


@dataclass
class FailureHandler:
    """Handles the failure of one customization."""

    name: str
    on_error: OnError = OnError.ABORT
    shell: GuestShell = no_shell
    keep: bool = field(default=False, init=False)
    """True if the disk is to be kept; set by ``rescue``."""

    def rescue(self, guest: Guest, context: GuestContext, error: OperationError) -> None:
        """Carry out the user's choice while the guest is still as the failed operation left it."""
        if self.on_error is OnError.SHELL:
            self.keep = self.shell(guest, context, error)
        else:
            self.keep = self.on_error is OnError.KEEP

    def explain(self, guest: Appliance, error: OperationError) -> OperationError:
        """Keep the guest's log on the host; return the error with a hint about the log and full disks."""
        kept = keep_log(guest, error.log_file, self.name)
        advice = [error.hint] if error.hint else []
        advice += advice_about_space(guest, error)
        if kept is not None:
            advice.append(f"the output of the guest's commands is in {kept}")
        return OperationError(
            error.message, log_tail=error.log_tail, log_file=error.log_file, hint="; ".join(advice) or None
        )


def advice_about_space(guest: Appliance, error: OperationError) -> list[str]:
    """Return hints about filesystems of the guest that are full.

    libguestfs's upload only reports "write error" and removes what it had written; the hint then lists the
    free space of all filesystems.
    """
    try:
        uses = guest.filesystem_use()
    except GuestCallError:
        return []  # the error itself matters more
    may_be_full = any(sign in f"{error.message}\n{error.log_tail}" for sign in _SIGNS_OF_FULL)
    shown = [use for use in uses if may_be_full or use.free < max(_FULL, use.total // 1000)]
    if not shown:
        return []
    spaces = ", ".join(
        f"{use.path} has {human_size(use.free)} of {human_size(use.total)} free" for use in shown
    )
    return [f"in the guest, {spaces}; make the disk larger with --size"]


def keep_log(guest: Guest, log_file: str, name: str) -> Path | None:
    """Copy the end of a guest's log to the state folder, which keeps the newest; None if that failed."""
    if not log_file:
        return None
    try:
        folder = paths.state_dir() / "logs"
        make_folder(folder)
        safe = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)[:100]
        kept = folder / f"{safe}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.log"
        try:
            guest.download(log_file, kept, limit=_LARGEST_LOG, last=True)
        except BaseException:
            kept.unlink(missing_ok=True)
            raise
    except (GuestCallError, UsageError, OSError):
        return None  # the error itself, with its last lines, matters more
    with contextlib.suppress(OSError):  # another build may remove them at the same time
        _remove_old_logs(folder)
    return kept


def _remove_old_logs(folder: Path) -> None:
    logs = sorted(folder.glob("*.log"), key=lambda path: path.lstat().st_mtime_ns, reverse=True)
    for path in logs[_MOST_LOGS:]:
        path.unlink(missing_ok=True)

"""When a customization fails: the log is kept on the host, and the user may look into the guest."""

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
    """What happens to the disk of a guest whose customization failed."""

    ABORT = "abort"
    """It is removed."""
    KEEP = "keep"
    """It stays as it is then, cleanly unmounted."""
    SHELL = "shell"
    """A shell is opened in the guest, and the user decides there."""


_LARGEST_LOG = 4 << 20
"""Bytes of a guest's log that are kept, from its end: a guest can make any size of it."""
_MOST_LOGS = 20
_FULL = 256 * 1024
"""Bytes: a filesystem with less is full."""
_SIGNS_OF_FULL = ("write error", "No space left on device")

GuestShell = Callable[["Guest", "GuestContext", OperationError], bool]
"""Lets the user look into a guest; returns whether the disk is to be kept."""


def no_shell(_guest: Guest, _context: GuestContext, _error: OperationError) -> bool:
    """Keep nothing: the shell of programs that have no terminal."""
    return False


@dataclass
class FailureHandler:
    """Handles the failure of one customization.

    Attributes:
        name: What is built, for the name of the log.
        on_error: What the user wants.
        shell: Opens a shell in the guest.
        keep: Whether the disk is to be kept; set by ``rescue``.
    """

    name: str
    on_error: OnError = OnError.ABORT
    shell: GuestShell = no_shell
    keep: bool = field(default=False, init=False)

    def rescue(self, guest: Guest, context: GuestContext, error: OperationError) -> None:
        """Do what the user wants, while the guest is as it was when the operation failed."""
        if self.on_error is OnError.SHELL:
            self.keep = self.shell(guest, context, error)
        else:
            self.keep = self.on_error is OnError.KEEP

    def explain(self, guest: Appliance, error: OperationError) -> OperationError:
        """Keep the guest's log on the host; return the error with its place, and full disks, in the hint."""
        kept = keep_log(guest, error.log_file, self.name)
        advice = [error.hint] if error.hint else []
        advice += advice_about_space(guest, error)
        if kept is not None:
            advice.append(f"what the guest's commands printed is in {kept}")
        return OperationError(
            error.message, log_tail=error.log_tail, log_file=error.log_file, hint="; ".join(advice) or None
        )


def advice_about_space(guest: Appliance, error: OperationError) -> list[str]:
    """Say which filesystems of the guest have no room left, and what to do (B9).

    libguestfs's upload says only "write error", and takes away what it had written; then the space of all
    filesystems is told.
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
    return [f"in the guest, {spaces}; a larger disk has more: --size"]


def keep_log(guest: Guest, log_file: str, name: str) -> Path | None:
    """Copy the end of a log file of the guest to the state folder, where the newest logs stay.

    Returns:
        Its place; None when it cannot be had.
    """
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
    with contextlib.suppress(OSError):  # another build removes them as well
        _remove_old_logs(folder)
    return kept


def _remove_old_logs(folder: Path) -> None:
    logs = sorted(folder.glob("*.log"), key=lambda path: path.lstat().st_mtime_ns, reverse=True)
    for path in logs[_MOST_LOGS:]:
        path.unlink(missing_ok=True)

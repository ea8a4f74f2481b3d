"""Runs commands in the guest, with secrets and proxies in a folder that is only in memory.

Their output goes to a log file in the guest. When a command fails, the error carries the last lines that
this command wrote.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from imgbuilder.customize import aptsettings
from imgbuilder.customize.context import GuestContext
from imgbuilder.errors import GuestCallError, OperationError
from imgbuilder.guests.ports import CommandResult, Guest
from imgbuilder.host.text import without_controls

_TAIL_LINES = 40
_TAIL_BYTES = 64 * 1024
_PICKED_FROM = 64 << 20
_CLEANED = 8 << 20
"""Bytes at the end of a command's output that are cleaned of secrets in memory; the rest is left out."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

NO_NETWORK_HINT = "the appliance has no network in this build: remove --no-network"


def preamble(context: GuestContext) -> str:
    """Return the shell lines before every command, which set its output and its environment."""
    return f"exec >>{shlex.quote(_output(context))} 2>&1\n{preamble_for_shell(context)}"


def preamble_for_shell(context: GuestContext) -> str:
    """Return the shell lines that set the environment of commands."""
    lines = [f"export LC_ALL=C TERM=dumb HOME=/root PATH={_PATH}"]
    if context.memory:
        lines.append(f". {shlex.quote(context.memory)}/{ENVIRONMENT}")
    return "\n".join([*lines, ""])


def run_in_guest(
    guest: Guest, context: GuestContext, script: str, *, display: str, hint: str | None = None
) -> int:
    """Run a shell script in the guest; return the offset in the log at which its output begins.

    Scripts of ours with several commands begin with ``set -e``. ``display`` names it in errors.
    """
    before = guest.stat(context.log_file).size if guest.is_file(context.log_file) else 0
    follow = _output(context) if context.follow else None
    started = time.monotonic()
    result = guest.sh(
        preamble(context) + script + "\n", follow=follow, limit=context.command_limit, patience=None
    )
    late = context.command_limit is not None and time.monotonic() - started >= context.command_limit
    _move_output(guest, context)
    if result.status != 0:
        tail = without_controls(_log_since(guest, context.log_file, before) or result.output).strip("\n")
        raise OperationError(
            f"{display} failed in the guest: {_stopped(context) if late else _ending(result)}",
            log_tail=context.mask.text(tail),
            log_file=context.log_file,
            hint="give it more time: --command-timeout SECONDS" if late else hint,
        )
    return before


def _output(context: GuestContext) -> str:
    """Return the file that commands write to: the log, or a file from which secrets are removed first."""
    return f"{context.memory}/{OUTPUT}" if context.memory and context.mask else context.log_file


def _move_output(guest: Guest, context: GuestContext) -> None:
    path = _output(context)
    if path == context.log_file or not guest.is_file(path):
        return
    size = guest.stat(path).size
    content = download_end(guest, path, _CLEANED)
    if size > _CLEANED:
        # A secret may have been cut in the first line; secrets of later lines are hidden line by line.
        content = content.partition(b"\n")[2]
        guest.append(context.log_file, f"[... {size - len(content)} bytes are left out here ...]\n".encode())
    guest.append(context.log_file, context.mask.content(content))
    guest.truncate(path)


def choose_log_file(guest: Guest) -> str:
    """Choose the log file: ``/tmp/builder.log``, or ``/builder.log`` in a guest without ``/tmp``.

    If the template has a link, a pipe or anything but a regular file there, the log gets a new name.
    """
    directory = "/tmp" if guest.is_dir("/tmp") else ""  # noqa: S108 - a path in the guest
    usual = f"{directory}/builder.log"
    taken = guest.is_symlink(usual) or (guest.exists(usual) and not guest.is_file(usual))
    return f"{directory}/builder-{secrets.token_hex(8)}.log" if taken else usual


def _log_since(guest: Guest, log_file: str, offset: int) -> str:
    """Return the last lines after an offset; empty if the command removed the log."""
    try:
        added = guest.stat(log_file).size - offset
        content = guest.end_of(log_file, min(added, _TAIL_BYTES)) if added > 0 else b""
    except GuestCallError:
        return ""
    return "\n".join(content.decode(errors="replace").rstrip("\n").split("\n")[-_TAIL_LINES:])


def picked_since(guest: Guest, log_file: str, offset: int, command: str) -> str:
    """Return the output of a command of the guest that reads the log from an offset."""
    behind = f"tail -c +{offset + 1} {shlex.quote(log_file)} | head -c {_PICKED_FROM}"
    return guest.sh(f"{behind} | {command}").output


def _stopped(context: GuestContext) -> str:
    return f"it did not end within {context.command_limit:g} seconds and was stopped"


def _ending(result: CommandResult) -> str:
    number = result.status - 128
    if 0 < number <= 64:
        with contextlib.suppress(ValueError):
            name = signal.Signals(number).name
            more = "; probably out of memory: --memsize" if name == "SIGKILL" else ""
            return f"exit status {result.status} ({name}{more})"
    return f"exit status {result.status}"


_FOLDER = re.compile(r"(?:/[A-Za-z0-9._-]+)+")
_MAKE_FOLDER = """\
for parent in {parents}; do
    if [ -d "$parent" ]; then mktemp -d "$parent/pybuilder.XXXXXXXXXX" && exit 0; fi
done
exit 1
"""
ENVIRONMENT = "environment"
OUTPUT = "output"


@contextlib.contextmanager
def guest_folder(guest: Guest, *parents: str) -> Iterator[str]:
    """Make a folder for root alone in the first of these folders that the guest has; remove it afterwards."""
    result = guest.sh(_MAKE_FOLDER.format(parents=" ".join(parents)))
    folder = result.output.strip()
    if result.status != 0 or not _FOLDER.fullmatch(folder) or ".." in folder:
        raise OperationError(
            "no temporary directory could be made in the guest",
            log_tail=result.output,
            hint="check that the guest has a /tmp",
        )
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(GuestCallError):  # the first error is the one to report
            guest.remove(folder)
        raise
    guest.remove(folder)


@contextlib.contextmanager
def memory_folder(guest: Guest, context: GuestContext) -> Iterator[GuestContext]:
    """Provide secrets, proxies and apt's settings to commands while the block runs.

    The block gets a context with that folder, or the same one if there is nothing to put into a folder.
    """
    values = {**context.secrets}
    for name, value in context.proxies.items():
        values[name] = values[name.upper()] = value
    if not values and not aptsettings.needed(context):
        yield context
        return
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(values.items()))
    with guest_folder(guest, "/run", "/tmp", "/root") as folder:  # noqa: S108 - in the guest
        guest.mount_memory(folder)
        try:
            context = replace(context, memory=folder)
            if aptsettings.needed(context):
                text += f"export APT_CONFIG={folder}/apt.conf\n"
                guest.mkdir_p(f"{folder}/sources.list.d")
                for name, content in aptsettings.settings_files(guest, context).items():
                    upload_bytes(guest, content, f"{folder}/{name}")
            upload_bytes(guest, text.encode(errors="surrogateescape"), f"{folder}/{ENVIRONMENT}")
            with aptsettings.folder_in_guest(guest, context):
                yield context
        finally:
            guest.unmount(folder)


def upload_bytes(guest: Guest, content: bytes, path: str) -> None:
    """Write a file in the guest whose content is in no trace and in no file of the host."""
    with _in_memory() as (descriptor, local):
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        guest.upload(local, path)


def download_end(guest: Guest, path: str, limit: int) -> bytes:
    """Read the last bytes of a file of the guest; they are in no trace and in no file of the host."""
    with _in_memory() as (_descriptor, local):
        guest.download(path, local, limit=limit, last=True)
        return local.read_bytes()


@contextlib.contextmanager
def _in_memory() -> Iterator[tuple[int, Path]]:
    descriptor = os.memfd_create("pybuilder")
    try:
        # The path of the descriptor can be opened by the worker process of the same user.
        yield descriptor, Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)

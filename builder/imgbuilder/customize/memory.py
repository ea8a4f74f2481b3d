"""A folder in the guest that lives in the appliance's memory, and never on the image.

Secrets and proxies reach commands through a file in it, which the shell reads:
so they are in no argument, no trace of libguestfs and no block of the disk. When
there is something to hide, commands write into it, too, and what they wrote
goes to the log with the secrets replaced.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from imgbuilder.customize import aptsettings
from imgbuilder.customize.context import GuestContext
from imgbuilder.errors import GuestCallError, OperationError
from imgbuilder.guests.ports import Guest

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
def private_folder(guest: Guest, *parents: str) -> Iterator[str]:
    """Make a folder in the guest that nobody but root may enter, and remove it afterwards.

    Args:
        guest: The guest.
        parents: Folders to make it in; the first one that is there is taken.

    Raises:
        OperationError: None of them is there, or is writable.
    """
    result = guest.sh(_MAKE_FOLDER.format(parents=" ".join(parents)))
    folder = result.output.strip()
    if result.status != 0 or not _FOLDER.fullmatch(folder) or ".." in folder:
        raise OperationError(
            "no temporary directory could be made in the guest",
            log_tail=result.output,
            hint="is its /tmp there?",
        )
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(GuestCallError):  # the first error is the one to tell
            guest.remove(folder)
        raise
    guest.remove(folder)


@contextlib.contextmanager
def memory_folder(guest: Guest, context: GuestContext) -> Iterator[GuestContext]:
    """Put secrets, proxies and apt's settings where commands find them, as long as the block runs.

    Args:
        guest: The guest, whose commands can be run.
        context: The secrets and proxies.

    Yields:
        The context, with the folder in it; the same one when there is nothing to put there.
    """
    values = {**context.secrets}
    for name, value in context.proxies.items():
        values[name] = values[name.upper()] = value
    if not values and not aptsettings.needed(context):
        yield context
        return
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(values.items()))
    with private_folder(guest, "/run", "/tmp", "/root") as folder:  # noqa: S108 - in the guest
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
    """Write a file in the guest whose content appears in no trace and in no file of the host."""
    with _in_memory() as (descriptor, local):
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        guest.upload(local, path)


def download_end(guest: Guest, path: str, limit: int) -> bytes:
    """Read the last bytes of a file of the guest; they appear in no trace and in no file of the host."""
    with _in_memory() as (_descriptor, local):
        guest.download(path, local, limit=limit, last=True)
        return local.read_bytes()


@contextlib.contextmanager
def _in_memory() -> Iterator[tuple[int, Path]]:
    descriptor = os.memfd_create("pybuilder")
    try:
        # By the path of the descriptor: another process of this user opens it.
        yield descriptor, Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)

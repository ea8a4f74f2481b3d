"""Files of this machine, under the limits of a download (``docs/threat-model.md`` D26)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgbuilder.errors import DiskError, FetchError, FileMissingError, WrongSizeError
from imgbuilder.events import Reporter, ignore
from imgbuilder.fetch.transfer import BETWEEN_TWO_VERSIONS, Fetched, store
from imgbuilder.host import imagelocks
from imgindex.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO


def fetch_local(
    path: Path,
    destination: BinaryIO,
    *,
    limit: int,
    expected: int | None = None,
    on_event: Reporter = ignore,
    label: str = "",
) -> Fetched:
    """Copy a file of this machine under the same limits as a download (``docs/threat-model.md`` D26).

    Symbolic links are followed: the user named the path. FIFOs, devices and folders are refused, since a
    FIFO would block for ever and a device has no end.

    Raises:
        FetchError: It is missing, unreadable, no ordinary file, of another size, changed meanwhile, or the
            disk of a running machine.
    """
    try:
        descriptor = open_regular(path)
    except FileNotFoundError as error:
        raise FileMissingError(
            f"cannot read {path}: {error.strerror}", hint="check the source's uri, and what is in its folder"
        ) from error
    except OSError as error:
        if os.path.isdir(path):  # noqa: PTH112 - Path's own fails where the folder above is closed to us
            hint = f"give the address of a file, such as {path}/index.asc"
            raise FetchError(f"cannot read {path}: it is a folder", hint=hint) from error
        raise FetchError(
            f"cannot read {path}: {error.strerror}", hint="check its permissions, and the source's uri"
        ) from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        try:
            imagelocks.hold(descriptor, path)
        except DiskError as error:
            raise FetchError(error.message, hint=error.hint) from error
        size = copy_open(
            file,
            destination,
            start=0,
            size=os.fstat(descriptor).st_size,
            where=str(path),
            limit=limit,
            expected=expected,
            on_event=on_event,
            label=label,
        )
    return Fetched(str(path), size)


def copy_open(
    file: BinaryIO,
    destination: BinaryIO,
    *,
    start: int,
    size: int,
    where: str,
    limit: int,
    expected: int | None,
    on_event: Reporter,
    label: str,
) -> int:
    """Copy a part of an open file of this machine under the limits of a download.

    Args:
        file: The file, unbuffered.
        destination: Where to write.
        start: Where the part begins.
        size: How many bytes it has.
        where: What it is, for messages.
        limit: Most bytes to accept.
        expected: Exact number of bytes, if known.
        on_event: Called with each event.
        label: Name of the transfer.

    Returns:
        How many bytes it has.

    Raises:
        WrongSizeError: It has another size.
        FetchError: It cannot be read, or changed meanwhile.
    """
    if expected is not None and size != expected:
        raise WrongSizeError(
            f"{where} has {size} bytes; the index promises {expected}", hint=BETWEEN_TWO_VERSIONS
        )
    if size > limit:
        raise WrongSizeError(
            f"{where} is longer than the {limit} bytes that it may have",
            hint="check the source's uri: that is some other file",
        )
    before, position = os.fstat(file.fileno()), start
    whole = start == 0 and size == before.st_size

    def read(count: int) -> bytes:
        nonlocal position
        most = count if whole else min(count, start + size - position)  # a byte more shows a file that grows
        try:
            piece = os.pread(file.fileno(), most, position)
        except OSError as error:
            raise FetchError(
                f"cannot read {where}: {error.strerror}", hint="check that disk (see: dmesg)"
            ) from error
        position += len(piece)
        return piece

    # A file that somebody goes on writing to would never end.
    copied = store(read, destination, where=where, limit=limit, expected=size, on_event=on_event, label=label)
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise FetchError(f"{where} changed while it was read", hint="run the command again")
    return copied

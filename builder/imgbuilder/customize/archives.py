"""Local tar files: how they are compressed, and whether this host can read them."""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imgbuilder.customize import values
from imgbuilder.errors import ToolError, UsageError, WorkspaceError
from imgbuilder.host import process
from imgbuilder.host.paths import temporary_dir
from imgindex.files import open_file

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""First bytes to the name that libguestfs has for the compression."""
_UNPACK_LIMIT = 3600.0
"""Seconds for unpacking."""


def compression(path: Path) -> str | None:
    """Tell how a file is compressed, by its first bytes; None when it is not.

    Raises:
        OSError: It cannot be read.
    """
    with open_file(path) as file:
        start = file.read(6)
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def tar_file(path: Path) -> Path:
    """Accept a local tar file, plain or compressed.

    Raises:
        UsageError: It cannot be read, or is no tar file.
    """
    values.local_file(path)
    try:
        if compression(path) == "zstd":
            return path  # looked at when it is unpacked: this Python may not know zstd
        is_tar = tarfile.is_tarfile(path)
    except (OSError, EOFError) as error:
        raise UsageError(f"the local file {path} cannot be read: {error}") from error
    if not is_tar:
        raise UsageError(
            f"{path} is not a tar file",
            hint="plain tar files, and those compressed with gzip, bzip2, xz or zstd, can be unpacked",
        )
    return path


def check_programs(path: Path) -> None:
    """Check that this host can unpack the file.

    Raises:
        ToolError: A program is missing.
    """
    with contextlib.suppress(OSError):  # a file that has gone is reported when it is used
        if compression(path) == "zstd":
            process.require_program("zstd")


@contextlib.contextmanager
def for_guest(path: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield a tar file that libguestfs can unpack, and how it is compressed.

    libguestfs of some distributions has no zstd in its appliance; such a file is unpacked here.

    Raises:
        WorkspaceError: It cannot be read.
    """
    try:
        packed = compression(path)
    except OSError as error:
        raise WorkspaceError(f"{path} cannot be read: {error.strerror}") from error
    if packed != "zstd":
        yield path, packed
        return
    with tempfile.TemporaryDirectory(prefix="pybuilder-tar-", dir=temporary_dir()) as folder:
        plain = Path(folder) / "plain.tar"
        try:
            process.run(["zstd", "-q", "-d", "-o", str(plain), "--", str(path)], timeout=_UNPACK_LIMIT)
        except ToolError as error:
            raise WorkspaceError(f"{path} cannot be unpacked: {error.message}") from error
        yield plain, None

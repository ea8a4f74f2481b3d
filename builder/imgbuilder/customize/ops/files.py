"""Operations on the content of the guest's files."""

from __future__ import annotations

import contextlib
import posixpath
import re
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize import argforms, values
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import EVERYWHERE, System
from imgbuilder.customize.operation import Operation, require_file, require_no_special, warn_of_volatile
from imgbuilder.customize.registry import operation
from imgbuilder.errors import OperationError, ToolError, UsageError, WorkspaceError
from imgbuilder.guests.ports import Guest
from imgbuilder.host import localtree, process
from imgbuilder.host.paths import temporary_dir
from imgindex.files import open_file

_NEWLINE = re.compile(rb"\r\n|\n|\r")
_NEWLINE_SEARCH = 8192
"""Bytes at the start of a file in which its newline style is looked for."""


_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""libguestfs's names of compressions by the first bytes of a file."""
_UNPACK_LIMIT = 3600.0
"""Seconds for unpacking."""


def compression(path: Path) -> str | None:
    """Return the compression of a file by its first bytes; None if it is not compressed."""
    with open_file(path) as file:
        start = file.read(6)
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def tar_file(path: Path) -> Path:
    """Accept a local tar file, plain or compressed."""
    values.local_file(path)
    try:
        if compression(path) == "zstd":
            return path  # checked when it is unpacked: this Python may not know zstd
        is_tar = tarfile.is_tarfile(path)
    except (OSError, EOFError) as error:
        raise UsageError(f"the local file {path} cannot be read: {error}") from error
    if not is_tar:
        raise UsageError(
            f"{path} is not a tar file",
            hint="use a tar file, plain or compressed with gzip, bzip2, xz or zstd",
        )
    return path


def check_programs(path: Path) -> None:
    """Check that this host can unpack the file."""
    with contextlib.suppress(OSError):  # a file that is gone is reported when it is used
        if compression(path) == "zstd":
            process.require_program("zstd")


@contextlib.contextmanager
def for_guest(path: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield a tar file that libguestfs can unpack, and its compression.

    A zstd file is unpacked here: the appliances of some distributions have no zstd.
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


@operation(
    "append-line", progress="Appending line to {path}", form=argforms.pair("FILE", "LINE"), systems=EVERYWHERE
)
@dataclass(frozen=True)
class AppendLine(Operation):
    """Append a line to a file of the guest.

    The file is created if it is missing. If it does not end with a newline, one is added first, in the
    style of the file (LF, CRLF or CR). An empty LINE appends an empty line.

    Attributes:
        path: The file in the guest.
        line: The line without its newline.
    """

    path: str = field(metadata=values.GUEST_PATH)
    line: str = field(metadata=values.RAW_LINE)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        line = self.line.encode(errors="surrogateescape")
        usual = b"\r\n" if context.facts.system is System.WINDOWS else b"\n"
        if not guest.exists(self.path):
            guest.write(self.path, line + usual)
            warn_of_volatile(guest, self.path, self, context.on_event)
            return
        require_file(guest, self.path, self)
        # One byte more, so that a CRLF across the limit is not mistaken for a CR.
        found = _NEWLINE.search(guest.start_of(self.path, _NEWLINE_SEARCH + 1))
        newline = found[0] if found else usual
        end = guest.end_of(self.path, len(newline))
        start = newline if end and end != newline else b""
        guest.append(self.path, start + line + newline)
        warn_of_volatile(guest, self.path, self, context.on_event)


@operation(
    "copy-in",
    progress="Copying: {local} to {directory}",
    form=argforms.pair(argforms.local("LOCALPATH"), "REMOTEDIR"),
    systems=EVERYWHERE,
)
@dataclass(frozen=True)
class CopyIn(Operation):
    """Copy local files or directories into a directory of the guest.

    REMOTEDIR must exist; --mkdir can make it. Modes, times, links, file capabilities and extended attributes
    in the user namespace are kept. Everything new belongs to root. ACLs are not copied, since they name
    accounts of this host. Directories that exist in the guest keep their modes and owners. If LOCALPATH
    itself is a link, the file or directory that it points to is copied under the link's name. Sockets are
    refused.

    Attributes:
        local: The local file or directory.
        directory: The directory in the guest.
    """

    local: Path = field(metadata=values.LOCAL_TREE)
    directory: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        if not guest.is_dir(self.directory):
            raise OperationError(
                f"--copy-in: {self.directory} is not a directory in the guest",
                hint=f"put --mkdir {self.directory} before it",
            )
        guest.copy_in(self.local, self.directory)
        warn_of_volatile(guest, self.directory, self, context.on_event)


@operation("scrub", progress="Scrubbing: {path}", form=argforms.single("FILE"))
@dataclass(frozen=True)
class Scrub(Operation):
    """Scrub a file of the guest: overwrite it, then remove it.

    The file must be a regular one. Links are followed, and the link itself stays. Copies of the content
    elsewhere in the image, for example in a journal, are not found.

    Attributes:
        path: The file.
    """

    path: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        require_file(guest, self.path, self)
        guest.scrub(self.path)
        if guest.exists(self.path):
            raise OperationError(f"--scrub: {self.path} is still in the guest after its removal")


@operation(
    "tar-in",
    progress="Unpack tar file: {archive} to {directory}",
    form=argforms.pair(argforms.local("TARFILE"), "REMOTEDIR"),
)
@dataclass(frozen=True)
class TarIn(Operation):
    """Unpack a local tar file into a directory of the guest.

    REMOTEDIR must exist; --mkdir can make it. The tar file may be compressed with gzip, bzip2, xz or zstd.
    Owners, modes and extended attributes are taken from the tar file.

    Attributes:
        archive: The local tar file.
        directory: The directory in the guest.
    """

    archive: Path = field(metadata={"rule": tar_file})
    directory: str = field(metadata=values.GUEST_PATH)

    def check_host(self) -> None:
        check_programs(self.archive)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        if not guest.is_dir(self.directory):
            raise OperationError(
                f"--tar-in: {self.directory} is not a directory in the guest",
                hint=f"put --mkdir {self.directory} before it",
            )
        with for_guest(self.archive) as (path, compress):
            guest.tar_in(path, self.directory, compress=compress)


@operation("touch", progress="Running touch: {path}", form=argforms.single("FILE"), systems=EVERYWHERE)
@dataclass(frozen=True)
class Touch(Operation):
    """Touch a file of the guest.

    The file is created if it is missing; otherwise its times are set to now.

    Attributes:
        path: The file.
    """

    path: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        guest.touch(self.path)


@operation("truncate", progress="Truncating: {path}", form=argforms.single("FILE"), systems=EVERYWHERE)
@dataclass(frozen=True)
class Truncate(Operation):
    """Make a file of the guest empty.

    The file must exist; it keeps its owner and permissions.

    Attributes:
        path: The file.
    """

    path: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        require_file(guest, self.path, self)
        guest.truncate(self.path)


@operation(
    "truncate-recursive",
    progress="Recursively truncating: {path}",
    form=argforms.single("DIR"),
    systems=EVERYWHERE,
)
@dataclass(frozen=True)
class TruncateRecursive(Operation):
    """Make all files below a directory of the guest empty.

    Only regular files are emptied; links are not followed, except DIR itself.

    Attributes:
        path: The directory.
    """

    path: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        if not guest.is_dir(self.path):
            raise OperationError(f"--truncate-recursive: {self.path} is not a directory in the guest")
        for path in guest.files_below(self.path):
            if guest.stat(path).size:
                guest.truncate(path)


@operation(
    "upload",
    progress="Uploading: {local} to {destination}",
    form=argforms.pair(argforms.local("FILE"), "DEST"),
    systems=EVERYWHERE,
)
@dataclass(frozen=True)
class Upload(Operation):
    """Upload a local file into the guest.

    If DEST is a directory, the file keeps its name there. The file keeps its permissions, capabilities and
    extended attributes in the user namespace, and belongs to root (virt-builder keeps the number of its
    owner on this host, which is a different user in the guest, or none).

    Attributes:
        local: The local file.
        destination: The file or directory in the guest.
    """

    local: Path = field(metadata=values.LOCAL_FILE)
    destination: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        path = self.destination
        if guest.is_dir(path):
            path = posixpath.join(path, self.local.name)
        try:
            mode = stat.S_IMODE(self.local.stat().st_mode)
        except OSError as error:
            raise UsageError(f"--upload: {self.local}: {error.strerror}") from error
        require_no_special(guest, path, self)
        guest.upload(self.local, path)
        # In this order: a change of owner clears the set-user-id bit.
        guest.chown(0, 0, path)
        guest.chmod(mode, path)
        real = guest.realpath(path)
        if localtree.attributes(self.local.resolve()):
            guest.copy_in(self.local, posixpath.dirname(real), name=posixpath.basename(real))
        warn_of_volatile(guest, path, self, context.on_event)


@operation("write", progress="Writing: {path}", form=argforms.pair("FILE", "CONTENT"), systems=EVERYWHERE)
@dataclass(frozen=True)
class Write(Operation):
    """Write a file in the guest.

    CONTENT is written as it is, without a newline at the end. An existing file is overwritten and keeps its
    owner and permissions.

    Attributes:
        path: The file in the guest.
        content: Its content.
    """

    path: str = field(metadata=values.GUEST_PATH)
    content: str = field(metadata=values.RAW_TEXT)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        require_no_special(guest, self.path, self)
        guest.write(self.path, self.content.encode(errors="surrogateescape"))
        warn_of_volatile(guest, self.path, self, context.on_event)

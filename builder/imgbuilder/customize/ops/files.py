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
from imgbuilder.customize.operation import OperationBase, require_file, require_no_special, warn_of_volatile
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


@operation("append-line", form=argforms.pair("FILE", "LINE"))
@dataclass(frozen=True)
class AppendLine(OperationBase):
    """Append a line to a file of the guest.

    The file is created when it is missing. When it does not end with a newline, one is added first; the
    file's own style of newline (LF, CRLF or CR) is used. An empty LINE appends an empty line.

    Attributes:
        path: The file in the guest.
        line: The line without its newline.
    """

    path: str = field(metadata=values.GUEST_PATH)
    line: str = field(metadata=values.RAW_LINE)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Appending line to {self.path}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Append the line."""
        line = self.line.encode(errors="surrogateescape")
        if not guest.exists(self.path):
            guest.write(self.path, line + b"\n")
            warn_of_volatile(guest, self.path, self, context.on_event)
            return
        require_file(guest, self.path, self)
        # One byte more, so that a CRLF across the limit is not taken for a CR.
        found = _NEWLINE.search(guest.start_of(self.path, _NEWLINE_SEARCH + 1))
        newline = found[0] if found else b"\n"
        end = guest.end_of(self.path, len(newline))
        start = newline if end and end != newline else b""
        guest.append(self.path, start + line + newline)
        warn_of_volatile(guest, self.path, self, context.on_event)


@operation("copy-in", form=argforms.pair(argforms.local("LOCALPATH"), "REMOTEDIR"))
@dataclass(frozen=True)
class CopyIn(OperationBase):
    """Copy local files or directories into a directory of the guest.

    REMOTEDIR must exist; it can be made by --mkdir. Modes, times, links, file capabilities and the user's
    extended attributes are kept; all that is new belongs to root, and ACLs, which name accounts of this
    host, are not copied. Directories that the guest has already keep their own modes and owners. Of
    LOCALPATH itself, when it is a link, what it points to is copied, under the link's name. Sockets are
    refused.

    Attributes:
        local: The local file or directory.
        directory: The directory in the guest.
    """

    local: Path = field(metadata=values.LOCAL_TREE)
    directory: str = field(metadata=values.GUEST_PATH)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Copying: {self.local} to {self.directory}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Copy the file or tree."""
        if not guest.is_dir(self.directory):
            raise OperationError(
                f"--copy-in: {self.directory} is not a directory in the guest",
                hint=f"put --mkdir {self.directory} before it",
            )
        guest.copy_in(self.local, self.directory)
        warn_of_volatile(guest, self.directory, self, context.on_event)


@operation("scrub", form=argforms.single("FILE"))
@dataclass(frozen=True)
class Scrub(OperationBase):
    """Scrub a file of the guest: overwrite it, then remove it.

    The file must be a regular one; links are followed, and a link itself stays. What other files of the
    image hold of the same content, such as a journal or a copy, is not found.

    Attributes:
        path: The file.
    """

    path: str = field(metadata=values.GUEST_PATH)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Scrubbing: {self.path}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Overwrite and remove the file, and make sure that it is gone (Z6)."""
        require_file(guest, self.path, self)
        guest.scrub(self.path)
        if guest.exists(self.path):
            raise OperationError(f"--scrub: {self.path} is still in the guest after its removal")


@operation("tar-in", form=argforms.pair(argforms.local("TARFILE"), "REMOTEDIR"))
@dataclass(frozen=True)
class TarIn(OperationBase):
    """Unpack a local tar file into a directory of the guest.

    REMOTEDIR must exist; it can be made by --mkdir. The tar file may be compressed with gzip, bzip2, xz or
    zstd. Owners, modes and extended attributes are those of the tar file.

    Attributes:
        archive: The local tar file.
        directory: The directory in the guest.
    """

    archive: Path = field(metadata={"rule": tar_file})
    directory: str = field(metadata=values.GUEST_PATH)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Unpack tar file: {self.archive} to {self.directory}"

    def check_host(self) -> None:
        """Check that this host can unpack it."""
        check_programs(self.archive)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Unpack the archive."""
        if not guest.is_dir(self.directory):
            raise OperationError(
                f"--tar-in: {self.directory} is not a directory in the guest",
                hint=f"put --mkdir {self.directory} before it",
            )
        with for_guest(self.archive) as (path, compress):
            guest.tar_in(path, self.directory, compress=compress)


@operation("touch", form=argforms.single("FILE"))
@dataclass(frozen=True)
class Touch(OperationBase):
    """Touch a file of the guest.

    The file is created when it is missing; else its times are set to now.

    Attributes:
        path: The file.
    """

    path: str = field(metadata=values.GUEST_PATH)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Running touch: {self.path}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Touch the file."""
        guest.touch(self.path)


@operation("truncate", form=argforms.single("FILE"))
@dataclass(frozen=True)
class Truncate(OperationBase):
    """Make a file of the guest empty.

    The file must exist; it keeps its owner and permissions.

    Attributes:
        path: The file.
    """

    path: str = field(metadata=values.GUEST_PATH)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Truncating: {self.path}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Empty the file."""
        require_file(guest, self.path, self)
        guest.truncate(self.path)


@operation("truncate-recursive", form=argforms.single("DIR"))
@dataclass(frozen=True)
class TruncateRecursive(OperationBase):
    """Make all files below a directory of the guest empty.

    Only regular files are emptied; links are not followed, except DIR itself.

    Attributes:
        path: The directory.
    """

    path: str = field(metadata=values.GUEST_PATH)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Recursively truncating: {self.path}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Empty the files."""
        if not guest.is_dir(self.path):
            raise OperationError(f"--truncate-recursive: {self.path} is not a directory in the guest")
        for path in guest.files_below(self.path):
            if guest.stat(path).size:
                guest.truncate(path)


@operation("upload", form=argforms.pair(argforms.local("FILE"), "DEST"))
@dataclass(frozen=True)
class Upload(OperationBase):
    """Upload a local file into the guest.

    When DEST is a directory, the file keeps its name there. The file keeps its permissions, its
    capabilities and the user's extended attributes, and belongs to root (virt-builder gives it the number
    that its owner has on this host, which means another user, or none, in the guest).

    Attributes:
        local: The local file.
        destination: The file or directory in the guest.
    """

    local: Path = field(metadata=values.LOCAL_FILE)
    destination: str = field(metadata=values.GUEST_PATH)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Uploading: {self.local} to {self.destination}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Copy the file and set its owner and mode."""
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


@operation("write", form=argforms.pair("FILE", "CONTENT"))
@dataclass(frozen=True)
class Write(OperationBase):
    """Write a file in the guest.

    CONTENT is written as it is, without a newline at its end. An existing file is replaced, and keeps its
    owner and permissions.

    Attributes:
        path: The file in the guest.
        content: Its content.
    """

    path: str = field(metadata=values.GUEST_PATH)
    content: str = field(metadata=values.RAW_TEXT)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Writing: {self.path}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Write the file."""
        require_no_special(guest, self.path, self)
        guest.write(self.path, self.content.encode(errors="surrogateescape"))
        warn_of_volatile(guest, self.path, self, context.on_event)

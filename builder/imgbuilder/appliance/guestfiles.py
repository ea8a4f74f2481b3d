"""Files of the guest: questions and changes."""

from __future__ import annotations

import posixpath
import shlex
import stat
import tarfile
import uuid
from typing import TYPE_CHECKING

from imgbuilder.appliance import tarpaths
from imgbuilder.appliance.calls import LONG, Calls
from imgbuilder.errors import GuestCallError, WorkspaceError
from imgbuilder.guest import FileStatus

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 2 * 1024 * 1024
"""Bytes per request: one message of libguestfs holds 4 MiB."""
_MEMORY = "64m"
"""Size of a filesystem in the appliance's memory."""


class GuestFiles(Calls):
    """The ``GuestFiles`` part of the port over libguestfs calls."""

    # Guest: questions

    def exists(self, path: str) -> bool:
        """Tell whether ``path`` is there (links followed)."""
        return bool(self._call("exists", path))

    def is_file(self, path: str) -> bool:
        """Tell whether ``path`` is a regular file (links followed)."""
        return bool(self._call("is_file", path, followsymlinks=True))

    def is_symlink(self, path: str) -> bool:
        """Tell whether ``path`` itself is a symbolic link."""
        return bool(self._call("is_symlink", path))

    def realpath(self, path: str) -> str:
        """Resolve all links inside the guest; the file must exist."""
        return self._resolve(path)

    def readlink(self, path: str) -> str:
        """Return the target of the symbolic link ``path``."""
        return str(self._call("readlink", path))

    def stat(self, path: str) -> FileStatus:
        """Return facts about ``path`` (links followed)."""
        facts = self._call("statns", path)
        return FileStatus(
            mode=facts["st_mode"], uid=facts["st_uid"], gid=facts["st_gid"], size=facts["st_size"]
        )

    def ls(self, path: str) -> list[str]:
        """Return the names in the directory ``path``, sorted."""
        return sorted(self._call("ls", path))

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a shell pattern, sorted; none is no error."""
        return sorted(self._call("glob_expand", pattern, directoryslash=False))

    def read(self, path: str) -> bytes:
        """Return the content of a file of at most a few MiB."""
        # libguestfs's read_file goes through a temporary file on the host and takes ten times as long.
        pieces: list[bytes] = []
        while not pieces or len(pieces[-1]) == _PIECE:
            pieces.append(self._call("pread", path, _PIECE, len(pieces) * _PIECE))
        return b"".join(pieces)

    def start_of(self, path: str, size: int) -> bytes:
        """Return the first ``size`` bytes of a file, or all of a shorter one; at most 2 MiB."""
        return bytes(self._call("pread", path, size, 0))

    # Guest: changes

    def write(self, path: str, content: bytes) -> None:
        """Replace or create a file; an existing one keeps its mode and owner."""
        self._put("write", path, content)

    def append(self, path: str, content: bytes) -> None:
        """Add to the end of a file, which is created when missing."""
        self._put("write_append", path, content)

    def _put(self, method: str, path: str, content: bytes) -> None:
        self._call(method, path, content[:_PIECE])
        for start in range(_PIECE, len(content), _PIECE):
            self._call("write_append", path, content[start : start + _PIECE])

    def upload(self, local: Path, path: str) -> None:
        """Copy a local file into the guest; the parent directory must exist."""
        self._call("upload", str(local), path, limit=LONG)

    def download(self, path: str, local: Path) -> None:
        """Copy a file of the guest to a local file."""
        self._call("download", path, str(local), limit=LONG)

    def copy_in(self, local: Path, directory: str) -> None:
        """Copy a local file or tree into an existing directory of the guest, keeping modes."""

        def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
            # The host's user numbers mean nothing in the guest, or worse, somebody else.
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            return member

        archive = self._scratch / f"copy-{uuid.uuid4().hex}.tar"
        try:
            try:
                with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
                    tar.add(local, arcname=local.resolve().name, filter=owned_by_root)
            except OSError as error:
                raise WorkspaceError(f"{local} cannot be copied: {error}") from error
            self.tar_in(archive, directory)
        finally:
            archive.unlink(missing_ok=True)

    def tar_in(self, local: Path, directory: str, *, compress: str | None = None) -> None:
        """Unpack a local tar file into a directory of the guest, with owners, modes and attributes."""
        target = self._resolve(directory)
        placed = self._scratch / f"placed-{uuid.uuid4().hex}.tar"
        try:
            archive = local
            # Nothing can be in the way in an empty folder, such as a new filesystem.
            if set(self.ls(target)) - {"lost+found"} and tarpaths.redirect(local, target, self, placed):
                archive, target, compress = placed, "/", None
            self._call(
                "tar_in",
                str(archive),
                target,
                xattrs=True,
                acls=True,
                limit=LONG,
                label=f"unpacking {local.name}",
                **({} if compress is None else {"compress": compress}),
            )
        finally:
            placed.unlink(missing_ok=True)

    def scrub(self, path: str) -> None:
        """Overwrite the content of a regular file on the disk, and remove it."""
        if not self.supports("scrub"):
            raise GuestCallError(
                "the appliance has no scrub program", hint="install the package scrub on this host"
            )
        self._call("scrub_file", self._resolve(path), limit=LONG)

    def files_below(self, path: str) -> list[str]:
        """Return the paths of all regular files below a directory, sorted; links are not followed."""
        root = self._resolve(path)
        listing = self._scratch / f"find-{uuid.uuid4().hex}"
        try:
            self._call("find0", root, str(listing), limit=LONG)
            found = [name for name in listing.read_text(errors="surrogateescape").split("\0") if name]
        finally:
            listing.unlink(missing_ok=True)
        folders: dict[str, list[str]] = {}
        for name in found:
            # The names begin with a slash, whatever libguestfs's own manual says of "relative".
            folder, last = posixpath.split(posixpath.join(root, name.lstrip("/")))
            folders.setdefault(folder, []).append(last)
        files = []
        for folder, names in folders.items():
            facts = self._call("lstatnslist", folder, names)
            files += [
                posixpath.join(folder, name)
                for name, fact in zip(names, facts, strict=True)
                if stat.S_ISREG(fact["st_mode"])
            ]
        return sorted(files)

    def replace(self, path: str, content: bytes) -> None:
        """Replace an existing regular file at once, keeping mode, owner and extended attributes."""
        target = self._resolve(path)
        temporary = str(self._call("mktemp", posixpath.join(posixpath.dirname(target), ".pybuilderXXXXXX")))
        try:
            self.write(temporary, content)
            self._call("copy_attributes", target, temporary, all=True)
            # It sets the owner last, which takes set-user-id bits away.
            self._call("chmod", self.stat(target).mode & 0o7777, temporary)
            self._call("rename", temporary, target)
        except GuestCallError:
            self._call("rm_f", temporary)
            raise

    def touch(self, path: str) -> None:
        """Create an empty file, or set the times of an existing one."""
        self._call("touch", path)

    def truncate(self, path: str) -> None:
        """Make an existing file empty."""
        self._call("truncate", path)

    def mkdir_p(self, path: str) -> None:
        """Create a directory and its parents; an existing directory is no error."""
        self._call("mkdir_p", path)

    def mkdir_mode(self, path: str, mode: int) -> None:
        """Create one directory with exactly this mode; the parent must exist."""
        self._call("mkdir_mode", path, mode)
        self._call("chmod", mode, path)

    def chmod(self, mode: int, path: str) -> None:
        """Set permission bits."""
        self._call("chmod", mode, path)

    def chown(self, uid: int, gid: int, path: str) -> None:
        """Set owner and group by number."""
        self._call("chown", uid, gid, path)

    def remove(self, path: str) -> None:
        """Remove a file or tree (a link itself, not its target); a missing one is no error."""
        if not self.is_symlink(path) and not self.exists(path):
            return
        self._call("rm_rf", self._resolve_parent(path), limit=LONG)

    def copy(self, source: str, destination: str) -> None:
        """Copy a file or tree inside the guest like ``cp -a``."""
        self._call("cp_a", self._resolve_parent(source), self._resolve_destination(destination), limit=LONG)

    def move(self, source: str, destination: str) -> None:
        """Rename inside the guest like ``mv``."""
        self._call("mv", self._resolve_parent(source), self._resolve_destination(destination), limit=LONG)

    def symlink(self, target: str, link: str) -> None:
        """Make ``link`` point to ``target``, replacing an existing file like ``ln -sf``."""
        self._call("ln_sf", target, self._resolve_parent(link))

    def relabel(self, specification: str) -> bool:
        """Give all files of the mounted filesystems their SELinux labels, with the appliance's setfiles."""
        if not self.supports("selinuxrelabel"):
            return False
        for path in sorted(self._call("mountpoints").values()):
            self._call("selinux_relabel", specification, path, force=True, limit=LONG)
        return True

    def mount_memory(self, path: str) -> None:
        """Mount an empty filesystem in the appliance's memory on a directory; only root may enter it."""
        # libguestfs has no call for it; its umount_all finds the mount and takes it away, too.
        place = shlex.quote(f"/sysroot{self._resolve(path)}")
        self._call(
            "debug", "sh", [f"mount -t tmpfs -o mode=0700,nosuid,nodev,size={_MEMORY} pybuilder {place}"]
        )

    def unmount(self, path: str) -> None:
        """Unmount what ``mount_memory`` mounted; its content is lost."""
        # A daemon that a command left behind may write into it for ever: then it only loses its name.
        place = shlex.quote(f"/sysroot{self._resolve(path)}")
        self._call("debug", "sh", [f"umount {place} 2>/dev/null || umount -l {place}"])

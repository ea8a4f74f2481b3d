"""Reads and changes files of the guest."""

from __future__ import annotations

import posixpath
import shlex
import stat
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from imgbuilder.appliance import tarpaths
from imgbuilder.appliance.connection import LONG, Calls
from imgbuilder.errors import GuestCallError
from imgbuilder.guests.ports import LARGEST_TEXT, FileStatus
from imgbuilder.host import localtree

_PIECE = 2 * 1024 * 1024
"""Bytes per request: one message of libguestfs holds 4 MiB."""
_SETFILES = """\
flags=-F
for flag in q m C; do setfiles -$flag 2>&1 | grep -q 'invalid option' || flags="$flags -$flag"; done
setfiles $flags -e /sysroot/dev -e /sysroot/proc -e /sysroot/sys {excluded} -r /sysroot {specification} {path}
[ $? -le 1 ]"""
"""The command that libguestfs runs to relabel; with status 1 some files could not be labelled."""
_MEMORY = "64m"
"""Size of a filesystem in the appliance's memory."""


def _too_large(path: str, size: int, limit: int) -> GuestCallError:
    return GuestCallError(
        f"{path} of the guest has {size} bytes, more than the {limit} that are read", errno_name="EFBIG"
    )


class GuestFiles(Calls):
    """The ``GuestFiles`` part of the port over libguestfs calls."""

    # Reading

    def exists(self, path: str) -> bool:
        return self._mode(path) != 0

    def is_file(self, path: str) -> bool:
        return stat.S_ISREG(self._mode(path))

    def is_symlink(self, path: str) -> bool:
        return stat.S_ISLNK(self._mode(path, follow=False))

    def realpath(self, path: str) -> str:
        return self._resolve(path)

    def readlink(self, path: str) -> str:
        return str(self._call("readlink", path))

    def stat(self, path: str) -> FileStatus:
        facts = self._call("statns", path)
        return FileStatus(
            mode=facts["st_mode"], uid=facts["st_uid"], gid=facts["st_gid"], size=facts["st_size"]
        )

    def _size(self, path: str) -> int:
        """Return the size of a regular file; to open a pipe or a device might never end."""
        facts = self.stat(path)
        if not stat.S_ISREG(facts.mode):
            raise GuestCallError(f"{path}: not a regular file", errno_name="EINVAL")
        return facts.size

    def ls(self, path: str) -> list[str]:
        return sorted(self._call("ls", path))

    def glob(self, pattern: str) -> list[str]:
        return sorted(self._call("glob_expand", pattern, directoryslash=False))

    def read(self, path: str, *, limit: int = LARGEST_TEXT) -> bytes:
        size = self._size(path)
        # libguestfs's read_file uses a temporary file on the host and is ten times slower.
        content = bytearray()
        while size <= limit:  # a program in the guest may still write to it
            piece = self._call("pread", path, _PIECE, len(content))
            content += piece
            size = max(size, len(content))
            if len(piece) < _PIECE:
                return bytes(content)
        raise _too_large(path, size, limit)

    def start_of(self, path: str, size: int) -> bytes:
        self._size(path)
        return bytes(self._call("pread", path, min(size, _PIECE), 0))

    def end_of(self, path: str, size: int) -> bytes:
        size = min(size, _PIECE)
        return bytes(self._call("pread", path, size, max(0, self._size(path) - size)))

    # Changing

    def write(self, path: str, content: bytes) -> None:
        self._put("write", path, content)

    def append(self, path: str, content: bytes) -> None:
        self._put("write_append", path, content)

    def _check_writable(self, path: str) -> None:
        """Check that ``path`` is a regular file or does not exist; writing to a pipe might never end."""
        try:
            self._size(path)
        except GuestCallError as error:
            if error.errno_name != "ENOENT":
                raise

    def _put(self, method: str, path: str, content: bytes) -> None:
        self._check_writable(path)
        self._call(method, path, content[:_PIECE])
        for start in range(_PIECE, len(content), _PIECE):
            self._call("write_append", path, content[start : start + _PIECE])

    def upload(self, local: Path, path: str) -> None:
        self._check_writable(path)
        self._call("upload", self._local(local), path, limit=LONG)

    def download(self, path: str, local: Path, *, limit: int, last: bool = False) -> None:
        size = self._size(path)
        if size > limit and not last:
            raise _too_large(path, size, limit)
        kept, target = min(size, limit), self._local(local)
        # A fixed number of bytes, because a program in the guest may still write to it.
        self._call("download_offset", path, target, size - kept, kept, most=max(1, limit), limit=LONG)

    def copy_in(self, local: Path, directory: str, *, name: str | None = None) -> None:
        archive = self._scratch / f"copy-{uuid.uuid4().hex}.tar"
        try:
            localtree.pack(local, archive, name or localtree.name_of(local))
            # Otherwise a folder such as /etc would get the mode of a folder on this host.
            self._unpack(archive, directory, keep_folders=True)
        finally:
            archive.unlink(missing_ok=True)

    def tar_in(self, local: Path, directory: str, *, compress: str | None = None) -> None:
        self._unpack(local, directory, compress=compress)

    def _unpack(
        self, local: Path, directory: str, *, compress: str | None = None, keep_folders: bool = False
    ) -> None:
        target = self._resolve(directory)
        placed = self._scratch / f"placed-{uuid.uuid4().hex}.tar"
        try:
            archive = local
            # In an empty folder, such as a new filesystem, there are no links.
            if set(self.ls(target)) - {"lost+found"} and tarpaths.redirect(
                local, target, self, placed, keep_folders=keep_folders
            ):
                archive, target, compress = placed, "/", None
            options: dict[str, Any] = {} if compress is None else {"compress": compress}
            self._call(
                "tar_in",
                self._local(archive),
                target,
                xattrs=True,
                acls=True,
                limit=LONG,
                label=f"unpacking {local.name}",
                **options,
            )
        finally:
            placed.unlink(missing_ok=True)

    def scrub(self, path: str) -> None:
        if not self.supports("scrub"):
            raise GuestCallError(
                "the appliance has no scrub program", hint="install the package scrub on this host"
            )
        self._call("scrub_file", self._resolve(path), limit=LONG)

    def files_below(self, path: str) -> list[str]:
        root = self._resolve(path)
        listing = self._scratch / f"find-{uuid.uuid4().hex}"
        try:
            self._call("find0", root, str(listing), limit=LONG)
            found = [name for name in listing.read_text(errors="surrogateescape").split("\0") if name]
        finally:
            listing.unlink(missing_ok=True)
        # The names begin with a slash, although libguestfs's manual calls them relative.
        paths = [posixpath.join(root, name.lstrip("/")) for name in found]
        return sorted(path for path, mode in self._modes(paths).items() if stat.S_ISREG(mode))

    def _modes(self, paths: Iterable[str]) -> dict[str, int]:
        """Return the types and modes of files (links not followed); missing files are left out."""
        folders: dict[str, list[str]] = {}
        for path in paths:
            folder, name = posixpath.split(path)
            folders.setdefault(folder, []).append(name)
        modes = {}
        for folder, names in folders.items():
            facts = self._call("lstatnslist", folder, names)
            modes.update(
                {
                    posixpath.join(folder, name): fact["st_mode"]
                    for name, fact in zip(names, facts, strict=True)
                    if fact["st_ino"] != -1
                }
            )
        return modes

    def replace(self, path: str, content: bytes) -> None:
        target = self._resolve(path)
        if self._call("statns", target)["st_nlink"] > 1:  # all its names must show the same content
            self.write(target, content)
            return
        temporary = str(self._call("mktemp", posixpath.join(posixpath.dirname(target), ".pybuilderXXXXXX")))
        try:
            self.write(temporary, content)
            self._call("copy_attributes", target, temporary, all=True)
            # It sets the owner last, which clears set-user-id bits.
            self._call("chmod", self.stat(target).mode & 0o7777, temporary)
            self._call("rename", temporary, target)
        except GuestCallError:
            self._call("rm_f", temporary)
            raise

    def touch(self, path: str) -> None:
        self._call("touch", path)

    def truncate(self, path: str) -> None:
        self._size(path)
        self._call("truncate", path)

    def mkdir_p(self, path: str) -> None:
        self._call("mkdir_p", path)

    def mkdir_mode(self, path: str, mode: int) -> None:
        self._call("mkdir_mode", path, mode)
        self._call("chmod", mode, path)

    def chmod(self, mode: int, path: str) -> None:
        self._call("chmod", mode, path)

    def chown(self, uid: int, gid: int, path: str) -> None:
        self._call("chown", uid, gid, path)

    def remove(self, path: str) -> None:
        if not self.is_symlink(path) and not self.exists(path):
            return
        self._call("rm_rf", self._resolve_parent(path), limit=LONG)

    def copy(self, source: str, destination: str) -> None:
        origin = self._resolve_parent(source)
        place = self._place(origin, destination)
        if self.is_symlink(place):
            # cp would follow it to a path outside the guest.
            if self.is_symlink(origin):
                self._call("rm_f", place)
            elif self.is_file(origin) and self.is_file(place):
                place = self._resolve(place)
            else:
                raise GuestCallError(f"{place} is a link, and {source} cannot be copied through it")
        elif self.is_dir(place):
            if self.is_dir(origin) and not self.is_symlink(origin):
                self._refuse_links(origin, place)
            place = posixpath.dirname(place)  # cp adds the name of the source
        elif self.exists(place) and not self.is_file(place):
            raise GuestCallError(f"{place} is a device or a pipe in the guest")
        self._call("cp_a", origin, place, limit=LONG)

    def _place(self, origin: str, destination: str) -> str:
        """Return the path that ``cp`` and ``mv`` write to: in a directory, with the name of the source."""
        if not self.is_dir(destination):
            return self._resolve_parent(destination)
        return posixpath.join(self._resolve(destination), posixpath.basename(origin))

    def _refuse_links(self, origin: str, place: str) -> None:
        """Refuse to copy a tree over one that has links with the names of its files."""
        there = [place + path[len(origin) :] for path in self.files_below(origin)]
        folders = {folder for folder in map(posixpath.dirname, there) if self.is_dir(folder)}
        for path, mode in self._modes(path for path in there if posixpath.dirname(path) in folders).items():
            if stat.S_ISLNK(mode):
                raise GuestCallError(
                    f"{path} is a link, and a file of {origin} would be written through it",
                    hint=f"delete the link first: --delete {path}",
                )

    def move(self, source: str, destination: str) -> None:
        origin = self._resolve_parent(source)
        place = self._place(origin, destination)
        if origin == place:
            raise GuestCallError(f"{source} and {destination} are the same file")
        try:
            self._call("rename", origin, place)
        except GuestCallError as error:
            if error.errno_name != "EXDEV":
                raise
            if self.is_dir(place):
                raise GuestCallError(f"{place} is a directory already", errno_name="EEXIST") from error
            self._call("rm_f", place)  # mv would follow a link there to a path outside the guest
            self._call("mv", origin, place, limit=LONG)
        if self.is_symlink(origin) or self.exists(origin):  # rename(2) does nothing to two names of one file
            self._call("rm_f", origin)

    def symlink(self, target: str, link: str) -> None:
        place = self._resolve_parent(link)
        if self.is_symlink(place) or not self.is_dir(place):
            self._call("rm_f", place)
        else:
            raise GuestCallError(f"{link} is a directory", errno_name="EISDIR")
        self._call("ln_s", target, place)

    def relabel(self, specification: str, excluded: Sequence[str] = ()) -> bool:
        if not self.supports("selinuxrelabel"):
            return False
        places = [f"/sysroot{self._resolve(path)}" for path in excluded if self.exists(path)]
        for path in sorted(self._call("mountpoints").values()):
            if places:
                # libguestfs's call has no excludes; this is the command that it runs.
                command = _SETFILES.format(
                    excluded=" ".join(f"-e {shlex.quote(place)}" for place in places),
                    specification=shlex.quote(f"/sysroot{specification}"),
                    path=shlex.quote(f"/sysroot{path}"),
                )
                self._call("debug", "sh", [command], limit=LONG)
            else:
                self._call("selinux_relabel", specification, path, force=True, limit=LONG)
        return True

    def mount_memory(self, path: str) -> None:
        # libguestfs has no call for it; its umount_all also unmounts this.
        place = shlex.quote(f"/sysroot{self._resolve(path)}")
        self._call(
            "debug", "sh", [f"mount -t tmpfs -o mode=0700,nosuid,nodev,size={_MEMORY} pybuilder {place}"]
        )

    def unmount(self, path: str) -> None:
        # A daemon that a command left may keep it busy: then it is only detached.
        place = shlex.quote(f"/sysroot{self._resolve(path)}")
        self._call("debug", "sh", [f"umount {place} 2>/dev/null || umount -l {place}"])

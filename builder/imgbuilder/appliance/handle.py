"""The ``Appliance`` port over libguestfs calls.

libguestfs resolves most paths inside the guest, but not all: ``cp_a``, ``mv``,
``rm_rf`` and ``tar_in`` build a path of the appliance, where an absolute link
of the guest leads out of it and data is lost without an error
(``reliability.md`` F19). Their arguments are resolved by ``realpath`` first,
which is answered inside the guest.
"""

from __future__ import annotations

import posixpath
import shlex
import stat
import tarfile
import uuid
from typing import TYPE_CHECKING, Any

from imgbuilder.appliance import tarpaths
from imgbuilder.appliance.kernelmessages import lost_writes
from imgbuilder.errors import GuestCallError, GuestError, WorkspaceError
from imgbuilder.guest import CommandResult, FileStatus, FilesystemUse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgbuilder.appliance.connection import Connection

_LONG = 3600.0
"""Seconds without progress for calls that move or check whole filesystems."""
_PIECE = 2 * 1024 * 1024
"""Bytes per request: one message of libguestfs holds 4 MiB."""
_INLINE_SCRIPT = 64 * 1024
"""Bytes of a script that are passed as an argument; the kernel's limit is 128 KiB with quoting."""
_OUTPUT_TAIL = 64 * 1024
_MEMORY = "64m"
"""Size of a filesystem in the appliance's memory."""

_FOLLOW = """\
followed=FILE
: >>"$followed"
start=$(($(wc -c <"$followed") + 1))
sleep 2147483647 & beat=$!
tail -c "+$start" -s 0.3 -f --pid="$beat" "$followed" >/dev/console 2>/dev/null </dev/null & reader=$!
"""
"""The appliance's console is the one way out while a request runs; whatever arrives there is reported."""

_FOLLOW_END = """\
kill "$beat"
( trap 'kill $!; exit' TERM; sleep 10 & wait $!; kill "$reader" ) >/dev/null 2>&1 & limit=$!
wait "$reader"
[ "$?" != 1 ] || tail -c "+$start" "$followed" >/dev/console
kill "$limit" 2>/dev/null
wait "$limit"
"""
"""Let the reader catch up, but never for long; status 1 is that of a tail that does not know --pid.

No process may stay behind: it would keep the guest's filesystems busy.
"""


class LibguestfsAppliance:
    """A launched appliance. Made by ``open_appliance``.

    Args:
        connection: The worker that holds the launched handle.
        scratch: Private local folder for temporary files.
    """

    def __init__(self, connection: Connection, scratch: Path) -> None:
        self._connection = connection
        self._scratch = scratch

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the binding returns it
        return self._connection.call(method, *args, **kwargs)

    # Paths

    def _resolve(self, path: str) -> str:
        """Resolve an existing path wholly."""
        return str(self._call("realpath", path))

    def _resolve_parent(self, path: str) -> str:
        """Resolve all but the last part, so that a link itself can be named."""
        parent, name = posixpath.split(posixpath.normpath(path))
        if not name:
            return "/"
        return posixpath.join(self._resolve(parent), name)

    def _resolve_destination(self, path: str) -> str:
        """Resolve where ``cp`` or ``mv`` would put something: into a directory, or under a new name."""
        return self._resolve(path) if self.is_dir(path) else self._resolve_parent(path)

    # Guest: questions

    def exists(self, path: str) -> bool:
        """Tell whether ``path`` is there (links followed)."""
        return bool(self._call("exists", path))

    def is_file(self, path: str) -> bool:
        """Tell whether ``path`` is a regular file (links followed)."""
        return bool(self._call("is_file", path, followsymlinks=True))

    def is_dir(self, path: str) -> bool:
        """Tell whether ``path`` is a directory (links followed)."""
        return bool(self._call("is_dir", path, followsymlinks=True))

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
        self._call("upload", str(local), path, limit=_LONG)

    def download(self, path: str, local: Path) -> None:
        """Copy a file of the guest to a local file."""
        self._call("download", path, str(local), limit=_LONG)

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
                limit=_LONG,
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
        self._call("scrub_file", self._resolve(path), limit=_LONG)

    def files_below(self, path: str) -> list[str]:
        """Return the paths of all regular files below a directory, sorted; links are not followed."""
        root = self._resolve(path)
        listing = self._scratch / f"find-{uuid.uuid4().hex}"
        try:
            self._call("find0", root, str(listing), limit=_LONG)
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
        self._call("rm_rf", self._resolve_parent(path), limit=_LONG)

    def copy(self, source: str, destination: str) -> None:
        """Copy a file or tree inside the guest like ``cp -a``."""
        self._call("cp_a", self._resolve_parent(source), self._resolve_destination(destination), limit=_LONG)

    def move(self, source: str, destination: str) -> None:
        """Rename inside the guest like ``mv``."""
        self._call("mv", self._resolve_parent(source), self._resolve_destination(destination), limit=_LONG)

    def symlink(self, target: str, link: str) -> None:
        """Make ``link`` point to ``target``, replacing an existing file like ``ln -sf``."""
        self._call("ln_sf", target, self._resolve_parent(link))

    def relabel(self, specification: str) -> bool:
        """Give all files of the mounted filesystems their SELinux labels, with the appliance's setfiles."""
        if not self.supports("selinuxrelabel"):
            return False
        for path in sorted(self._call("mountpoints").values()):
            self._call("selinux_relabel", specification, path, force=True, limit=_LONG)
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

    def sh(self, script: str, *, follow: str | None = None) -> CommandResult:
        """Run a shell script in the guest with ``/bin/sh``; its failure is a result, not an error."""
        body = script.encode()
        inside: str | None = None
        if len(body) <= _INLINE_SCRIPT:
            run = f"/bin/sh -c {shlex.quote(script)}"
        else:
            inside = str(self._call("mktemp", "/tmp/.pybuilderXXXXXX"))  # noqa: S108 - in the guest
            self.write(inside, body)
            run = f"/bin/sh {shlex.quote(inside)}"
        # libguestfs tells only success or failure, and mixes neither status nor output into it.
        wrapper = (
            "out=$(mktemp /tmp/.pybuilderXXXXXX) || exit 1\n"
            + ("" if follow is None else _FOLLOW.replace("FILE", shlex.quote(follow)))
            + f'{run} >"$out" 2>&1 </dev/null\n'
            "status=$?\n"
            + ("" if follow is None else _FOLLOW_END)
            + f'tail -c {_OUTPUT_TAIL} "$out"; rm -f "$out"\n'
            'printf "\\n%s" "$status"\n'
        )
        try:
            answer = str(self._call("sh", wrapper, limit=None))
        finally:
            if inside is not None:
                self._call("rm_f", inside)
        output, _, status = answer.rpartition("\n")
        return CommandResult(status=int(status), output=output)

    # Appliance: disks and filesystems

    def supports(self, *features: str) -> bool:
        """Tell whether the appliance has all of these libguestfs feature groups, such as ``xfs``."""
        return bool(self._call("feature_available", list(features)))

    def device_size(self, device: str) -> int:
        """Return the size of a disk, partition or volume in bytes."""
        return int(self._call("blockdev_getsize64", device))

    def disks(self) -> list[str]:
        """Return all disks, such as ``/dev/sda``."""
        return list(self._call("list_devices"))

    def partitions(self) -> list[str]:
        """Return all partitions, such as ``/dev/sda1``."""
        return list(self._call("list_partitions"))

    def filesystems(self) -> dict[str, str]:
        """Return every device that holds something, and what: ``ext4``, ``swap``, ``unknown``."""
        return dict(self._call("list_filesystems"))

    def filesystem_type(self, device: str) -> str:
        """Return what a device holds, such as ``ext4`` or ``LVM2_member``; empty when nothing is known."""
        return str(self._call("vfs_type", device))

    def filesystem_uuid(self, device: str) -> str:
        """Return the filesystem's UUID."""
        return str(self._call("vfs_uuid", device))

    def find_by_uuid(self, identity: str) -> str:
        """Return the device of the filesystem with this UUID."""
        return str(self._call("findfs_uuid", identity))

    def find_by_label(self, label: str) -> str:
        """Return the device of the filesystem with this label."""
        return str(self._call("findfs_label", label))

    def find_by_partuuid(self, identity: str) -> str:
        """Return the partition with this GUID of its own in the GPT of the first disk."""
        for device in self.partitions():
            number = device.removeprefix("/dev/sda")
            if (
                number.isdigit()
                and str(self._call("part_get_gpt_guid", "/dev/sda", int(number))).lower() == identity.lower()
            ):
                return device
        raise GuestCallError(f"no partition has the PARTUUID {identity}", errno_name="ENOENT")

    def make_gpt(self, device: str, partitions: Sequence[tuple[int, int, str]]) -> None:
        """Write a GPT with (first sector, last sector, type GUID) per partition."""
        self._call("part_init", device, "gpt")
        for number, (first, last, kind) in enumerate(partitions, start=1):
            self._call("part_add", device, "p", first, last)
            self._call("part_set_gpt_type", device, number, kind)

    def make_filesystem(self, kind: str, device: str, *, label: str | None = None) -> None:
        """Make a filesystem."""
        self._call("mkfs", kind, device, limit=_LONG)
        if label is not None:
            # Not mkfs's own argument of that name: here it would be taken for the progress bar's.
            self._call("set_label", device, label)

    def mount(self, device: str, path: str, *, options: str = "") -> None:
        """Mount a filesystem of the guest."""
        self._call("mount_options", options, device, path)

    def unmount_all(self) -> None:
        """Unmount everything; data is on the disk afterwards."""
        try:
            self._call("umount_all", limit=_LONG)
        except GuestCallError:
            # A command may have left a daemon that keeps a filesystem busy.
            self._call("debug", "sh", ["fuser -k -m /sysroot >/dev/null 2>&1; sleep 1; echo"], limit=120.0)
            self._call("umount_all", limit=_LONG)

    def check_ext(self, device: str) -> None:
        """Check and repair an unmounted ext2/3/4 filesystem."""
        self._call("e2fsck", device, correct=True, limit=_LONG)

    def grow_ext(self, device: str) -> None:
        """Grow an ext2/3/4 filesystem to its device, mounted or not."""
        self._call("resize2fs", device, limit=_LONG)

    def grow_xfs(self, path: str) -> None:
        """Grow the XFS that is mounted at ``path`` to its device."""
        self._call("xfs_growfs", path, datasec=True, limit=_LONG)

    def grow_btrfs(self, path: str) -> None:
        """Grow the btrfs that is mounted at ``path`` to its device."""
        self._call("btrfs_filesystem_resize", path, limit=_LONG)

    def grow_f2fs(self, device: str) -> None:
        """Grow an unmounted F2FS to its device."""
        self._call("f2fs_expand", device, limit=_LONG)

    def grow_ntfs(self, device: str) -> None:
        """Grow an unmounted NTFS to its device."""
        self._call("ntfsresize", device, limit=_LONG)

    def grow_swap(self, device: str) -> None:
        """Make swap space anew as large as its device, with the UUID and label that it had."""
        label, identity = str(self._call("vfs_label", device)), str(self._call("vfs_uuid", device))
        self._call("mkswap", device, **({"uuid": identity} if identity else {}))
        if label:
            self._call("set_label", device, label)  # libguestfs's mkswap takes a label and drops it

    def grow_physical_volume(self, device: str) -> None:
        """Grow an LVM physical volume to its device."""
        self._call("pvresize", device, limit=_LONG)

    def grow_volume(self, volume: str) -> None:
        """Give a logical volume all free space of its group; none left is no error."""
        try:
            self._call("lvresize_free", volume, 100, limit=_LONG)
        except GuestCallError as error:
            if "matches existing size" not in error.message:
                raise

    def canonical_volume(self, device: str) -> str:
        """Return a logical volume's name as ``/dev/GROUP/VOLUME``; an error when it is none."""
        return str(self._call("lvm_canonical_lv_name", device))

    def volume_uses(self, volume: str, device: str) -> bool:
        """Tell whether the group of a logical volume (``/dev/GROUP/VOLUME``) has this physical volume."""
        group = volume.split("/")[2]
        # libguestfs gives UUIDs with hyphens here and without them there.
        used = {str(item).replace("-", "") for item in self._call("vgpvuuids", group)}
        return str(self._call("pvuuid", device)).replace("-", "") in used

    def volumes(self) -> list[str]:
        """Return all logical volumes, as ``/dev/GROUP/VOLUME``."""
        return list(self._call("lvs"))

    def luks_uuid(self, device: str) -> str:
        """Return the UUID of a LUKS container."""
        return str(self._call("luks_uuid", device))

    def open_luks(self, device: str, key: str, name: str) -> None:
        """Open a LUKS container as ``/dev/mapper/NAME``."""
        # The key goes to cryptsetup in a file inside the appliance; libguestfs hides it in its traces.
        self._call("cryptsetup_open", device, key, name, limit=_LONG)

    def scan_volumes(self) -> None:
        """Find LVM on devices that appeared meanwhile, such as opened LUKS containers."""
        self._call("lvm_scan", True)  # noqa: FBT003 - libguestfs's own signature

    def mounted(self) -> dict[str, str]:
        """Return device to mount point for all mounted filesystems."""
        return dict(self._call("mountpoints"))

    def trim(self, path: str) -> None:
        """Give the free blocks of a mounted filesystem back to the host's file."""
        self._call("fstrim", path, limit=_LONG)

    def inspect_roots(self) -> list[str]:
        """Look for operating systems on all disks (slow); return their root devices."""
        return list(self._call("inspect_os", limit=_LONG))

    def inspect_facts(self, root: str) -> dict[str, str]:
        """Return what inspection found about a root: type, arch, distro, osinfo, product_name, ..."""
        names = ("type", "arch", "distro", "osinfo", "product_name", "package_management")
        return {name: str(self._call(f"inspect_get_{name}", root)) for name in names}

    def inspect_mountpoints(self, root: str) -> dict[str, str]:
        """Return mount point to device for a root, shortest mount point first."""
        found = dict(self._call("inspect_get_mountpoints", root))
        return {path: found[path] for path in sorted(found, key=len)}

    def filesystem_use(self) -> list[FilesystemUse]:
        """Return the space of each mounted filesystem."""
        uses = []
        for path in self._call("mountpoints").values():
            facts = self._call("statvfs", path)
            uses.append(FilesystemUse(facts["blocks"] * facts["bsize"], facts["bfree"] * facts["bsize"]))
        return uses

    def resolves(self, host: str) -> bool:
        """Tell whether the appliance itself can look up a host name; needs the network."""
        question = f"getent ahosts {shlex.quote(host)} >/dev/null && echo yes || echo no"
        return str(self._call("debug", "sh", [question], limit=120.0)).strip() == "yes"

    def shutdown(self) -> None:
        """Unmount, flush and stop the appliance; an error means that data may not be on the disk."""
        self._call("umount_all", limit=_LONG)  # what is still in memory is written now, or lost now
        lost = lost_writes(str(self._call("dmesg")))
        if lost is not None:
            raise GuestError(
                f"not everything that the guest wrote reached the image: {lost}",
                hint="check the disk that the image is on",
            )
        self._call("shutdown", limit=_LONG)

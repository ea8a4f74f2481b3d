"""The parent's side of a build without an appliance: it answers libguestfs's requests, most by the worker.

What concerns the disk, and files of this host, is answered here: the worker gets only bytes, never a path of
this host. The worker reads a hostile image with a library in C, so each of its answers may be the image's:
types and sizes are checked before anything uses them.
"""

from __future__ import annotations

import errno
import functools
import os
import posixpath
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from imgbuilder.appliance.connection import LISTING, Connection, is_utf8
from imgbuilder.appliance.hostside import archive, programs
from imgbuilder.appliance.hostside.devices import Device, Disk
from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.appliance.options import Attachment
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.magic import Content
from imgbuilder.disk.skeleton import SECTOR
from imgbuilder.errors import ApplianceError, GuestCallError, UnfitError
from imgbuilder.events import Reporter, ignore
from imgbuilder.host import imagelocks
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.privatefolder import private_folder, scratch_folder

_START = """\
import sys, types
for name in ("", ".appliance", ".appliance.hostside"):
    package = types.ModuleType("imgbuilder" + name)
    package.__path__ = [sys.argv[1] + name.replace(".", "/")]
    sys.modules["imgbuilder" + name] = package
from imgbuilder.appliance.hostside.worker import main
main(int(sys.argv[2]), int(sys.argv[3]))
"""
"""Loads the worker without its packages' own code, which needs the rest of the program."""
_PACKAGE = Path(__file__).parents[2]
_LIMIT = 150.0
"""Seconds until the worker must have answered; it may use 120 of processor time."""
_PIECE = 2 << 20
"""Bytes of a file in one request."""
_LONGEST_PATH = 4096
_BLOCK_SIZES = {1 << power for power in range(10, 17)}
_MOST_ENTRIES = 200_000
_OPTIONS = ("limit", "console", "most", "label")
"""Options of ``Connection.call`` that mean nothing here: all is quick and bounded."""
_FACTS = {"st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size"}
_ERRORS = {name for number, name in errno.errorcode.items() if number not in (errno.EPERM, errno.EIO)}
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

_Check = Callable[[Any], bool]


def _is_target(value: object, most: int = _LONGEST_PATH - 1) -> bool:
    # A lone surrogate, which JSON can hold, cannot be printed.
    return isinstance(value, str) and 0 < len(value) <= most and "\0" not in value and is_utf8(value)


def _is_path(value: object) -> bool:
    return _is_target(value) and str(value).startswith("/") and posixpath.normpath(str(value)) == value


def _is_name(value: object) -> bool:
    return _is_target(value, 255) and "/" not in str(value)


def _are(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and len(value) <= _MOST_ENTRIES and all(map(check, value))


def _are_facts(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == _FACTS
        and all(type(number) is int and -1 <= number < 1 << 63 for number in value.values())
    )


_ANSWERS: dict[str, _Check] = {
    **dict.fromkeys(("statns", "lstatns"), _are_facts),
    "lstatnslist": _are(_are_facts),
    "readlink": _is_target,
    "realpath": _is_path,
    "ls": _are(_is_name),
    "glob_expand": _are(_is_path),
    **dict.fromkeys(
        (
            "chmod", "chown", "copy_attributes", "cp_a", "ln_s", "mkdir_mode", "mkdir_p", "rename", "rm_f",
            "rm_rf", "touch", "truncate", "write", "write_append",
        ),
        lambda value: value is None,
    ),
}  # fmt: skip
"""The requests that go to the worker as they are, and what their answers must be."""


def _is_none(value: object) -> bool:
    return value is None


def _is_usage(value: object) -> bool:
    return (
        isinstance(value, list)
        and [type(number) for number in value] == [int] * 3
        and value[0] in _BLOCK_SIZES
        and 0 <= value[2] <= value[1] < 1 << 48
    )


def _are_names_below(value: object) -> bool:
    return (
        isinstance(value, bytes)
        and len(value) <= LISTING
        and (not value or (value.startswith(b"/") and value.endswith(b"\0")))
    )


@contextmanager
def _local_file(method: str, name: str, mode: str) -> Iterator[IO[bytes]]:
    try:
        with Path(name).open(mode) as file:
            yield file
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "")
        raise GuestCallError(f"{method}: {name}: {error.strerror}", errno_name=code) from error


class HostsideConnection(Connection):
    """A confined worker that answers as libguestfs would; no appliance runs.

    Args:
        image: The raw image, open for reading and writing.
        path: Its path.
        runtime: Private folder.
        on_event: Called with debug lines and the progress of long transfers.
        clock: Returns the time for the guest's files, in nanoseconds since 1970.
        entropy: Returns random bytes.
    """

    def __init__(
        self,
        image: IO[bytes],
        path: Path,
        runtime: Path,
        on_event: Reporter,
        *,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._disk = Disk(path)
        self._clock, self._entropy = clock, entropy
        self._image = image.fileno()
        self._mounted: dict[str, Device] = {}
        self._written: set[Device] = set()
        super().__init__(
            Path(sys.executable),
            runtime,
            on_event,
            program=["-I", "-S", "-c", _START, _PACKAGE, str(self._image)],
            inherited=[self._image],
        )
        self._own: dict[str, Callable[..., Any]] = {
            "blkid": self._blkid,
            "blockdev_getsize64": lambda name: self._disk.find(name).size,
            "dmesg": lambda: "",
            "download_offset": self._download,
            "e2fsck": self._check,
            "find0": self._find,
            "list_devices": lambda: [self._disk.whole.name],
            "list_partitions": lambda: [device.name for device in self._disk.partitions],
            "mktemp": self._make_temporary,
            "mount_options": self._mount,
            "pread": self._read,
            "mountpoints": lambda: {device.name: path for path, device in self._mounted.items()},
            "resize2fs": self._grow,
            "shutdown": self._shut_down,
            "statvfs": self._statvfs,
            "tar_in": self._unpack,
            "umount_all": self._unmount_all,
            "upload": self._upload,
            "vfs_type": lambda name: self._blkid(name).get("TYPE", ""),
            "vfs_uuid": lambda name: self._blkid(name).get("UUID", ""),
        }
        """The requests that are answered here."""

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Answer a request as libguestfs would.

        Raises:
            GuestCallError: The guest's filesystem refuses it.
            UnfitError: Only an appliance can answer it.
        """
        for name in _OPTIONS:
            kwargs.pop(name, None)
        own = self._own.get(method)
        if own is not None:
            return own(*args, **kwargs)
        check = _ANSWERS.get(method)
        if check is None:
            raise UnfitError(f"the request {method} needs an appliance")
        return self._ask(method, *args, check=check, **kwargs)

    def _ask(self, method: str, *args: Any, check: _Check, **kwargs: Any) -> Any:  # noqa: ANN401
        """Ask the worker, and refuse an answer that cannot be true."""
        try:
            answer = super().call(method, self._clock(), *args, limit=_LIMIT, **kwargs)
        except GuestCallError as error:
            if error.errno_name not in _ERRORS:
                raise UnfitError(error.message) from error
            raise
        except ApplianceError as error:
            raise UnfitError(error.message) from error
        if not check(answer):
            raise UnfitError(f"the worker's answer to {method} cannot be true")
        return answer

    def _receive(self, deadline: float | None, limit: float | None) -> dict[str, Any]:
        """Take nothing but answers: with other messages a worker could keep this process waiting forever."""
        message = super()._receive(deadline, limit)
        if "log" in message or "progress" in message:
            raise self._nonsense()
        return message

    # Disks

    def _blkid(self, name: str) -> dict[str, str]:
        return self._disk.facts(self._disk.find(name))

    def _mount(self, options: str, name: str, path: str) -> None:
        device = self._disk.find(name)
        content = self._disk.content(device)
        if path in self._mounted or device in self._mounted.values():
            raise UnfitError(f"{name} or {path} is mounted already")
        if path != "/":
            if options or content not in (Content.EXT, Content.FAT):
                raise UnfitError(f"{name} is mounted on {path}")
            self._ask("cover", path, check=_is_none)
        else:
            if content is not Content.EXT or options not in ("", "ro", "ro,noload"):
                raise UnfitError(f"{name} holds {content or 'no filesystem'}, mounted with {options!r}")
            self._open(device, writable=not options)
        self._mounted[path] = device

    def _open(self, device: Device, *, writable: bool = True) -> None:
        self._disk.refuse_unfit(device)
        if writable:
            self._written.add(device)
        self._ask("open", device.start, self._entropy(32), writable=writable, check=_is_none)

    def _unmount_all(self) -> None:
        self._mounted = {}
        self._ask("close", check=_is_none)

    def _shut_down(self) -> None:
        self._unmount_all()
        for device in self._written:
            programs.check(self._image, device.place)

    def _check(self, name: str, *, correct: bool) -> None:
        assert correct, "nothing else is asked for"
        if self._mounted:
            raise UnfitError("a mounted filesystem is checked")
        programs.check(self._image, self._disk.find(name).place)

    def _grow(self, name: str) -> None:
        device, mounted = self._disk.find(name), self._mounted
        root = mounted.get("/")
        self._unmount_all()
        programs.grow(self._image, device.place, self._clock() // 1_000_000_000)
        self._written.add(device)
        if root is not None:
            self._open(root)
            for path in mounted:
                if path != "/":
                    self._ask("cover", path, check=_is_none)
            self._mounted = mounted

    def _statvfs(self, path: str) -> dict[str, int]:
        device = self._mounted[path]
        if self._disk.content(device) is Content.FAT:
            size, blocks, free = self._disk.fat_usage(device)
        else:
            size, blocks, free = self._ask("usage", device.start if path != "/" else None, check=_is_usage)
        return {"bsize": size, "blocks": blocks, "bfree": free, "flag": 0}

    # Files of this host

    def _upload(self, local: str, path: str) -> None:
        with _local_file("upload", local, "rb") as file:
            method, piece = "write", file.read(_PIECE)
            while piece or method == "write":
                try:
                    self._ask(method, path, piece, check=_is_none)
                except GuestCallError as error:
                    reason = error.message.rpartition(": ")[2]
                    raise GuestCallError(f"upload: {path}: {reason}", errno_name=error.errno_name) from error
                method, piece = "write_append", file.read(_PIECE)

    def _read(self, path: str, count: int, offset: int) -> bytes:
        def fits(value: object) -> bool:
            return isinstance(value, bytes) and len(value) <= count

        return bytes(self._ask("pread", path, count, offset, check=fits))

    def _download(self, path: str, local: str, offset: int, size: int) -> None:
        with _local_file("download_offset", local, "wb") as file:
            while size:
                piece = self._read(path, min(size, _PIECE), offset)
                if not piece:
                    raise UnfitError(f"{path} is shorter than its size")
                file.write(piece)
                offset, size = offset + len(piece), size - len(piece)

    def _unpack(
        self, local: str, folder: str, *, xattrs: bool, acls: bool, compress: str | None = None
    ) -> None:
        assert xattrs, "nothing else is asked for"
        assert acls, "nothing else is asked for"
        try:
            archive.unpack(Path(local), compress, folder, functools.partial(self._ask, check=_is_none))
        except GuestCallError as error:
            raise UnfitError(f"tar would report: {error.message}") from error

    def _find(self, path: str, listing: str) -> None:
        names = self._ask("find0", path, check=_are_names_below)
        with _local_file("find0", listing, "wb") as file:
            file.write(names)

    def _make_temporary(self, template: str) -> str:
        name = template.removesuffix("XXXXXX")
        name += "".join(_LETTERS[byte % len(_LETTERS)] for byte in self._entropy(6))
        self._ask("mktemp", name, check=lambda value: value == name)
        return name


@contextmanager
def open_hostside(
    disk: Attachment,
    on_event: Reporter = ignore,
    *,
    clock: Callable[[], int] = time.time_ns,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Iterator[LibguestfsAppliance]:
    """Open a disk as ``open_appliance`` does, without an appliance.

    Data is on the disk only after ``shutdown()`` has returned; nothing was synced.

    Args:
        disk: The disk, a raw image with a filesystem of ext2/3/4 that ``gate`` and e2fsck found good.
        on_event: Called with debug lines and the progress of long transfers.
        clock: Returns the time for the guest's files, in nanoseconds since 1970.
        entropy: Returns random bytes.

    Raises:
        UnfitError: The disk, or a request, needs an appliance. The image may be half changed: throw it away.
        DiskError: Another program uses the disk.
    """
    if disk.format != "raw" or disk.readonly or disk.sector_size != SECTOR or not disk.path.is_file():
        raise UnfitError(f"{disk.path} is not a raw image that can be written")
    imagelocks.refuse_if_locked(disk.path, changing=True)
    with private_folder() as runtime, scratch_folder() as scratch, disk.path.open("r+b") as image:
        size = disk.path.stat().st_size
        try:
            connection = HostsideConnection(image, disk.path, runtime, on_event, clock=clock, entropy=entropy)
        except ApplianceError as error:
            raise UnfitError(error.message) from error
        try:
            yield LibguestfsAppliance(connection, scratch)
        finally:
            with uninterrupted():
                connection.close()
        if disk.path.stat().st_size != size:
            raise UnfitError(f"the size of {disk.path} was changed")


def try_host() -> None:
    """Start each kind of confined process once: a sandbox around this one may not let them run.

    Raises:
        UnfitError: One of them does not run.
    """
    with scratch_folder() as folder:
        image = folder / "trial.img"
        image.write_bytes(bytes(SECTOR))
        with image.open("r+b") as file:
            programs.try_program(file.fileno())
        with open_hostside(Attachment(image, DiskFormat.RAW)):
            pass

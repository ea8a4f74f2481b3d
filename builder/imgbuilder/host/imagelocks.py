"""Locks on disks that another program uses, which are neither changed nor copied.

QEMU's programs lock single bytes of an image (``block/file-posix.c`` there): 100 + n while they use a
permission, 200 + n while they deny it to others. The locks belong to open files, so that ours end when the
descriptor is closed. As in QEMU, a lock is taken first and then compared with others: of two programs that
start at once, at least one sees the other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Iterator

_USED, _KEPT = 100, 200
_READ, _WRITE, _RESIZE = 0, 1, 3
_QEMU_END = 300
_FLOCK = "hhqqi4x"
"""struct flock, see fcntl(2): kind, whence, start, length, process."""
_LOOPS = Path("/sys/block")


def refuse_if_in_use(path: Path, *, changing: bool) -> None:
    """Refuse a disk that another program uses; a missing or unreadable disk counts as unused."""
    with held(path, changing=changing):
        pass


def refuse_if_locked(path: Path, *, changing: bool) -> None:
    """Refuse a disk that another program has locked, even if this process has claimed the device."""
    descriptor = _open(path, claiming=False)
    if descriptor is not None:
        try:
            check(descriptor, path, changing=changing)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def held(path: Path, *, changing: bool = False) -> Iterator[None]:
    """Keep other programs from writing to a disk until the block ends; refuse one that is in use.

    QEMU's programs can still read it. A block device cannot be mounted.
    """
    descriptor = _open(path)
    if descriptor is None:
        yield
        return
    try:
        hold(descriptor, path, changing=changing)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path, *, claiming: bool = True) -> int | None:
    """Open a disk; None if it is not a disk or cannot be opened: the program that needs it reports that."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        mode = path.stat().st_mode
        if stat.S_ISBLK(mode):
            flags |= (
                os.O_EXCL if claiming else 0
            )  # the kernel refuses it while the device, or a part of it, is mounted
        elif not stat.S_ISREG(mode):
            return None
        return os.open(path, flags)
    except ValueError:  # a NUL in the name
        return None
    except OSError as error:
        if error.errno != errno.EBUSY:
            return None
        raise DiskError(
            f"{path} is in use",
            hint="unmount it, and take it out of swap, RAID and LVM: lsblk shows what uses it",
        ) from error


def hold(descriptor: int, path: Path, *, changing: bool = False) -> None:
    """Keep other programs from writing to an open disk until it is closed; refuse one that is in use."""
    for byte in (_USED + _READ, _KEPT + _WRITE, _KEPT + _RESIZE):
        with contextlib.suppress(OSError):  # a filesystem without such locks
            _lock(descriptor, fcntl.F_RDLCK, byte, 1)
    try:
        check(descriptor, path, changing=changing)
    except DiskError:
        release(descriptor)
        raise


def release(descriptor: int) -> None:
    """Release the locks of ``hold``, before a program started by us writes to the disk."""
    with contextlib.suppress(OSError):
        _lock(descriptor, fcntl.F_UNLCK, _USED, _QEMU_END - _USED)


def check(descriptor: int, path: Path, *, changing: bool) -> None:
    """Refuse an open disk that another program uses, without locking it."""
    if is_locked(descriptor, changing=changing):
        raise DiskError(
            f"{path} is used by another program{_users(descriptor)}",
            hint="if that is a virtual machine, shut it down first: the disk of a running machine can be "
            "neither changed nor copied, and --dry-run does not help either",
        )
    loop = _loop_device(descriptor, changing=changing)
    if loop is not None:
        raise DiskError(
            f"{path} is used by the loop device {loop}",
            hint=f"unmount what is on it, then detach it: losetup -d {loop}",
        )


def is_locked(descriptor: int, *, changing: bool) -> bool:
    """Tell whether another program has locked an open disk; False on a filesystem without such locks."""
    bytes_in_use = [_USED + _WRITE, _USED + _RESIZE, _KEPT + _READ]
    if changing:
        bytes_in_use += [_KEPT + _WRITE, _KEPT + _RESIZE]
    # virtlockd locks the beginning of the file.
    kind = fcntl.F_WRLCK if changing else fcntl.F_RDLCK
    others = [(kind, 0, _USED), (kind, _QEMU_END, 0)]
    return any(
        _is_taken(descriptor, *one) for one in [*((fcntl.F_WRLCK, byte, 1) for byte in bytes_in_use), *others]
    )


def _lock(descriptor: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))


def _is_taken(descriptor: int, kind: int, start: int, length: int) -> bool:
    """Tell whether a lock of another program conflicts with this one."""
    wanted = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
    try:
        found = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted))
    except OSError:
        return False
    return bool(found[0] != fcntl.F_UNLCK)


def _users(descriptor: int) -> str:
    """Return the processes that have a file open, as far as they can be seen: " (NAME, pid N)"."""
    wanted, names = os.fstat(descriptor), []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):  # ended meanwhile, or of another user
            if any(_is_same(link, wanted) for link in (process / "fd").iterdir()):
                names.append(f"{(process / 'comm').read_text(errors='replace').strip()}, pid {process.name}")
    return f" ({'; '.join(names) or 'a running virtual machine?'})"


def _is_same(link: Path, wanted: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(link.stat(), wanted)
    return False


def _loop_device(descriptor: int, *, changing: bool) -> Path | None:
    """Return the loop device that uses a file; a read-only one counts for changes only."""
    wanted = os.fstat(descriptor)
    if not stat.S_ISREG(wanted.st_mode):
        return None
    for backing in _LOOPS.glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError, ValueError):
            device = backing.parent.parent
            attached = os.stat(backing.read_text().rstrip("\n"))  # noqa: PTH116 - of any name
            writable = (device / "ro").read_text().strip() == "0"
            if os.path.samestat(attached, wanted) and (changing or writable):
                return Path("/dev", device.name)
    return None

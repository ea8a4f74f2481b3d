"""Output files that appear complete or not at all, and checks of their place.

A file is made under a hidden name in the folder of its final place, synced, and renamed
(``docs/threat-model.md`` F17, B15, B16). The files of killed runs are found by their names and removed by the
next run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from imgbuilder.errors import DiskError, GuestError, OperationError, WorkspaceError
from imgbuilder.host import imagelocks
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.sizes import human_size
from imgindex.files import sync_folder

HIDDEN_PREFIX = ".pybuilder-"
HIDDEN_SUFFIX = ".part"
"""Prefix and suffix of the names of unfinished images."""
_NEXT_TO_NOTHING = 2 << 20
"""Bytes of free space at which a disk counts as full: clusters and journals are written in pieces."""
_MOST_LINKS = 40
"""Links that Linux follows on one way."""


def explain(error: OSError, path: Path) -> WorkspaceError:
    """Make the error of the workspace for a system error about ``path``, with a hint."""
    hints = {
        errno.ENOSPC: f"free some space on the filesystem of {path.parent}, or choose another place",
        errno.EDQUOT: "your disk quota is used up: free some space, or choose another place",
        errno.EACCES: f"check the permissions of {path.parent}, or choose another place",
        errno.EPERM: f"check the permissions of {path.parent}, or choose another place",
        errno.EROFS: "the filesystem is read-only: choose another place",
        errno.ENOENT: f"create the folder first: mkdir -p {path.parent}",
    }
    return WorkspaceError(f"{path}: {error.strerror}", hint=hints.get(error.errno or 0))


@contextlib.contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn a system error in the block into the error of the workspace about ``path``."""
    try:
        yield
    except OSError as error:
        raise explain(error, path) from error


def follow(path: Path) -> Path:
    """Return an absolute path without links, as ``Path.resolve`` does, but refuse links of other users."""
    done, rest, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    while rest:
        name = rest.pop()
        if name == "..":
            done = done.parent
            continue
        here = done / name
        try:
            facts = here.lstat()
        except (FileNotFoundError, NotADirectoryError):
            done = here
            continue
        if not stat.S_ISLNK(facts.st_mode):
            done = here
            continue
        if is_strange(facts, done):
            raise WorkspaceError(
                f"{path}: the link {here} belongs to another user, in a folder where everybody may write",
                hint="remove the link, or choose another place",
            )
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, "links that lead in a circle", str(path))
        target = here.readlink()
        if target.is_absolute():
            done = Path("/")
        rest += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    return done


def is_strange(facts: os.stat_result, folder: Path) -> bool:
    """Tell whether a file in a world-writable folder belongs to neither this user nor the folder's owner."""
    above = folder.stat()
    return bool(above.st_mode & stat.S_IWOTH) and facts.st_uid not in (os.geteuid(), above.st_uid)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check for free space before any work."""
    facts = os.statvfs(folder)
    free = facts.f_bavail * facts.f_frsize
    if free < needed:
        raise WorkspaceError(
            f"not enough space in {folder} for {what}: {human_size(needed)} needed, {human_size(free)} free",
            hint="free some space, or choose another place",
        )


def is_full(folder: Path, error: BaseException | None = None) -> bool:
    """Tell whether there is no space left on the filesystem, or in the quota according to an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize < _NEXT_TO_NOTHING


@contextlib.contextmanager
def blaming_full_disk(folder: Path) -> Iterator[None]:
    """When the block fails and the disk is full, raise an error about that: it is the cause."""
    try:
        yield
    except (DiskError, GuestError, OperationError) as error:
        if not is_full(folder):
            raise
        raise WorkspaceError(
            f"no space left in {folder}: {error.message}", hint="free some space, or choose another place"
        ) from error


@contextlib.contextmanager
def new_file(
    final: Path, *, keep_on_failure: Callable[[], bool] = lambda: False, sync: bool = True
) -> Iterator[Path]:
    """Make a file that appears at ``final`` only when it is complete.

    Args:
        final: The final place; an existing file there stays until the very end.
        keep_on_failure: Called when the block has failed; True moves the unfinished file to ``final``
            instead of removing it.
        sync: Sync the file first.

    Yields:
        The hidden temporary name to write to; it exists, empty, with mode 0600.
    """
    with explaining(final):
        target = follow(final.parent) / final.name
    with imagelocks.held(target):  # until it is replaced
        with explaining(final):
            temporary, holder = _locked_file(target)
        try:
            sweep(target.parent)
            yield temporary
            with uninterrupted():
                finish(temporary, target, sync=sync)
        except BaseException:
            with uninterrupted():
                if keep_on_failure() and temporary.exists():
                    temporary.replace(target)
                else:
                    temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(holder)


def try_folder(final: Path) -> None:
    """Check that a file can be made at a path, without leaving one."""
    with explaining(final):
        holder = _unnamed_file(final.parent)
        if holder is None:
            temporary, holder = _locked_file(final)
            temporary.unlink(missing_ok=True)
        os.close(holder)


def hold_shared(descriptor: int) -> None:
    """Lock a temporary file or folder; on a filesystem without locks, no other run can lock it either."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise


def _locked_file(target: Path) -> tuple[Path, int]:
    """Create an unfinished file that is locked before it is visible, so that no other run removes it.

    Returns:
        Its path in the folder of its final place, and the descriptor that holds the lock.
    """
    path = target.parent / f"{HIDDEN_PREFIX}{target.name[:40]}.{secrets.token_hex(6)}{HIDDEN_SUFFIX}"
    holder = _unnamed_file(target.parent)
    if holder is not None:
        # Only with a folder's descriptor (ignored here) does Python use linkat(2), which can follow the link.
        os.link(f"/proc/self/fd/{holder}", path, src_dir_fd=holder, follow_symlinks=True)
        return path, holder
    holder = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    hold_shared(holder)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(path.lstat(), os.fstat(holder)):
            return path, holder
    os.close(holder)  # swept before it was locked
    return _locked_file(target)


def _unnamed_file(folder: Path) -> int | None:
    """Create an unnamed file and lock it; None on filesystems without such files, such as NFS."""
    try:
        holder = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
            raise
        return None
    hold_shared(holder)
    return holder


def finish(temporary: Path, final: Path, *, sync: bool = True) -> None:
    """Give a complete file its final name, durably: fsync, rename, fsync of the folder.

    It gets the mode of the file that it replaces, and its owner if allowed; the mode of a new file is 0666
    without the bits of the umask.

    Raises:
        WorkspaceError: Any of it failed; ``final`` is unchanged, unless only the last step failed.
    """
    with explaining(final):
        _take_over_mode(temporary, final)
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(final)
    if sync:
        try:
            sync_folder(final.parent)
        except OSError as error:
            raise WorkspaceError(
                f"{final} is complete, but its name may not survive a power cut: {error.strerror}",
                hint="check that disk (see: dmesg), then run: sync",
            ) from error


def _take_over_mode(temporary: Path, final: Path) -> None:
    try:
        old = final.lstat()
    except FileNotFoundError:
        old = None
    if old is None or not stat.S_ISREG(old.st_mode):  # the target of a link is not replaced
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        return
    if (old.st_uid, old.st_gid) != (temporary.stat().st_uid, temporary.stat().st_gid):
        with contextlib.suppress(PermissionError):
            os.chown(temporary, old.st_uid, old.st_gid)
    temporary.chmod(old.st_mode & 0o777)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed runs of this user left in a folder; living ones are locked."""
    for path in folder.glob(f"{HIDDEN_PREFIX}*{HIDDEN_SUFFIX}"):
        with contextlib.suppress(OSError):
            _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    if path.lstat().st_uid != os.geteuid():
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)

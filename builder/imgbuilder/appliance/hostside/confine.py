"""Takes its own process's rights away before it reads an image that may be hostile.

Two kinds of process do that: the worker, which afterwards only computes, reads and writes open files; and the
programs resize2fs and e2fsck, which this file starts when it is run as a script::

    python3 -I -S confine.py DESCRIPTOR PROGRAM [ARGUMENT ...]

DESCRIPTOR is the open image, and the program finds it as /proc/self/fd/DESCRIPTOR.

seccomp decides which system calls remain (by libseccomp, which knows the numbers of each architecture),
Landlock which files can be opened, resource limits how much is used. docs/adr/0041-confinement.md says why.
The file is loaded by path in an interpreter without our package, so it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import stat
import sys
from typing import Mapping, NamedTuple, Sequence, Union  # noqa: UP035 - for old interpreters

MEMORY = 1 << 30
"""Most bytes of address space: the bitmaps of a filesystem of 16 TiB fit."""
SECONDS = 120
"""Most processor seconds of a process; the parent limits the time by the clock as well."""
TIME_VARIABLE = "E2FSPROGS_FAKE_TIME"
"""Environment variable of e2fsprogs: the time that it writes, in seconds since 1970."""
_DESCRIPTORS = 16
LIBRARY = "libseccomp.so.2"

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NE, _LT, _EQ, _MASKED_EQ = 1, 2, 4, 7
_ATTRIBUTE_BAD_ARCHITECTURE = 2
_CAPABILITY_VERSION = 0x20080522
_PR_SET_NO_NEW_PRIVS = 38
_PROT_EXEC = 4
_MADV_HWPOISON = 100
_AT_EMPTY_PATH = 0x1000
_FCNTL_HARMLESS = (0, 1, 2, 3, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC. Others make the kernel send signals to processes."""

Condition = tuple[int, int, int, int]
"""Number of an argument of a call, comparison, and its one or two values."""
Rule = Union[str, tuple[str, Condition], tuple[str, Condition, Condition]]  # noqa: UP007

_COMPUTING: tuple[Rule, ...] = (
    "brk", "munmap", "mremap", "futex", "getrandom", "clock_gettime", "clock_getres",
    "gettimeofday", "time", "sched_yield", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
    "restart_syscall", "exit", "exit_group", "getpid", "gettid", "getuid", "geteuid", "getgid", "getegid",
    "getrusage", "uname", "sysinfo",
    # The advice to take memory for broken, which is for root, would cost the host that memory.
    ("madvise", (2, _LT, _MADV_HWPOISON, 0)),
    # Only to ask about itself: limits and signals of other processes stay out of reach.
    ("prlimit64", (0, _EQ, 0, 0), (2, _EQ, 0, 0)),
)  # fmt: skip
_OPEN_FILES: tuple[Rule, ...] = (
    "read", "write", "readv", "writev", "pread64", "pwrite64", "lseek", "fstat", "fstatfs", "close", "dup",
    "fallocate", "fadvise64", "recvfrom",
    ("sendto", (4, _EQ, 0, 0)),
    *(("fcntl", (1, _EQ, command, 0)) for command in _FCNTL_HARMLESS),
)  # fmt: skip
_WORKER: tuple[Rule, ...] = (
    *_COMPUTING,
    *_OPEN_FILES,
    # No memory becomes executable: callbacks of ctypes are made before.
    ("mmap", (2, _MASKED_EQ, _PROT_EXEC, 0)),
    ("mprotect", (2, _MASKED_EQ, _PROT_EXEC, 0)),
    ("newfstatat", (3, _EQ, _AT_EMPTY_PATH, 0)),
)
_WORKER_REFUSED: tuple[Rule, ...] = (
    # Libraries try these and go on without them.
    "open", "openat", "stat", "lstat", "statx", "statfs", "access", "faccessat", "faccessat2", "readlink",
    "readlinkat", "getcwd", "ioctl", "prctl", "sched_getaffinity", "getsockname", "getpeername",
    ("newfstatat", (3, _NE, _AT_EMPTY_PATH, 0)),
)  # fmt: skip
_PROGRAM: tuple[Rule, ...] = (
    *_COMPUTING,
    *_OPEN_FILES,
    "mmap", "mprotect", "execve", "arch_prctl", "set_tid_address", "set_robust_list", "rseq",
    "open", "openat", "stat", "lstat", "statx", "statfs", "newfstatat", "access", "faccessat", "faccessat2",
    "readlink", "readlinkat", "getcwd", "sched_getaffinity",
)  # fmt: skip
_SYNC: tuple[Rule, ...] = ("fsync", "fdatasync", "sync_file_range")
"""Answered with "done": the parent syncs the image once, at the end."""
_TRUNCATE: tuple[Rule, ...] = ("truncate", "ftruncate")
"""Answered with "done" for resize2fs. At its end it cuts the image to the size of the filesystem and forgets
that this starts at an offset: the last part of the disk and its backup partition table would be lost."""

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
"""Numbers of the system calls; the same on every architecture."""
_FILE_RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 5: 16}
"""Version of Landlock -> number of rights on files that it knows; each right is a bit."""
_EXECUTE, _WRITE, _READ, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE_RIGHT = 1 << 14
_NETWORK_RIGHTS = 0b11
_SCOPES = 0b11
"""Abstract Unix sockets and signals: neither leaves the process."""
_PROGRAM_FILES = {
    # What the loader needs to start a program.
    **dict.fromkeys(
        ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/etc/ld.so.cache"),
        _EXECUTE | _READ | _READ_FOLDER,
    ),
    "/dev/null": _READ | _WRITE,
    "/proc/self/mounts": _READ,  # resize2fs refuses an image if it cannot see that it is not mounted
}


class ConfinementError(Exception):
    """The process cannot be confined, so it must not read the image."""


class Confinement(NamedTuple):
    """The means that confine a process.

    Attributes:
        seccomp: The version of libseccomp.
        landlock: The version of Landlock in the kernel; 0 without it.
    """

    seccomp: str
    landlock: int


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


_libc = ctypes.CDLL(None, use_errno=True)


def available() -> Confinement:
    """Return what this host offers, without confining the process.

    Raises:
        ConfinementError: seccomp is missing.
    """
    version = _libseccomp().seccomp_version().contents
    return Confinement(f"{version.major}.{version.minor}.{version.micro}", _landlock_version())


def worker(image: int, *others: int) -> Confinement:
    """Confine this process to computing, and to reading and writing its open descriptors.

    Any other call ends the process, or fails with EPERM where libraries try it and go on. Import modules,
    load libraries and make ctypes callbacks before.

    Args:
        image: The open image.
        others: Further descriptors to keep; the standard ones are kept in any case.

    Raises:
        ConfinementError: seccomp is missing on this host.
    """
    library, found = _libseccomp(), available()
    for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - pathlib takes long to load
        if number > 2 and number not in (image, *others):
            with contextlib.suppress(OSError):
                os.close(number)
    _limit(os.fstat(image).st_size)
    _drop_privileges()
    _restrict_files({})
    _filter(library, _KILL_PROCESS, allowed=_WORKER, refused=_WORKER_REFUSED, done=_SYNC)
    return found


def program(image: int, command: Sequence[str]) -> None:
    """Become a program that can read the system's programs and libraries, and read and write the image.

    Raises:
        ConfinementError: seccomp or Landlock is missing on this host.
        OSError: The program cannot be started.
    """
    library = _libseccomp()
    os.set_inheritable(image, True)  # noqa: FBT003
    _limit(os.fstat(image).st_size)
    _drop_privileges()
    # libext2fs starts a thread for each processor it sees, and here no process can be started, nor a thread.
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[os.getpid() % len(processors)]})
    if not _restrict_files({**_PROGRAM_FILES, f"/proc/self/fd/{image}": _READ | _WRITE | _TRUNCATE_RIGHT}):
        raise ConfinementError("Landlock is not available")
    # An unknown call fails as on an old kernel, which programs can deal with.
    _filter(library, _ERRNO | errno.ENOSYS, allowed=_PROGRAM, refused=(), done=(*_SYNC, *_TRUNCATE))
    kept = {name: value for name, value in os.environ.items() if name == TIME_VARIABLE}
    os.execve(command[0], list(command), {"LC_ALL": "C", **kept})  # noqa: S606


def _limit(size: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _drop_privileges() -> None:
    """Give up what root may do, and all that a program with more rights would bring back."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise ConfinementError(f"PR_SET_NO_NEW_PRIVS: {os.strerror(ctypes.get_errno())}")
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if _libc.capset(header, none) != 0:
        raise ConfinementError(f"capset: {os.strerror(ctypes.get_errno())}")


# seccomp


def _libseccomp() -> ctypes.CDLL:
    """Load the library, and see that the kernel can end a process that breaks the rules."""
    try:
        library = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        raise ConfinementError(f"the library {LIBRARY} is not installed") from error
    library.seccomp_version.restype = ctypes.POINTER(_Version)
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_load.argtypes = (ctypes.c_void_p,)
    library.seccomp_api_get.restype = ctypes.c_uint
    if library.seccomp_api_get() < 3:  # the first level with the action KILL_PROCESS
        raise ConfinementError("the kernel or libseccomp is too old for seccomp's KILL_PROCESS")
    return library


def _filter(
    library: ctypes.CDLL,
    default: int,
    *,
    allowed: Sequence[Rule],
    refused: Sequence[Rule],
    done: Sequence[Rule],
) -> None:
    context = library.seccomp_init(default)
    if not context:
        raise ConfinementError("libseccomp has no memory for the filter")
    _check(library.seccomp_attr_set(context, _ATTRIBUTE_BAD_ARCHITECTURE, _KILL_PROCESS))
    for action, rules in ((_ALLOW, allowed), (_ERRNO | errno.EPERM, refused), (_ERRNO, done)):
        for rule in rules:
            name, *conditions = (rule,) if isinstance(rule, str) else rule
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:  # negative: this architecture or libseccomp does not know the call
                comparisons = (_Comparison * len(conditions))(*(_Comparison(*one) for one in conditions))
                _check(library.seccomp_rule_add_array(context, action, number, len(conditions), comparisons))
    _check(library.seccomp_load(context))
    library.seccomp_release(context)


def _check(status: int) -> None:
    if status != 0:
        raise ConfinementError(f"seccomp: {os.strerror(-status)}")


# Landlock


def _landlock_version() -> int:
    version: int = _libc.syscall(
        ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint32(1)
    )
    return max(version, 0)


def _restrict_files(rules: Mapping[str, int]) -> int:
    """Allow only these rights on these files and folders; return Landlock's version, 0 without it."""
    version = _landlock_version()
    if not version:
        return 0
    rights = (1 << max(count for since, count in _FILE_RIGHTS_OF_ABI.items() if since <= version)) - 1
    attributes = _RulesetAttributes(
        rights, _NETWORK_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0
    )
    # A kernel refuses fields that it does not know.
    size = ctypes.sizeof(ctypes.c_uint64) * (3 if version >= 6 else 2 if version >= 4 else 1)
    ruleset = _landlock(_LANDLOCK_CREATE, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    for path, wanted in rules.items():
        with contextlib.suppress(FileNotFoundError):
            _allow_path(ruleset, path, wanted & rights)
    _landlock(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)
    return version


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= ~_READ_FOLDER
        rule = _PathRule(rights, descriptor)
        _landlock(
            _LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0)
        )
    finally:
        os.close(descriptor)


def _landlock(number: int, *arguments: object) -> int:
    answer: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if answer < 0:
        raise ConfinementError(f"Landlock: {os.strerror(ctypes.get_errno())}")
    return answer


if __name__ == "__main__":
    try:
        program(int(sys.argv[1]), sys.argv[2:])
    except (ConfinementError, OSError) as failure:
        sys.exit(f"confine: {failure}")

"""Rules for the values of operations: each returns the value to keep or raises ``UsageError``."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imgbuilder.errors import UsageError
from imgbuilder.fetch.urls import Address
from imgbuilder.guests.windows import DRIVE
from imgbuilder.host import localtree
from imgindex.files import open_file, open_given

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_TIMEZONE = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*")
_USER = re.compile(r"[a-z_][a-z0-9_.-]*\$?")
_PACKAGE = re.compile(r"[A-Za-z0-9@/][A-Za-z0-9@/+._:~=<>^()*?-]*")
_OCTAL = re.compile(r"(?:0o)?[0-7]{1,5}")
_URL_CHARACTERS = re.compile(r"[A-Za-z0-9%:/@._~!&'()*+,;=-]+")
_NUMBER = re.compile(r"[0-9]{1,10}")

_HOST_NAME_MAX = 64
"""Longest hostname of Linux in bytes, hostname(7)."""
_LOGIN_NAME_MAX = 32
"""Longest user name, useradd(8)."""
_NAME_MAX = 255
_PATH_MAX = 4096
LAST_ID = 2**32 - 2
"""Largest user or group number; the one above means "no change" to chown(2)."""


def guest_path(path: str) -> str:
    """Accept an absolute path in the guest: from ``/``, or from the letter of a drive in Windows."""
    drive = DRIVE.match(path)
    if not path.startswith("/") and not drive:
        raise UsageError(f"{path!r} is not an absolute path in the guest", hint="begin the path with /")
    single_line(path)
    names = path.replace("\\", "/").split("/") if drive else path.split("/")
    if len(path.encode()) >= _PATH_MAX or any(len(name.encode()) > _NAME_MAX for name in names):
        raise UsageError(
            "the path is longer than Linux allows",
            hint=f"at most {_NAME_MAX} bytes per name and {_PATH_MAX - 1} in all",
        )
    return path


def removable_guest_path(path: str) -> str:
    """Accept an absolute path in the guest that is not its root directory."""
    plain = DRIVE.sub("", guest_path(path))
    if posixpath.normpath(plain).strip("/\\") == "":
        raise UsageError("the guest's root directory itself cannot be removed or moved")
    return path


def guest_paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Accept one or more absolute paths in the guest."""
    if not paths:
        raise UsageError("at least one path is needed")
    return tuple(guest_path(path) for path in paths)


def single_line(text: str) -> str:
    """Accept a text without line breaks."""
    if "\n" in text or "\r" in text:
        raise UsageError("a line break cannot be used here")
    return text


def not_empty(text: str) -> str:
    """Accept a text that is not empty."""
    if not text.strip():
        raise UsageError("the argument is empty")
    return text


def link_target(text: str) -> str:
    """Accept the target of a symbolic link, absolute or relative."""
    single_line(not_empty(text))
    if len(text.encode()) >= _PATH_MAX:
        raise UsageError("the link's target is longer than Linux allows")
    return text


def hostname(name: str) -> str:
    """Accept the name of a host by the rules of RFC 1123 section 2.1."""
    if len(name) > _HOST_NAME_MAX:
        raise UsageError(f"the hostname has {len(name)} characters; Linux allows {_HOST_NAME_MAX}")
    if not _HOSTNAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a hostname",
            hint="use letters, digits and '-' in parts of at most 63 characters, separated by '.'",
        )
    return name


def timezone(name: str) -> str:
    """Accept the name of a time zone such as ``Europe/Berlin``."""
    if not _TIMEZONE.fullmatch(name):
        raise UsageError(f"{name!r} is not a time zone", hint="give a name such as Europe/Berlin or UTC")
    return name


def user_name(name: str) -> str:
    """Accept the name of a user, useradd(8)."""
    if len(name) > _LOGIN_NAME_MAX or not _USER.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a user name",
            hint="user names match [a-z_][a-z0-9_.-]* and have at most 32 characters",
        )
    return name


def user_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Accept a list of user or group names, which may be empty."""
    return tuple(user_name(name) for name in names)


def mirror_url(url: str) -> str:
    """Accept the address of a mirror; errors do not quote it, since it may contain a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https", "ftp") and bool(parts.hostname) and not parts.query
    except ValueError:
        usable = False
    if not usable or not _URL_CHARACTERS.fullmatch(url):
        raise UsageError("this is not the address of a mirror", hint="for example http://mirror.example.org")
    return url


def holds_credentials(url: str) -> bool:
    """Tell whether an address contains a password or another secret."""
    return Address(url).has_secret


def package_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Accept package names: no option, no blanks, nothing special to the shell."""
    if not names:
        raise UsageError("at least one package is needed")
    for name in names:
        if name.startswith("--"):
            raise UsageError(
                f"the names of packages are missing before {name}",
                hint="name them, with commas between: nginx,vim-tiny",
            )
        if not _PACKAGE.fullmatch(name):
            raise UsageError(
                f"{name!r} is not a package name", hint="separate packages by commas: nginx,vim-tiny"
            )
    return names


def file_mode(mode: int) -> int:
    """Accept permission bits."""
    if not 0 <= mode <= 0o7777:
        raise UsageError(
            f"{mode:o} is not a file mode", hint="give an octal mode from 0000 to 7777, such as 0755"
        )
    return mode


def octal_mode(text: str) -> int:
    """Parse a file mode, always as octal: ``755`` and ``0755`` mean the same."""
    if not _OCTAL.fullmatch(text):
        raise UsageError(
            f"{text!r} is not an octal file mode", hint="symbolic modes are not supported: give 0755"
        )
    return file_mode(int(text.removeprefix("0o"), 8))


def owner_number(number: int) -> int:
    """Accept the number of a user or group."""
    if not 0 <= number <= LAST_ID:
        raise UsageError(f"{number} is not a user or group number")
    return number


def owner(owner: int | str) -> int | str:
    """Accept the number or the name of a user or group."""
    return owner_number(owner) if isinstance(owner, int) else user_name(owner)


def parse_owner(text: str) -> int | str:
    """Parse a user or group: digits only are a number, anything else is a name."""
    return int(text) if _NUMBER.fullmatch(text) else text


def local_file(path: Path) -> Path:
    """Accept a local regular file that can be read, never a pipe or a device."""
    mode = _local_mode(path)
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a directory", hint="use --copy-in for directories")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is not a regular file")
    return path


def local_tree(path: Path) -> Path:
    """Accept a local regular file or directory that can be read as a whole."""
    mode = _local_mode(path)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError(f"{path} is neither a regular file nor a directory")
    return localtree.check(path)


def _local_mode(path: Path) -> int:
    try:
        mode = path.stat().st_mode
        readable = os.access(path, os.R_OK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"the local file {str(path)!r} cannot be used: {reason}") from error
    if not readable:
        raise UsageError(f"the local file {path} cannot be read", hint=f"check its permissions: ls -l {path}")
    return mode


def read_given(path: Path, what: str, read: Callable[[BufferedReader], bytes]) -> bytes:
    """Read a file or pipe that the user has named, as ``what`` in the error if that fails."""
    try:
        with open_given(path) as file:
            return read(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{what} {str(path)!r} cannot be read: {reason}") from error


def read_local(path: Path, size: int = -1) -> bytes:
    """Read a local regular file, or its first ``size`` bytes."""
    try:
        with open_file(path) as file:
            return file.read(size)
    except OSError as error:
        raise UsageError(f"the local file {path} cannot be read: {error.strerror}") from error


def first_line(text: str) -> str:
    """Return a command for messages: a single line, or the first of several with ``...``."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0].strip() + " ..." if len(lines) > 1 else text.strip("\n")


def _rule(check: Callable[[Any], object]) -> Mapping[str, object]:
    return {"rule": check}


GUEST_PATH: Mapping[str, object] = {"rule": guest_path, "guest": True}
REMOVABLE_GUEST_PATH: Mapping[str, object] = {"rule": removable_guest_path, "guest": True}
GUEST_PATHS = _rule(guest_paths)
LINK_TARGET = _rule(link_target)
HOSTNAME = _rule(hostname)
TIMEZONE = _rule(timezone)
USER_NAME = _rule(user_name)
PACKAGES = _rule(package_names)
FILE_MODE = _rule(file_mode)
OWNER = _rule(owner)
LOCAL_FILE = _rule(local_file)
LOCAL_TREE = _rule(local_tree)
NOT_EMPTY = _rule(not_empty)
RAW_TEXT: Mapping[str, object] = {"raw": True}
RAW_LINE: Mapping[str, object] = {"raw": True, "rule": single_line}

"""A Windows guest: its facts, and its paths as Windows reads them.

For NTFS in the appliance, names that differ in case are different, and for Windows they are the same: it
would not see a second ``WINDOWS`` next to ``Windows``. So each path is taken name by name, as the guest
spells it. Junctions and links are not followed: their targets begin with a drive letter, or mean a different
folder in the appliance.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.guests.ports import Appliance, Guest
from imgbuilder.guests.registry import is_settled
from imgbuilder.host.text import one_line, without_controls

DRIVE = re.compile(r"([A-Za-z]):(?=[\\/])")
"""The start of a path with a drive letter."""
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])[ ]*(?:\..*)?", re.IGNORECASE
)
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"|?*]')
_LONGEST_NAME = 255
"""Longest name of NTFS, in units of UTF-16."""
_LONGEST_PRODUCT = 100


@dataclass(frozen=True)
class WindowsFacts:
    """Facts about a Windows guest, by libguestfs's inspection."""

    product_name: str
    """Its name for people; printable."""
    osinfo: str
    """Its short name in libosinfo, such as ``win10``."""
    arch: str
    version: tuple[int, int]
    folder: str
    """Its own folder, such as ``/Windows``."""
    system_hive: str
    """The file of the registry's branch SYSTEM."""
    control_set: str
    """The key of that hive that it starts with, such as ``ControlSet001``."""
    drive: str = "C"
    """The letter of its drive."""


def read_windows(appliance: Appliance, root: str) -> WindowsFacts:
    """Read the facts of a mounted Windows; a registry that cannot be changed is refused.

    Raises:
        GuestError: It has no usable registry.
    """
    try:
        general, own = appliance.inspect_facts(root), appliance.inspect_windows(root)
        hive, control_set = own["system_hive"], own["current_control_set"]
        for name in ("system_hive", "software_hive"):
            if not is_settled(appliance.start_of(find(appliance, own[name]), 512)):
                raise GuestError(
                    f"{own[name]} of the guest has changes that are only in its log: it was not shut down "
                    "cleanly",
                    hint="start the guest and shut it down; nothing was changed",
                )
        usable = appliance.read_registry(find(appliance, hive), [control_set]) is not None
    except GuestCallError as error:
        raise GuestError(
            f"the registry of the guest, which looks like Windows, cannot be read: {error.message}",
            hint="the guest is damaged, or not Windows; nothing was changed",
        ) from error
    if not usable:
        raise GuestError(
            f"the registry of the guest, {hive}, has no key {control_set}",
            hint="the guest is damaged, or not Windows; nothing was changed",
        )
    return WindowsFacts(
        product_name=without_controls(one_line(general["product_name"], _LONGEST_PRODUCT)),
        osinfo=general["osinfo"],
        arch=general["arch"],
        version=(int(own["major"]), int(own["minor"])),
        folder=own["systemroot"],
        system_hive=hive,
        control_set=control_set,
        drive=own["drive"].upper(),
    )


def find(guest: Guest, path: str, drive: str = "C") -> str:
    """Return the path of an existing file as the guest spells it.

    Raises:
        GuestCallError: It is missing, or behind a link or a junction.
    """
    place, missing = follow(guest, split_path(path, drive), path)
    if missing:
        raise GuestCallError(f"{path}: No such file or directory", errno_name="ENOENT")
    return place


def split_path(path: str, drive: str) -> list[str]:
    """Split a path with slashes or backslashes into names."""
    match = DRIVE.match(path)
    if match and match[1].upper() != drive:
        raise GuestCallError(
            f"{path} is not on the drive of Windows, {drive}:",
            hint="only the files of that drive can be changed",
            errno_name="EXDEV",
        )
    names = [name for name in re.split(r"[/\\]", path[match.end() :] if match else path) if name]
    if "." in names or ".." in names:
        raise GuestCallError(f"{path}: a path in Windows may not contain . or ..", errno_name="EINVAL")
    return names


def follow(guest: Guest, names: Sequence[str], path: str, *, last: bool = True) -> tuple[str, list[str]]:
    """Follow names as far as they exist; return that path, and the names that are missing.

    With ``last``, the last name may not be a link either.
    """
    place = "/"
    for at, name in enumerate(names):
        here = posixpath.join(place, name)
        if not _is_there(guest, here):
            if not guest.is_dir(place):
                raise GuestCallError(f"{path}: Not a directory", errno_name="ENOTDIR")
            spelt = sorted(known for known in guest.ls(place) if _same(known, name))
            if not spelt:
                return place, list(names[at:])
            here = posixpath.join(place, spelt[0])
            _is_there(guest, here)
        if guest.is_symlink(here) and (last or at + 1 < len(names)):
            raise _junction(here)
        place = here
    return place, []


def _is_there(guest: Guest, path: str) -> bool:
    try:
        return guest.is_symlink(path) or guest.exists(path)
    except GuestCallError as error:
        if error.errno_name == "EIO":  # ntfs-3g, of a junction that it cannot show as a link
            raise _junction(path) from error
        raise


def _junction(path: str) -> GuestCallError:
    return GuestCallError(
        f"{path} is a junction or a link of the guest, and is not followed",
        hint="give the path that it leads to",
        errno_name="ELOOP",
    )


def _same(left: str, right: str) -> bool:
    """Compare names as NTFS does: letter by letter, by their upper case."""
    return len(left) == len(right) and upper_case(left) == upper_case(right)


def upper_case(name: str) -> str:
    """Return a name in upper case, letter by letter."""
    # NTFS's table has one letter for one: "ß" stays.
    return "".join(upper if len(upper := letter.upper()) == 1 else letter for letter in name)


def check_new_names(names: Sequence[str], path: str) -> None:
    """Refuse names of new files that Windows cannot use."""
    for name in names:
        problem = ""
        if _FORBIDDEN.search(name):
            problem = 'Windows forbids < > : " | ? * and control characters in names'
        elif name[-1] in ". ":
            problem = "Windows forbids a dot or a blank at the end of a name"
        elif _RESERVED.fullmatch(name):
            problem = f"{name} is the name of a device in Windows"
        elif len(name.encode("utf-16-le", "surrogatepass")) > 2 * _LONGEST_NAME:
            problem = f"names in Windows have at most {_LONGEST_NAME} characters"
        if problem:
            raise GuestCallError(f"{path}: {problem}", errno_name="EINVAL")

"""Operations on the guest's directories, links, permissions and owners."""

from __future__ import annotations

import posixpath
import stat
from dataclasses import dataclass, field

from imgbuilder.customize import argforms, values
from imgbuilder.customize.accountfiles import find_number
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import EVERYWHERE
from imgbuilder.customize.operation import Operation, read_if_present, require_directory, require_existing
from imgbuilder.customize.registry import operation
from imgbuilder.errors import OperationError
from imgbuilder.guests.ports import Guest


@operation(
    "chmod",
    progress="Changing permissions of {path} to {mode:04o}",
    form=argforms.pair(argforms.ArgumentPart("PERM", values.octal_mode), "FILE"),
)
@dataclass(frozen=True)
class Chmod(Operation):
    """Change the permissions of a file of the guest.

    PERM is always octal, with or without a leading 0 (virt-builder reads 755 as a decimal number).
    Symbolic modes are refused.

    Attributes:
        mode: The permission bits.
        path: The file in the guest.
    """

    mode: int = field(metadata=values.FILE_MODE)
    path: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        require_existing(guest, self.path, self)
        guest.chmod(self.mode, self.path)
        now = stat.S_IMODE(guest.stat(self.path).mode)
        if now != self.mode:
            raise OperationError(
                f"--chmod: the permissions of {self.path} are still {now:04o}: its filesystem stores none"
            )


@operation(
    "chown",
    progress="Changing owner of {path} to {uid}:{gid}",
    form=argforms.triple(
        argforms.ArgumentPart("UID", values.parse_owner, argforms.Kind.OWNER),
        argforms.ArgumentPart("GID", values.parse_owner, argforms.Kind.OWNER),
        "PATH",
    ),
)
@dataclass(frozen=True)
class Chown(Operation):
    """Change the owner and group of a file of the guest.

    UID and GID are numbers, or names of users and groups of the guest at that moment. A directory's content
    is not changed, and a link is followed.

    Attributes:
        uid: Number or name of the owner.
        gid: Number or name of the group.
        path: The file in the guest.
    """

    uid: int | str = field(metadata=values.OWNER)
    gid: int | str = field(metadata=values.OWNER)
    path: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        require_existing(guest, self.path, self)
        uid = self._number(guest, "/etc/passwd", self.uid, "user")
        gid = self._number(guest, "/etc/group", self.gid, "group")
        # A change of owner clears the set-user-id bits, as chown(1) in the guest would.
        guest.chown(uid, gid, self.path)
        now = guest.stat(self.path)
        if (now.uid, now.gid) != (uid, gid):
            raise OperationError(
                f"--chown: the owner of {self.path} is still {now.uid}:{now.gid}: its filesystem stores none"
            )

    def _number(self, guest: Guest, database: str, owner: int | str, what: str) -> int:
        if isinstance(owner, int):
            return owner
        content = read_if_present(guest, database)
        number = find_number(content, owner)
        if number is None:
            raise OperationError(
                f"--chown: the guest has no {what} {owner}",
                hint=f"add it first with --user or --run-command, or give the number of the {what}",
            )
        return number


@operation(
    "copy", progress="Copying (in image): {source} to {destination}", form=argforms.pair("SOURCE", "DEST")
)
@dataclass(frozen=True)
class Copy(Operation):
    """Copy files or directories inside the guest.

    Works like cp -a; wildcards are not expanded. A file that is copied to a link goes to the link's target.
    A tree is not copied over one that has links in place of its files.

    Attributes:
        source: The file or directory to copy.
        destination: The path of the copy.
    """

    source: str = field(metadata=values.GUEST_PATH)
    destination: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        if not guest.is_symlink(self.source):
            require_existing(guest, self.source, self)
        require_directory(guest, self.destination, self)
        guest.copy(self.source, self.destination)


@operation("delete", progress="Deleting: {pattern}", form=argforms.single("PATH"), systems=EVERYWHERE)
@dataclass(frozen=True)
class Delete(Operation):
    """Delete a file or directory of the guest.

    PATH may contain wildcards, which are expanded in the guest (quote them for your shell). Directories are
    removed with their content; it is not an error if nothing matches.

    Attributes:
        pattern: The path or pattern in the guest.
    """

    pattern: str = field(metadata=values.REMOVABLE_GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        # The pattern itself may be the name of a file, or of a dangling link.
        for path in guest.glob(self.pattern) or [self.pattern]:
            guest.remove(path)
            if guest.is_symlink(path) or guest.exists(path):
                raise OperationError(f"--delete: {path} is still in the guest after its removal")


@operation("link", form=argforms.links("TARGET", "LINK"))
@dataclass(frozen=True)
class Link(Operation):
    """Make symbolic links in the guest.

    Each LINK points to TARGET. An existing file or link of that name is replaced; in an existing directory
    the link is made with the name of TARGET.

    Attributes:
        target: The target of the links.
        links: Paths of the links.
    """

    target: str = field(metadata=values.LINK_TARGET)
    links: tuple[str, ...] = field(metadata=values.GUEST_PATHS)

    def describe(self) -> str:
        return "Linking: " + ", ".join(f"{link} -> {self.target}" for link in self.links)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        for link in self.links:
            require_directory(guest, link, self)
            path = link
            if guest.is_dir(link) and not guest.is_symlink(link):
                path = posixpath.join(link, posixpath.basename(self.target.rstrip("/")))
            guest.symlink(self.target, path)


@operation("mkdir", progress="Making directory: {path}", form=argforms.single("DIR"), systems=EVERYWHERE)
@dataclass(frozen=True)
class Mkdir(Operation):
    """Make a directory in the guest.

    Missing parents are made as well; it is not an error if the directory exists.

    Attributes:
        path: The directory.
    """

    path: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        guest.mkdir_p(self.path)


@operation(
    "move",
    progress="Moving: {source} -> {destination}",
    form=argforms.pair("SOURCE", "DEST"),
    systems=EVERYWHERE,
)
@dataclass(frozen=True)
class Move(Operation):
    """Move files or directories inside the guest.

    Works like mv; wildcards are not expanded.

    Attributes:
        source: The file or directory to move.
        destination: The new path.
    """

    source: str = field(metadata=values.REMOVABLE_GUEST_PATH)
    destination: str = field(metadata=values.GUEST_PATH)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        if not guest.is_symlink(self.source):
            require_existing(guest, self.source, self)
        require_directory(guest, self.destination, self)
        guest.move(self.source, self.destination)

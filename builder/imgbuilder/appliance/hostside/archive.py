"""Unpacks a tar file of this host in the guest, as the appliance's tar would.

The parent reads the archive and sends members and content; the worker never sees it. The appliance's tar has
no names of users, so owners are the archive's numbers.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal

from imgbuilder.errors import UnfitError

_PIECE = 2 << 20
_MODES: dict[str | None, Literal["r:", "r:gz", "r:bz2", "r:xz"]] = {
    None: "r:",
    "gzip": "r:gz",
    "bzip2": "r:bz2",
    "xz": "r:xz",
}
_ATTRIBUTE = "SCHILY.xattr."
_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "name",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "pipe",
}
"""Names of the types of members in requests to the worker."""

Ask = Callable[..., object]


def unpack(archive: Path, compress: str | None, folder: str, ask: Ask) -> None:
    """Unpack an archive.

    Args:
        archive: The tar file.
        compress: ``gzip``, ``bzip2`` or ``xz``; None if it is not compressed.
        folder: The folder of the guest.
        ask: Sends a request to the worker.

    Raises:
        UnfitError: The archive, or a member, needs the appliance's tar, which may refuse it.
    """
    folders: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(archive, _MODES[compress], encoding="utf-8", errors="surrogateescape") as opened:
            for member in opened:
                path = _place(folder, member.name)
                kind = _KINDS.get(member.type)
                attributes = _attributes(member)
                if kind is None:
                    raise UnfitError(f"{member.name!r} is of a rare type")
                _make(opened, member, kind, path, folder, ask)
                if kind == "folder":
                    folders[path] = member
                if kind != "name":
                    _settle(member, path, attributes, ask)
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, KeyError) as error:
        raise UnfitError(f"{archive} cannot be unpacked: {error}") from error
    for path, member in folders.items():  # what was put into them changed their times
        _settle(member, path, {}, ask)


def _place(folder: str, name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UnfitError(f"the tar file has a member with '..' in its name: {name!r}")
    return "/".join([folder.rstrip("/"), *parts]) or "/"


def _make(
    opened: tarfile.TarFile, member: tarfile.TarInfo, kind: str, path: str, folder: str, ask: Ask
) -> None:
    target = member.linkname if kind == "link" else ""
    if kind == "name":
        target = _place(folder, member.linkname)
    ask("unpack", path, kind, target, member.devmajor, member.devminor)
    if kind != "file":
        return
    for start, piece in _pieces(opened, member):
        ask("extend", path, start, piece)
    if member.issparse():
        ask("cut", path, member.size)


def _pieces(opened: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[tuple[int, bytes]]:
    """Yield the places and pieces of a file's content, without its holes."""
    source = opened.extractfile(member)
    assert source is not None, "it is a regular file"
    # tarfile keeps the map of a sparse file here: places and sizes of its data.
    parts: list[tuple[int, int]] = getattr(member, "sparse", None) or [(0, member.size)]
    for place, size in parts:
        source.seek(place)
        for start in range(0, size, _PIECE):
            wanted = min(_PIECE, size - start)
            piece = source.read(wanted)
            if len(piece) != wanted:
                raise EOFError("the content of a file is incomplete")
            yield place + start, piece


def _settle(member: tarfile.TarInfo, path: str, attributes: dict[str, bytes], ask: Ask) -> None:
    facts = [member.mode & 0o7777, member.uid, member.gid, _modified(member)]
    if not 0 <= member.uid < 1 << 32 or not 0 <= member.gid < 1 << 32:
        raise UnfitError(f"{member.name!r} has an owner that cannot be")
    ask("settle", path, *facts, [[name, value] for name, value in attributes.items()])


def _modified(member: tarfile.TarInfo) -> int:
    """Return the time in nanoseconds; a float is too coarse for today's."""
    try:
        moment = int(Decimal(member.pax_headers.get("mtime", member.mtime)) * 1_000_000_000)
    except (InvalidOperation, OverflowError) as error:
        raise UnfitError(f"{member.name!r} has an invalid time") from error
    if not -(1 << 31) <= moment // 1_000_000_000 < 3 << 32:
        raise UnfitError(f"{member.name!r} has a time that cannot be stored")
    return moment


def _attributes(member: tarfile.TarInfo) -> dict[str, bytes]:
    """Return the extended attributes; rare ones, and ACLs, are left to the appliance's tar."""
    found: dict[str, bytes] = {}
    if member.islnk():  # they are those of the file that has the name already
        return found
    for key, value in member.pax_headers.items():
        if key.startswith("SCHILY.acl."):
            raise UnfitError(f"{member.name!r} has an ACL")
        if key.startswith(_ATTRIBUTE):
            name = key.removeprefix(_ATTRIBUTE)
            if not (member.isreg() or member.isdir()) or not (
                name.startswith("user.") or name == "security.capability"
            ):
                raise UnfitError(f"{member.name!r} has the attribute {name}")
            found[name] = value.encode("utf-8", "surrogateescape")
    return found

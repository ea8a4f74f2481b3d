"""Checks of a disk image before any program of QEMU sees the file.

qemu-img opens every file that a qcow2 header names: of a backing file it copies the host's bytes, and it even
writes to a data file. So the header is judged here first, in pure Python (``docs/threat-model.md`` F13, T13,
X12 to X18). Raw images have no header: whatever their first bytes look like, they are always opened with the
format named.
"""

from __future__ import annotations

import os
import shlex
import struct
from collections.abc import Sequence
from pathlib import Path

from imgbuilder.disk import magic
from imgbuilder.disk.qcow2 import LARGEST_CLUSTER, QCOW2_MAGIC, Qcow2Facts, Role, parse_qcow2
from imgbuilder.errors import DiskError
from imgbuilder.host import imagelocks
from imgindex.files import open_regular

UNNAMED = "auto"
"""Format of an image whose source names none."""

_ENDINGS = frozenset({"xz", "gz", "zst", "bz2", "lz4", "lzma", "zstd"})
_VMDK = struct.Struct("<4sII QQQQ")
_VMDK_MAGIC = b"KDMV"
_LARGEST_DESCRIPTOR = 1 << 20
"""Bytes at the start of a VMDK image that contain its descriptor; QEMU reads at most as many."""
_SECTOR = 512


def check_image(path: Path, image_format: str, size: int) -> None:
    """Check that a template's file is a harmless image of one format and virtual size."""
    if image_format == UNNAMED:
        find_format(path, size, role=Role.TEMPLATE)
    elif image_format == "qcow2":
        check_qcow2(path, size, role=Role.TEMPLATE)
    elif image_format == "raw":
        check_raw(path, size)
    else:
        raise DiskError(f"{path}: the format {image_format!r} is not supported")


def check_own(
    path: Path, image_format: str | None, role: Role, *, backing: Sequence[Path] = ()
) -> tuple[str, tuple[Path, ...]]:
    """Check an image of the user, and name other kinds of files in the error.

    Without a format, the header decides. Returns the format, and the images of ``backing`` that are used.
    """
    head, _size = _open(path, magic.LENGTH)
    qcow2 = head.startswith(QCOW2_MAGIC)
    if not qcow2:
        if image_format != "raw":
            refuse_packed(path)
        fixed = magic.read_only(head)
        if fixed is not None and role is Role.GUEST:
            raise DiskError(
                f"{path} is {fixed}, which is read-only: nothing in it can be changed",
                hint="give a disk image of the system, such as the distribution's .qcow2; "
                "commands in a guest may read this file with --attach",
            )
    if image_format is None and not qcow2:
        return find_format(path, role=role), ()
    if image_format == "raw":
        return "raw", ()
    return "qcow2", _check_chain(path, backing, role)


def refuse_packed(path: Path) -> None:
    """Refuse an archive or a compressed file in place of a disk image."""
    packing = magic.packing_of(_open(path, magic.LENGTH)[0])
    if packing is None:
        return
    disk = path.with_suffix("")
    if path.suffix[1:].lower() not in _ENDINGS or disk.exists():
        disk = path.with_name(f"{path.name}.unpacked")
    command = magic.UNPACKING[packing].format(file=shlex.quote(str(path)), disk=shlex.quote(str(disk)))
    then = "; convert the disk of an .ova: qemu-img convert -O qcow2 DISK.vmdk disk.qcow2"
    raise DiskError(
        f"{path} is not a disk image: it is packed with {packing}",
        hint=f"unpack it first: {command}{then if packing == 'tar' else ''}",
    )


def _check_chain(path: Path, allowed: Sequence[Path], role: Role) -> tuple[Path, ...]:
    """Check a qcow2 image and all its backing files; return these."""
    chain: list[Path] = []
    while True:
        facts = check_qcow2(path, role=role, overlay=True)
        if facts.backing is None:
            return tuple(chain)
        # As QEMU opens it: relative names count from the folder in the image's name.
        below = path.parent / facts.backing
        if ":" in facts.backing.partition("/")[0]:
            raise DiskError(f"{path} has the backing file {facts.backing!r}, which is not a local file")
        named = next((item for item in allowed if _is_same(item, below)), None)
        if named is None or named in chain:
            raise DiskError(
                f"{path} is an overlay: it needs its backing file, {below}",
                hint=role.advice(str(path), overlay=str(below)),
            )
        if facts.backing_format not in ("raw", "qcow2"):
            raise DiskError(
                f"{path} does not name the format of its backing file, {below}",
                hint="name it, if you know it: qemu-img rebase -u -f qcow2 -F FORMAT "
                f"-b {shlex.quote(facts.backing)} {shlex.quote(str(path))}",
            )
        _open(below, 0)
        imagelocks.refuse_if_in_use(below, changing=False)
        chain.append(named)
        if facts.backing_format == "raw":
            return tuple(chain)
        path = below


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def find_format(path: Path, size: int | None = None, *, role: Role = Role.OWN) -> str:
    """Decide the format of an image whose source names none, without probing.

    A file that begins like qcow2 must be a harmless qcow2 image. Any other file is a raw disk, unless it
    looks like a format that is not supported: where two formats are possible, the image is refused.
    """
    head, real = _open(path, magic.LENGTH)
    looks = magic.foreign_format(head)
    if looks == "qcow2":
        check_qcow2(path, size, role=role)
        return "qcow2"
    if looks is not None:
        own = f"convert it: qemu-img convert -f {looks} -O qcow2 {shlex.quote(str(path))} disk.qcow2"
        raise DiskError(
            f"{path}: its format is not given, and it looks like {looks}",
            hint="only raw and qcow2 are supported; if it is a raw disk, its format must be named"
            + ("" if role is Role.TEMPLATE or looks == "luks" else f"; else {own}"),
        )
    check_raw(path, real if size is None else size)
    return "raw"


def check_raw(path: Path, size: int) -> None:
    """Check that a file is a raw disk of one size (``docs/threat-model.md`` X4, X17)."""
    _first_bytes, real = _open(path, 0)
    if real != size:
        raise DiskError(f"{path}: has {real} bytes where the index promises {size}")


def check_qcow2(
    path: Path, expected_size: int | None = None, *, role: Role = Role.OWN, overlay: bool = False
) -> Qcow2Facts:
    """Check that a file is a qcow2 image that refers to nothing but itself."""
    data, file_size = _open(path, LARGEST_CLUSTER)
    facts = parse_qcow2(data, file_size, where=str(path), role=role, overlay=overlay)
    if expected_size is not None and facts.virtual_size != expected_size:
        raise DiskError(
            f"{path}: the qcow2 disk has {facts.virtual_size} bytes where the index promises {expected_size}"
        )
    return facts


def check_other(path: Path, image_format: str) -> None:
    """Check that a file has the header of a format that only QEMU reads, and names no other file."""
    head, _size = _open(path, _LARGEST_DESCRIPTOR)
    if magic.foreign_format(head[: magic.LENGTH]) != image_format:
        raise DiskError(f"{path} is not a {image_format} image", hint="name its real format")
    if image_format != "vmdk":
        return
    if not head.startswith(_VMDK_MAGIC) or len(head) < _VMDK.size:
        raise DiskError(f"{path}: refused as a vmdk image: it only describes other files")
    _magic, _version, _flags, _capacity, _grain, start, length = _VMDK.unpack_from(head)
    end = (start + length) * _SECTOR
    if not start or not length or end > _LARGEST_DESCRIPTOR:
        raise DiskError(f"{path}: refused as a vmdk image: it has no readable descriptor")
    if b"parentfilenamehint" in head[start * _SECTOR : end].lower():
        raise DiskError(f"{path}: refused as a vmdk image: it has a parent")


def _open(path: Path, count: int) -> tuple[bytes, int]:
    try:
        device = path.is_block_device()
        descriptor = (
            os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if device else open_regular(path)
        )
        with os.fdopen(descriptor, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return file.read(count), size
    except OSError as error:
        raise DiskError(
            f"cannot read {path}: {error.strerror}", hint="check its permissions and that disk (see: dmesg)"
        ) from error

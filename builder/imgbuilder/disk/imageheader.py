"""What a disk image's header may say before any program of qemu sees the file.

qemu-img opens whatever file a qcow2 header names: as backing file it copies
the host's bytes out, as data file it even writes to it (``docs/threat-model.md``
F13). So the header is judged here first, in pure Python, by the layout in
qemu's ``docs/interop/qcow2.txt`` (T13, X12 to X18). Every length is checked
against the file before it is used, and only the first cluster is ever read.

Raw images have no header: whatever their first bytes look like, they are
always opened with the format named (X12).
"""

from __future__ import annotations

import enum
import os
import shlex
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.disk import magic
from imgbuilder.errors import DiskError
from imgbuilder.host import imagelocks
from imgindex.files import open_regular

QCOW2_MAGIC = b"QFI\xfb"

UNNAMED = "auto"
"""Stands for the format of an image of which nobody says it."""

_ENDINGS = frozenset({"xz", "gz", "zst", "bz2", "lz4", "lzma", "zstd"})
_LARGEST_DISK = 16 << 40
"""Largest virtual size in bytes, as for ``size=`` in an index (``docs/threat-model.md`` P3)."""

_LARGEST_L1 = 32 << 20
_LARGEST_REFCOUNT_TABLE = 8 << 20
"""Bytes; qemu refuses larger tables as well."""

_CLUSTER_BITS = range(9, 22)
_LARGEST_REFCOUNT_ORDER = 6

_FIXED = struct.Struct(">4sI QII Q II Q QI IQ")
_VERSION_3 = struct.Struct(">QQQ II")

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))

_VMDK = struct.Struct("<4sII QQQQ")
_VMDK_MAGIC = b"KDMV"
_LARGEST_DESCRIPTOR = 1 << 20
"""Bytes at the start of a VMDK image that its descriptor lies in; qemu reads at most as many."""
_SECTOR = 512

_LONGEST_NAME = 1023
"""Bytes of a backing file's name, as in qemu."""

_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
_EXTENSION_ENCRYPTION = 0x0537BE77


@dataclass(frozen=True)
class Qcow2Facts:
    """What a harmless qcow2 header says.

    Attributes:
        version: 2 or 3.
        virtual_size: Size of the disk in bytes.
        cluster_size: Bytes per cluster.
        compression: Of compressed clusters, ``zlib`` or ``zstd``.
        backing: The image that it lies over, as it names it; None for none.
        backing_format: The format of that, as it names it.
    """

    version: int
    virtual_size: int
    cluster_size: int
    compression: str
    backing: str | None = None
    backing_format: str | None = None


class Role(enum.Enum):
    """What an image is to those who read the messages about it."""

    OWN = "own"
    """Their own, or one that they publish."""
    GUEST = "guest"
    """Their own, to be customized: what it lies over can be named with ``--backing``."""
    TEMPLATE = "template"
    """A publisher's, whom they can only tell."""

    def advice(self, where: str, *, overlay: str | None = None) -> str:
        """Return what to do about an image that refers to other files, or is not plain.

        Args:
            where: The image.
            overlay: What it lies over; None when that is not the reason.
        """
        if self is Role.TEMPLATE:
            return "the publisher should flatten it with qemu-img"
        plain = f"make a plain image of it: qemu-img convert -O qcow2 {shlex.quote(where)} plain.qcow2"
        if overlay is None:
            return plain
        if self is Role.GUEST:
            return f"if you trust both, name it: --backing {shlex.quote(overlay)}; or {plain}"
        return f"if you trust both, {plain}"


def check_image(path: Path, image_format: str, size: int) -> None:
    """Check that a template's file is a harmless image of one format and virtual size.

    Args:
        path: The image.
        image_format: ``raw``, ``qcow2`` or ``UNNAMED``.
        size: Virtual size in bytes.

    Raises:
        DiskError: It is not, with the reason.
    """
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
    """Judge an image of the reader's own, and name what is no disk image by what it is.

    Args:
        path: The image.
        image_format: ``raw`` or ``qcow2``, as it was named; None to decide it by the header.
        role: What the image is to the reader.
        backing: Images that the reader has named, which this one may lie over.

    Returns:
        The format, and those of ``backing`` that the image lies over.

    Raises:
        DiskError: It is packed, read-only, refers to files that were not named, or might be something else.
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
    """Refuse an archive or a compressed file in the place of a disk image.

    Raises:
        DiskError: It is one; the hint is how to unpack it.
    """
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
    """Judge a qcow2 image and all that it lies over; return that."""
    chain: list[Path] = []
    while True:
        facts = check_qcow2(path, role=role, overlay=True)
        if facts.backing is None:
            return tuple(chain)
        # What qemu opens: relative names count from the folder of the image as it is called.
        below = path.parent / facts.backing
        if ":" in facts.backing.partition("/")[0]:
            raise DiskError(f"{path} lies over {facts.backing!r}, which is no local file")
        named = next((item for item in allowed if _is_same(item, below)), None)
        if named is None or named in chain:
            raise DiskError(
                f"{path} is an overlay: it is nothing without its backing file, {below}",
                hint=role.advice(str(path), overlay=str(below)),
            )
        if facts.backing_format not in ("raw", "qcow2"):
            raise DiskError(
                f"{path} does not say the format of {below}, which it lies over",
                hint="say it, if you know it: qemu-img rebase -u -f qcow2 -F FORMAT "
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
    """Decide the format of an image of which nobody says it, without probing (design decision 7).

    A file that begins like qcow2 must be a harmless one. Any other file is a raw disk, unless it looks like
    a format that is not supported: where two answers are possible, none is given.

    Args:
        path: The image.
        size: Virtual size in bytes that it must have; None when unknown.
        role: What the image is to the reader.

    Returns:
        ``raw`` or ``qcow2``.

    Raises:
        DiskError: It is neither, or might be something else.
    """
    head, real = _open(path, magic.LENGTH)
    looks = magic.foreign_format(head)
    if looks == "qcow2":
        check_qcow2(path, size, role=role)
        return "qcow2"
    if looks is not None:
        own = f"convert it: qemu-img convert -f {looks} -O qcow2 {shlex.quote(str(path))} disk.qcow2"
        raise DiskError(
            f"{path}: nothing says its format, and it looks like {looks}",
            hint="only raw and qcow2 are supported; if it is a raw disk, its format must be named"
            + ("" if role is Role.TEMPLATE or looks == "luks" else f"; else {own}"),
        )
    check_raw(path, real if size is None else size)
    return "raw"


def check_raw(path: Path, size: int) -> None:
    """Check that a file is a raw disk of one size (``docs/threat-model.md`` X4, X17).

    Args:
        path: The image.
        size: Size of the disk in bytes.

    Raises:
        DiskError: It is no ordinary file, or has another size.
    """
    _first_bytes, real = _open(path, 0)
    if real != size:
        raise DiskError(f"{path}: has {real} bytes where the index promises {size}")


def check_qcow2(
    path: Path, expected_size: int | None = None, *, role: Role = Role.OWN, overlay: bool = False
) -> Qcow2Facts:
    """Check that a file is a qcow2 image that refers to nothing but itself.

    Args:
        path: The image.
        expected_size: Virtual size in bytes that it must have (``threat-model.md`` X18); None when unknown.
        role: What the image is to the reader.
        overlay: Whether it may lie over another image, which the caller then judges.

    Returns:
        What its header says.

    Raises:
        DiskError: It is not, with the reason.
    """
    data, file_size = _open(path, 1 << _CLUSTER_BITS[-1])
    facts = parse_qcow2(data, file_size, where=str(path), role=role, overlay=overlay)
    if expected_size is not None and facts.virtual_size != expected_size:
        raise DiskError(
            f"{path}: the qcow2 disk has {facts.virtual_size} bytes where the index promises {expected_size}"
        )
    return facts


def check_other(path: Path, image_format: str) -> None:
    """Check that a file has the header of a format that only QEMU reads, and names no other file.

    Args:
        path: The image.
        image_format: ``vmdk``, ``vdi`` or ``vhdx``.

    Raises:
        DiskError: It is something else, or a VMDK image that is only a part of one.
    """
    head, _size = _open(path, _LARGEST_DESCRIPTOR)
    if magic.foreign_format(head[: magic.LENGTH]) != image_format:
        raise DiskError(f"{path} is no {image_format} image", hint="name the format that it has")
    if image_format != "vmdk":
        return
    if not head.startswith(_VMDK_MAGIC) or len(head) < _VMDK.size:
        raise DiskError(f"{path}: refused as a vmdk image: it only describes other files")
    _magic, _version, _flags, _capacity, _grain, start, length = _VMDK.unpack_from(head)
    end = (start + length) * _SECTOR
    if not start or not length or end > _LARGEST_DESCRIPTOR:
        raise DiskError(f"{path}: refused as a vmdk image: it has no descriptor that can be looked at")
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


def parse_qcow2(
    data: bytes, file_size: int, *, where: str, role: Role = Role.OWN, overlay: bool = False
) -> Qcow2Facts:
    """Judge the first bytes of a qcow2 image.

    Args:
        data: The start of the file: a cluster, or the whole file when that is shorter.
        file_size: Size of the whole file in bytes.
        where: The file, for messages.
        role: What the image is to the reader.
        overlay: Whether it may lie over another image.

    Raises:
        DiskError: The header is malformed, or refers to other files, or needs what we do not know.
    """

    def refuse(reason: str) -> DiskError:
        return DiskError(f"{where}: refused as a qcow2 image: {reason}", hint=role.advice(where))

    if len(data) < _FIXED.size:
        raise refuse("it is shorter than a header")
    (
        magic,
        version,
        backing_offset,
        backing_length,
        cluster_bits,
        virtual_size,
        encryption,
        l1_entries,
        l1_offset,
        refcount_offset,
        refcount_clusters,
        snapshots,
        _snapshots_offset,
    ) = _FIXED.unpack_from(data)
    if magic != QCOW2_MAGIC:
        raise refuse("it does not begin like one")
    if version not in (2, 3):
        raise refuse(f"unknown version {version}")
    if (backing_offset or backing_length) and not overlay:
        raise refuse("it has a backing file")
    if encryption:
        raise refuse("it is encrypted")
    if snapshots:
        raise refuse(f"it has {snapshots} internal snapshots")
    if cluster_bits not in _CLUSTER_BITS:
        raise refuse(f"cluster size 2^{cluster_bits}")
    if not 0 < virtual_size <= _LARGEST_DISK:
        raise refuse(f"virtual size {virtual_size}")

    features, refcount_order, header_length = 0, 4, _FIXED.size
    if version == 3:
        if len(data) < _FIXED.size + _VERSION_3.size:
            raise refuse("it is shorter than its header")
        features, _compatible, _autoclear, refcount_order, header_length = _VERSION_3.unpack_from(
            data, _FIXED.size
        )
    cluster = 1 << cluster_bits
    if not _FIXED.size + (_VERSION_3.size if version == 3 else 0) <= header_length <= min(cluster, len(data)):
        raise refuse(f"header length {header_length}")
    if header_length % 8:
        raise refuse(f"header length {header_length}")
    if refcount_order > _LARGEST_REFCOUNT_ORDER:
        raise refuse(f"refcount order {refcount_order}")
    for bit, name in ((_DIRTY, "dirty"), (_CORRUPT, "corrupt")):
        if features & bit:
            raise refuse(f"it is marked as {name}")
    if features & _DATA_FILE:
        raise refuse("it keeps its data in another file")
    if features & ~(_COMPRESSION | _EXTENDED_L2):
        raise refuse(f"unknown features {features:#x}")
    compression_type = data[104] if header_length > 104 else 0
    if compression_type not in (0, 1) or bool(compression_type) != bool(features & _COMPRESSION):
        raise refuse(f"compression type {compression_type}")

    # One L2 table covers a cluster full of 8-byte (extended: 16-byte) entries.
    covered = cluster * (cluster // (16 if features & _EXTENDED_L2 else 8))
    if l1_entries < -(-virtual_size // covered):
        raise refuse("its L1 table is too small for its size")
    _check_table("L1", l1_offset, l1_entries * 8, _LARGEST_L1, cluster, file_size, refuse)
    refcount_bytes = refcount_clusters * cluster
    if not refcount_clusters:
        raise refuse("it has no refcount table")
    _check_table(
        "refcount", refcount_offset, refcount_bytes, _LARGEST_REFCOUNT_TABLE, cluster, file_size, refuse
    )
    extensions = _read_extensions(data[:cluster], header_length, refuse)
    backing = None
    if backing_offset or backing_length:
        end = backing_offset + backing_length
        if not 0 < backing_length <= _LONGEST_NAME or not header_length <= backing_offset < end <= cluster:
            raise refuse("the name of its backing file lies outside the header")
        backing = os.fsdecode(data[backing_offset:end])
        if "\0" in backing or len(data) < end:
            raise refuse("the name of its backing file is broken")
    kind = extensions.get(_EXTENSION_BACKING_FORMAT)
    return Qcow2Facts(
        version,
        virtual_size,
        cluster,
        "zstd" if compression_type else "zlib",
        backing,
        None if kind is None else kind.decode("ascii", "replace"),
    )


def _check_table(
    name: str,
    offset: int,
    length: int,
    largest: int,
    cluster: int,
    file_size: int,
    refuse: Callable[[str], DiskError],
) -> None:
    end_of_file = -(-file_size // cluster) * cluster  # the last cluster need not be written in full
    if length > largest:
        raise refuse(f"its {name} table has {length} bytes")
    if offset < cluster or offset % cluster or offset + length > end_of_file:
        raise refuse(f"its {name} table lies outside the file")


def _read_extensions(header: bytes, position: int, refuse: Callable[[str], DiskError]) -> dict[int, bytes]:
    """Read the header extensions, each a type, a length and padded data, to their end mark."""
    found: dict[int, bytes] = {}
    while position + 8 <= len(header):
        kind, length = struct.unpack_from(">II", header, position)
        if kind == _EXTENSION_END:
            break
        if kind == _EXTENSION_DATA_FILE:
            raise refuse("it names a data file")
        if kind == _EXTENSION_ENCRYPTION:
            raise refuse("it is encrypted")
        found[kind] = header[position + 8 : position + 8 + length]
        position += 8 + -(-length // 8) * 8
        if position > len(header):
            raise refuse("a header extension is longer than the header")
    return found

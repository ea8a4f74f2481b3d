"""The header of a qcow2 image, judged before any program of QEMU sees the file.

The layout is that of QEMU's ``docs/interop/qcow2.txt``. Every length is checked against the file before it is
used, and only the first cluster is ever read.
"""

from __future__ import annotations

import enum
import os
import shlex
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from imgbuilder.errors import DiskError

QCOW2_MAGIC = b"QFI\xfb"

_LARGEST_DISK = 16 << 40
"""Largest virtual size in bytes, as for ``size=`` in an index (``docs/threat-model.md`` P3)."""

_LARGEST_L1 = 32 << 20
_LARGEST_REFCOUNT_TABLE = 8 << 20
"""Bytes; QEMU refuses larger tables as well."""

_CLUSTER_BITS = range(9, 22)
LARGEST_CLUSTER = 1 << _CLUSTER_BITS[-1]
"""Bytes; no header is longer."""
_LARGEST_REFCOUNT_ORDER = 6

_FIXED = struct.Struct(">4sI QII Q II Q QI IQ")
_VERSION_3 = struct.Struct(">QQQ II")

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))

_LONGEST_NAME = 1023
"""Bytes of a backing file's name, as in QEMU."""

_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
_EXTENSION_ENCRYPTION = 0x0537BE77

_Refuse = Callable[[str], DiskError]


@dataclass(frozen=True)
class Qcow2Facts:
    """The facts that a harmless qcow2 header states."""

    version: int
    virtual_size: int
    cluster_size: int
    compression: str
    """Of compressed clusters, ``zlib`` or ``zstd``."""
    backing: str | None = None
    """Name of its backing file, as the header has it; None for none."""
    backing_format: str | None = None
    """Format of the backing file, as the header has it."""


class Role(enum.Enum):
    """The relation of an image to the reader of messages about it."""

    OWN = "own"
    """The reader's image, or one that the reader publishes."""
    GUEST = "guest"
    """The reader's image, to be customized: its backing files can be named with ``--backing``."""
    TEMPLATE = "template"
    """A publisher's image, which the reader can only report."""

    def advice(self, where: str, *, overlay: str | None = None) -> str:
        """Return the hint about an image that refers to other files, or is not plain."""
        if self is Role.TEMPLATE:
            return "the publisher should flatten it with qemu-img"
        plain = f"make a plain image of it: qemu-img convert -O qcow2 {shlex.quote(where)} plain.qcow2"
        if overlay is None:
            return plain
        if self is Role.GUEST:
            return f"if you trust both, name it: --backing {shlex.quote(overlay)}; or {plain}"
        return f"if you trust both, {plain}"


class _Fixed(NamedTuple):
    """The fields that all versions have, in their order."""

    magic: bytes
    version: int
    backing_offset: int
    backing_length: int
    cluster_bits: int
    virtual_size: int
    encryption: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int

    @property
    def cluster(self) -> int:
        """Bytes per cluster."""
        return 1 << self.cluster_bits


def parse_qcow2(
    data: bytes, file_size: int, *, where: str, role: Role = Role.OWN, overlay: bool = False
) -> Qcow2Facts:
    """Judge the first bytes of a qcow2 image.

    Args:
        data: The start of the file: a cluster, or the whole file when that is shorter.
        file_size: Size of the whole file in bytes.
        where: The file, for messages.
        role: Relation of the image to the reader.
        overlay: Allow a backing file.
    """

    def refuse(reason: str) -> DiskError:
        return DiskError(f"{where}: refused as a qcow2 image: {reason}", hint=role.advice(where))

    fixed = _read_fixed(data, refuse)
    if (fixed.backing_offset or fixed.backing_length) and not overlay:
        raise refuse("it has a backing file")
    features, header_length = _read_features(data, fixed, refuse)
    compression = _read_compression(data, features, header_length, refuse)
    _check_tables(fixed, features, file_size, refuse)
    extensions = _read_extensions(data[: fixed.cluster], header_length, refuse)
    kind = extensions.get(_EXTENSION_BACKING_FORMAT)
    return Qcow2Facts(
        fixed.version,
        fixed.virtual_size,
        fixed.cluster,
        compression,
        _read_backing(data, fixed, header_length, refuse),
        None if kind is None else kind.decode("ascii", "replace"),
    )


def _read_fixed(data: bytes, refuse: _Refuse) -> _Fixed:
    if len(data) < _FIXED.size:
        raise refuse("it is shorter than a header")
    fixed = _Fixed(*_FIXED.unpack_from(data))
    if fixed.magic != QCOW2_MAGIC:
        raise refuse("it does not begin like one")
    if fixed.version not in (2, 3):
        raise refuse(f"unknown version {fixed.version}")
    if fixed.encryption:
        raise refuse("it is encrypted")
    if fixed.snapshots:
        raise refuse(f"it has {fixed.snapshots} internal snapshots")
    if fixed.cluster_bits not in _CLUSTER_BITS:
        raise refuse(f"cluster size 2^{fixed.cluster_bits}")
    if not 0 < fixed.virtual_size <= _LARGEST_DISK:
        raise refuse(f"virtual size {fixed.virtual_size}")
    return fixed


def _read_features(data: bytes, fixed: _Fixed, refuse: _Refuse) -> tuple[int, int]:
    """Return the feature bits and the length of the header."""
    features, refcount_order, header_length, shortest = 0, 4, _FIXED.size, _FIXED.size
    if fixed.version == 3:
        shortest += _VERSION_3.size
        if len(data) < shortest:
            raise refuse("it is shorter than its header")
        features, _compatible, _autoclear, refcount_order, header_length = _VERSION_3.unpack_from(
            data, _FIXED.size
        )
    if not shortest <= header_length <= min(fixed.cluster, len(data)) or header_length % 8:
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
    return features, header_length


def _read_compression(data: bytes, features: int, header_length: int, refuse: _Refuse) -> str:
    kind = data[104] if header_length > 104 else 0
    if kind not in (0, 1) or bool(kind) != bool(features & _COMPRESSION):
        raise refuse(f"compression type {kind}")
    return "zstd" if kind else "zlib"


def _check_tables(fixed: _Fixed, features: int, file_size: int, refuse: _Refuse) -> None:
    cluster = fixed.cluster
    end_of_file = -(-file_size // cluster) * cluster  # the last cluster need not be written in full

    def check(name: str, offset: int, length: int, largest: int) -> None:
        if length > largest:
            raise refuse(f"its {name} table has {length} bytes")
        if offset < cluster or offset % cluster or offset + length > end_of_file:
            raise refuse(f"its {name} table lies outside the file")

    # One L2 table covers a cluster full of 8-byte (extended: 16-byte) entries.
    covered = cluster * (cluster // (16 if features & _EXTENDED_L2 else 8))
    if fixed.l1_entries < -(-fixed.virtual_size // covered):
        raise refuse("its L1 table is too small for its size")
    check("L1", fixed.l1_offset, fixed.l1_entries * 8, _LARGEST_L1)
    if not fixed.refcount_clusters:
        raise refuse("it has no refcount table")
    check("refcount", fixed.refcount_offset, fixed.refcount_clusters * cluster, _LARGEST_REFCOUNT_TABLE)


def _read_extensions(header: bytes, position: int, refuse: _Refuse) -> dict[int, bytes]:
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


def _read_backing(data: bytes, fixed: _Fixed, header_length: int, refuse: _Refuse) -> str | None:
    begin, length = fixed.backing_offset, fixed.backing_length
    if not begin and not length:
        return None
    end = begin + length
    if not 0 < length <= _LONGEST_NAME or not header_length <= begin < end <= fixed.cluster:
        raise refuse("the name of its backing file lies outside the header")
    backing = os.fsdecode(data[begin:end])
    if "\0" in backing or len(data) < end:
        raise refuse("the name of its backing file is broken")
    return backing

"""The registry of Windows: values as hivex(3) stores them, and changes of keys.

A value's data is what the registry holds: text is UTF-16 and ends with a NUL.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_HEADER = struct.Struct("<4sII")


class ValueKind(enum.IntEnum):
    """Kinds of values, of those that are written here."""

    SZ = 1
    EXPAND_SZ = 2
    BINARY = 3
    DWORD = 4
    MULTI_SZ = 7


@dataclass(frozen=True)
class RegistryValue:
    """A value of a key."""

    kind: int
    data: bytes

    @property
    def text(self) -> str:
        """The text of a value that holds text; anything else reads as odd characters, not as an error."""
        return self.data.decode("utf-16-le", "replace").split("\0", 1)[0]


def text(content: str, kind: ValueKind = ValueKind.SZ) -> RegistryValue:
    """Make a value that holds text."""
    return RegistryValue(kind, f"{content}\0".encode("utf-16-le"))


def texts(*contents: str) -> RegistryValue:
    """Make a value that holds several texts."""
    joined = "".join(f"{content}\0" for content in contents)
    return RegistryValue(ValueKind.MULTI_SZ, f"{joined}\0".encode("utf-16-le"))


def number(content: int) -> RegistryValue:
    """Make a value that holds a number of 32 bits."""
    return RegistryValue(ValueKind.DWORD, struct.pack("<I", content))


@dataclass(frozen=True)
class RegistryKey:
    """A key of a hive with values to set; it is made if it is missing, and keeps its other values."""

    path: Sequence[str]
    values: Mapping[str, RegistryValue]


def is_settled(hive: bytes) -> bool:
    """Tell by the first bytes of a hive whether all of its changes are in it, and none only in its log."""
    if len(hive) < _HEADER.size:
        return False
    magic, first, second = _HEADER.unpack_from(hive)
    return bool(magic == b"regf" and first == second)

"""Sizes as users write and read them, and numbers from other programs."""

from __future__ import annotations

import re

from imgbuilder.errors import UsageError

_UNITS = {"b": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([.0-9]{1,40})([bKMGT])")
_LARGEST = (1 << 63) - 1
"""The largest file on Linux: ``off_t`` is a signed 64-bit number."""
_MOST_DIGITS = 40


def parse_size(text: str) -> int:
    """Read a size such as ``20G`` or ``1.5G``.

    A number, which may have a fraction, and one of the letters ``b`` (bytes), ``K``, ``M``, ``G`` or ``T``
    (powers of 1024). The letter is required, so that 20 is not taken for 20 bytes where 20 gigabytes were
    meant.

    Returns:
        Bytes; a fraction of a byte is cut off.
    """
    from fractions import Fraction  # late: lists parse no size

    match = _SIZE.fullmatch(text)
    hint = "write a number and one of b, K, M, G, T, for example 20G"
    try:
        size = int(Fraction(match[1]) * _UNITS[match[2]]) if match else None
    except ValueError:
        size = None  # several points, or a point alone
    if size is None:
        raise UsageError(f"cannot parse size {text!r}", hint=hint)
    if size > _LARGEST:
        raise UsageError(f"size {text!r} is larger than any file can be", hint=hint)
    return size


def whole_number(text: str | bytes, most: int) -> int | None:
    """Parse a number that a guest, an image or another program wrote.

    Returns:
        The number; None when it is not one, or larger. int() would accept signs, blanks, underscores and
        digits of all scripts, and fail on more than 4300 of them.
    """
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        return None
    number = int(text)
    return number if number <= most else None


def human_size(size: int) -> str:
    """Write a size in bytes as virt-builder does: ``512.0M``, with ``G`` as the largest unit."""
    sign, rest = ("-", -size) if size < 0 else ("", size)
    if rest < 1024:
        return f"{size}"
    for unit in ("K", "M"):
        if rest < 1024 * 1024:
            return f"{sign}{rest / 1024:.1f}{unit}"
        rest //= 1024
    return f"{sign}{rest / 1024:.1f}G"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, in the plural except for 1: ``1 template``, ``2 templates``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""Which of two versions is the newer one. Pure."""

from __future__ import annotations

import re


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Return what versions are compared by: numbers as numbers, and ``~`` before the end, as in Debian.

    So ``9`` comes before ``10``, ``20240101`` before ``20240101.1``, and ``1.0~rc1`` before ``1.0``.
    """
    key: list[tuple[int, int, str]] = []
    for part in re.findall(r"[0-9]+|[A-Za-z]+|.", version, re.DOTALL):
        if part[0] in "0123456789":
            digits = part.lstrip("0")  # compared without int(), which refuses very long ones
            key.append((3, len(digits), digits))
        elif part == "~":
            key.append((0, 0, ""))
        else:
            key.append((2, 0, part))
    return (*key, (1, 0, ""))

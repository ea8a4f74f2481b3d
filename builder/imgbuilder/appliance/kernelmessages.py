"""What the appliance's kernel says about writes that did not reach the disk. Pure.

A program in the guest learns of them only when it asks (fsync); most do not.
Without this look at the kernel's messages, an image on a full or broken disk
could be called a success (``reliability.md`` B11, B15).
"""

from __future__ import annotations

import re

_LOST = re.compile(
    r"(?:I/O|space allocation) error, dev \w+, sector \d+(?! op 0x[0-9a-f]+:\((?!WRITE\)))"
    r"|Buffer I/O error on dev [^,]+, logical block \d+, lost (?:async|sync) page write"
    r"|EXT4-fs (?:error|\([^)]*\): failed to convert|warning .*: I/O error \d+ writing)"
    r"|JBD2: (?:Error -?\d+ detected|Detected IO errors)"
    r"|XFS \([^)]*\): (?:metadata|log) I/O error"
    r"|BTRFS (?:error|critical)[^:]*: (?:bdev|error while writing)"
)


def lost_writes(messages: str) -> str | None:
    """Return the first message about a write that was lost; None when there is none.

    Args:
        messages: What dmesg(1) prints.
    """
    for line in messages.split("\n"):
        if _LOST.search(line):
            return line.strip()
    return None

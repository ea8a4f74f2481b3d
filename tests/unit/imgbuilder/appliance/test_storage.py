"""The kernel's messages about lost writes; all were seen on real kernels."""

from __future__ import annotations

import pytest

from imgbuilder.appliance.storage import lost_writes

LOST = [
    "[   25.6] critical space allocation error, dev sda, sector 45186 op 0x1:(WRITE) flags 0x4000",
    "[   25.6] I/O error, dev sda, sector 2048 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
    "[    9.1] blk_update_request: I/O error, dev sda, sector 2048",
    "[   25.6] EXT4-fs warning (device sda1): ext4_end_bio:343: I/O error 3 writing to inode 20 ...",
    "[   25.7] JBD2: Detected IO errors while flushing file data on sda1-8",
    "[   25.7] Buffer I/O error on dev sda1, logical block 261, lost async page write",
    "[   26.4] EXT4-fs error (device sda1): ext4_put_super:1305: comm umount: Couldn't clean up the journal",
    '[   30.0] XFS (sda2): metadata I/O error in "xfs_buf_ioend" at daddr 0x2 len 1 error 28',
]
HARMLESS = [
    "",
    "[    1.0] EXT4-fs (sda1): mounted filesystem with ordered data mode. Quota mode: none.",
    "[    1.0] I/O error, dev sdb, sector 0 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2",
    "[    1.0] critical target error, dev sda, sector 8 op 0x3:(DISCARD) flags 0x800 phys_seg 1",
    "[    1.0] operation not supported error, dev sda, sector 8 op 0x9:(WRITE_ZEROES) flags 0x800",
    "[    1.0] I/O error handling enabled",
    "[    1.0] EXT4-fs (sda1): re-mounted. Quota mode: none.",
]


@pytest.mark.parametrize("line", LOST)
def test_lost(line: str) -> None:
    assert lost_writes("\n".join([*HARMLESS, line, *HARMLESS])) == line


def test_harmless() -> None:
    for line in HARMLESS:
        assert lost_writes(line) is None
    assert lost_writes("\n".join(HARMLESS)) is None

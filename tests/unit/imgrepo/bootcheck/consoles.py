"""Output of real guests on their serial consoles, shortened."""

from __future__ import annotations

_BIOS = (
    b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\nBooting from Hard Disk...\r\n"
)
_GRUB = b"GRUB loading.\r\n\x1b[0;30;47mWelcome to GRUB!\r\n\n\x1b[H\x1b[J\x1b[1;1H"

DEBIAN = (
    _BIOS + _GRUB + b"[    0.000000] Linux version 6.1.0-39-cloud-amd64 (debian-kernel@lists.debian.org)\r\n"
    b"[    1.204110] virtio_blk virtio0: [vda] 4194304 512-byte logical blocks (2.15 GB/2.00 GiB)\r\n"
    b"\r\r\nWelcome to \x1b[1mDebian GNU/Linux 12 (bookworm)\x1b[0m!\r\r\n"
    b"[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mserial-getty@ttyS0\xe2\x80\xa6rvice\x1b[0m.\r\r\n"
    b"[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mgetty.target\x1b[0m - Login Prompts.\r\r\n"
    b"\r\r\nDebian GNU/Linux 12 debian-12 ttyS0\r\n\r\ndebian-12 login: "
)
PANIC = (
    _BIOS
    + _GRUB
    + b'[    2.310000] VFS: Cannot open root device "UUID=1" or unknown-block(0,0): error -6\r\n'
    b"[    2.311000] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n"
    b"[    2.312000] CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0-39-cloud-amd64 #1\r\n"
    b"[    2.313000] Call Trace:\r\n[    2.314000]  <TASK>\r\n"
)
NOTHING = (
    _BIOS + b"Boot failed: not a bootable disk\r\n\nBooting from Floppy...\r\n"
    b"Boot failed: could not read the boot disk\r\n\nNo bootable device.\r\n"
)
RESCUE = (
    _BIOS + b"GRUB loading.\r\n\x1b[0;30;47mWelcome to GRUB!\r\n\n"
    b"error: file `/boot/grub/i386-pc/normal.mod' not found.\r\nEntering rescue mode...\r\ngrub rescue> "
)
GRUB_SHELL = (
    _BIOS
    + b"\x1b[1;1H\x1b[2;30HGNU GRUB  version 2.06\r\n\n   Minimal BASH-like line editing is supported. For\r\n"  # noqa: E501
    b"   the first word, TAB lists possible command completions.\r\n\n\ngrub> "
)
INITRAMFS = (
    _BIOS
    + _GRUB
    + b"Begin: Running /scripts/local-block ... done.\r\nGave up waiting for root file system device.  Common "  # noqa: E501
    b"problems:\r\n - Boot args (cat /proc/cmdline)\r\nALERT!  UUID=fb0c1d4c does not exist.  Dropping to a "
    b"shell!\r\n\r\n\r\nBusyBox v1.35.0 (Debian 1:1.35.0-4+b3) built-in shell (ash)\r\n\r\n(initramfs) "
)
EMERGENCY = (
    _BIOS
    + _GRUB
    + b"[\x1b[0;1;31m TIME \x1b[0m] Timed out waiting for device \x1b[0;1;39mdev-vdb.device\x1b[0m.\r\r\n"
    b"[\x1b[0;1;38;5;185mDEPEND\x1b[0m] Dependency failed for \x1b[0;1;39mdata.mount\x1b[0m - /data.\r\r\n"
    b'You are in emergency mode. After logging in, type "journalctl -xb" to view\r\nsystem logs.\r\n'
    b"Give root password for maintenance\r\n(or press Control-D to continue): "
)
UEFI = (
    b"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: No bootable option or device was found.\r\n"
    b"BdsDxe: Press any key to enter the Boot Manager Menu.\r\n"
)
UEFI_SHELL = (
    b"\x1b[2J\x1b[01;01HUEFI Interactive Shell v2.2\r\nEDK II\r\nUEFI v2.70 (EDK II, 0x00010000)\r\n"
    b"Press \x1b[1mESC\x1b[0m in 1 seconds to skip startup.nsh\r\nShell> "
)
LOOP = b"".join(_BIOS + b"GRUB loading.\r\n" for _ in range(6))
SPLIT_BY_PLACES = b"\x1b[05;02Hgrub r\x1b[05;08H\x1b[05;09Hescue> "
"""A BIOS that shows its screen on the serial console moves the cursor in the middle of words."""

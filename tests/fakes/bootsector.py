"""A guest of one sector: it greets on the serial port and returns each byte that it gets.

After ``w``, its second sector is written; after ``q`` it is off.
"""

from __future__ import annotations

from pathlib import Path

GREETING = b"tiny guest\r\n"
_CODE = bytes.fromhex(
    "31c08ed88ec0be557c"  # ax, ds and es are 0; si is the address of the greeting
    "ac84c07405e82b00ebf6"  # next: put each byte up to 0
    "bafd03eca80174f8baf803ec"  # read: wait for a byte from COM1
    "3c7174283c777510"  # 'q': go to off; all but 'w': go to back
    "b80103bb007cb90200ba8000cd13b077"  # int 13h writes this code to the second sector
    "e80200ebd7"  # back: put the byte, and go to read
    "50bafd03eca82074fb58baf803eec3"  # put: wait until COM1 takes a byte, and send it
    "ba0406b80020eff4ebfd"  # off: out 0x604, 0x2000 (ACPI S5); hlt
)


def sector(greeting: bytes = GREETING) -> bytes:
    """Return the guest, with another greeting."""
    return (_CODE + greeting).ljust(510, b"\0") + b"\x55\xaa"


SECTOR = sector()


def make_guest(path: Path) -> Path:
    """Write the guest's disk of 1 MiB."""
    path.write_bytes(SECTOR.ljust(1 << 20, b"\0"))
    return path

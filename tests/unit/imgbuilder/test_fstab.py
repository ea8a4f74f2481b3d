"""fstab(5) of guests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.fstab import Mount, parse_fstab

TEXT = """
# comment
UUID=1111-2222 /boot/efi vfat umask=0077 0 1
LABEL=home\t/home ext4 defaults 0 2
/dev/vda2 / ext4 errors=remount-ro 0 1
UUID=aa /var btrfs defaults,subvol=@var,compress=zstd 0 0
/swapfile none swap sw 0 0
UUID=bb none swap sw 0 0
tmpfs /tmp tmpfs defaults 0 0
server:/export /mnt nfs defaults 0 0
UUID=cc /data ext4 noauto 0 0
/srv /mnt/srv none bind 0 0
/dev/sdb1 /with\\040blank xfs defaults 0 0
short line
"""


def test_filesystems_on_disks_shortest_path_first() -> None:
    assert parse_fstab(TEXT) == [
        Mount("/dev/vda2", "/", "ext4", ""),
        Mount("UUID=aa", "/var", "btrfs", "subvol=@var"),
        Mount("LABEL=home", "/home", "ext4", ""),
        Mount("UUID=1111-2222", "/boot/efi", "vfat", ""),
        Mount("/dev/sdb1", "/with blank", "xfs", ""),
    ]


@given(st.text())
def test_b17_any_text_is_read(text: str) -> None:
    for mount in parse_fstab(text):
        assert mount.path.startswith("/")

"""A signed archive from which mmdebstrap makes a tiny Debian in seconds.

All packages that a recipe asks for are there, and most are empty. One has a few programs of this machine; its
GRUB is a boot sector that asks for a login on the serial port.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from imgrepo.template.disk import Layout
from imgrepo.template.recipes import Kernel, packages_of, recipe_named
from tests.fakes.bootsector import sector
from tests.fakes.debarchive import DebArchive
from tests.guest.smallguest import small_system

BOOTS = sector(b"tiny\r\n\r\ntiny login: ")[:440]
"""Code for the first sector of a disk, before its partition table."""
PANICS = sector(b"tiny\r\n[    0.1] Kernel panic - not syncing: no init\r\n")[:440]

RECIPE = recipe_named("debian-12")
LAYOUT = Layout(uefi=False)
_PROGRAMS = (
    "basename", "chmod", "chown", "chroot", "dd", "diff", "dirname", "dpkg", "dpkg-deb", "dpkg-divert",
    "dpkg-query", "dpkg-split", "dpkg-trigger", "env", "find", "findmnt", "id", "ldconfig", "ln", "ls",
    "lsblk", "mkdir", "mv", "readlink", "rmdir", "sed", "start-stop-daemon", "sync", "tar", "test",
    "touch", "true", "truncate", "uname", "update-alternatives", "xz",
)  # fmt: skip
_GRUB_INSTALL = """\
#!/bin/sh
for disk; do :; done
dd if=/usr/share/tiny-boot of="$disk" bs=440 count=1 conv=notrunc,fsync
"""
_UPDATE_GRUB = """\
#!/bin/sh
mkdir -p /boot/grub
read root _rest </etc/fstab
echo "linux /vmlinuz root=$root ro" >/boot/grub/grub.cfg
"""


class TinyArchive:
    """The archive: its folder is served, and ``offer`` puts new versions of the package ``word`` into it."""

    def __init__(self, archive: DebArchive, work: Path) -> None:
        self._archive, self._work = archive, work
        self._lists: list[str] = []
        suite = RECIPE.suite
        for name in (suite, f"{suite}-updates", f"{suite}-security"):
            archive.suites[name] = []
            archive.packages[name] = ""
        archive.add(suite, "tiny", "1")
        self._add("base-files", "1", self._base(), "Essential: yes\nSource: tiny\n")
        names = {*packages_of(RECIPE, Kernel.CLOUD, (), layout=LAYOUT), "apt"}
        for name in sorted(names):
            tree = work / name
            tree.mkdir()
            self._add(name, "1", tree, "Source: tiny\n")
        self.offer(1)

    def _base(self) -> Path:
        folder = self._work / "base"
        folder.mkdir()
        root = small_system(folder, *_PROGRAMS)
        (root / "sbin").symlink_to("usr/sbin")
        (root / "usr/sbin").mkdir()
        for name in ("start-stop-daemon", "ldconfig", "chroot"):
            shutil.move(root / "usr/bin" / name, root / "usr/sbin" / name)
        for name in (
            "etc/apt",
            "etc/default",
            "etc/dpkg",
            "etc/ssh",
            "usr/share",
            "var/lib/dpkg",
            "var/cache",
            "boot",
        ):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "usr/share/tiny-boot").write_bytes(BOOTS)
        for name, text in {
            "systemctl": "#!/bin/sh\n", "usermod": "#!/bin/sh\n", "grub-install": _GRUB_INSTALL,
            "update-grub": _UPDATE_GRUB,
        }.items():  # fmt: skip
            (root / "usr/sbin" / name).write_text(text)
            (root / "usr/sbin" / name).chmod(0o755)
        return root

    def offer(self, version: int) -> None:
        """Offer a version of ``word``, with its sources."""
        tree = self._work / f"word-{version}"
        (tree / "usr/share").mkdir(parents=True)
        (tree / "usr/share/word").write_text(f"{version}\n")
        self._archive.add(RECIPE.suite, "word", str(version))
        self._add("word", str(version), tree, "")
        self._archive.packages[RECIPE.suite] = "\n".join(self._lists)
        self._archive.write()

    def _add(self, name: str, version: str, tree: Path, fields: str) -> None:
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: T <t@example.org>\n"
            f"Description: test\n{fields}"
        )
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(control)
        place = self._archive.root / "pool" / f"{name}_{version}_amd64.deb"
        place.parent.mkdir(exist_ok=True)
        subprocess.run(
            ["dpkg-deb", "-Zxz", "-z1", "--root-owner-group", "-b", tree, place],
            check=True,
            capture_output=True,
        )
        data = place.read_bytes()
        self._lists.append(
            f"{control}Filename: pool/{place.name}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )

"""A small guest with the rpm tools, dnf, zypper and pacman of this machine, and signed repositories for them.

Which of them is used depends on the os-release that the guest has.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.fakes.keys import KeyMaker
from tests.guest.smallguest import copy_libraries, copy_program, small_system

PROGRAMS = ("dnf", "zypper", "pacman")
"""The package managers; their packages are in scripts/packages.txt."""
_OTHERS = (
    "bash", "rpm", "rpmkeys", "rpmdb2solv", "repo2solv", "gpg", "gpg-agent", "gpgconf", "gpgv", "grep", "sed",
    "mkdir", "ls", "env", "test", "true", "touch", "chmod", "mv", "dirname",
)  # fmt: skip
_MODULES = ("dnf", "gpg", "hawkey", "libcomps", "libdnf", "rpm", "distro")
_UNUSED = shutil.ignore_patterns(
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "config-3*",
    "turtledemo",
    "dist-packages",
    "pydoc_data",
    "distutils",
    "*.a",
)
_DATA = ("usr/lib/rpm", "usr/share/zypper", "etc/zypp", "etc/ssl/certs/ca-certificates.crt")


def managers_root(folder: Path) -> Path:
    """Make the root of the guest."""
    root = small_system(folder, *_OTHERS, *PROGRAMS)
    python = Path("/usr/bin/python3").resolve()
    copy_program(root, str(python))
    (root / "usr/bin/python3").symlink_to(python.name)
    library = Path("/usr/lib") / python.name
    shutil.copytree(library, root / f"usr/lib/{python.name}", ignore=_UNUSED, symlinks=True)
    packages = Path("usr/lib/python3/dist-packages")
    for name in _MODULES:
        shutil.copytree("/" / packages / name, root / packages / name)
    for name in _DATA:
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if Path("/", name).is_dir():
            shutil.copytree(Path("/", name), place, symlinks=True, dirs_exist_ok=True)
        elif Path("/", name).exists():
            shutil.copy(Path("/", name), place)
    for path in (root / "usr").rglob("*.so"):
        copy_libraries(root, path)
    for name in (
        "etc/dnf/modules.d", "etc/yum.repos.d", "etc/zypp/repos.d", "etc/pacman.d/gnupg", "etc/pki",
        "var/cache/pacman/pkg", "var/lib/pacman/sync", "var/lib/rpm", "var/tmp", "run/lock", "etc/rpm",
    ):  # fmt: skip
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/dnf/dnf.conf").write_text("[main]\n")
    (root / "etc/rpm/macros").write_text("%_dbpath /var/lib/rpm\n")  # Debian's is in the user's home
    return root


def trust(root: Path, keys: KeyMaker, address: str) -> None:
    """Configure the repositories below an address, and trust the key that signed them."""
    (root / "etc/pki/key").write_bytes(keys.export(keys.publisher, armor=True))
    repository = f"""[local]
name=local
enabled=1
baseurl={address}/repository
gpgkey=file:///etc/pki/key
gpgcheck=1
repo_gpgcheck=1
pkg_gpgcheck=1
"""
    for folder in ("yum.repos.d", "zypp/repos.d"):
        (root / "etc" / folder / "local.repo").write_text(repository)
    (root / "etc/pacman.conf").write_text(
        f"[options]\nArchitecture = auto\nSigLevel = Required\n[words]\nServer = {address}/words\n"
    )
    home = root / "etc/pacman.d/gnupg"
    home.chmod(0o700)
    (home / "pubring.gpg").touch()  # pacman asks for it
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
    subprocess.run([*gpg, "--import", root / "etc/pki/key"], check=True)
    subprocess.run([*gpg, "--import-ownertrust"], input=f"{keys.publisher}:6:\n", text=True, check=True)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)

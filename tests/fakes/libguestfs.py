"""libguestfs's calls on a folder of this host in place of a guest's root.

As in libguestfs, some of them (``cp_a``, ``mv``, ``ln_s``) run a program outside the guest's root: an
absolute link of the guest leads it to a file of this host, as it would lead to one of the appliance.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from imgbuilder.errors import GuestCallError
from tests.fakes.guest import FakeGuest


class HostLibguestfs:
    """Answers the requests of ``imgbuilder.appliance`` about files."""

    def __init__(self, root: Path, *, devices: bool = False, network: bool = True) -> None:
        self.root = root
        self.network = network
        self.devices = devices
        """True: ``rename`` finds two filesystems."""

    def call(
        self, method: str, *args: Any, limit: float | None = None, most: int = 0, label: str = "", **more: Any
    ) -> Any:
        try:
            return getattr(self, f"_{method}")(*args, **more)
        except OSError as error:
            name = {17: "EEXIST", 18: "EXDEV", 2: "ENOENT", 21: "EISDIR", 20: "ENOTDIR", 22: "EINVAL"}
            raise GuestCallError(f"{method}: {error}", errno_name=name.get(error.errno or 0, "")) from error
        except subprocess.CalledProcessError as error:
            raise GuestCallError(f"{method}: {error.stderr}") from error

    def _inside(self, path: str, *, last: bool = True) -> Path:
        """Follow links as the guest would."""
        seen = FakeGuest()
        for folder, folders, files in os.walk(self.root):
            base = "/" + os.path.relpath(folder, self.root) if folder != str(self.root) else ""
            for name in [*folders, *files]:
                real = Path(folder, name)
                if real.is_symlink():
                    seen.add_link(f"{base}/{name}", str(real.readlink()))
                elif real.is_dir():
                    seen.add_dir(f"{base}/{name}")
                else:
                    seen.add(f"{base}/{name}")
        return Path(f"{self.root}{seen._resolve(path, follow_last=last)}")

    def _outside(self, path: str) -> str:
        return f"{self.root}{path}"

    def _run(self, *words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, text=True)

    def _realpath(self, path: str) -> str:
        found = self._inside(path)
        found.lstat()
        return "/" + str(found.relative_to(self.root)).removeprefix(".")

    def _ls(self, path: str) -> list[str]:
        return [child.name for child in self._inside(path).iterdir()]

    def _statns(self, path: str) -> dict[str, int]:
        return self._facts(self._inside(path).stat())

    def _lstatns(self, path: str) -> dict[str, int]:
        return self._facts(self._inside(path, last=False).lstat())

    def _facts(self, facts: os.stat_result) -> dict[str, int]:
        return {name: getattr(facts, name) for name in ("st_mode", "st_uid", "st_gid", "st_size", "st_nlink")}

    def _lstatnslist(self, folder: str, names: list[str]) -> list[dict[str, int]]:
        found = []
        for name in names:
            path = self._inside(folder) / name
            there = os.path.lexists(path)
            found.append(
                {
                    "st_ino": path.lstat().st_ino if there else -1,
                    "st_mode": path.lstat().st_mode if there else 0,
                }
            )
        return found

    def _find0(self, path: str, listing: str) -> None:
        base = Path(self._outside(path))
        names = [str(found.relative_to(base)) for found in sorted(base.rglob("*"))]
        Path(listing).write_text("".join(f"/{name}\0" for name in names))

    def _pread(self, path: str, count: int, offset: int) -> bytes:
        return self._inside(path).read_bytes()[offset : offset + count]

    def _write(self, path: str, content: bytes) -> None:
        self._inside(path).write_bytes(content)

    def _write_append(self, path: str, content: bytes) -> None:
        with self._inside(path).open("ab") as file:
            file.write(content)

    def _rename(self, old: str, new: str) -> None:
        if self.devices:
            raise OSError(18, "Invalid cross-device link")
        self._inside(old, last=False).rename(self._inside(new, last=False))

    def _rm_f(self, path: str) -> None:
        self._inside(path, last=False).unlink(missing_ok=True)

    def _ln_s(self, target: str, link: str) -> None:
        self._run("ln", "-s", "--", target, self._outside(link))

    def _cp_a(self, source: str, destination: str) -> None:
        self._run("cp", "-a", self._outside(source), self._outside(destination))

    def _mv(self, source: str, destination: str) -> None:
        self._run("mv", self._outside(source), self._outside(destination))

    def _tar_in(self, archive: str, directory: str, **_options: Any) -> None:
        self._run("tar", "-C", self._outside(directory), "--xattrs", "--xattrs-include=*", "-xf", archive)

    def _sh(self, script: str) -> str:
        """Run a script of the guest; with a network it is lent a resolv.conf, which is taken back."""
        own, aside = self.root / "etc/resolv.conf", self.root / "etc/aside"
        if self.network:
            if os.path.lexists(own):
                own.rename(aside)
            own.write_text("nameserver 169.254.2.3\n")
        script = script.replace("/etc/", f"{self.root}/etc/")
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
        if self.network:
            own.unlink(missing_ok=True)
            if os.path.lexists(aside):
                aside.rename(own)
        return done.stdout

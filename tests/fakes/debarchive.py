"""A small archive of Debian's kind in a folder: signed lists, and source packages in its pool."""

from __future__ import annotations

import hashlib
import lzma
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.keys import KeyMaker


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class DebArchive:
    """The archive.

    Attributes:
        root: Its folder.
        keys: Signs the lists.
        key: With this key.
        suites: Source packages by suite: name, version, and files by name.
        packages: The text of the list of binary packages of each suite that has one.
    """

    root: Path
    keys: KeyMaker
    key: str
    suites: dict[str, list[tuple[str, str, dict[str, bytes]]]] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)

    def add(self, suite: str, name: str, version: str, **more: bytes) -> dict[str, bytes]:
        """Put a source package into a suite; return its files."""
        plain = version.partition(":")[2] or version
        upstream = plain.partition("-")[0]
        files = {
            f"{name}_{upstream}.orig.tar.xz": f"original {name} {upstream}\n".encode() * 99,
            f"{name}_{plain}.debian.tar.xz": f"packaging {name} {plain}\n".encode(),
            **more,
        }
        files[f"{name}_{plain}.dsc"] = self.dsc(name, version, files)
        self.suites.setdefault(suite, []).append((name, version, files))
        return files

    def dsc(self, name: str, version: str, files: dict[str, bytes], **fields: str) -> bytes:
        """Return the text of a ``.dsc`` file, unsigned."""
        rows = "\n".join(f" {sha256(data)} {len(data)} {file}" for file, data in files.items())
        known = {"Format": "3.0 (quilt)", "Source": name, "Version": version} | fields
        head = "\n".join(f"{key}: {value}" for key, value in known.items())
        return f"{head}\nChecksums-Sha256:\n{rows}\n".encode()

    def folder_of(self, name: str) -> str:
        return f"pool/main/{name[:4] if name.startswith('lib') else name[0]}/{name}"

    def sources(self, suite: str) -> str:
        """Return the text of a suite's ``Sources``."""
        paragraphs = []
        for name, version, files in self.suites[suite]:
            rows = "\n".join(f" {sha256(data)} {len(data)} {file}" for file, data in files.items())
            paragraphs.append(
                f"Package: {name}\nBinary: {name}\nVersion: {version}\nFormat: 3.0 (quilt)\n"
                f"Checksums-Sha256:\n{rows}\nDirectory: {self.folder_of(name)}\n"
            )
        return "\n".join(paragraphs)

    def write(self, *, by_hash: bool = True, codename: str | None = None, text: str | None = None) -> None:
        """Write everything, lists signed; ``text`` is another ``Sources`` for all suites."""
        for suite, packages in self.suites.items():
            for name, _version, files in packages:
                folder = self.root / self.folder_of(name)
                folder.mkdir(parents=True, exist_ok=True)
                for file, data in files.items():
                    (folder / file).write_bytes(data)
            packed = lzma.compress((self.sources(suite) if text is None else text).encode())
            lists = self.root / "dists" / suite / "main/source"
            (lists / "by-hash/SHA256").mkdir(parents=True, exist_ok=True)
            for place in [lists / "Sources.xz", *([lists / "by-hash/SHA256" / sha256(packed)] * by_hash)]:
                place.write_bytes(packed)
            release = (
                f"Origin: Debian\nSuite: stable\nCodename: {codename or suite}\n"
                f"Acquire-By-Hash: {'yes' if by_hash else 'no'}\nComponents: main\n"
                f"SHA256:\n {'0' * 64}      7 main/source/Release\n"
                f" {sha256(packed)} {len(packed):>8} main/source/Sources.xz\n"
            )
            if suite in self.packages:
                data = self.packages[suite].encode()
                path = self.root / "dists" / suite / "main/binary-amd64/Packages"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                release += f" {sha256(data)} {len(data)} main/binary-amd64/Packages\n"
                release = f"Architectures: amd64\n{release}"
            signed = self.keys.sign(release, self.key)
            (self.root / "dists" / suite / "InRelease").write_bytes(signed)

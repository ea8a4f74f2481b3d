"""What a source package is, and how its description is read: lists of an archive and ``.dsc`` files alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from imgbuilder.errors import RepositoryError
from imgbuilder.fetch.urls import Address, hide_in
from imgrepo.contents.debcontrol import is_package_name, is_version

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_~:%-]{0,250}")
_FOLDER = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.+_~-]*/)*[A-Za-z0-9][A-Za-z0-9.+_~-]*")
_ROW = re.compile(r"([0-9a-f]{64})[ \t]+([0-9]{1,15})[ \t]+(\S+)")
_MOST_FILES = 100
_LARGEST_FILE = 8 << 30
"""Bytes; tar's plain format and Debian's archive know no larger file."""

SourceId = tuple[str, str]
"""Name and version of a source package."""


@dataclass(frozen=True)
class SourceFile:
    """A file of a source package.

    Attributes:
        name: Its name, without any folder.
        size: Bytes.
        sha256: SHA-256, in lower-case hex.
        root: Address of the archive that it is in, without a slash at the end.
        path: Where it is there, quoted as in an address.
    """

    name: str
    size: int
    sha256: str
    root: str
    path: str

    def __post_init__(self) -> None:
        hide_in(self, "root")

    @property
    def url(self) -> Address:
        """Where it is."""
        return Address(self.root).below(self.path)


@dataclass(frozen=True)
class SourcePackage:
    """A source package that an archive has.

    Attributes:
        name: Its name.
        version: Its version, with epoch.
        files: The ``.dsc`` and what it names.
        proof: Who vouches for the files.
    """

    name: str
    version: str
    files: tuple[SourceFile, ...]
    proof: str

    @property
    def id(self) -> SourceId:
        """Name and version."""
        return self.name, self.version

    @property
    def folder(self) -> str:
        """Name of its folder in an archive; as apt does, a colon is written %3a."""
        return f"{self.name}_{self.version.replace(':', '%3a')}"


def source_files(rows: str, root: str, folder: str, *, where: str) -> tuple[SourceFile, ...]:
    """Read a field ``Checksums-Sha256`` (deb-src-control(5)).

    Args:
        rows: Its value.
        root: The archive's address.
        folder: The folder in it that the files are in, without a slash at the end.
        where: Names it in messages.

    Raises:
        RepositoryError: It is damaged, or names a file that would lie elsewhere.
    """
    found: dict[str, SourceFile] = {}
    for row in filter(None, map(str.strip, rows.split("\n"))):
        match = _ROW.fullmatch(row)
        if match is None or not _FILE_NAME.fullmatch(match[3]) or match[3] in found:
            raise RepositoryError(f"{where}: {row[:120]!r} is not a file of a source package")
        size = int(match[2])
        if size > _LARGEST_FILE:
            raise RepositoryError(f"{where}: {match[3]} would have {size} bytes")
        path = quote(f"{folder}/{match[3]}", safe="/+~:")
        found[match[3]] = SourceFile(match[3], size, match[1], root, path)
    if not 0 < len(found) <= _MOST_FILES:
        raise RepositoryError(f"{where}: a source package with {len(found)} files cannot be")
    return tuple(sorted(found.values(), key=lambda file: file.name))


def source_package(fields: Mapping[str, str], root: str, *, proof: str, where: str) -> SourcePackage:
    """Read a paragraph of an archive's ``Sources``.

    Args:
        fields: The paragraph.
        root: The archive's address.
        proof: Who vouches for it.
        where: Names the list in messages.

    Raises:
        RepositoryError: It is damaged, or leads out of the archive.
    """
    name, version, folder = (fields.get(key, "").strip() for key in ("Package", "Version", "Directory"))
    if not is_package_name(name) or not is_version(version) or not _FOLDER.fullmatch(folder):
        raise RepositoryError(f"{where}: {name[:60]!r} {version[:60]!r} in {folder[:120]!r} cannot be")
    place = f"{name} {version} in {where}"
    files = source_files(fields.get("Checksums-Sha256", ""), root, folder, where=place)
    if sum(file.name.endswith(".dsc") for file in files) != 1:
        raise RepositoryError(f"{place} has no .dsc file")
    return SourcePackage(name, version, files, proof)

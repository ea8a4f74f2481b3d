"""Source packages, and the signed lists of archives of Debian's kind that name them.

``InRelease`` is checked by the accept rule of indexes; it has the digest of
``Sources.xz``, which has the digests of the files. Only verified text is parsed.
The age of a list does not matter: one exact version is looked for, and its
signature stays valid.
"""

from __future__ import annotations

import io
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from imgbuilder.errors import DigestMismatchError, FileMissingError, RepositoryError
from imgbuilder.events import Reporter, Step
from imgbuilder.fetch.transfer import Download, Fetcher
from imgbuilder.fetch.urls import Address, hide_in
from imgbuilder.host.hashing import hash_stream
from imgbuilder.host.workspace import explain
from imgindex.trust import VerifiedText
from imgrepo.contents.debcontrol import is_package_name, is_version, paragraphs

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_~:%-]{0,250}")
_FOLDER = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.+_~-]*/)*[A-Za-z0-9][A-Za-z0-9.+_~-]*")
_ROW = re.compile(r"([0-9a-f]{64})[ \t]+([0-9]{1,15})[ \t]+(\S+)")
_MOST_FILES = 100
_LARGEST_FILE = 8 << 30
"""Bytes; tar's plain format and Debian's archive have no larger files."""

SourceId = tuple[str, str]
"""Name and version of a source package."""


@dataclass(frozen=True)
class SourceFile:
    """A file of a source package: its digest, the archive's address without a slash, and its path there."""

    name: str
    size: int
    sha256: str
    root: str
    path: str

    def __post_init__(self) -> None:
        hide_in(self, "root")

    @property
    def url(self) -> Address:
        """Its address."""
        return Address(self.root).below(self.path)


@dataclass(frozen=True)
class SourcePackage:
    """A source package in an archive.

    Attributes:
        version: Its version, with epoch.
        files: The ``.dsc`` and the files that it names.
        proof: The list and the key that vouch for the files.
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
        """Name of its folder in an archive; a colon is written %3a, as apt does."""
        return f"{self.name}_{self.version.replace(':', '%3a')}"


def source_files(rows: str, root: str, folder: str, *, where: str) -> tuple[SourceFile, ...]:
    """Read a field ``Checksums-Sha256`` (deb-src-control(5))."""
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
        raise RepositoryError(f"{where}: a source package cannot have {len(found)} files")
    return tuple(sorted(found.values(), key=lambda file: file.name))


def source_package(fields: Mapping[str, str], root: str, *, proof: str, where: str) -> SourcePackage:
    """Read a paragraph of an archive's ``Sources``."""
    name, version, folder = (fields.get(key, "").strip() for key in ("Package", "Version", "Directory"))
    if not is_package_name(name) or not is_version(version) or not _FOLDER.fullmatch(folder):
        raise RepositoryError(f"{where}: {name[:60]!r} {version[:60]!r} in {folder[:120]!r} is impossible")
    place = f"{name} {version} in {where}"
    files = source_files(fields.get("Checksums-Sha256", ""), root, folder, where=place)
    if sum(file.name.endswith(".dsc") for file in files) != 1:
        raise RepositoryError(f"{place} has no .dsc file")
    return SourcePackage(name, version, files, proof)


RELEASE_LIMIT = 8 << 20
"""Bytes of an ``InRelease``; Debian's have less than one MiB."""
_LARGEST_LIST = 512 << 20
_LARGEST_TEXT = 4 << 30
_LARGEST_PARAGRAPH = 4 << 20
_PIECE = 1 << 20


@dataclass(frozen=True)
class Suite:
    """A suite of an archive.

    Attributes:
        root: The archive's address, without a slash at the end.
        name: Its code name or suite, such as ``bookworm`` or ``bookworm-security``.
    """

    root: str
    name: str
    components: tuple[str, ...] = ("main",)

    def __post_init__(self) -> None:
        hide_in(self, "root")

    def __str__(self) -> str:
        return f"{self.name} of {self.root}"

    def file(self, path: str) -> Address:
        """Return the address of a file below the suite's own folder."""
        return Address(self.root).below(f"dists/{self.name}/{path}")


@dataclass
class ArchivedSources:
    """The source packages that were found in archives, and by name the other versions that they have."""

    packages: dict[SourceId, SourcePackage]
    others: dict[str, set[str]]


@dataclass(frozen=True)
class SourceLists:
    """Reads the lists of archives; ``verify`` checks an ``InRelease``, which its text names in messages."""

    verify: Callable[[bytes, str], VerifiedText]
    fetcher: Fetcher
    scratch: Path
    on_event: Reporter

    def find(
        self, suites: Iterable[Suite], wanted: frozenset[SourceId], *, some_missing: bool = False
    ) -> ArchivedSources:
        """Search for source packages by name and version; the first suite with a package wins.

        With ``some_missing``, some of the suites may be missing, but not all.
        """
        found = ArchivedSources({}, {})
        names = {name for name, _version in wanted}
        missing: FileMissingError | None = None
        there = False
        for suite in suites:
            where = str(suite.file("InRelease"))
            try:
                signed = self._release(suite, where)
            except FileMissingError as error:
                if not some_missing:
                    raise
                missing = error
                continue
            there = True
            release = _release_fields(signed.text, suite, where)
            proof = f"{suite}, signed by {signed.primary_fingerprint}"
            for component in suite.components:
                path = self._fetch_list(suite, component, release)
                for fields in read_sources(path, names, where=f"Sources of {component} in {suite}"):
                    package = source_package(fields, suite.root, proof=proof, where=f"Sources of {suite}")
                    found.others.setdefault(package.name, set()).add(package.version)
                    if package.id in wanted:
                        found.packages.setdefault(package.id, package)
                path.unlink()
        if missing is not None and not there:
            raise missing
        return found

    def _release(self, suite: Suite, where: str) -> VerifiedText:
        self.on_event(Step(f"Fetching {where}"))
        body = io.BytesIO()
        url = suite.file("InRelease")
        try:
            self.fetcher.fetch(
                Download(url, body, limit=RELEASE_LIMIT, on_event=self.on_event, digest_known=True)
            )
        except FileMissingError as error:
            raise FileMissingError(
                f"the suite {suite} is not found: {error.message}",
                hint="give the address of an archive, with a folder dists, and one of its suites",
            ) from error
        return self.verify(body.getvalue(), where)

    def _fetch_list(self, suite: Suite, component: str, release: Mapping[str, str]) -> Path:
        """Fetch a component's ``Sources.xz`` and check it.

        The address by digest comes first: the file under the plain name may be newer than ``InRelease``.
        """
        name = f"{component}/source/Sources.xz"
        digest, size = _row_of(release, name, suite)
        places = [suite.file(name)]
        if release.get("Acquire-By-Hash", "").strip().lower() == "yes":
            places.insert(0, suite.file(f"{component}/source/by-hash/SHA256/{digest}"))
        path = self.scratch / digest
        self.on_event(Step(f"Fetching {places[-1]}"))
        for number, url in enumerate(places, 1):
            try:
                with path.open("w+b") as file:
                    self.fetcher.fetch(
                        Download(
                            url,
                            file,
                            limit=_LARGEST_LIST,
                            expected=size,
                            on_event=self.on_event,
                            label=f"{suite.name} {component} Sources.xz",
                            digest_known=True,
                        )
                    )
                    file.seek(0)
                    if hash_stream(file, "sha256") == digest:
                        return path
            except FileMissingError:
                if number == len(places):
                    raise
            except OSError as error:
                raise explain(error, path) from error
        raise DigestMismatchError(
            f"{places[-1]} is not the file in InRelease",
            hint="the mirror may be in the middle of an update: try again, or use another mirror",
        )


def _release_fields(text: str, suite: Suite, where: str) -> Mapping[str, str]:
    fields = next(iter(paragraphs(text, where=where)), {})
    names = {fields.get(key, "").strip() for key in ("Codename", "Suite")}
    if suite.name not in names:
        said = " or ".join(sorted(names - {""})) or "nothing"
        raise RepositoryError(
            f"{where} is signed, but calls itself {said}, not {suite.name}",
            hint="look up the suite's code name; or the mirror serves the wrong suite",
        )
    return fields


def _row_of(release: Mapping[str, str], name: str, suite: Suite) -> tuple[str, int]:
    """Return digest and size of a file that ``InRelease`` names."""
    for row in release.get("SHA256", "").split("\n"):
        match = _ROW.fullmatch(row.strip())
        if match and match[3] == name:
            return match[1], int(match[2])
    raise RepositoryError(
        f"{suite} has no list of sources {name}",
        hint="its components are: " + release.get("Components", "not known").strip()[:200],
    )


def read_sources(path: Path, names: set[str], *, where: str) -> Iterator[Mapping[str, str]]:
    """Read the paragraphs of some source packages from a ``Sources.xz``; others are not parsed."""
    try:
        with lzma.open(path) as file:
            for chunk in _chunks(file, where):
                first = re.search(rb"^Package:[ \t]*(\S+)", chunk, re.MULTILINE)
                if first and first[1].decode("ascii", "replace") in names:
                    yield from paragraphs(chunk.decode("utf-8", "replace"), where=where)
    except (lzma.LZMAError, EOFError) as error:
        raise RepositoryError(f"{where} cannot be unpacked: {error}") from error


def _chunks(file: lzma.LZMAFile, where: str) -> Iterator[bytes]:
    """Cut a text at its blank lines."""
    rest, total = b"", 0
    while piece := file.read(_PIECE):
        total += len(piece)
        *whole, rest = (rest + piece).split(b"\n\n")
        yield from whole
        if total > _LARGEST_TEXT or len(rest) > _LARGEST_PARAGRAPH:
            raise RepositoryError(f"{where} is larger than any such list")
    yield rest

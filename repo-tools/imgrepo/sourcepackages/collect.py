"""Collects the sources of an image (``sources``): licences, lists, downloads, archive, record.

Fetched files stay in a hidden folder until the archive is complete, so that a
run can go on after an interruption. The archive appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import DigestMismatchError, FileMissingError, WrongSizeError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.fetch.urls import without_slash
from imgbuilder.host.hashing import hash_file
from imgbuilder.host.locks import exclusive
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.host.workspace import check_space, explain, explaining
from imgrepo.contents.licences import required_sources, select_sources
from imgrepo.contents.packages import ImageTarget, contents_of, make_folder
from imgrepo.library.records import SOURCES_FILE, ContentsRecord, SourceGap, SourcesRecord
from imgrepo.recordfile import write_text
from imgrepo.services import Services
from imgrepo.sharing.download import GROUP_FILE, GROUP_FOLDER, verified_download
from imgrepo.sourcepackages.archive import SourceFile, SourcePackage
from imgrepo.sourcepackages.finding import SourceArchives, find_packages
from imgrepo.sourcepackages.tarball import OFFER_NAME, list_text, offer_text, pack, tar_size, unpack_known

_WORK = ".pybuilder-sources"
_LEFT_OUT = "left out by --only"
_NOT_THERE = (FileMissingError, WrongSizeError, DigestMismatchError)
"""A server has no such file, or a different one; the other files can still be fetched."""


@dataclass(frozen=True)
class SourcesRequest:
    """The archives to search, the packages to collect (none for all), and whether only to plan."""

    places: SourceArchives
    only: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True)
class Collected:
    """The result for one image.

    Attributes:
        wanted: Number of source packages to collect.
        to_fetch: Bytes to fetch, without the files of earlier runs.
        size: Bytes of all files.
        record: The content of the archive; None when none was made.
    """

    target: ImageTarget
    wanted: int
    packages: tuple[SourcePackage, ...]
    gaps: tuple[SourceGap, ...]
    to_fetch: int
    size: int
    record: SourcesRecord | None = None


def collect(
    target: ImageTarget,
    request: SourcesRequest,
    services: Services,
    options: ApplianceOptions,
    on_event: Reporter,
) -> Collected:
    """Collect the sources of one image."""
    contents = contents_of(target, services, options, on_event, keep=not request.dry_run)
    every = required_sources(contents)
    wanted = select_sources(every, request.only)
    done = _done_before(target, request, contents, frozenset(wanted), on_event)
    if done is not None:
        return done
    with private_folder() as scratch:
        found = find_packages(contents, frozenset(wanted), request.places, services, scratch, on_event)
    packages = tuple(sorted(found.packages, key=lambda package: package.id))
    sizes = {file.sha256: file.size for package in packages for file in package.files}
    planned = Collected(target, len(wanted), packages, found.gaps, 0, sum(sizes.values()))
    if request.dry_run:
        work = target.sources / _WORK
        return replace(planned, to_fetch=sum(file.size for file in _missing(packages, work / "files")))
    make_folder(target.sources)
    work = target.sources / _WORK
    with explaining(work):
        work.mkdir(mode=GROUP_FOLDER, exist_ok=True)
        with exclusive(work / "lock", "collects the same sources", on_event, mode=GROUP_FILE):
            left_out = tuple(sorted(set(every) - set(wanted)))
            made = _make(planned, contents, work, left_out, request.places.snapshots, services, on_event)
        shutil.rmtree(work)
    return made


def _make(
    planned: Collected,
    contents: ContentsRecord,
    work: Path,
    left_out: tuple[tuple[str, str], ...],
    snapshots: tuple[str, ...],
    services: Services,
    on_event: Reporter,
) -> Collected:
    target = planned.target
    archive = target.sources / f"{target.name}-sources.tar"
    files = work / "files"
    files.mkdir(mode=GROUP_FOLDER, exist_ok=True)
    if archive.is_file():
        here = {file.sha256: file.size for file in _missing(planned.packages, files)}
        unpack_known(archive, here, files)
    missing = _missing(planned.packages, files)
    room = sum(file.size for file in missing) + tar_size(planned.packages, _texts(planned))
    check_space(target.sources, room, "the source packages")
    packages, more = _fetch_all(planned.packages, files, snapshots, services, on_event)
    gaps = tuple(sorted((*planned.gaps, *more), key=lambda gap: (gap.source, gap.version)))
    noted = (*gaps, *(SourceGap(name, version, _LEFT_OUT) for name, version in left_out))
    offer = offer_text(target.name, target.offer, gaps, left_out=len(left_out))
    digest, size, name = "", 0, ""
    if packages:
        on_event(Step(f"Packing {archive}"))
        name = archive.name
        digest, size = pack(archive, packages, files, offer, on_event)
    write_text(target.sources / OFFER_NAME, offer)
    record = SourcesRecord(contents.image, name, digest, size, tuple(one.id for one in packages), noted)
    SOURCES_FILE.write(target.sources, record)
    if not packages:
        archive.unlink(missing_ok=True)
    to_fetch = sum(file.size for file in missing)
    return replace(planned, packages=packages, gaps=gaps, to_fetch=to_fetch, record=record)


def _fetch_all(
    packages: tuple[SourcePackage, ...],
    files: Path,
    snapshots: tuple[str, ...],
    services: Services,
    on_event: Reporter,
) -> tuple[tuple[SourcePackage, ...], list[SourceGap]]:
    """Fetch what is missing; a package with a file that no server has becomes a gap."""
    whole, gaps = [], []
    for package in packages:
        try:
            for file in _missing((package,), files):
                _fetch_anywhere(file, files, snapshots, services, on_event)
            whole.append(package)
        except _NOT_THERE as error:
            debug(on_event, error.message)
            gaps.append(SourceGap(package.name, package.version, error.message))
    return tuple(whole), gaps


def _fetch_anywhere(
    file: SourceFile, files: Path, snapshots: tuple[str, ...], services: Services, on_event: Reporter
) -> None:
    """Fetch a file from the mirror, or from a snapshot archive, since its digest is known."""
    try:
        _fetch(file, files, services, on_event)
    except _NOT_THERE:
        for root in snapshots:
            with contextlib.suppress(*_NOT_THERE):
                _fetch(replace(file, root=without_slash(root)), files, services, on_event)
                return
        raise


def _fetch(file: SourceFile, files: Path, services: Services, on_event: Reporter) -> None:
    with verified_download(
        file.url,
        files.parent / "parts",
        file.sha256,
        lambda part: hash_file(part.path, "sha256") == file.sha256,
        services.fetcher,
        on_event,
        limit=file.size,
        expected=file.size,
        blame="is not the file in the signed list",
    ) as part:
        part.path.replace(files / file.sha256)


def _missing(packages: tuple[SourcePackage, ...], files: Path) -> list[SourceFile]:
    """Return the files to fetch, each once; packing checks the digests of the files that are here."""
    wanted = {file.sha256: file for package in packages for file in package.files}
    return [file for digest, file in wanted.items() if not (files / digest).is_file()]


def _texts(planned: Collected) -> int:
    """Return an upper bound of the bytes of the texts in the archive."""
    offer = offer_text(planned.target.name, planned.target.offer, planned.gaps)
    return len(offer.encode()) + len(list_text(planned.packages).encode()) + 400 * planned.wanted


def _done_before(
    target: ImageTarget,
    request: SourcesRequest,
    contents: ContentsRecord,
    wanted: frozenset[tuple[str, str]],
    on_event: Reporter,
) -> Collected | None:
    """Return an earlier result if it is for this image, has no gaps, and its archive is unchanged."""
    record = SOURCES_FILE.read(target.sources)
    if record is None or record.gaps or request.only or record.image.sha512 != contents.image.sha512:
        return None
    archive = target.sources / record.archive
    if set(record.covered) != wanted or not record.archive or "/" in record.archive or not archive.is_file():
        return None
    offer = offer_text(target.name, target.offer, ())
    try:
        if (target.sources / OFFER_NAME).read_text(encoding="utf-8", errors="replace") != offer:
            return None
        on_event(Step(f"Checking {archive}"))
        if hash_file(archive) != record.sha512:
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain(error, archive) from error
    return Collected(target, len(wanted), (), (), 0, record.size, record)

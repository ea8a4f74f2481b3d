"""Uploads a published folder to another machine, behind the interface ``Target``.

The order matters: first the template files, under names that no old index
mentions; then the index; then old files are deleted when their grace time is
over; then the catalogue. Interrupted at any step, the target serves the old
index or the new one, with every file that it names (``docs/threat-model.md``
R1, R9), and the next run continues.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from imgbuilder.errors import RepositoryError, RolledBackError, TrustError, UploadError, UsageError
from imgbuilder.events import Reporter, warn
from imgbuilder.fetch.urls import without_secrets
from imgbuilder.host.privatefolder import scratch_folder
from imgbuilder.outputs.store import read_s3
from imgindex.accept import show
from imgindex.gpg import trusted_keys_from_file
from imgindex.model import Index
from imgindex.parse import parse_index
from imgindex.trust import VerifiedText
from imgrepo.catalogue.make import own_start
from imgrepo.catalogue.memory import LARGEST, MEMORY_NAME, files_named
from imgrepo.catalogue.render import START
from imgrepo.services import Services
from imgrepo.sharing.frames import Stretch, read_revision, stretches
from imgrepo.webroot.entries import NamedFile, files_of, is_complete, stem_of_published
from imgrepo.webroot.retired import GRACE, ServedFiles, retire
from imgrepo.webroot.signing import PLAIN_INDEX, PUBLIC_KEY, SIGNED_INDEX, read_index_file, read_served
from imgrepo.webroot.transaction import UPLOAD_LOCK_NAME, locked

_SAFE_PATH = r"[A-Za-z0-9._~+,@%=/-]"
_USER = r"(?:[A-Za-z0-9._-]+@)?"
_HOST = r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])"
_RSYNC = re.compile(rf"rsync://{_USER}{_HOST}(?::[0-9]{{1,5}})?/{_SAFE_PATH}+")
_SSH = re.compile(rf"{_USER}{_HOST}:(?!:){_SAFE_PATH}*")


@dataclass(frozen=True)
class UploadPlace:
    """The address of a target.

    Attributes:
        bucket: Of an S3 address, the bucket; empty for rsync.
        prefix: Of an S3 address, the start of each object's name: empty, or ending in a slash.
    """

    text: str
    bucket: str = ""
    prefix: str = ""

    @property
    def shown(self) -> str:
        """The address without user information."""
        return without_secrets(self.text)


class Former(NamedTuple):
    """The former revision of a file, which the target has under another name.

    Attributes:
        stretches: What both have in common, by the lists of their blocks; empty if that is not known.
    """

    file: NamedFile
    stretches: Sequence[Stretch] = ()


NOTHING: Mapping[str, Former] = MappingProxyType({})


class Target(Protocol):
    """A served folder on another machine."""

    def sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of the files directly in it and in its catalogue, by name."""
        ...

    def changed(self, folder: Path, names: Sequence[str]) -> set[str]:
        """Return those of the files that differ there, of files that have the same size there.

        Small ones are compared by their content. ``sizes`` was called before.
        """
        ...

    def read(self, name: str, limit: int) -> bytes:
        """Return a file of it; an UploadError if it is larger than ``limit`` bytes, or missing."""
        ...

    def put(
        self, folder: Path, names: Sequence[str], on_event: Reporter, former: Mapping[str, Former] = NOTHING
    ) -> tuple[str, ...]:
        """Send files, each whole or not at all; return the names of those that were not there already.

        Of those with a former revision there, only what is new is sent, as far as the target can do that.
        """
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Delete files, if they exist."""
        ...


def read_place(text: str) -> UploadPlace:
    """Read the address of a target: an S3 bucket, an rsync server, or a machine that ssh reaches."""
    plain = text.rstrip("/") if not text.endswith(":/") else text
    bucket, prefix = read_s3(plain)
    if bucket:
        return UploadPlace(plain, bucket, f"{prefix}/" if prefix else "")
    if _RSYNC.fullmatch(plain) or ("://" not in text and _SSH.fullmatch(plain)):
        return UploadPlace(plain)
    shown = without_secrets(text) if "://" in text else text.rpartition("@")[2]
    raise UsageError(
        f"{shown!r} is not an upload target",
        hint="give s3://bucket/prefix, rsync://host/module/path, or host:path for rsync over ssh; pass "
        "passwords in RSYNC_PASSWORD, ssh keys, or the configuration of AWS",
    )


_INDEX_LIMIT = 5_000_000
_INDEX_FILES = (PUBLIC_KEY, PLAIN_INDEX, SIGNED_INDEX)
CATALOGUE = "catalogue"
"""Folder in which ``pybuilder-repo catalogue`` puts the site in the served folder."""
_PAGES_LAST = ("atom.xml", "index.html", MEMORY_NAME)


@dataclass(frozen=True)
class UploadRequest:
    """A folder to upload, and where to.

    Attributes:
        force: Whether to replace an index there that is newer, or signed by other keys.
        delete: Files to delete there at once, whatever their age, unless the index names them.
        wait: Seconds to wait for another upload.
    """

    folder: Path
    place: UploadPlace
    prune: bool = False
    grace: timedelta = GRACE
    force: bool = False
    delete: tuple[str, ...] = ()
    wait: float = 0.0


@dataclass(frozen=True)
class UploadResult:
    """The names of the files that were sent, and of those that were deleted there."""

    sent: tuple[str, ...]
    deleted: tuple[str, ...]


def upload(
    request: UploadRequest,
    services: Services,
    open_target: Callable[[UploadPlace], Target],
    on_event: Reporter,
) -> UploadResult:
    """Upload a published folder.

    The index is copied first, and publishers are locked out only meanwhile: an urgent change need not wait.
    """
    folder = request.folder
    read_served(folder, services)  # before anything is made in a folder that is not ours
    with locked(folder, UPLOAD_LOCK_NAME, patience=request.wait), scratch_folder() as copies:
        with locked(folder):
            served, signed = read_served(folder, services)
            needed = _complete(folder, served.index)
            for name in _INDEX_FILES:
                shutil.copy2(folder / name, copies / name)
        target = open_target(request.place)
        there = target.sizes()
        pages = _pages(folder)
        changed = _changed(folder, (*_INDEX_FILES, *pages), target, there)
        before = (
            _index_there(request, target, there, signed, services)
            if SIGNED_INDEX in changed
            else served.index
        )
        # The name of a packed file holds its digest, and it appears there when it is complete.
        missing = [file for file in needed if not _is_there(file, there)]
        names = [file.name for file in missing]
        sent = list(target.put(folder, names, on_event, _former(folder, served.index, before, names, there)))
        # Clients read only the last one; the others are for people.
        for name in (name for name in _INDEX_FILES if name in changed):
            sent += target.put(copies, [name], on_event)
        named = {file.name for file in needed}
        unwanted = [name for name in request.delete if name in there and name not in named]
        target.delete(unwanted)
        deleted = retire(
            _files_of_target(request, target, there),
            served.index,
            before,
            now=services.clock(),
            on_event=on_event,
            grace=request.grace if request.prune else None,
        )
        new_pages, gone = _upload_catalogue(folder, pages, changed, target, on_event)
        sent, deleted = [*sent, *new_pages], (*unwanted, *deleted, *gone)
        if read_index_file(folder / SIGNED_INDEX) != (copies / SIGNED_INDEX).read_bytes():
            warn(on_event, f"the index of {folder} changed during the upload: upload again")
    return UploadResult(tuple(sent), deleted)


def _is_there(file: NamedFile, there: dict[str, int]) -> bool:
    return (
        stem_of_published(file.name) is not None
        and file.size is not None
        and there.get(file.name) == file.size
    )


def _former(
    folder: Path, index: Index, before: Index, names: Sequence[str], there: dict[str, int]
) -> dict[str, Former]:
    """Find the former revision there of disks to be sent, by their names."""
    found: dict[str, Former] = {}
    for entry in index.entries:
        old = before.find(entry.os_version, entry.arch)
        if old is None:
            continue
        found[entry.file] = Former(NamedFile(old.file, old.compressed_size, old.sha512))
        if entry.zstd is not None and old.zstd is not None and entry.zstd.file in names:
            revisions = read_revision(folder, entry), read_revision(folder, old)
            blocks = [revision.blocks for revision in revisions if revision is not None]
            found[entry.zstd.file] = Former(
                NamedFile(old.zstd.file, old.zstd.compressed_size, old.zstd.sha512),
                stretches(*blocks) if len(blocks) == 2 else (),
            )
    return {name: former for name, former in found.items() if _is_there(former.file, there)}


def _complete(folder: Path, index: Index) -> list[NamedFile]:
    """Return the files that an index names, each once, after a check that all are here."""
    files = [file for entry in index.entries for file in files_of(entry)]
    for file in files:
        if not is_complete(folder, file):
            raise RepositoryError(
                f"{folder / file.name}, which the index names, is missing or incomplete: "
                "nothing was uploaded",
                hint=f"see: pybuilder-repo status {folder}",
            )
    return list({file.name: file for file in files}.values())


def _index_there(
    request: UploadRequest, target: Target, there: dict[str, int], ours: VerifiedText, services: Services
) -> Index:
    """Read the index there, and refuse to replace one that is newer or signed by other keys."""
    if SIGNED_INDEX not in there:
        return Index()
    where = f"{request.place.shown}/{SIGNED_INDEX}"
    trusted = trusted_keys_from_file(request.folder / PUBLIC_KEY, where=str(request.folder), any_owner=True)
    tolerant = dataclasses.replace(trusted, extra_signatures=True, expired_signatures=True)
    try:
        signed = services.verifier.verify(target.read(SIGNED_INDEX, _INDEX_LIMIT), tolerant, where=where)
        if signed.signed_at > ours.signed_at:
            raise RolledBackError(
                f"{where} was signed at {show(signed.signed_at)}, and the local index "
                f"({show(ours.signed_at)}) is older; clients would reject it as a rollback",
                hint="the target has a newer index than your folder; mirror it and publish again, or "
                "overwrite it with --force",
            )
        return parse_index(signed, where=where)
    except TrustError as error:
        if request.force:
            return Index()
        hint = (
            error.hint
            if isinstance(error, RolledBackError)
            else "find out who wrote it; to replace it anyway, use --force"
        )
        raise type(error)(error.message, hint=hint) from error


def _files_of_target(request: UploadRequest, target: Target, there: dict[str, int]) -> ServedFiles:
    def delete(names: Sequence[str]) -> Sequence[str]:
        target.delete(names)
        return names

    target_id = hashlib.sha256(request.place.text.encode()).hexdigest()[:16]
    return ServedFiles(there, request.folder / f".pybuilder-repo-there-{target_id}.json", delete)


def _pages(folder: Path) -> tuple[str, ...]:
    """Return the files of the catalogue, if there is one, and the page that leads there."""
    memory = folder / CATALOGUE / MEMORY_NAME
    names = files_named(memory.read_bytes()) if memory.is_file() else ()
    start = () if own_start(folder) is None else (START,)
    return (*(f"{CATALOGUE}/{name}" for name in names), *start)


def _changed(folder: Path, names: Sequence[str], target: Target, there: dict[str, int]) -> set[str]:
    """Return which of these files are not there, or differ."""
    same_size = [name for name in names if there.get(name) == (folder / name).stat().st_size]
    return set(names) - set(same_size) | target.changed(folder, same_size)


def _upload_catalogue(
    folder: Path, names: Sequence[str], changed: set[str], target: Target, on_event: Reporter
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Upload what changed in the catalogue; return the names of sent and deleted files.

    Pages come after what they link to, the list comes last. Files of the old catalogue there that the new
    one has not are deleted: a withdrawn template must not stay on show.
    """
    memory = f"{CATALOGUE}/{MEMORY_NAME}"
    there = _catalogue_there(target) if memory in changed else ()
    last = [*(f"{CATALOGUE}/{name}" for name in _PAGES_LAST), START]
    first = [name for name in names if name not in last]
    parts = [name for name in first if not name.endswith(".html")]
    pages = [name for name in first if name.endswith(".html")]
    sent: list[str] = []
    for group in (parts, pages, *([name] for name in last)):
        sent += target.put(folder, [name for name in group if name in changed], on_event)
    gone = tuple(name for name in there if name not in set(names))
    target.delete(gone)
    return tuple(sent), gone


def _catalogue_there(target: Target) -> tuple[str, ...]:
    """Return the files of the catalogue there; none if there is none yet."""
    try:
        names = files_named(target.read(f"{CATALOGUE}/{MEMORY_NAME}", LARGEST))
        return tuple(f"{CATALOGUE}/{name}" for name in names)
    except UploadError:
        # The target has answered before, so the file is missing there; if it is broken, old pages stay
        return ()

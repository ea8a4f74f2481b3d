"""Bringing a published folder to another machine, in an order in which nothing can go wrong.

First the template files, under names that no old index mentions; then the
index; then, when their time has come, old files go; last comes the catalogue. Broken off at any step,
what is served there is the old index or the new one, with every file that it
names (``docs/threat-model.md`` R1, R9), and the next run goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from imgbuilder.errors import RepositoryError, RolledBackError, TrustError
from imgbuilder.events import Reporter
from imgindex.freshness import show
from imgindex.gpg import trusted_keys_from_file
from imgindex.model import Index
from imgindex.parse import parse_index
from imgindex.trust import VerifiedText
from imgrepo.services import Services
from imgrepo.sharing.catalogue import bring_catalogue
from imgrepo.sharing.target import Place, Target
from imgrepo.webroot.entries import files_of
from imgrepo.webroot.retired import GRACE, ServedFiles, retire
from imgrepo.webroot.signing import PLAIN_INDEX, PUBLIC_KEY, SIGNED_INDEX, read_served
from imgrepo.webroot.transaction import open_session

_INDEX_LIMIT = 5_000_000


@dataclass(frozen=True)
class UploadRequest:
    """What goes where.

    Attributes:
        folder: The published folder.
        place: Where it goes.
        prune: Whether files there that the index does not name any more go after the grace time.
        grace: How long they stay.
        force: Replace an index there that is not by the same keys, or newer.
    """

    folder: Path
    place: Place
    prune: bool = False
    grace: timedelta = GRACE
    force: bool = False


@dataclass(frozen=True)
class UploadResult:
    """What was done.

    Attributes:
        sent: Names of the files that were sent.
        deleted: Names of the files that were deleted there.
    """

    sent: tuple[str, ...]
    deleted: tuple[str, ...]


def upload(
    request: UploadRequest, services: Services, open_target: Callable[[Place], Target], on_event: Reporter
) -> UploadResult:
    """Bring a published folder to its target.

    Args:
        request: What goes where.
        services: Verifier, key files and clock.
        open_target: Opens the target.
        on_event: Called with each event.

    Raises:
        UsageError: Nothing is published in the folder.
        TrustError: What is published is not by the key beside it; or what is served there is by another
            key, or newer.
        RepositoryError: A file that the index names is missing or incomplete.
        UploadError: The target cannot be reached or written.
    """
    read_served(request.folder, services)  # before anything is made in a folder that is none of ours
    with open_session(request.folder):
        served, signed = read_served(request.folder, services)
        needed = _complete(request.folder, served.index)
        target = open_target(request.place)
        there = target.sizes()
        before = _index_there(request, target, there, signed, services)
        sent = list(target.put(request.folder, needed, on_event))
        # Only the last one counts for clients; the others are for people.
        for name in (PUBLIC_KEY, PLAIN_INDEX, SIGNED_INDEX):
            sent += target.put(request.folder, [name], on_event)
        deleted = retire(
            _files_of_target(request, target, there),
            served.index,
            before,
            now=services.clock(),
            on_event=on_event,
            grace=request.grace if request.prune else None,
        )
        pages, gone = bring_catalogue(request.folder, target, on_event)
        sent, deleted = [*sent, *pages], (*deleted, *gone)
    return UploadResult(tuple(sent), deleted)


def _complete(folder: Path, index: Index) -> list[str]:
    """Return the files that an index names, each once; all must be here."""
    names = dict.fromkeys(name for entry in index.entries for name in files_of(entry))
    sizes = {entry.file: entry.compressed_size for entry in index.entries}
    sizes |= {entry.zstd.file: entry.zstd.compressed_size for entry in index.entries if entry.zstd}
    for name in names:
        path, size = folder / name, sizes.get(name)
        if not path.is_file() or (size is not None and path.stat().st_size != size):
            raise RepositoryError(
                f"{path}, which the index names, is missing or incomplete: nothing was uploaded",
                hint=f"see: pybuilder-repo status {folder}",
            )
    return list(names)


def _index_there(
    request: UploadRequest,
    target: Target,
    there: dict[str, int],
    ours: VerifiedText,
    services: Services,
) -> Index:
    """Read what is served there now, and refuse to replace what is not ours, or newer."""
    if SIGNED_INDEX not in there:
        return Index()
    where = f"{request.place.shown}/{SIGNED_INDEX}"
    pin = trusted_keys_from_file(request.folder / PUBLIC_KEY, where=str(request.folder))
    tolerant = dataclasses.replace(pin, extra_signatures=True, expired_signatures=True)
    try:
        signed = services.verifier.verify(target.read(SIGNED_INDEX, _INDEX_LIMIT), tolerant, where=where)
        if signed.signed_at > ours.signed_at:
            raise RolledBackError(
                f"{where} was signed at {show(signed.signed_at)}, and {request.folder} is older, of "
                f"{show(ours.signed_at)}: clients would take it for an attack",
                hint="somebody else published there: publish again, from his state, or use --force",
            )
        return parse_index(signed, where=where)
    except TrustError as error:
        if request.force:
            return Index()
        hint = (
            error.hint
            if isinstance(error, RolledBackError)
            else ("find out who wrote it; to replace it all the same, use --force")
        )
        raise type(error)(error.message, hint=hint) from error


def _files_of_target(request: UploadRequest, target: Target, there: dict[str, int]) -> ServedFiles:
    def delete(names: Sequence[str]) -> Sequence[str]:
        target.delete(names)
        return names

    return ServedFiles(there, request.folder / record_name(request.place), delete)


def record_name(place: Place) -> str:
    """Return the name of the file that remembers what is old at a target."""
    return f".pybuilder-repo-there-{hashlib.sha256(place.text.encode()).hexdigest()[:16]}.json"

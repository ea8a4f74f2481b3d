"""Mirrors another repository: same files, same signature.

Nothing is signed again, so that clients trust the publisher and not the mirror.
The index comes last, by one rename, when every file that it names is here and
has its digest. An interrupted download is continued by the next run. A new
revision of a zstd file is made of the former one, as far as it goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin

from imgbuilder.errors import DigestMismatchError, RepositoryError, RolledBackError
from imgbuilder.events import Reporter, Step, warn
from imgbuilder.fetch.transfer import INDEX_LIMIT, Download, Fetcher
from imgbuilder.fetch.urls import Address, check_uri, hide_in, local_path, template_url
from imgbuilder.host import imagelocks
from imgbuilder.host.hashing import hash_file
from imgbuilder.host.workspace import check_space, explaining
from imgindex.accept import AcceptPolicy, accept, show
from imgindex.fields import MAX_DISK_SIZE
from imgindex.files import open_file, sync_folder
from imgindex.gpg import trusted_keys_from_file
from imgindex.model import Entry, Index
from imgindex.parse import parse_usable
from imgindex.trust import TrustedKeys, VerifiedText
from imgrepo.services import Services
from imgrepo.sharing.download import verified_download
from imgrepo.sharing.frames import fetch_frames, read_revision
from imgrepo.webroot.entries import NamedFile, downloads_of
from imgrepo.webroot.retired import GRACE, retire, served_files
from imgrepo.webroot.signing import PLAIN_INDEX, PUBLIC_KEY, SIGNED_INDEX, read_index_file
from imgrepo.webroot.transaction import check_can_be_made, open_session

_PARTIAL = ".pybuilder-mirror"


@dataclass(frozen=True)
class MirrorRequest:
    """A repository to copy, by the address of its index or of the folder of that, and where to."""

    source: str
    folder: Path
    key_file: Path
    prune: bool = False
    grace: timedelta = GRACE

    def __post_init__(self) -> None:
        hide_in(self, "source")
        check_uri(self.source)
        check_can_be_made(self.folder)

    @property
    def index_url(self) -> Address:
        """Address of the signed index."""
        return Address(self.source).derive(index_address)


def index_address(source: str) -> str:
    """Return the address of the index, given that or the address of its folder."""
    if source.endswith(".asc"):
        return source
    path = local_path(source)
    return str(path / SIGNED_INDEX) if path is not None else urljoin(source.rstrip("/") + "/", SIGNED_INDEX)


@dataclass(frozen=True)
class MirrorResult:
    """The outcome of a run: names of the files that are new in the copy, and the number of its templates."""

    fetched: tuple[str, ...]
    templates: int


def mirror(request: MirrorRequest, services: Services, on_event: Reporter) -> MirrorResult:
    """Bring a copy up to date."""
    trusted = trusted_keys_from_file(request.key_file, where=str(request.key_file))
    with open_session(request.folder, create=True) as session:
        data, signed, index = _fetch_index(request, trusted, services, on_event)
        old = _old_index(request, trusted, services)
        if old is not None and old.signed_at > signed.signed_at:
            raise RolledBackError(
                f"{request.index_url} was signed at {show(signed.signed_at)}, and the copy "
                f"in {request.folder} is newer, of {show(old.signed_at)}",
                hint="try again later; if it persists, tell the publisher",
            )
        _check_space(request.folder, index)
        before = Index() if old is None else parse_usable(old, where=str(request.folder))
        copying = _Copying(request, before, services.fetcher, on_event)
        fetched = [file.name for entry, file in _files(index) if copying.bring(entry, file)]
        with open_file(request.key_file) as key:
            files = {PUBLIC_KEY: key.read(), PLAIN_INDEX: signed.text.encode(), SIGNED_INDEX: data}
        session.write(files)
        with contextlib.suppress(OSError):
            shutil.rmtree(request.folder / _PARTIAL)  # of revisions that were never fetched whole
        retire(
            served_files(request.folder, on_event),
            index,
            index if old is None else before,
            now=services.clock(),
            on_event=on_event,
            grace=request.grace if request.prune else None,
        )
    return MirrorResult(tuple(fetched), len(index.entries))


def _fetch_index(
    request: MirrorRequest, trusted: TrustedKeys, services: Services, on_event: Reporter
) -> tuple[bytes, VerifiedText, Index]:
    where = str(request.index_url)
    on_event(Step(f"Fetching {where}"))
    body = io.BytesIO()
    services.fetcher.fetch(
        Download(request.index_url, body, limit=INDEX_LIMIT, on_event=on_event, label="index")
    )
    rule = AcceptPolicy(trusted, last=None, max_age=None, where=where, forget_hint="")
    accepted = accept(body.getvalue(), rule, parse_usable, verifier=services.verifier, now=services.clock())
    refused = accepted.content.refused
    if refused:
        warn(
            on_event,
            f"{len(refused)} entries break a rule: no client uses them, and their files are not copied: "
            f"{refused[0].problem.message}",
        )
    return body.getvalue(), accepted.signed, accepted.content


def _old_index(request: MirrorRequest, trusted: TrustedKeys, services: Services) -> VerifiedText | None:
    """Return the verified index of the copy; None when there is none yet."""
    path = request.folder / SIGNED_INDEX
    data = read_index_file(path)
    if data is None:
        return None
    tolerant = dataclasses.replace(trusted, extra_signatures=True, expired_signatures=True)
    return services.verifier.verify(data, tolerant, where=str(path))


def _files(index: Index) -> Iterator[tuple[Entry, NamedFile]]:
    """Yield the files of all entries; a zstd file comes after the list of its blocks."""
    seen: dict[str, str | None] = {}
    for entry in index.entries:
        for file in sorted(downloads_of(entry), key=lambda file: file.name.endswith(".zst")):
            if seen.setdefault(file.name, file.sha512) != file.sha512:
                raise DigestMismatchError(f"the index names {file.name} twice, with two digests")
            yield entry, file


@dataclass(frozen=True)
class _Copying:
    """Brings the files of a new index into a copy; ``before`` is the index that it has."""

    request: MirrorRequest
    before: Index
    fetcher: Fetcher
    on_event: Reporter

    def bring(self, entry: Entry, file: NamedFile) -> bool:
        """Get a file unless it is here already; return whether it is new."""
        assert file.sha512 is not None  # the parser asks for it in a signed text
        place = self.request.folder / file.name
        hidden = any(part.startswith(".") for part in PurePosixPath(file.name).parts)
        if hidden or file.name in (SIGNED_INDEX, PLAIN_INDEX, PUBLIC_KEY):
            raise RepositoryError(f"the index names {file.name} as a template, which is not copied")
        if _is_here(place, file):
            return False
        imagelocks.refuse_if_in_use(place, changing=True)
        if not self._from_frames(entry, file, place):
            self._download(file, place)
        return True

    def _from_frames(self, entry: Entry, file: NamedFile, place: Path) -> bool:
        """Make a zstd file of the former one, and fetch only what is new; False if that cannot be done."""
        folder, url = self.request.folder, template_url(self.request.index_url, file.name)
        new, before = read_revision(folder, entry), self.before.find(entry.os_version, entry.arch)
        old = None if before is None else read_revision(folder, before)
        if new is None or old is None or new.path != place or local_path(url) is not None:
            return False
        if not old.path.is_file():
            return False
        part = folder / _PARTIAL / f"{file.sha512}.frames"
        with explaining(part):
            part.parent.mkdir(mode=0o700, exist_ok=True)
        if fetch_frames(url, new.blocks, old, part, self.fetcher, self.on_event):
            if hash_file(part, on_event=self.on_event, label=f"checking {file.name}") == file.sha512:
                _put_in_place(part, place)
                return True
            warn(self.on_event, f"{Address(url)}: the new frames do not make the file that the index names")
        part.unlink(missing_ok=True)
        return False

    def _download(self, file: NamedFile, place: Path) -> None:
        with verified_download(
            template_url(self.request.index_url, file.name),
            self.request.folder / _PARTIAL,
            str(file.sha512),
            lambda part: part.sha512() == file.sha512,
            self.fetcher,
            self.on_event,
            limit=file.size or MAX_DISK_SIZE,
            expected=file.size,
            blame="is not the file that the index names: if that persists, tell the publisher",
        ) as part:
            _put_in_place(part.path, place)


def _put_in_place(part: Path, place: Path) -> None:
    """Give a complete file its name."""
    imagelocks.refuse_if_in_use(place, changing=True)
    with explaining(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        part.replace(place)
        sync_folder(place.parent)


def _check_space(folder: Path, index: Index) -> None:
    """Check that missing files of known size fit on the disk, before anything is downloaded."""
    needed = 0
    for file in dict.fromkeys(file for _entry, file in _files(index)):
        with contextlib.suppress(OSError):
            if (folder / file.name).stat().st_size == file.size:
                continue  # its digest is checked later
        held = 0
        with contextlib.suppress(OSError):
            held = (folder / _PARTIAL / str(file.sha512)).stat().st_size
        needed += max(0, (file.size or 0) - held)
    check_space(folder, needed, "what the mirror is missing")


def _is_here(place: Path, file: NamedFile) -> bool:
    """Return whether a file is here and intact; it is read only when its size is right."""
    if not place.is_file() or place.is_symlink():
        return False
    if file.size is not None and place.stat().st_size != file.size:
        return False
    return hash_file(place) == file.sha512

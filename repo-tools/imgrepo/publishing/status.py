"""Reports the state of a published folder: what ends soon, what is missing, what changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from imgbuilder.errors import PybuilderError
from imgbuilder.events import Reporter
from imgbuilder.host.hashing import hash_file
from imgbuilder.sizes import counted
from imgindex.clearsign import split
from imgindex.fields import deprecation
from imgindex.gpg import keys_in_file
from imgindex.model import Index
from imgindex.trust import VerifiedText
from imgrepo.catalogue.memory import Memory, read_memory
from imgrepo.library.folder import find_images
from imgrepo.services import Services
from imgrepo.sharing.upload import CATALOGUE
from imgrepo.webroot.entries import UNKNOWN_ARCH, downloads_of, read_sidecar
from imgrepo.webroot.retired import Retired, find_retired, served_files
from imgrepo.webroot.signing import PUBLIC_KEY, SIGNED_INDEX, is_premature, read_served
from imgrepo.webroot.state import read_state, withdrawn_templates


@dataclass(frozen=True)
class KeyStatus:
    """A key in the key file for clients, and when it expires, in UTC; None when it does not."""

    fingerprint: str
    expires_at: datetime | None


@dataclass(frozen=True)
class FolderStatus:
    """The state of a published folder.

    Attributes:
        size: Bytes of all files that it names.
        signer: Fingerprint of the primary key that signed it.
        expires_at: When its signature expires; None when it does not.
        withdrawn: Name and architecture of each template that was withdrawn.
        changes: Changes in the folder of images that a run of publish would find, one line each.
    """

    templates: int
    size: int
    checked_at: datetime
    signed_at: datetime
    signer: str
    expires_at: datetime | None
    keys: tuple[KeyStatus, ...]
    retired: tuple[Retired, ...] = ()
    withdrawn: tuple[tuple[str, str], ...] = ()
    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def metrics(status: FolderStatus | None, place: str, now: datetime) -> str:
    """Return a state in the text format of Prometheus; None for one that could not be found out."""
    label = place.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    def gauge(name: str, text: str, values: Mapping[str, float]) -> list[str]:
        name = f"pybuilder_library_{name}"
        lines = [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        return [*lines, *(f'{name}{{library="{label}"{more}}} {value:.0f}' for more, value in values.items())]

    checked = gauge("checked_timestamp_seconds", "When this was found out.", {"": now.timestamp()})
    if status is None:
        problem = {"": 1.0}
        return "\n".join([*checked, *gauge("problems", "Number of problems; see status.", problem), ""])
    ending = {
        f',fingerprint="{key.fingerprint}"': key.expires_at.timestamp()
        for key in status.keys
        if key.expires_at is not None
    }
    signed, expires = status.signed_at, status.expires_at
    lines = [
        *checked,
        *gauge("problems", "Number of problems; see status.", {"": len(status.problems)}),
        *gauge("templates", "Number of templates.", {"": status.templates}),
        *gauge("size_bytes", "Bytes of all files that the index names.", {"": status.size}),
        *gauge("old_files", "Number of files that the index no longer names.", {"": len(status.retired)}),
        *gauge("signed_timestamp_seconds", "When the index was signed.", {"": signed.timestamp()}),
    ]
    if expires is not None:
        lines += gauge("expires_timestamp_seconds", "When its signature expires.", {"": expires.timestamp()})
    if ending:
        lines += gauge("key_expires_timestamp_seconds", "When a key expires.", ending)
    return "\n".join([*lines, ""])


def status_of(
    folder: Path,
    services: Services,
    on_event: Reporter,
    *,
    images: Path | None = None,
    within: timedelta,
    verify: bool = False,
) -> FolderStatus:
    """Check a published folder; nothing is changed.

    Expiry times nearer than ``within`` are problems. Changes are those in the folder ``images``. With
    ``verify``, all files are read and their digests compared.
    """
    published, signed = read_served(folder, services)
    now, index = services.clock(), published.index
    status = index_status(published.data or b"", signed, index, folder / PUBLIC_KEY, now, within)
    memory = read_memory(folder / CATALOGUE)
    problems = (
        *status.problems,
        *_files(folder, index, on_event, verify=verify),
        *_deprecations(index, now),
        *(() if memory is None else pages_behind(memory, index)),
    )
    return replace(
        status,
        retired=find_retired(served_files(folder, on_event), index, index, now=now),
        withdrawn=tuple(sorted(withdrawn_templates(folder))),
        changes=() if images is None else tuple(_changes(folder, images, index, now)),
        problems=problems,
    )


def index_status(
    data: bytes, signed: VerifiedText, index: Index, key_file: Path, now: datetime, within: timedelta
) -> FolderStatus:
    """Check a signed index and the keys for clients, but no file that it names."""
    keys = keys_of(key_file)
    return FolderStatus(
        templates=len(index.entries),
        size=sum(file.size or 0 for entry in index.entries for file in downloads_of(entry)),
        checked_at=now,
        signed_at=signed.signed_at,
        signer=signed.primary_fingerprint,
        expires_at=signed.expires_at,
        keys=keys,
        problems=(*_missing_signatures(data, key_file), *ends(signed, keys, now, within)),
    )


def keys_of(key_file: Path) -> tuple[KeyStatus, ...]:
    """Return the keys of a key file for clients that are primary keys, or that sign."""
    return tuple(
        KeyStatus(key.fingerprint, None if key.expires is None else datetime.fromtimestamp(key.expires, UTC))
        for key in keys_in_file(key_file, where="the published key", any_owner=True)
        if key.is_primary or key.can_sign
    )


def _missing_signatures(data: bytes, key_file: Path) -> Iterator[str]:
    """Yield a problem if a signed index has fewer signatures than its key file has keys."""
    keys = keys_in_file(key_file, where="the published key", any_owner=True)
    primary = [key for key in keys if key.is_primary]
    signatures = split(data, where=SIGNED_INDEX).signatures
    if signatures < len(primary):
        yield (
            f"{PUBLIC_KEY} holds {counted(len(primary), 'key')}, but the index has only "
            f"{counted(signatures, 'signature')}: sign with all of them, or end the move to a new key with "
            "pybuilder-repo rotate-key --finish"
        )


def ends(
    signed: VerifiedText, keys: tuple[KeyStatus, ...], now: datetime, within: timedelta
) -> Iterator[str]:
    """Yield a problem for a signature of the future, and for each end that is nearer than ``within``."""
    if is_premature(signed.signed_at, now):
        yield (
            f"the index is signed in the future, at {signed.signed_at:%Y-%m-%d %H:%M} UTC, and clients "
            "refuse it: check this machine's clock (see: timedatectl), then run pybuilder-repo refresh"
        )
    if signed.expires_at is not None and signed.expires_at - now <= within:
        yield f"the signature {_end(signed.expires_at, now)}: renew it with pybuilder-repo refresh"
    for key in keys:
        if key.expires_at is not None and key.expires_at - now <= within:
            yield (
                f"the key {key.fingerprint} {_end(key.expires_at, now)}: extend it with gpg "
                "--quick-set-expire, publish, and give clients the new key file"
            )


def _end(when: datetime, now: datetime) -> str:
    word = "has expired" if when <= now else "expires"
    return f"{word} at {when:%Y-%m-%d %H:%M} UTC"


def _files(folder: Path, index: Index, on_event: Reporter, *, verify: bool) -> Iterator[str]:
    for entry in index.entries:
        for name, size, digest in downloads_of(entry):
            path = folder / name
            if not path.is_file():
                yield f"{name} of the template {entry.os_version} is missing: publish again"
            elif size is not None and path.stat().st_size != size:
                yield f"{name} has {path.stat().st_size} bytes instead of {size}: publish again"
            elif not path.stat().st_mode & 0o004:
                yield f"{name} cannot be read by a web server: chmod o+r {path}"
            elif (
                verify
                and digest is not None
                and digest != hash_file(path, on_event=on_event, label=f"reading {path.name}")
            ):
                yield f"{name} is damaged (its digest is wrong): remove it and publish again"


def pages_behind(memory: Memory, index: Index) -> Iterator[str]:
    """Yield a problem if the pages do not show what an index names."""
    named = {
        (entry.os_version, entry.arch): (entry.revision, entry.sha512 or "")
        for entry in index.entries
        if not entry.hidden
    }
    shown = {key: (one.revision, one.sha512) for key, one in memory.shown.items()}
    wrong = sorted(
        {
            name
            for (name, arch) in named.keys() | shown.keys()
            if named.get((name, arch)) != shown.get((name, arch))
        }
    )
    if wrong:
        yield f"the pages do not show the index ({', '.join(wrong)}): pybuilder-repo catalogue makes them"


def _deprecations(index: Index, now: datetime) -> Iterator[str]:
    for entry in index.entries:
        end = deprecation(entry)
        if end is not None and end.until is not None and end.until < now.date():
            yield (
                f"the template {entry.os_version} was deprecated until {end.until}: "
                "withdraw it, or deprecate it again"
            )


def _changes(folder: Path, images: Path, index: Index, now: datetime) -> Iterator[str]:
    """Compare the images with the record of the last run, without reading them."""
    library = find_images(images)
    remembered = read_state(folder, images)
    published = {(entry.os_version, entry.arch) for entry in index.entries if entry.arch != UNKNOWN_ARCH}
    for image in library.images:
        try:
            read_sidecar(image, index)
        except PybuilderError as error:
            yield f"{image.name} cannot be published: {error.message}"
            continue
        last = remembered.get(image.name)
        entry = library.entries.get(image.name)
        until = None if entry is None else entry.held_until(now)
        if until is not None and (last is None or last.fingerprint != image.fingerprint):
            yield f"{image.name} is held back until {until:%Y-%m-%d %H:%M} UTC"
        elif last is None or (last.entry, last.arch) not in published:
            yield f"{image.name} is not published"
        elif last.fingerprint != image.fingerprint:
            yield f"{image.name} was written to since it was published"
    for name in sorted(set(remembered) - {image.name for image in library.images}):
        if PurePosixPath(name).stem not in library.broken:
            yield f"{name} is gone; its template is {remembered[name].entry}"
    for name, broken in library.broken.items():
        yield f"the entry {name} cannot be published: {broken.message}"
    for name, reason in library.skipped:
        yield f"{name} cannot be published: {reason}"

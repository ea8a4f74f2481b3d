"""Approvals: a reviewer signs an entry's files, and ``publish`` accepts the listed reviewers.

    LIBRARY/NAME/approval.asc        the clear-signed manifest of the files that users get

Records that the tools can make again at any time (boot check, packages) are not part of it: they name their
image themselves (ADR 0038).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from imgbuilder.errors import RepositoryError, SigningError, TrustError, UsageError
from imgbuilder.events import Reporter
from imgbuilder.host.hashing import hash_file
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.host.text import is_one_line
from imgbuilder.host.workspace import explain, explaining
from imgindex.files import open_file
from imgindex.gpg import trusted_keys_from_file
from imgindex.trust import TrustedKeys, VerifiedText, Verifier
from imgrepo.images.compress import hash_image
from imgrepo.images.scan import SourceImage
from imgrepo.library.description import DESCRIPTION_NAME, read_with_digest
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import BOOT_FILE, CONTENTS_FILE, SOURCES_FILE
from imgrepo.recordfile import writing_file
from imgrepo.services import Services, Signing

_LARGEST_PICTURE = 64 << 20


@dataclass(frozen=True)
class Reviewers:
    """The keys of the reviewers whose approvals count, and the clients' rule for signatures."""

    pin: TrustedKeys
    verifier: Verifier


@dataclass(frozen=True)
class Approval:
    """A valid approval: fingerprint of the reviewer's primary key, time in UTC, and the reviewer's note."""

    fingerprint: str
    signed_at: datetime
    note: str


def read_reviewers(path: Path, services: Services) -> Reviewers:
    """Read a file with the public keys of reviewers."""
    return Reviewers(trusted_keys_from_file(path, where="--reviewers"), services.verifier)


def check_reviewers(reviewers: Path | None, *, signed: bool) -> None:
    """Refuse to require approvals without reviewers."""
    if signed and reviewers is None:
        raise UsageError(
            "no reviewers given", hint="give the file of the reviewers' public keys: --reviewers FILE"
        )


def approve(
    folder: EntryFolder, signing: Signing, note: str, services: Services, on_event: Reporter
) -> Manifest:
    """Sign an entry as it is now, replace ``approval.asc``, and return the manifest that was signed."""
    keys = services.make_keys(signing)
    fingerprint = keys.check_key(signing.key)
    image = folder.image()
    files = _files(folder, image, lambda: hash_image(image, on_event))
    manifest = Manifest(folder.name, files, check_note(note))
    data = keys.clearsign(write_manifest(manifest), fingerprint)
    _check(data, manifest, keys.export_public_key(signing.key), services)
    with writing_file(folder.approval, data) as temporary, explaining(folder.approval):
        temporary.chmod(0o644)
    return manifest


def _check(data: bytes, manifest: Manifest, public_key: bytes, services: Services) -> None:
    """Verify a new approval as ``publish`` does."""
    where = "the new approval"
    with private_folder() as scratch:
        file = scratch / "key"
        with explaining(file):
            file.write_bytes(public_key)
        pin = trusted_keys_from_file(file, where="the signing key")
    try:
        signed = services.verifier.verify(data, pin, where=where, limit=LARGEST)
    except TrustError as error:
        raise SigningError(f"{where} does not verify: {error.message}") from error
    if read_manifest(signed.text, where=where) != manifest:
        raise SigningError("gpg signed a different text from the approval that it was given")


def approval_of(
    folder: EntryFolder,
    reviewers: Reviewers,
    on_event: Reporter,
    *,
    metadata_digest: str | None = None,
    from_records: bool = False,
    published: Collection[str] = (),
) -> Approval:
    """Return the approval of an entry as it is now.

    ``metadata_digest`` is the SHA-512 of the ``entry.toml`` that the caller has read, which could be
    exchanged meanwhile. With ``from_records``, the digest of an untouched image comes from its records, which
    everyone who may write into the folder could have made up: only for display. An approval of a
    ``published`` image, by SHA-512 from the publisher's record, is valid without reading any image.
    """
    hint = f"let a reviewer look at it: pybuilder-repo entry sign {folder.name}"
    signed = _read(folder.approval, reviewers, hint)
    if signed is None:
        raise RepositoryError(f"{folder.name} is not approved", hint=hint)
    manifest = read_manifest(signed.text, where=str(folder.approval))
    image = folder.image()

    def digest() -> str:
        approved = manifest.files.get(image.name, "")
        if approved in published:
            return approved
        known = _recorded(folder, image) if from_records else None
        return known or hash_image(image, on_event)

    changed = difference(manifest, folder.name, _files(folder, image, digest, metadata_digest))
    if changed is not None:
        raise RepositoryError(f"the approval of {folder.name} does not hold: {changed}", hint=hint)
    return Approval(signed.primary_fingerprint, signed.signed_at, manifest.note)


def _recorded(folder: EntryFolder, image: SourceImage) -> str | None:
    for record in (BOOT_FILE.read(folder.boot), CONTENTS_FILE.read(folder.contents)):
        if record is not None and record.image.fingerprint == image.fingerprint:
            return record.image.sha512
    return None


def _read(path: Path, reviewers: Reviewers, hint: str) -> VerifiedText | None:
    try:
        with open_file(path) as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain(error, path) from error
    try:
        return reviewers.verifier.verify(data, reviewers.pin, where=str(path), limit=LARGEST)
    except TrustError as error:
        raise type(error)(error.message, hint=hint) from error


def _files(
    folder: EntryFolder,
    image: SourceImage,
    image_digest: Callable[[], str],
    metadata_digest: str | None = None,
) -> dict[str, str]:
    """Return the files of an entry that users get: SHA-512 by path in its folder."""
    files = {DESCRIPTION_NAME: metadata_digest or read_with_digest(folder.description)[1]}
    if folder.screenshot.is_symlink() or folder.screenshot.exists():
        files[folder.screenshot.name] = _hash(folder.screenshot, _LARGEST_PICTURE)
    sources = SOURCES_FILE.read(folder.sources)
    if sources is not None and sources.archive:
        # The catalogue copies it only with this digest.
        files[f"{folder.sources.name}/{sources.archive}"] = sources.sha512
    return {image.name: image_digest(), **files}


def _hash(path: Path, largest: int) -> str:
    with explaining(path):
        if path.is_symlink() or not path.is_file():
            raise RepositoryError(f"{path} is not a regular file", hint="replace it with a regular file")
        if path.stat().st_size > largest:
            raise RepositoryError(f"{path} has more than {largest} bytes", hint="make it smaller")
        return hash_file(path, flags=os.O_NOFOLLOW)


# The manifest has the lines of sha512sum(1), so that users can check an entry by hand.

LARGEST = 64 << 10
"""Size limit of a signed manifest in bytes; a real one has some hundred."""
_FIRST = "# approved entry of a library, version 1"
_NAME = "# entry: "
_NOTE = "# note: "
_LONGEST_NOTE = 200
_SIGN_AGAIN = "have a reviewer sign it again: pybuilder-repo entry sign"
_LINE = re.compile(r"([0-9a-f]{128})  ([A-Za-z0-9][A-Za-z0-9._+~-]*(?:/[A-Za-z0-9][A-Za-z0-9._+~-]*)?)")


@dataclass(frozen=True)
class Manifest:
    """The files of an entry that a reviewer approves: SHA-512 in hex by path in the entry's folder."""

    name: str
    files: Mapping[str, str]
    note: str = ""


def check_note(note: str) -> str:
    """Return a reviewer's note without blanks around it."""
    note = note.strip()
    if not is_one_line(note) or len(note) > _LONGEST_NOTE:
        raise UsageError(f"the note is not one line of at most {_LONGEST_NOTE} plain characters")
    return note


def write_manifest(manifest: Manifest) -> str:
    """Return the text that is signed."""
    lines = [_FIRST, f"{_NAME}{manifest.name}", *([f"{_NOTE}{manifest.note}"] if manifest.note else [])]
    for path, digest in sorted(manifest.files.items()):
        line = f"{digest}  {path}"
        if not _LINE.fullmatch(line):
            raise UsageError(f"{path!r} has a name that cannot be approved", hint="rename it")
        lines.append(line)
    return "\n".join(lines) + "\n"


def read_manifest(text: str, *, where: str) -> Manifest:
    """Read the text that ``write_manifest`` returns, and nothing else."""
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or lines[0] != _FIRST or not lines[1].startswith(_NAME):
        raise RepositoryError(f"{where} is signed, but it is not an approval of an entry", hint=_SIGN_AGAIN)
    note = lines.pop(2).removeprefix(_NOTE) if lines[2].startswith(_NOTE) else ""
    files: dict[str, str] = {}
    for line in lines[2:]:
        match = _LINE.fullmatch(line)
        if match is None or match[2] in files:
            raise RepositoryError(f"{where} has an invalid line", hint=_SIGN_AGAIN)
        files[match[2]] = match[1]
    if not files or not is_one_line(note):
        raise RepositoryError(f"{where} lists no files, or has an invalid note", hint=_SIGN_AGAIN)
    return Manifest(lines[1].removeprefix(_NAME), files, note)


def difference(approved: Manifest, name: str, files: Mapping[str, str]) -> str | None:
    """Return how an entry differs from an approval; None when it does not. A pure function."""
    if approved.name != name:
        return f"it is of a different entry, {approved.name}"
    changes = [
        *(f"{path} differs from the approved one" for path in sorted(files.keys() & approved.files.keys())
          if files[path] != approved.files[path]),
        *(f"{path} was added since" for path in sorted(files.keys() - approved.files.keys())),
        *(f"{path} is gone since" for path in sorted(approved.files.keys() - files.keys())),
    ]  # fmt: skip
    return "; ".join(changes) or None

"""Reads the index of a published folder, signs a new one, and puts it in place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from imgbuilder.errors import (
    BadSignatureError,
    PybuilderError,
    SigningError,
    TrustError,
    UsageError,
    WrongKeyError,
)
from imgbuilder.events import Reporter, Step, ignore, warn
from imgbuilder.host.workspace import explain
from imgbuilder.sizes import counted
from imgindex.accept import CLOCK_TOLERANCE
from imgindex.accept import show as show_time
from imgindex.clearsign import split, unverified_text
from imgindex.files import open_file
from imgindex.gpg import keys_in_file, trusted_keys_from_file
from imgindex.model import Index
from imgindex.parse import parse_index
from imgindex.trust import TrustedKeys, VerifiedText
from imgindex.write import write_index
from imgrepo.services import Services, Signing
from imgrepo.webroot.journal import JOURNAL_NAME, Action, journal_with, next_line
from imgrepo.webroot.state import refuse_protected, remember_former
from imgrepo.webroot.transaction import Session

SIGNED_INDEX = "index.asc"
PLAIN_INDEX = "index"
PUBLIC_KEY = "index.gpg"
_BACKUP = "index.bak"
_LARGEST_INDEX = 5_000_000
"""Bytes; no client reads more."""


@dataclass(frozen=True)
class PublishedIndex:
    """The index that clients get; without templates and text when nothing is published yet.

    ``data`` is the file. ``expires_at`` is None when its signature does not expire.
    """

    index: Index = field(default_factory=Index)
    text: str | None = None
    data: bytes | None = None
    signed_at: datetime | None = None
    expires_at: datetime | None = None


def read_index_file(path: Path) -> bytes | None:
    """Return the bytes of an index; None when there is none."""
    try:
        with open_file(path) as file:
            data = file.read(_LARGEST_INDEX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain(error, path) from error
    if len(data) > _LARGEST_INDEX:
        raise BadSignatureError(f"{path} is larger than any client reads")
    return data


def is_premature(signed_at: datetime, now: datetime) -> bool:
    """Check whether an index is signed so far in the future that clients refuse it."""
    return signed_at > now + CLOCK_TOLERANCE


def signing_step(index: Index) -> Step:
    """Return the step in which an index is signed."""
    if not index.entries:
        return Step("Signing the index, which is empty now: clients find no template here")
    return Step(f"Signing the index of {counted(len(index.entries), 'template')}")


class IndexSigner:
    """Signs indexes, and trusts only what a client would trust; without a usable key it cannot be made."""

    def __init__(self, services: Services, signing: Signing, session: Session) -> None:
        self._services, self._signing = services, signing
        self._keys = services.make_keys(signing)
        self._verifier = services.verifier
        names = dict.fromkeys((signing.key, *signing.also))
        self._fingerprint, *also = dict.fromkeys(self._keys.check_key(name) for name in names)
        self._also = tuple(also)
        self._session = session
        public = session.folder / PUBLIC_KEY
        public.write_bytes(b"".join(self._keys.export_public_key(name) for name in names))
        self._pin: TrustedKeys = trusted_keys_from_file(public, where="the signing key")
        self._probe()

    def _probe(self) -> None:
        """Sign a text that is thrown away: a locked key is found now, not after an hour of compressing."""
        self._keys.clearsign("probe\n", self._fingerprint, self._also)

    def read(
        self, folder: Path, *, force: bool = False, finish: bool = False, on_event: Reporter = ignore
    ) -> PublishedIndex:
        """Read the signed index of a folder by the rules of clients.

        Its signature may have expired: it is about to be signed again. An index that is not signed by these
        keys is a TrustError, so that nothing is built on it, except with ``force``. Only with ``finish`` may
        it be signed by further keys, which the next index will not be signed with.
        """
        path = folder / SIGNED_INDEX
        data = read_index_file(path)
        if data is None:
            return PublishedIndex()
        if force:
            text = unverified_text(data, where=str(path))
            return PublishedIndex(parse_index(text, where=str(path)), text.text, data)
        pin = replace(self._pin, extra_signatures=True, expired_signatures=True)
        try:
            signed = self._verifier.verify(data, pin, where=str(path))
        except TrustError as error:
            if isinstance(error, WrongKeyError):
                hint = (
                    "sign with the key that signed it; to move to another: pybuilder-repo rotate-key --help"
                )
            else:
                hint = (
                    "restore it from a backup; or move it away and publish again: notes and revisions come "
                    f"from {folder / PLAIN_INDEX}"
                )
            raise type(error)(error.message, hint=hint) from error
        if not finish and split(data, where=str(path)).signatures > 1 + len(self._also):
            raise SigningError(
                f"{path} is signed by more keys than you gave: clients that know only another one of them "
                "would refuse the next index",
                hint="give all keys, each with -K; once all clients know the new key, end the move with "
                "pybuilder-repo rotate-key --finish",
            )
        self._check_clock(path, signed.signed_at, on_event)
        return PublishedIndex(
            parse_index(signed, where=str(path)), signed.text, data, signed.signed_at, signed.expires_at
        )

    def _check_clock(self, path: Path, signed_at: datetime, on_event: Reporter) -> None:
        """Check that the next signature is not older than the last, for which clients would refuse it.

        The last one does not count if it lies so far in the future that no client has accepted it. A file
        that was written in the future shows that this machine's clock, not the former one, is wrong.
        """
        now = self._services.clock()
        if signed_at <= now:
            return
        written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        if is_premature(signed_at, now) and written_at <= now:
            warn(
                on_event,
                f"{path} is signed in the future, at {show_time(signed_at)}, so that clients refuse it: "
                "signing it again",
            )
            return
        hint = "set the clock (see: timedatectl), then try again"
        if is_premature(signed_at, now):
            hint += f"; if it is right, no client can have accepted this index: touch {path}"
        raise SigningError(
            f"{path} was signed at {show_time(signed_at)}, which this machine's clock has not reached yet: "
            "clients would reject the next one as older",
            hint=hint,
        )

    @property
    def trusted(self) -> TrustedKeys:
        """The keys that sign."""
        return self._pin

    def replace(
        self, folder: Path, old: PublishedIndex, new: Index, action: Action, *, finish: bool = False
    ) -> None:
        """Sign a new index, read it back as a client does, and put it in place of the old one.

        The journal of the folder gets a line about it. Other keys in the key file for clients stay there,
        except with ``finish``.
        """
        refuse_protected(folder, old.index, new)
        self._check_files(folder, new)
        others = b"" if finish else self._other_keys(folder / PUBLIC_KEY)
        keys = self._keys
        if self._signing.valid_for is None and old.expires_at is not None and old.signed_at is not None:
            # A signature that expires must not lose that because an option is forgotten.
            as_before = replace(self._signing, valid_for=old.expires_at - old.signed_at)
            keys = self._services.make_keys(as_before)
        while True:
            data = keys.clearsign(write_index(new), self._fingerprint, self._also)
            signed = self._check(data, new, old)
            if signed.signed_at != old.signed_at:
                break
            # Signatures have whole seconds, and clients refuse two texts of the same second.
            time.sleep(1 - time.time() % 1)
        remember_former(folder, old.index, new)
        plain = folder / PLAIN_INDEX
        if self.was_edited(folder, old):
            self._session.write({_BACKUP: plain.read_bytes()})
        key_file = (self._session.folder / PUBLIC_KEY).read_bytes() + others
        line = next_line(folder, action, Index() if old.text is None else old.index, new, signed)
        signature = keys.sign_detached(line, self._fingerprint)
        # Clients read only the signed index, so it comes last.
        self._session.write(
            {
                PUBLIC_KEY: key_file,
                PLAIN_INDEX: signed.text.encode(),
                JOURNAL_NAME: journal_with(folder, line, signature),
                SIGNED_INDEX: data,
            }
        )

    def _check_files(self, folder: Path, index: Index) -> None:
        """Check that no published file was written in this clock's future: it would show a wrong clock."""
        now = self._services.clock()
        for path in (folder / entry.file for entry in index.entries):
            if not path.exists():
                continue  # status reports it
            written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            if is_premature(written_at, now):
                raise SigningError(
                    f"{path} was written at {show_time(written_at)}, which this machine's clock has not "
                    "reached yet",
                    hint=f"set the clock (see: timedatectl), then try again; if it is right: touch {path}",
                )

    def _other_keys(self, key_file: Path) -> bytes:
        """Return the keys that clients get besides those that sign: they may be of a move to a new key."""
        try:
            listed = keys_in_file(key_file, where="the published key", any_owner=True)
        except PybuilderError:
            return b""  # it is missing or damaged, and is written again
        others = {key.fingerprint for key in listed if key.is_primary} - self._pin.fingerprints
        found = {fingerprint: self._keys.public_key(fingerprint) for fingerprint in sorted(others)}
        lost = [fingerprint for fingerprint, key in found.items() if not key]
        if lost:
            raise SigningError(
                f"{key_file} also holds the key {lost[0]}, which your keyring does not have: clients would "
                "lose it",
                hint=f"to keep it: gpg --import {key_file}; to drop it, remove the file: it is made again",
            )
        return b"".join(found.values())

    def _check(self, data: bytes, new: Index, old: PublishedIndex) -> VerifiedText:
        """Read a signed index as a client does; return the text that clients get.

        It can differ from the signed text: clear-signing cuts blanks at line ends.
        """
        try:
            signed = self._verifier.verify(data, self._pin, where="the new index")
            understood = parse_index(signed, where="the new index")
        except TrustError as error:
            raise SigningError(f"clients would refuse the new index: {error.message}") from error
        if understood != new:
            raise SigningError("clients would read a different index from the one that was written")
        premature = old.signed_at is not None and is_premature(old.signed_at, self._services.clock())
        if old.signed_at is not None and signed.signed_at < old.signed_at and not premature:
            raise SigningError("the clock was set back: clients would reject the new index as older")
        return signed

    def was_edited(self, folder: Path, published: PublishedIndex) -> bool:
        """Check whether the unsigned copy differs from the signed index: it may have been edited."""
        try:
            with open_file(folder / PLAIN_INDEX) as file:
                return file.read(_LARGEST_INDEX) != (published.text or "").encode()
        except FileNotFoundError:
            return False


def read_served(folder: Path, services: Services) -> tuple[PublishedIndex, VerifiedText]:
    """Read a served index by the key file next to it, without any secret key.

    Its signature may have expired. This only proves that both belong together.
    """
    path = folder / SIGNED_INDEX
    data = read_index_file(path) if folder.is_dir() else None
    if data is None:
        raise UsageError(f"nothing is published in {folder}", hint=f"give the folder with {SIGNED_INDEX}")
    if not (folder / PUBLIC_KEY).exists():
        raise UsageError(
            f"{folder / PUBLIC_KEY} is missing: clients find no key there",
            hint=f"sign again, which writes it: pybuilder-repo refresh {folder} --gpg-key KEY",
        )
    # Publishers of one group share the folder: the last one who signed owns the file.
    pin = trusted_keys_from_file(folder / PUBLIC_KEY, where=str(folder), any_owner=True)
    tolerant = replace(pin, extra_signatures=True, expired_signatures=True)
    signed = services.verifier.verify(data, tolerant, where=str(path))
    index = parse_index(signed, where=str(path))
    return PublishedIndex(index, signed.text, data, signed.signed_at, signed.expires_at), signed

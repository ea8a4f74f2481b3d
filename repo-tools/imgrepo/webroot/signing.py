"""The index of a published folder: reading it back, signing a new one, putting it in place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from imgbuilder.errors import BadSignatureError, SigningError, TrustError, UsageError
from imgbuilder.events import Reporter, ignore, warn
from imgbuilder.host.workspace import explain
from imgindex.clearsign import split, unverified_text
from imgindex.files import open_file
from imgindex.gpg import trusted_keys_from_file
from imgindex.model import Index
from imgindex.parse import parse_index
from imgindex.trust import TrustedKeys, VerifiedText
from imgindex.write import write_index
from imgrepo.services import Services, Signing
from imgrepo.webroot.transaction import Session

SIGNED_INDEX = "index.asc"
PLAIN_INDEX = "index"
PUBLIC_KEY = "index.gpg"
_BACKUP = "index.bak"
_LARGEST_INDEX = 5_000_000
"""Bytes; no client reads more (rule V1 of ``docs/threat-model.md``)."""


@dataclass(frozen=True)
class PublishedIndex:
    """The index that clients see.

    Attributes:
        index: Its templates; none when nothing is published yet.
        text: Its text; None when nothing is published yet.
        signed_at: When it was signed; None when nothing is published yet.
        expires_at: When its signature expires; None when it does not.
    """

    index: Index = field(default_factory=Index)
    text: str | None = None
    signed_at: datetime | None = None
    expires_at: datetime | None = None


def read_index_file(path: Path) -> bytes | None:
    """Return the bytes of an index; None when there is none.

    Raises:
        BadSignatureError: It is larger than any client reads.
        WorkspaceError: It cannot be read.
    """
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


class IndexSigner:
    """Signs indexes, and believes only what a client would believe.

    Args:
        services: The publisher's gpg, and the clients' verifier.
        signing: The keys, and how long signatures stay valid.
        session: Where files are made.

    Raises:
        SigningError: A key is missing, ambiguous, expired or locked (``docs/threat-model.md`` R3).
    """

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
        """Sign something that nobody keeps: a locked key shows now, not after an hour of compressing."""
        self._keys.clearsign("probe\n", self._fingerprint, self._also)

    def read(self, folder: Path, *, force: bool = False, on_event: Reporter = ignore) -> PublishedIndex:
        """Read the signed index of a folder, by the clients' own rules.

        It may be signed by further keys, and its signature may have expired: this is who signs it anew.

        Args:
            folder: The folder that is served.
            force: Believe an index that is not signed by this key.
            on_event: Reports keys that have signed it and would not sign the next one.

        Raises:
            TrustError: It is not signed by this key: nothing may be built on it (R17).
            RepositoryError: Its text breaks the format.
        """
        path = folder / SIGNED_INDEX
        data = read_index_file(path)
        if data is None:
            return PublishedIndex()
        if force:
            text = unverified_text(data, where=str(path))
            return PublishedIndex(parse_index(text, where=str(path)), text.text)
        pin = replace(self._pin, extra_signatures=True, expired_signatures=True)
        try:
            signed = self._verifier.verify(data, pin, where=str(path))
        except TrustError as error:
            hint = (
                f"find out who wrote {path}; to build on it all the same, use --force; to start anew, "
                "without its notes and revisions, move it away"
            )
            raise type(error)(error.message, hint=hint) from error
        if split(data, where=str(path)).signatures > 1 + len(self._also):
            warn(
                on_event,
                f"{path} is signed by more keys than you gave: clients that know only the other one will "
                "refuse the next index; give all of them with -K while clients move from one to the next",
            )
        return PublishedIndex(
            parse_index(signed, where=str(path)), signed.text, signed.signed_at, signed.expires_at
        )

    def replace(self, folder: Path, old: PublishedIndex, new: Index) -> None:
        """Sign a new index, read it back as a client does, and put it in place of the old one.

        Args:
            folder: The folder that is served; all files that the index names are there already.
            old: What is published there.
            new: What shall be.

        Raises:
            SigningError: It cannot be signed, or would be refused by clients (R5, R19).
            RepositoryError: The format has no way to say it.
        """
        keys = self._keys
        if self._signing.valid_for is None and old.expires_at is not None and old.signed_at is not None:
            # Whoever once promised an end must not lose it by forgetting an option.
            as_before = replace(self._signing, valid_for=old.expires_at - old.signed_at)
            keys = self._services.make_keys(as_before)
        while True:
            data = keys.clearsign(write_index(new), self._fingerprint, self._also)
            signed = self._check(data, new, old)
            if signed.signed_at != old.signed_at:
                break
            # Signatures know whole seconds, and clients refuse two texts of the same one (S34).
            time.sleep(1 - time.time() % 1)
        plain = folder / PLAIN_INDEX
        if self.was_edited(folder, old):
            self._session.write(_BACKUP, plain.read_bytes())
        self._session.write(PUBLIC_KEY, (self._session.folder / PUBLIC_KEY).read_bytes())
        self._session.write(PLAIN_INDEX, signed.text.encode())
        # Only this one counts for clients, and so it comes last.
        self._session.write(SIGNED_INDEX, data)

    def _check(self, data: bytes, new: Index, old: PublishedIndex) -> VerifiedText:
        """Read a signed index as a client does; return what clients get.

        Its text can differ from what was signed: clear-signing cuts blanks at line ends (F9).
        """
        try:
            signed = self._verifier.verify(data, self._pin, where="the new index")
            understood = parse_index(signed, where="the new index")
        except TrustError as error:
            raise SigningError(f"clients would refuse the new index: {error.message}") from error
        if understood != new:
            raise SigningError("clients would read another index than the one that was written")
        if old.signed_at is not None and signed.signed_at < old.signed_at:
            raise SigningError(
                f"the published index was signed at {old.signed_at:%Y-%m-%d %H:%M:%S} UTC, which this "
                "machine's clock has not reached yet: clients would take the new one for an older one",
                hint="set the clock, then publish again",
            )
        return signed

    def was_edited(self, folder: Path, published: PublishedIndex) -> bool:
        """Tell whether the copy for people differs from the signed index: somebody may have edited it."""
        try:
            with open_file(folder / PLAIN_INDEX) as file:
                return file.read(_LARGEST_INDEX) != (published.text or "").encode()
        except FileNotFoundError:
            return False


def read_served(folder: Path, services: Services) -> tuple[PublishedIndex, VerifiedText]:
    """Read a served index by the key file beside it, without any secret key.

    Its signature may have expired. What is proved is only that both belong together.

    Raises:
        UsageError: Nothing is published there.
        TrustError: The index is not by a key of the key file.
    """
    path = folder / SIGNED_INDEX
    data = read_index_file(path) if folder.is_dir() else None
    if data is None:
        raise UsageError(f"nothing is published in {folder}", hint=f"give the folder with {SIGNED_INDEX}")
    pin = trusted_keys_from_file(folder / PUBLIC_KEY, where=str(folder))
    tolerant = replace(pin, extra_signatures=True, expired_signatures=True)
    signed = services.verifier.verify(data, tolerant, where=str(path))
    index = parse_index(signed, where=str(path))
    return PublishedIndex(index, signed.text, signed.signed_at, signed.expires_at), signed

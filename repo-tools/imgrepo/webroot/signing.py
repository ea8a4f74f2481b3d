"""Reads the index of a published folder, signs a new one, and puts it in place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from imgbuilder.errors import BadSignatureError, SigningError, TrustError, UsageError
from imgbuilder.events import Reporter, Step, ignore, warn
from imgbuilder.host.workspace import explain
from imgbuilder.sizes import counted
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
"""Bytes; no client reads more."""


@dataclass(frozen=True)
class PublishedIndex:
    """The index that clients get; without templates and text when nothing is published yet.

    ``expires_at`` is None when its signature does not expire.
    """

    index: Index = field(default_factory=Index)
    text: str | None = None
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

    def read(self, folder: Path, *, force: bool = False, on_event: Reporter = ignore) -> PublishedIndex:
        """Read the signed index of a folder by the rules of clients.

        It may be signed by further keys, and its signature may have expired: it is about to be signed again.
        An index that is not signed by this key is a TrustError, so that nothing is built on it, except with
        ``force``.
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
                f"find out who wrote {path}; to build on it anyway, use --force; to start again without its "
                "notes and revisions, move it away"
            )
            raise type(error)(error.message, hint=hint) from error
        if split(data, where=str(path)).signatures > 1 + len(self._also):
            warn(
                on_event,
                f"{path} is signed by more keys than you gave: clients that know only the other key will "
                "refuse the next index; give all keys with -K while clients move from one to the next",
            )
        return PublishedIndex(
            parse_index(signed, where=str(path)), signed.text, signed.signed_at, signed.expires_at
        )

    def replace(self, folder: Path, old: PublishedIndex, new: Index) -> None:
        """Sign a new index, read it back as a client does, and put it in place of the old one."""
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
        plain = folder / PLAIN_INDEX
        if self.was_edited(folder, old):
            self._session.write(_BACKUP, plain.read_bytes())
        self._session.write(PUBLIC_KEY, (self._session.folder / PUBLIC_KEY).read_bytes())
        self._session.write(PLAIN_INDEX, signed.text.encode())
        # Clients read only this one, so it comes last.
        self._session.write(SIGNED_INDEX, data)

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
        if old.signed_at is not None and signed.signed_at < old.signed_at:
            raise SigningError(
                f"the published index was signed at {old.signed_at:%Y-%m-%d %H:%M:%S} UTC, which this "
                "machine's clock has not reached yet: clients would reject the new one as older",
                hint="set the clock, then publish again",
            )
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
    pin = trusted_keys_from_file(folder / PUBLIC_KEY, where=str(folder))
    tolerant = replace(pin, extra_signatures=True, expired_signatures=True)
    signed = services.verifier.verify(data, tolerant, where=str(path))
    index = parse_index(signed, where=str(path))
    return PublishedIndex(index, signed.text, signed.signed_at, signed.expires_at), signed

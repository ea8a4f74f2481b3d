"""Finds the digest that an image must have, and verifies who signed it.

The checksum file and its signature are found, the signature is verified like that of
an index (``imgindex.verdict``), and only the signed text is read. Without a signature
nothing is accepted unless the publisher says so.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from imgbuilder.errors import FetchError, FileMissingError, NotSignedError, UsageError
from imgbuilder.events import Reporter, Step, warn
from imgbuilder.fetch.transfer import Download, Fetcher
from imgbuilder.fetch.urls import Address, hide_in, scheme_of
from imgindex.clearsign import unverified_text
from imgindex.gpg import trusted_keys_from_file
from imgindex.trust import TrustedKeys, VerifiedText, full_fingerprint
from imgrepo.intake.checksums import (
    SIGNATURE_ENDINGS,
    SUMS_LIMIT,
    Digests,
    digest_by_hand,
    find_digests,
    likely_sums,
    sibling,
)
from imgrepo.services import Services

_SIGNATURE_LIMIT = 64 << 10
_BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
_HEX = re.compile(r"[0-9A-Fa-f\s]{40,}")


@dataclass(frozen=True)
class TrustOptions:
    """The publisher's options for checking an image.

    Attributes:
        checksum: The digest itself; None to look for a checksum file.
        checksums: Address of the checksum file; None to look next to the image.
        key: Key file, or full fingerprint of a key in the publisher's keyring.
        unsigned: Whether a checksum file without a signature is accepted.
    """

    checksum: str | None = None
    checksums: str | None = None
    key: str | None = None
    unsigned: bool = False

    def __post_init__(self) -> None:
        if self.checksums is not None:
            hide_in(self, "checksums")
        if self.checksum is not None and (self.checksums or self.key or self.unsigned):
            raise UsageError("with --checksum, leave out --checksums, --key and --unsigned")
        if self.key is not None and self.unsigned:
            raise UsageError("--key and --unsigned cannot be used together")
        if self.checksum is None and self.key is None and not self.unsigned:
            raise UsageError(
                "there is nothing to check this image with",
                hint="give --key FILE-or-FINGERPRINT of the distribution; or the digest with --checksum; or, "
                "if the distribution signs nothing, --unsigned",
            )


@dataclass(frozen=True)
class ImageProof:
    """The digest of an image, and who signed it.

    Attributes:
        digests: The digests that the image must have.
        source: Address of the checksum file; None when the digest was given by hand.
        signed: The signed text; None when it is not signed.
    """

    digests: Digests
    source: str | None = None
    signed: VerifiedText | None = None

    def __str__(self) -> str:
        if self.source is None:
            return "the digest that you gave"
        if self.signed is None:
            return f"{self.source}, which is not signed"
        signer, day = self.signed.primary_fingerprint, f"{self.signed.signed_at:%Y-%m-%d}"
        return f"{self.source}, signed by {signer} on {day}"


def prove(
    image: str, name: str, trust: TrustOptions, services: Services, fetcher: Fetcher, on_event: Reporter
) -> ImageProof:
    """Find the digest that an image must have.

    Args:
        image: Its address.
        name: Its file name.
        trust: The publisher's options.
        services: Verifier and key files.
        fetcher: Gets the small files.
        on_event: Called with each event.

    Raises:
        TrustError: The checksum file is not signed as it must be.
        RepositoryError: It does not list the image.
        FetchError: It cannot be fetched.
        UsageError: There is none, or the key cannot be used.
    """
    if trust.checksum is not None:
        return ImageProof(digest_by_hand(trust.checksum))
    pin = None if trust.key is None else keys_of(trust.key, services)
    address, data = _find_sums(image, name, trust.checksums, fetcher, on_event)
    where = str(address)
    if pin is None:
        warn(on_event, _doubt(where, scheme_of(address)))
        text = unverified_text(data, where=where, limit=SUMS_LIMIT).text
        return ImageProof(find_digests(text, name, where=where), where)
    signed = _signed_text(address, data, pin, services, fetcher)
    return ImageProof(find_digests(signed.text, name, where=where), where, signed)


def keys_of(key: str, services: Services) -> TrustedKeys:
    """Return the keys that ``--key`` names."""
    path = Path(key)
    if not path.exists() and _HEX.fullmatch(key):
        return services.trusted_keys_from_keyring(full_fingerprint(key))
    if not path.is_file():
        raise UsageError(
            f"--key: {key} is neither a file nor a full fingerprint",
            hint="give the distribution's key file, or all 40 hex digits of a key in your keyring",
        )
    return trusted_keys_from_file(path, where="--key")


def _doubt(where: str, scheme: str | None) -> str:
    if scheme == "http":
        return f"{where} is not signed and came without encryption: it could have been changed on the way"
    return f"{where} is accepted without a signature: anyone who can write there can change the image"


def _get(address: str, limit: int, fetcher: Fetcher, on_event: Reporter) -> bytes:
    body = io.BytesIO()
    # A redirect is fine: the content is verified by its signature, or comes by https all the way.
    fetcher.fetch(Download(address, body, limit=limit, on_event=on_event, digest_known=True))
    return body.getvalue()


def _find_sums(
    image: str, name: str, given: str | None, fetcher: Fetcher, on_event: Reporter
) -> tuple[Address, bytes]:
    if given is not None:
        on_event(Step(f"Fetching {given}"))
        return Address(given), _get(given, SUMS_LIMIT, fetcher, on_event)
    on_event(Step(f"Looking for the checksum file of {name}"))
    tried = likely_sums(name)
    for candidate in tried:
        address = sibling(image, candidate)
        try:
            return address, _get(address, SUMS_LIMIT, fetcher, on_event)
        except FileMissingError:
            continue
    raise FetchError(
        f"there is no checksum file next to {Address(image)} (tried: {', '.join(tried)})",
        hint="give its address with --checksums, or the digest itself with --checksum",
    )


def _signed_text(
    address: Address, data: bytes, pin: TrustedKeys, services: Services, fetcher: Fetcher
) -> VerifiedText:
    where = str(address)
    # Distributions sign with an old and a new key side by side for years; one of ours is enough.
    tolerant = replace(pin, extra_signatures=True)
    if _BEGIN in data:
        return services.verifier.verify(data, tolerant, where=where, limit=SUMS_LIMIT)
    for ending in SIGNATURE_ENDINGS:
        try:
            next_to = address.derive(partial(_with_ending, ending=ending))
            signature = _get(next_to, _SIGNATURE_LIMIT, fetcher, lambda _event: None)
        except FileMissingError:
            continue
        return services.verifier.verify_detached(data, signature, tolerant, where=where)
    raise NotSignedError(
        f"{where} is not signed: there is no signature in it, and none next to it "
        f"({', '.join(SIGNATURE_ENDINGS)})",
        hint="if the distribution signs nothing, compare the digest in another way and give it with "
        "--checksum, or use --unsigned",
    )


def _with_ending(address: str, ending: str) -> str:
    """Put an ending on an address' path, before any query."""
    if scheme_of(address) in ("http", "https"):
        path, question, query = address.partition("?")
        return f"{path}{ending}{question}{query}"
    return address + ending

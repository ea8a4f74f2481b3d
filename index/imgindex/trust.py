"""Verified is a type: what may be parsed, and who may make it.

An index is parsed only from a ``VerifiedText``, which only a ``Verifier``
makes and which holds exactly the bytes that gpgv said were signed; or from an
``UnverifiedText``, the one way round, which has a name that shows in review.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imgindex.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_FULL_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")


def full_fingerprint(text: str) -> str:
    """Normalise a full OpenPGP fingerprint (``docs/threat-model.md`` S29).

    Args:
        text: 40 (or, for version 5 and 6 keys, 64) hex digits in any case, with or without blanks.

    Returns:
        The digits in upper case without blanks.

    Raises:
        UsageError: The text is anything else, such as a short key id, which could name a forged key.
    """
    digits = "".join(text.split()).upper()
    digits = digits.removeprefix("0X")
    if not _FULL_FINGERPRINT.fullmatch(digits):
        raise UsageError(
            f"{text!r} is not a full key fingerprint",
            hint="give all 40 hex digits, as printed by: gpg --fingerprint",
        )
    return digits


@dataclass(frozen=True)
class TrustedKeys:
    """The keys that one source may be signed with.

    Attributes:
        fingerprints: Full fingerprints of primary keys or subkeys, upper case.
        keyring: The public keys as a binary OpenPGP keyring (gpgv does not read armored ones).
        unusable: Fingerprint and reason of each key in ``keyring`` that is too weak or revoked, found when
            the pin was made; a signature by one is refused whatever gpgv says of it.
        sha1_self_signatures: A key vouches for itself with SHA-1 only, as old keys do (that of
            libguestfs.org among them). gpgv calls such a key bad when it is told to reject SHA-1.
        extra_signatures: Whether unknown keys may have signed as well, besides one of these, while a
            publisher moves from one key to the next (``docs/threat-model.md`` S15).
        expired_signatures: Whether a signature counts after its own expiry: for the publisher alone, who
            reads his index to sign it anew.
    """

    fingerprints: frozenset[str]
    keyring: bytes
    unusable: tuple[tuple[str, str], ...] = ()
    sha1_self_signatures: bool = False
    extra_signatures: bool = False
    expired_signatures: bool = False


@dataclass(frozen=True)
class VerifiedText:
    """Exactly the text that was signed, and by whom. Made only by a ``Verifier``.

    Attributes:
        text: The signed text.
        fingerprint: Full fingerprint of the key that signed it.
        primary_fingerprint: Full fingerprint of that key's primary key.
        signed_at: When it was signed, in UTC, as the signature says.
        expires_at: When the signature expires, in UTC; None when it does not.
        first_line: In which line of the signed file the text begins, for error messages.
    """

    text: str
    fingerprint: str
    primary_fingerprint: str
    signed_at: datetime
    expires_at: datetime | None
    first_line: int = 1


@dataclass(frozen=True)
class UnverifiedText:
    """Text that nobody vouches for: from a source that its configuration calls unsigned, or a local draft.

    Attributes:
        text: The text, without any OpenPGP frame.
        first_line: In which line of its file the text begins, for error messages.
    """

    text: str
    first_line: int = 1


class Verifier(Protocol):
    """Decides whether downloaded bytes are a signed text of a pinned key."""

    def verify(self, data: bytes, trusted: TrustedKeys, *, where: str, limit: int = ...) -> VerifiedText:
        """Apply the accept rule to ``data``.

        Args:
            data: The downloaded file, whole.
            trusted: The keys that may have signed it.
            where: The source, for error messages.
            limit: Most bytes that it may have; by default, what an index may have.

        Returns:
            The signed text.

        Raises:
            TrustError: The bytes are not accepted, for whatever reason.
        """
        ...


class Signer(Protocol):
    """Signs an index with the publisher's key."""

    def clearsign(self, text: str, key: str, also: Sequence[str] = ()) -> bytes:
        """Clear-sign ``text`` with the secret key that ``key`` names, and with those of ``also``.

        Raises:
            SigningError: The key is missing, ambiguous, expired or locked, or gpg failed.
        """
        ...

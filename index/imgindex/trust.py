"""Types of trust: trusted keys, verified and unverified texts, and the port that verifies.

An index is parsed only from a ``VerifiedText``, which only a ``Verifier`` makes and
which holds exactly the bytes that gpgv reported as signed; or from an
``UnverifiedText``, the only exception, whose name is conspicuous in a review.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imgindex.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

_FULL_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")


def full_fingerprint(text: str) -> str:
    """Normalise a full OpenPGP fingerprint (``docs/threat-model.md`` S29).

    Args:
        text: 40 (or, for version 5 and 6 keys, 64) hex digits in any case, with or without blanks.

    Returns:
        The digits in upper case without blanks.

    Raises:
        UsageError: The text is not one, for example a short key id, which could name a forged key.
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
        unusable: Fingerprint and reason of each key in ``keyring`` that is too weak or revoked; a signature
            by such a key is refused whatever gpgv reports.
        sha1_self_signatures: A key has only SHA-1 self-signatures, as old keys do (for example that of
            libguestfs.org). gpgv rejects such a key when SHA-1 is forbidden.
        extra_signatures: Unknown keys may have signed as well, besides one of these, while a publisher
            moves to a new key (``docs/threat-model.md`` S15).
        expired_signatures: A signature counts after its expiry: only for publishers, who read their index
            to sign it again.
    """

    fingerprints: frozenset[str]
    keyring: bytes
    unusable: tuple[tuple[str, str], ...] = ()
    sha1_self_signatures: bool = False
    extra_signatures: bool = False
    expired_signatures: bool = False


@dataclass(frozen=True)
class VerifiedText:
    """Exactly the text that was signed, and its signer. Made only by a ``Verifier``.

    Attributes:
        text: The signed text.
        fingerprint: Full fingerprint of the key that signed it.
        primary_fingerprint: Full fingerprint of that key's primary key.
        signed_at: Time of the signature in UTC, as the signature gives it.
        expires_at: Time when the signature expires, in UTC; None when it does not.
        first_line: Line of the signed file in which the text begins, for error messages.
    """

    text: str
    fingerprint: str
    primary_fingerprint: str
    signed_at: datetime
    expires_at: datetime | None
    first_line: int = 1


@dataclass(frozen=True)
class UnverifiedText:
    """Text without verification: of a source with ``unsigned=yes``, or of a local draft.

    Attributes:
        text: The text, without any OpenPGP frame.
        first_line: Line of its file in which the text begins, for error messages.
    """

    text: str
    first_line: int = 1


class Verifier(Protocol):
    """Decides whether downloaded bytes are a text that a trusted key signed."""

    def verify(self, data: bytes, trusted: TrustedKeys, *, where: str, limit: int = ...) -> VerifiedText:
        """Apply the accept rule to ``data``.

        Args:
            data: The downloaded file, whole.
            trusted: The keys that may have signed it.
            where: The source, for error messages.
            limit: Most bytes that it may have; by default those of an index.

        Returns:
            The signed text.

        Raises:
            TrustError: The bytes are not accepted.
        """
        ...

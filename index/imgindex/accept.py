"""The accept rule, V1 to V9 of ``docs/threat-model.md``: one function, where its parts are, and V8.

All bytes pass through here before they are used: of a first fetch, a refresh, a retry, a mirror, the
kept copy of an unreachable source, or a local file. Each rule has a different error:

====  ===================================================  ====================  ========================
rule  condition                                            where                 refused with
====  ===================================================  ====================  ========================
V1    no more was read than an index may have              fetcher, clearsign    Fetch-, BadSignatureError
V2    the frame is the plain form of a clear signature     clearsign.split       NotSigned-, BadSignature-
V3    gpgv alone judges, with this source's own keys       gpg.GpgVerifier       ToolError
V4    a pinned, strong and valid key signed well, and the  verdict.judge         WrongKey-, BadSignature-
      signature has not expired
V5    no signature is bad, and none unknown unasked        verdict.judge         BadSignature-, WrongKey-
V6    gpgv read the very text that we read                 gpg.GpgVerifier       BadSignatureError
V7    that text, and nothing else, is read as an index     parse.parse_index     IndexSyntaxError
V8    it is neither older than a known one, nor older      judge_freshness       StaleIndexError and its
      than ``max-age`` allows, nor of tomorrow                                   subclasses
V9    only then is it remembered                           the caller            SourceStateError
====  ===================================================  ====================  ========================

About V8: a mirror without the publisher's key can still serve an old index with known holes (rollback,
T4), or the same one for ever (freeze, T5). The creation time of a signature is signed, and so is its
expiry if it has one: a client that remembers the newest accepted index can notice both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from imgindex.clearsign import MAX_FILE_SIZE
from imgindex.errors import (
    ClockError,
    ConflictingIndexError,
    ExpiredIndexError,
    FutureIndexError,
    RolledBackError,
)

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from imgindex.trust import TrustedKeys, UnverifiedText, VerifiedText, Verifier


CLOCK_TOLERANCE = timedelta(hours=24)
"""Most difference between clocks: that of the publisher and ours, or ours then and now."""

_T = TypeVar("_T")
_Content = TypeVar("_Content", covariant=True)


@dataclass(frozen=True)
class Accepted:
    """The newest accepted index of a source.

    Attributes:
        signed_at: Time of the signature, in UTC.
        digest: SHA-256 of the signed text, lower-case hex.
        signer: Full fingerprint of the primary key that signed it.
        expires_at: Time when the signature expires, in UTC; None when it does not.
        accepted_at: Time when it was last accepted, by this machine's clock, in UTC.
    """

    signed_at: datetime
    digest: str
    signer: str
    expires_at: datetime | None
    accepted_at: datetime


class Parse(Protocol[_Content]):
    """Reads a file whose signature was verified, or that has none."""

    def __call__(self, text: VerifiedText | UnverifiedText, *, where: str) -> _Content:
        """Return the content of the file."""
        ...


class AcceptPolicy(NamedTuple):
    """The conditions for an index of a source.

    Attributes:
        trusted: The keys that may have signed.
        last: The newest accepted index of the source; None at first use.
        max_age: Longest time since signing that the user allows; None for no limit.
        where: The source, for error messages.
        forget_hint: The command that forgets ``last``, for hints.
        limit: Most bytes that the file may have.
    """

    trusted: TrustedKeys
    last: Accepted | None
    max_age: timedelta | None
    where: str
    forget_hint: str
    limit: int = MAX_FILE_SIZE


class Acceptance(NamedTuple, Generic[_T]):
    """A file that was accepted.

    Attributes:
        content: Its content.
        signed: The signed text, its signer and time.
        record: The facts to remember (V9).
    """

    content: _T
    signed: VerifiedText
    record: Accepted


def accept(
    data: bytes, policy: AcceptPolicy, parse: Parse[_T], *, verifier: Verifier, now: datetime
) -> Acceptance[_T]:
    """Accept a signed file by all rules, or not at all.

    Args:
        data: The file, whole.
        policy: The conditions.
        parse: Reads it, once it is verified and current.
        verifier: Judges the signature.
        now: This machine's time, in UTC.

    Raises:
        TrustError: It is not proved to be the publisher's current file.
        RepositoryError: It is the current file, but cannot be read.
        ToolError: gpgv is missing or failed.
    """
    signed = verifier.verify(data, policy.trusted, where=policy.where, limit=policy.limit)
    record = judge_freshness(
        signed,
        policy.last,
        now=now,
        max_age=policy.max_age,
        where=policy.where,
        forget_hint=policy.forget_hint,
    )
    return Acceptance(parse(signed, where=policy.where), signed, record)


def judge_freshness(
    signed: VerifiedText,
    last: Accepted | None,
    *,
    now: datetime,
    max_age: timedelta | None = None,
    where: str,
    forget_hint: str,
) -> Accepted:
    """Decide whether a signed index may be used now.

    Args:
        signed: The index, its signature already accepted.
        last: The newest accepted index; None at first use, when no rollback can be noticed.
        now: This machine's time, in UTC.
        max_age: Longest time since signing that the user allows; None for no limit.
        where: The source, for error messages.
        forget_hint: The command that forgets ``last``, for hints.

    Returns:
        The facts to remember.

    Raises:
        ClockError: ``last`` was accepted in the future (S37).
        FutureIndexError: It is signed more than a day ahead of ``now`` (S35).
        RolledBackError: It is older than ``last`` (S33).
        ConflictingIndexError: It is as old as ``last``, but different (S34).
        ExpiredIndexError: Its signature has expired (S8), or it is older than ``max_age`` (S36).
    """
    if last is not None:
        _check_clock(last, now, where, forget_hint)
    if signed.signed_at > now + CLOCK_TOLERANCE:
        raise FutureIndexError(
            f"{where}: the index was signed at {show(signed.signed_at)}, but this machine's clock says "
            f"{show(now)}",
            hint="set the clock if it is wrong (see: timedatectl); else tell the publisher that theirs is",
        )
    digest = hashlib.sha256(signed.text.encode()).hexdigest()
    if last is not None:
        _check_not_older(signed, digest, last, where)
    _check_age(signed, now, max_age, where)
    return Accepted(signed.signed_at, digest, signed.primary_fingerprint, signed.expires_at, now)


def show(time: datetime) -> str:
    """Format a UTC time for messages, to the second as in signatures."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _check_clock(last: Accepted, now: datetime, where: str, forget_hint: str) -> None:
    latest = max(last.signed_at, last.accepted_at)
    if latest > now + CLOCK_TOLERANCE:
        raise ClockError(
            f"{where}: this machine's clock says {show(now)}, but an index was accepted when it said "
            f"{show(last.accepted_at)}: it is, or was, wrong",
            hint=f"set the clock (see: timedatectl); if it is right now and was wrong then: {forget_hint}",
        )


def _check_not_older(signed: VerifiedText, digest: str, last: Accepted, where: str) -> None:
    hint = "try again later or from a different network; if the error stays, tell the publisher"
    if signed.signed_at < last.signed_at:
        raise RolledBackError(
            f"{where}: the index was rolled back: it was signed at {show(signed.signed_at)}, but one signed "
            f"at {show(last.signed_at)} was accepted before",
            hint=hint,
        )
    if signed.signed_at == last.signed_at and digest != last.digest:
        raise ConflictingIndexError(
            f"{where}: there are two different indexes signed at {show(signed.signed_at)}, and the other "
            "one was accepted before",
            hint=hint,
        )


def _check_age(signed: VerifiedText, now: datetime, max_age: timedelta | None, where: str) -> None:
    hint = (
        "the server may hold back a newer index: try again later or from a different network; "
        "also check this machine's clock (see: timedatectl)"
    )
    if signed.expires_at is not None and now >= signed.expires_at:
        raise ExpiredIndexError(
            f"{where}: the signature of the index has expired at {show(signed.expires_at)}; "
            f"it is {show(now)} now",
            hint=hint,
        )
    if max_age is not None and now - signed.signed_at > max_age:
        raise ExpiredIndexError(
            f"{where}: the index is too old: it was signed at {show(signed.signed_at)}, and the "
            f"configuration allows {max_age / timedelta(days=1):g} days (max-age)",
            hint=hint,
        )

"""The accept rule, V1 to V9 of ``docs/threat-model.md``: one function, and where its parts are.

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
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from imgindex.clearsign import MAX_FILE_SIZE
from imgindex.freshness import Accepted, judge_freshness

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from imgindex.trust import TrustedKeys, UnverifiedText, VerifiedText, Verifier

_T = TypeVar("_T")
_Content = TypeVar("_Content", covariant=True)


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

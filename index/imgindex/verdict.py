"""The verdict on gpgv's status lines: rules V4 and V5 of ``docs/threat-model.md``, as a pure function.

gpg and gpgv end with status 0 and print VALIDSIG even for revoked keys, expired
keys and weak digests (F1), so neither proves anything alone. Here each signature
is judged by all its lines together. The format is that of
doc/DETAILS in GnuPG, section "Format of the --status-fd output".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from imgindex.accept import show
from imgindex.errors import BadSignatureError, NotSignedError, TrustError, WrongKeyError

if TYPE_CHECKING:
    from imgindex.trust import TrustedKeys

_PREFIX = "[GNUPG:] "
_STRONG_DIGESTS = frozenset({"8", "9", "10"})
"""SHA-256, SHA-384 and SHA-512 (RFC 9580 section 9.5)."""
_DIGEST_NAMES = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160", "11": "SHA-224"}
_KEY_KINDS = frozenset({"1", "19", "22", "27", "28"})
"""RSA, ECDSA, EdDSA, Ed25519 and Ed448 (RFC 9580 section 9.1); ``keys`` checks their lengths (S14)."""
_CANONICAL_TEXT = "01"
_BINARY = "00"
_NO_PUBLIC_KEY = "9"
_BAD_KEY = "6"
_VERDICTS = frozenset({"GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "BADSIG", "ERRSIG"})
"""Exactly one of these ends each signature."""
_FAILURES = frozenset({"ERROR", "FAILURE", "NODATA", "UNEXPECTED", "BADARMOR", "TRUNCATED"})
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_TIMESTAMP = re.compile(r"[0-9]{1,10}")
_ISO_TIME = re.compile(r"[0-9]{8}T[0-9]{6}")
_EXIT_BAD = 1
_EXIT_MISSING_KEY = 2


class AcceptedSignature(NamedTuple):
    """A signature that satisfies the accept rule."""

    fingerprint: str
    primary_fingerprint: str
    signed_at: datetime
    expires_at: datetime | None


class _Line(NamedTuple):
    keyword: str
    arguments: list[str]


class _UnknownKeyError(Exception):
    """The signature is by a key that is not trusted; its text names the key."""


def judge(
    status: str, exit_code: int, trusted: TrustedKeys, *, where: str, detached: bool = False
) -> AcceptedSignature:
    """Decide whether gpgv's answer proves that a trusted key signed the text.

    Args:
        status: All output of gpgv on its status descriptor.
        exit_code: Exit status of gpgv.
        trusted: The keys that count, and whether further signatures by unknown keys are allowed. A bad
            signature is refused in any case.
        where: The source, for error messages.
        detached: The signature is detached, over the bytes of another file; else it is that of a
            clear-signed text. Only a signature of the right kind counts.

    Returns:
        The newest accepted signature.

    Raises:
        NotSignedError: gpgv saw no signature.
        WrongKeyError: A signature is by a key that is not trusted.
        BadSignatureError: The signature is bad for another reason, which the message gives.
    """
    groups, failure = _group(status, where)
    _refuse_altered(groups, where)
    accepted: list[AcceptedSignature] = []
    unknown: list[str] = []
    missing_keys = 0
    for group in groups:
        try:
            accepted.append(_judge_group(group, trusted, where, _BINARY if detached else _CANONICAL_TEXT))
        except _UnknownKeyError as error:
            unknown.append(str(error))
            missing_keys += any(line.keyword == "NO_PUBKEY" for line in group)
    if failure is not None:
        raise BadSignatureError(f"{where}: gpgv cannot read the signed index ({failure})")
    if unknown and not (accepted and trusted.extra_signatures):
        raise _wrong_key(unknown, trusted, where, also_good=bool(accepted))
    if not accepted:
        raise NotSignedError(f"{where}: gpgv found no signature")
    expected = {_EXIT_MISSING_KEY if missing_keys else 0}
    if trusted.expired_signatures and any(line.keyword == "EXPSIG" for group in groups for line in group):
        expected.add(_EXIT_BAD)
    if exit_code not in expected:
        raise BadSignatureError(f"{where}: gpgv ended with status {exit_code} despite a good signature")
    return max(accepted, key=lambda signature: signature.signed_at)


def _group(status: str, where: str) -> tuple[list[list[_Line]], str | None]:
    """Split the status lines into one group per signature, and find general failures."""
    groups: list[list[_Line]] = []
    failure: str | None = None
    for text in status.split("\n"):
        if not text:
            continue
        keyword, *arguments = text.removeprefix(_PREFIX).split(" ")
        if not text.startswith(_PREFIX) or not keyword:
            raise BadSignatureError(f"{where}: the answer of gpgv cannot be read")
        line = _Line(keyword, arguments)
        if keyword == "NEWSIG":
            groups.append([])
        elif keyword in _FAILURES:
            failure = failure or " ".join([keyword, *arguments])
        elif groups:
            groups[-1].append(line)
        elif keyword in _VERDICTS or keyword in {"VALIDSIG", "NO_PUBKEY"}:
            raise BadSignatureError(f"{where}: the answer of gpgv has a {keyword} outside of any signature")
    return groups, failure


def _refuse_altered(groups: list[list[_Line]], where: str) -> None:
    """Refuse if any signature does not fit the text, before all other errors (V5)."""
    if any(line.keyword == "BADSIG" for group in groups for line in group):
        raise BadSignatureError(
            f"{where}: the signature does not fit the text: it was altered after signing",
            hint="try again; if the error stays, tell the publisher; use nothing from this source until then",
        )


def _judge_group(
    group: list[_Line], trusted: TrustedKeys, where: str, wanted_class: str
) -> AcceptedSignature:
    verdicts = [line for line in group if line.keyword in _VERDICTS]
    valid = [line.arguments for line in group if line.keyword == "VALIDSIG"]
    if len(verdicts) != 1 or not verdicts[0].arguments or len(valid) > 1:
        raise BadSignatureError(f"{where}: gpgv did not come to one clear verdict on the signature")
    verdict, arguments = verdicts[0]
    key_id = arguments[0].upper()
    if verdict == "ERRSIG":
        raise _unchecked(group, arguments, where)
    tolerated = "EXPSIG" if trusted.expired_signatures else "GOODSIG"
    if verdict not in ("GOODSIG", tolerated):
        raise _expired_or_revoked(verdict, key_id, valid, where)
    others = [line.keyword for line in group if line.keyword != tolerated]
    if any(word.startswith(("EXP", "REV", "ERR")) or word == "NO_PUBKEY" for word in others):
        raise BadSignatureError(f"{where}: gpgv contradicts itself on the signature by key {key_id}")
    if not valid or len(valid[0]) < 10:
        raise BadSignatureError(f"{where}: gpgv does not confirm the signature by key {key_id}")
    return _judge_valid(valid[0], key_id, trusted, where, wanted_class)


def _judge_valid(
    fields: list[str], key_id: str, trusted: TrustedKeys, where: str, wanted_class: str
) -> AcceptedSignature:
    """Judge the fields of a VALIDSIG line."""
    fingerprint, primary = fields[0].upper(), fields[9].upper()
    if not _FINGERPRINT.fullmatch(fingerprint) or not _FINGERPRINT.fullmatch(primary):
        raise BadSignatureError(f"{where}: gpgv names no fingerprint for the signature by key {key_id}")
    # The key id is the end of a version 4 fingerprint and the start of later ones.
    if key_id not in {fingerprint, fingerprint[-16:], fingerprint[:16]}:
        raise BadSignatureError(f"{where}: gpgv names two keys for one signature")
    if not trusted.fingerprints & {fingerprint, primary}:
        raise _UnknownKeyError(fingerprint)
    kind, digest, signature_class = fields[6], fields[7], fields[8]
    if digest not in _STRONG_DIGESTS:
        raise _weak_digest(digest, where)
    if signature_class != wanted_class:
        kind_wanted = "a text" if wanted_class == _CANONICAL_TEXT else "a file"
        raise BadSignatureError(
            f"{where}: the signature is of class {signature_class}, not one of {kind_wanted}"
        )
    if kind not in _KEY_KINDS:
        raise BadSignatureError(f"{where}: key {fingerprint} is of a kind too weak to trust (number {kind})")
    for unusable, reason in trusted.unusable:
        if unusable in {fingerprint, primary}:
            raise BadSignatureError(f"{where}: key {unusable} is {reason}", hint=_ASK_FOR_NEW)
    expires = fields[3]
    return AcceptedSignature(
        fingerprint=fingerprint,
        primary_fingerprint=primary,
        signed_at=_time(fields[2], where),
        expires_at=None if expires == "0" else _time(expires, where),
    )


_ASK_FOR_NEW = "ask the publisher for an index signed with a current key, and check that key's fingerprint"


def _expired_or_revoked(verdict: str, key_id: str, valid: list[list[str]], where: str) -> BadSignatureError:
    if verdict == "EXPSIG":
        when = ""
        if valid and len(valid[0]) > 3 and valid[0][3] != "0":
            signed_at, expired_at = (_time(text, where) for text in valid[0][2:4])
            when = f", signed at {show(signed_at)} for use until {show(expired_at)}"
        return BadSignatureError(
            f"{where}: the signature by key {key_id} has expired: the index is too old{when}",
            hint="the server may hold back a newer index: try again later or from a different network; "
            "also check this machine's clock (see: timedatectl)",
        )
    what = "expired" if verdict == "EXPKEYSIG" else "been revoked"
    return BadSignatureError(f"{where}: the signing key {key_id} has {what}", hint=_ASK_FOR_NEW)


def _unchecked(group: list[_Line], arguments: list[str], where: str) -> Exception:
    """Explain ``ERRSIG <keyid> <kind> <digest> <class> <time> <reason> [<fingerprint>]``."""
    digest = arguments[2] if len(arguments) > 2 else ""
    reason = arguments[5] if len(arguments) > 5 else ""
    if reason == _NO_PUBLIC_KEY and any(line.keyword == "NO_PUBKEY" for line in group):
        fingerprint = arguments[6].upper() if len(arguments) > 6 else ""
        return _UnknownKeyError(fingerprint if _FINGERPRINT.fullmatch(fingerprint) else arguments[0].upper())
    if digest in _DIGEST_NAMES:
        return _weak_digest(digest, where)
    if reason == _BAD_KEY:
        return BadSignatureError(
            f"{where}: gpgv finds no valid self-signature on the signing key {arguments[0]}",
            hint="ask the publisher for a current copy of the public key",
        )
    return BadSignatureError(f"{where}: gpgv cannot check the signature by key {arguments[0]}")


def _weak_digest(digest: str, where: str) -> BadSignatureError:
    name = _DIGEST_NAMES.get(digest, f"number {digest}")
    return BadSignatureError(
        f"{where}: the signature uses the weak digest {name}",
        hint="the publisher has to sign with: gpg --digest-algo SHA512",
    )


def _wrong_key(unknown: list[str], trusted: TrustedKeys, where: str, *, also_good: bool) -> TrustError:
    pinned = ", ".join(sorted(trusted.fingerprints)) or "none"
    also = "also " if also_good else ""
    return WrongKeyError(
        f"{where}: it is {also}signed by key {', '.join(unknown)}; the keys of this source are {pinned}",
        hint="if the publisher has announced a new key, get it by a safe way and configure it",
    )


def _time(text: str, where: str) -> datetime:
    """Read a time, which gpgv gives as seconds since 1970 or in ISO 8601 basic form."""
    if _TIMESTAMP.fullmatch(text):
        return datetime.fromtimestamp(int(text), UTC)
    if _ISO_TIME.fullmatch(text):
        try:
            return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        except ValueError:
            pass
    raise BadSignatureError(f"{where}: gpgv gives no readable time for the signature")

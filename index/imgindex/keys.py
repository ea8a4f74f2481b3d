"""Public keys: reading key files, gpg's listings of keys, and the memory of listings.

A listing is what ``gpg --with-colons`` prints (doc/DETAILS in GnuPG). For a short
list of templates, asking gpg takes longer than all the rest, so that its answer is
kept. A record is named by the SHA-256 of the key file, so that gpg is asked about a
changed file, and about any file again after a month, since a newer gpg may find more
in it. Nothing in a record depends on the time: gpgv judges each time whether a key
has expired. The records lie next to those of accepted indexes, in a folder that only
its user may write: a user who can write there could also configure a different key.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from imgindex.errors import UsageError
from imgindex.files import check_writers, make_folder, open_file, read_json, write_json
from imgindex.trust import TrustedKeys

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MAX_KEY_FILE_SIZE = 1_000_000
"""Largest key file in bytes."""

_RSA = frozenset({1, 2, 3})
_ECDSA = 19
_EDWARDS = frozenset({22, 27, 28})
_BROKEN_DIGESTS = frozenset({"1", "2", "3"})
_SELF_SIGNATURES = ("10", "11", "12", "13", "18", "1F")
_STATES = {"r": "is revoked", "e": "has expired", "i": "is invalid", "d": "is disabled"}
_NOT_FOR_SIGNING = "is not for signing"
_KEY_ID_DIGITS = 16
_MIN_RSA_BITS = 2048
_MIN_EC_BITS = 256

_MEMORY_VERSION = 1
_LARGEST_RECORD = 4_000_000
"""Bytes; a key file has 1 MB at most."""
_RECORD_LIFETIME = 30 * 86400
"""Seconds."""


def read_key_file(path: Path, where: str, *, any_owner: bool = False) -> bytes:
    """Read a key file whole.

    Args:
        path: The file.
        where: The source that names it, for error messages.
        any_owner: See ``imgindex.files.check_writers``.

    Returns:
        Its content, which is not empty; gpg decides if that is a key.

    Raises:
        UsageError: It is missing, unreadable, empty, too large or not a regular file, or every user may
            change or replace it.
    """
    hint = "put the publisher's public key there, or correct the path in the source's configuration"
    try:
        with open_file(path) as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_KEY_FILE_SIZE + 1)
    except OSError as error:
        raise UsageError(f"{where}: cannot read the key file {path}: {error.strerror}", hint=hint) from error
    try:
        check_writers(path, status, any_owner=any_owner)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from error
    if not data.strip():
        raise UsageError(f"{where}: the key file {path} is empty", hint=hint)
    if len(data) > _MAX_KEY_FILE_SIZE:
        raise UsageError(f"{where}: the key file {path} is too large to be one", hint=hint)
    return data


@dataclass
class ListedKey:
    """A primary key or subkey of a listing.

    Attributes:
        fingerprint: Full fingerprint, upper case.
        primary_fingerprint: That of its primary key; the same for a primary key.
        secret: The listing shows the secret half.
        kind: Number of the algorithm (RFC 9580 section 9.1).
        bits: Length of the key.
        capabilities: Letters such as ``sc``; lower case are those of this key itself.
        validity: ``r`` for revoked, ``e`` for expired, and others.
        expires: Time when it expires, in seconds since 1970; None when it does not.
        self_digests: Numbers of the digests of its self-signatures or binding signatures.
    """

    fingerprint: str
    primary_fingerprint: str
    secret: bool
    kind: int
    bits: int
    capabilities: str
    validity: str
    expires: int | None = None
    self_digests: set[str] = field(default_factory=set)

    @property
    def is_primary(self) -> bool:
        """True for a primary key."""
        return self.fingerprint == self.primary_fingerprint

    @property
    def can_sign(self) -> bool:
        """True if this key itself, not only one of its subkeys, is for signing."""
        return "s" in self.capabilities

    @property
    def only_sha1(self) -> bool:
        """True if only SHA-1 signatures bind this key to its owner."""
        return bool(self.self_digests) and self.self_digests <= _BROKEN_DIGESTS

    def unusable_because(self) -> str | None:
        """Return the reason why signatures by this key must be refused, or None (S6, S14)."""
        if self.validity == "r":
            return "revoked"
        if self.kind in _RSA and self.bits < _MIN_RSA_BITS:
            return f"too weak: RSA with {self.bits} bits, where {_MIN_RSA_BITS} are the least"
        if self.kind == _ECDSA and self.bits < _MIN_EC_BITS:
            return f"too weak: ECDSA with {self.bits} bits, where {_MIN_EC_BITS} are the least"
        if self.kind not in _RSA | _EDWARDS | {_ECDSA}:
            return f"of a kind too weak to trust (number {self.kind})"
        return None


def read_key_list(listing: str) -> list[ListedKey]:
    """Read a listing made with ``--with-colons`` and, for the digests, ``--with-sig-list``.

    Args:
        listing: Output of gpg.

    Returns:
        All primary keys and subkeys in order, in any state.
    """
    keys: list[ListedKey] = []
    pending: list[str] | None = None
    primary = ""
    for line in listing.split("\n"):
        fields = line.split(":")
        record = fields[0]
        if record in {"pub", "sec", "sub", "ssb"} and len(fields) > 11:
            pending = fields
        elif record == "fpr" and pending is not None and len(fields) > 9:
            fingerprint = fields[9].upper()
            if pending[0] in {"pub", "sec"}:
                primary = fingerprint
            keys.append(_key(pending, fingerprint, primary))
            pending = None
        elif record == "sig" and keys and len(fields) > 15 and _is_self_signature(fields, primary):
            keys[-1].self_digests.add(fields[15])
    return keys


def _key(fields: list[str], fingerprint: str, primary: str) -> ListedKey:
    return ListedKey(
        fingerprint=fingerprint,
        primary_fingerprint=primary,
        secret=fields[0] in {"sec", "ssb"},
        kind=int(fields[3]) if fields[3].isdecimal() else 0,
        bits=int(fields[2]) if fields[2].isdecimal() else 0,
        capabilities=fields[11],
        validity=fields[1],
        expires=int(fields[6]) if fields[6].isdecimal() else None,
    )


def _is_self_signature(fields: list[str], primary: str) -> bool:
    # The key id is the end of a version 4 fingerprint and the start of later ones.
    own_ids = {primary[-16:], primary[:16]}
    return fields[10].upper().startswith(_SELF_SIGNATURES) and fields[4].upper() in own_ids


def make_trusted_keys(fingerprints: frozenset[str], keyring: bytes, keys: Iterable[ListedKey]) -> TrustedKeys:
    """Make the trusted keys of a source, noting those of the keyring that can never be accepted."""
    signing = [key for key in keys if key.is_primary or key.can_sign]
    reasons = [(key.fingerprint, key.unusable_because()) for key in signing]
    return TrustedKeys(
        fingerprints=fingerprints,
        keyring=keyring,
        unusable=tuple((fingerprint, reason) for fingerprint, reason in reasons if reason is not None),
        sha1_self_signatures=any(key.only_sha1 for key in signing),
    )


def choose_signing_key(entry: dict[str, Any], wanted: str, *, exact: bool) -> tuple[str | None, str]:
    """Choose the signing key within one listed key, as gpg does: the newest usable subkey first.

    Args:
        entry: A key as python-gnupg lists it.
        wanted: The user's input as hex digits; the fingerprint or id of a subkey selects that one.
        exact: That of the primary key selects it as well (gpg's ``!`` after it).

    Returns:
        Its fingerprint, or None and the fault of the key.
    """
    if flaw := _STATES.get("d" if "D" in entry["cap"] else entry["trust"]):
        return None, flaw
    candidates = [(entry["fingerprint"], entry)]
    candidates += [(subkey[2], entry["subkey_info"][subkey[0]]) for subkey in entry["subkeys"]]
    found: list[tuple[int, str]] = []
    problem = _NOT_FOR_SIGNING
    for number, (fingerprint, candidate) in enumerate(candidates):
        flaw = _signing_flaw(candidate)
        if (exact or number > 0) and len(wanted) >= _KEY_ID_DIGITS and fingerprint.endswith(wanted):
            return (None, flaw) if flaw else (fingerprint, "")
        if flaw is None:
            found.append((int(candidate["date"]) if number else 0, fingerprint))
        elif flaw != _NOT_FOR_SIGNING:
            problem = flaw
    return (max(found)[1], "") if found else (None, problem)


def _signing_flaw(candidate: dict[str, Any]) -> str | None:
    """Return the reason why one primary key or subkey cannot sign; None if it can."""
    if "s" not in candidate["cap"]:
        return _NOT_FOR_SIGNING
    if candidate["trust"] in _STATES:
        return f"has a signing key that {_STATES[candidate['trust']]}"
    if candidate["token"] == "#":  # noqa: S105 - gpg's mark for a missing secret half
        return "has its secret signing half elsewhere"
    return None


class KeyMemory(NamedTuple):
    """The records of key files.

    Attributes:
        folder: Their folder; made when the first one is written.
    """

    folder: Path

    def recall(self, data: bytes) -> tuple[bytes, list[ListedKey]] | None:
        """Return keyring and keys of a key file; None when there is no record."""
        # For a missing or broken record, gpg is asked again.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            path = self._path(data)
            if abs(time.time() - path.lstat().st_mtime) < _RECORD_LIFETIME:
                return _parse_record(
                    read_json(path, version=_MEMORY_VERSION, limit=_LARGEST_RECORD, private=True)
                )
        return None

    def keep(self, data: bytes, keyring: bytes, keys: list[ListedKey]) -> None:
        """Remember keyring and keys of a key file, unless a secret key is among them.

        A folder that cannot be written is not an error: the next run asks gpg again.
        """
        if any(key.secret for key in keys):
            return
        record = {
            "keyring": base64.b64encode(keyring).decode(),
            "keys": [{**asdict(key), "self_digests": sorted(key.self_digests)} for key in keys],
        }
        with contextlib.suppress(OSError):
            make_folder(self.folder)
            write_json(self._path(data), record, version=_MEMORY_VERSION, durable=False)

    def _path(self, data: bytes) -> Path:
        return self.folder / f"{hashlib.sha256(data).hexdigest()}.json"


def _parse_record(record: dict[str, Any]) -> tuple[bytes, list[ListedKey]]:
    keys = [ListedKey(**{**fields, "self_digests": set(fields["self_digests"])}) for fields in record["keys"]]
    for key in keys:
        texts = (key.fingerprint, key.primary_fingerprint, key.capabilities, key.validity, *key.self_digests)
        if not all(isinstance(text, str) for text in texts) or type(key.secret) is not bool:
            raise TypeError("not a key")
        if type(key.kind) is not int or type(key.bits) is not int or type(key.expires or 0) is not int:
            raise TypeError("not a key")
    return base64.b64decode(record["keyring"], validate=True), keys

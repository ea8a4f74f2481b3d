"""The keys that a source may be signed with: from a file, the user's keyring, or a bundle."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from imgbuilder.errors import UsageError
from imgbuilder.fetch.urls import inside, local_path
from imgindex.trust import KeyPin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgbuilder.catalog.sources import Source
    from imgindex.keys import KeyMemory


def key_pin(source: Source, memory: KeyMemory | None = None, gpg: Sequence[str] = ("gpg",)) -> KeyPin:
    """Read the keys that a source may be signed with.

    Args:
        source: The source.
        memory: Knows keys that gpg has looked into before.
        gpg: The gpg that has the user's keyring, and options for it.

    Raises:
        UsageError: The source has no key.
        PybuilderError: The key file or the user's keyring does not hold them.
    """
    from imgindex.gpg import key_pin_from_file

    if not source.key:
        raise UsageError(f"source {source.name} has no key", hint="add gpgkey= to its configuration")
    if isinstance(source.key, tuple):
        return _joined([_named_key(fingerprint, source, memory, gpg) for fingerprint in source.key])
    where = f"source {source.name}"
    return _restricted(key_pin_from_file(source.key, where=where, memory=memory), source, where)


def _named_key(fingerprint: str, source: Source, memory: KeyMemory | None, gpg: Sequence[str]) -> KeyPin:
    """Find a key in the user's keyring; or in a bundle, where only the one with this fingerprint counts."""
    from imgindex.gpg import key_pin_from_user_keyring

    try:
        return key_pin_from_user_keyring(fingerprint, memory=memory, command=gpg)
    except UsageError:
        path = local_path(source.uri)
        if path is None or inside(path) is None:
            raise
        from imgbuilder.catalog.bundles import bundled_key  # late: few sources are bundles

        pin = bundled_key(path, fingerprint)
        if pin is None:
            raise
        return pin


def _restricted(pin: KeyPin, source: Source, where: str) -> KeyPin:
    """Let only some keys of a file count, if its configuration says so."""
    if not source.only:
        return pin
    missing = [fingerprint for fingerprint in source.only if fingerprint not in pin.fingerprints]
    if missing:
        raise UsageError(
            f"{where}: the key file {source.key} does not hold the key {', '.join(missing)}",
            hint=f"see what is in it: gpg --show-keys {source.key}",
        )
    return replace(pin, fingerprints=frozenset(source.only))


def _joined(pins: Sequence[KeyPin]) -> KeyPin:
    """Make one pin of several: each of their keys may have signed."""
    return KeyPin(
        frozenset().union(*(pin.fingerprints for pin in pins)),
        b"".join(pin.keyring for pin in pins),  # keyrings are sequences of packets, RFC 4880 section 3.6
        tuple(item for pin in pins for item in pin.unusable),
        sha1_self_signatures=any(pin.sha1_self_signatures for pin in pins),
    )

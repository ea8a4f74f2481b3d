"""Sources of templates, those that the command line names, and their trusted keys.

The configuration files are read in ``imgbuilder.catalog.sourcefiles``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.errors import UsageError
from imgbuilder.fetch.transfer import (
    INDEX_LIMIT,
    INDEX_SECONDS,
    PRODUCTS_LIMIT,
    PRODUCTS_SECONDS,
    SYSTEM_PROXY,
)
from imgbuilder.fetch.urls import Address, check_uri, hide_in, inside, local_path, template_url
from imgindex.trust import TrustedKeys, full_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from imgindex.keys import KeyMemory

Key = Path | tuple[str, ...] | None
"""A file of public keys; or full fingerprints of keys in the user's keyring; or no key at all."""


STREAMS = "streams/v1/"
"""Folder of the index of a simplestreams source, below its address."""

_STREAM_INDEXES = ("index.json", "index.sjson")


class SourceFormat(enum.Enum):
    """Format of the index of a source."""

    NATIVE = "native"
    """One index in virt-builder's format."""
    SIMPLESTREAMS = "simplestreams"
    """JSON files below a base address, as cloud images and LXD images are published."""


@dataclass(frozen=True)
class Source:
    """A repository that offers templates.

    Attributes:
        name: Section name in the configuration, or the address of a ``--source``.
        key: The keys that sign the index. Empty tuple: ``--source`` in a run that checks no signatures.
        origin: The configuration file; None for the command line.
        mirrors: Further addresses of the same index, tried in order when ``uri`` fails.
        max_age: Longest time since the index was signed; None for no limit.
        extra_signatures: Unknown keys may have signed as well, while the publisher moves to a new key
            (``docs/threat-model.md`` S15).
        only: Full fingerprints of the keys in the file that count; all of them when empty.
        format: Format of its index. With simplestreams, ``uri`` is the base address, with a slash at its end.
        optional: While it cannot be used, a build may use a later source's template of the same name.
        written: The first address as configured; empty where that is ``uri``.
    """

    name: str
    uri: str
    key: Key = None
    unsigned: bool = False
    proxy: str = SYSTEM_PROXY
    origin: Path | None = None
    check: bool = True
    mirrors: tuple[str, ...] = ()
    max_age: timedelta | None = None
    extra_signatures: bool = False
    only: tuple[str, ...] = ()
    format: SourceFormat = SourceFormat.NATIVE
    optional: bool = False
    written: str = ""

    def __post_init__(self) -> None:
        hide_in(self, "uri", "mirrors", "proxy", "written")

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the index, in the order in which they are tried."""
        return (self.uri, *self.mirrors)

    @property
    def largest_file(self) -> int:
        """Most bytes that an index of this format, or a file that it names, may have."""
        return INDEX_LIMIT if self.format is SourceFormat.NATIVE else PRODUCTS_LIMIT

    @property
    def patience(self) -> float:
        """Most seconds that such a file may take from one address."""
        return INDEX_SECONDS if self.format is SourceFormat.NATIVE else PRODUCTS_SECONDS

    @property
    def index_addresses(self) -> tuple[str, ...]:
        """All addresses of the file whose signature is that of the source."""
        return self.index(signed=True).addresses

    def index(self, *, signed: bool) -> Source:
        """Return the same with the addresses of its index."""
        if self.format is SourceFormat.NATIVE:
            return self
        return self.at(f"{STREAMS}index.{'sjson' if signed else 'json'}")

    def at(self, path: str) -> Source:
        """Return the same with the addresses of a file below its own."""
        uri, *mirrors = (template_url(address, path) for address in self.addresses)
        return replace(self, uri=uri, mirrors=tuple(mirrors))

    @property
    def shown_uri(self) -> str:
        """The address without user name and password."""
        return str(self.uri)

    @property
    def listed_uri(self) -> str:
        """The address as it was configured, with or without a slash at the end, as virt-builder lists it."""
        if self.written and stream_base(self.written) == self.uri:
            return self.written
        return self.shown_uri


def index_format(uri: str) -> tuple[Address, SourceFormat]:
    """Return address and format of a source, by the name of its index."""
    if uri.endswith(tuple(f"/{STREAMS}{name}" for name in _STREAM_INDEXES)):
        return stream_base(uri), SourceFormat.SIMPLESTREAMS
    return Address(uri), SourceFormat.NATIVE


def stream_base(uri: str) -> Address:
    """Return the base address of a simplestreams source, given that, its folder or its index."""
    return Address(uri).derive(_stream_base)


def _stream_base(uri: str) -> str:
    base = uri.rstrip("/")
    for name in _STREAM_INDEXES:
        base = base.removesuffix(f"/{STREAMS}{name}")
    return base.removesuffix(f"/{STREAMS}".rstrip("/")) + "/"


def fingerprints(text: str) -> tuple[str, ...]:
    """Read one or more full fingerprints, separated by commas."""
    return tuple(full_fingerprint(part) for part in text.split(","))


def sources_from_command_line(
    urls: Sequence[str], keys: Sequence[str], *, check: bool = True
) -> tuple[Source, ...]:
    """Make the sources of ``--source`` and ``--fingerprint`` options (``docs/compatibility.md``).

    One fingerprint is for all of them, several belong to them by position. Without checks, none counts.
    """
    for url in urls:
        check_uri(url)
    if not check:
        return tuple(_given(url, (), check=False) for url in urls)
    if not keys and urls:
        raise UsageError(
            "--source needs --fingerprint: the key that must have signed this index",
            hint="get the fingerprint from the publisher: --fingerprint FINGERPRINT",
        )
    if len(keys) != 1 and len(keys) != len(urls):
        raise UsageError(
            f"{len(urls)} --source and {len(keys)} --fingerprint options do not fit together",
            hint="give --fingerprint once for all sources, or once for each of them in the same order",
        )
    trusted_sets = [fingerprints(key) for key in keys]
    if len(trusted_sets) == 1:
        trusted_sets *= len(urls)
    return tuple(_given(url, trusted) for url, trusted in zip(urls, trusted_sets, strict=True))


def _given(url: str, trusted: tuple[str, ...], *, check: bool = True) -> Source:
    uri, kind = index_format(url)
    return Source(str(Address(url)), uri, trusted, check=check, format=kind)


def trusted_keys(
    source: Source, memory: KeyMemory | None = None, gpg: Sequence[str] = ("gpg",)
) -> TrustedKeys:
    """Read the keys that a source may be signed with."""
    from imgindex.gpg import trusted_keys_from_file

    if not source.key:
        raise UsageError(f"source {source.name} has no key", hint="add gpgkey= to its configuration")
    if isinstance(source.key, tuple):
        return _joined([_named_key(fingerprint, source, memory, gpg) for fingerprint in source.key])
    where = f"source {source.name}"
    return _restricted(trusted_keys_from_file(source.key, where=where, memory=memory), source, where)


def _named_key(fingerprint: str, source: Source, memory: KeyMemory | None, gpg: Sequence[str]) -> TrustedKeys:
    """Find a key in the user's keyring, or else in a bundle, where only this fingerprint counts."""
    from imgindex.gpg import trusted_keys_from_keyring

    try:
        return trusted_keys_from_keyring(fingerprint, memory=memory, command=gpg)
    except UsageError:
        path = local_path(source.uri)
        if path is None or inside(path) is None:
            raise
        from imgbuilder.catalog.bundles import bundled_key  # late: few sources are bundles

        trusted = bundled_key(path, fingerprint)
        if trusted is None:
            raise
        return trusted


def _restricted(trusted: TrustedKeys, source: Source, where: str) -> TrustedKeys:
    """Keep only some keys of a file, if its configuration selects them."""
    if not source.only:
        return trusted
    missing = [fingerprint for fingerprint in source.only if fingerprint not in trusted.fingerprints]
    if missing:
        raise UsageError(
            f"{where}: the key file {source.key} does not hold the key {', '.join(missing)}",
            hint=f"list its keys: gpg --show-keys {source.key}",
        )
    return replace(trusted, fingerprints=frozenset(source.only))


def _joined(found: Sequence[TrustedKeys]) -> TrustedKeys:
    """Join several sets of keys: each of their keys may have signed."""
    return TrustedKeys(
        frozenset().union(*(trusted.fingerprints for trusted in found)),
        b"".join(trusted.keyring for trusted in found),  # a sequence of packets, RFC 4880 section 3.6
        tuple(item for trusted in found for item in trusted.unusable),
        sha1_self_signatures=any(trusted.sha1_self_signatures for trusted in found),
    )

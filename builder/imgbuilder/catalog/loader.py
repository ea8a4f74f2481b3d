"""Fetches and accepts the index of one source: rules V1 to V9 of ``docs/threat-model.md``, in order.

They are the same for a first fetch, a refresh, a mirror, a local file and the last
accepted copy: bounded fetch (V1), verdict on the signature (V2 to V6), freshness (V8),
parse (V7), and only then the record of the accepted index (V9).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import takewhile
from time import monotonic
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from imgbuilder.catalog.sources import SourceFormat, trusted_keys
from imgbuilder.catalog.state import forget_command
from imgbuilder.errors import (
    FetchError,
    NoAnswerError,
    OfflineError,
    PybuilderError,
    SignatureLostError,
    TrustError,
)
from imgbuilder.events import Reporter, debug, ignore, warn
from imgbuilder.fetch.transfer import Download
from imgbuilder.fetch.urls import local_path, origin
from imgbuilder.sizes import counted
from imgindex.accept import AcceptPolicy, Parse, accept, show
from imgindex.clearsign import unverified_text
from imgindex.model import Index
from imgindex.parse import parse_usable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from typing import BinaryIO

    from imgbuilder.catalog.sources import Source
    from imgbuilder.catalog.state import KnownImages, SourceStates
    from imgbuilder.fetch.transfer import Fetcher
    from imgindex.accept import Accepted
    from imgindex.trust import TrustedKeys, VerifiedText, Verifier


_MOST_WARNINGS = 10
"""Most entries of a source that are reported one by one: an index may have a hundred thousand."""


@dataclass(frozen=True)
class LoadedSource:
    """A source whose index was accepted."""

    source: Source
    index: Index
    signed: VerifiedText | None
    """The verified text, its signer and time; None for a source that is not checked."""


_T = TypeVar("_T")


class _Document(NamedTuple, Generic[_T]):
    """An accepted file, and the source with the address that it came from."""

    source: Source
    content: _T
    signed: VerifiedText | None


class Loader(NamedTuple):
    """Fetches the index of one source, and accepts or refuses it by ``imgindex.accept``.

    Attributes:
        check: Signatures are checked in this run.
        keys_of: Finds the keys of a source; by default those of its ``key``.
        images: Facts about images that simplestreams sources do not give.
        fallback: The last accepted index is used for a source that cannot be reached.
        offline: No server may be asked, so that it is used at once.
    """

    fetcher: Fetcher
    verifier: Verifier
    states: SourceStates
    clock: Callable[[], datetime]
    check: bool = True
    on_event: Reporter = ignore
    keys_of: Callable[[Source], TrustedKeys] | None = None
    images: KnownImages | None = None
    fallback: bool = True
    offline: bool = False

    def side_by_side(self, sources: Iterable[Source]) -> Loader:
        """Return a loader for these sources that asks their servers at the same time, beginning now.

        Servers that could not be reached a moment ago are asked last.
        """
        if self.offline:
            return self
        remote = [mirrors for source in sources if (mirrors := self._asked_first(source))]
        if len(remote) < 2:
            return self
        from imgbuilder.fetch.ahead import AheadFetcher  # late: lists of local sources stay quick

        lost = self.states.unreachable(self.clock())
        remote.sort(key=lambda mirrors: _server(mirrors[0]) in lost)
        asked = [[self._download(mirror, io.BytesIO(), math.inf) for mirror in mirrors] for mirrors in remote]
        return self._replace(fetcher=AheadFetcher(self.fetcher, asked))

    def _asked_first(self, source: Source) -> list[Source]:
        """Return the source once per address that is asked before one of this machine."""
        mirrors = self._in_turn(source.index(signed=self.check and source.check))
        return list(takewhile(lambda mirror: local_path(mirror.uri) is None, mirrors))

    def load(self, source: Source) -> LoadedSource:
        """Fetch, verify and parse the index of a source."""
        self._check_not_lost(source)
        if source.format is SourceFormat.SIMPLESTREAMS:
            loaded = self._load_streams(source)
        else:
            found = self._document(source, parse_usable)
            loaded = LoadedSource(found.source, found.content, found.signed)
        if loaded.signed is None:
            off = "signature checks are switched off"
            why = "its configuration has unsigned=yes" if source.unsigned else off
            warn(self.on_event, f"source {source.name}: the origin of these templates is not verified: {why}")
        refused = loaded.index.refused
        for item in refused[:_MOST_WARNINGS]:
            warn(self.on_event, f"source {source.name}: {item.problem.message}; it is left out")
        if len(refused) > _MOST_WARNINGS:
            warn(self.on_event, f"source {source.name}: {len(refused) - _MOST_WARNINGS} more are left out")
        return loaded

    def _check_not_lost(self, source: Source) -> None:
        """Refuse an unsigned source that was signed before (``docs/threat-model.md`` T6).

        Only a source with ``unsigned=yes`` can have lost its signature. Switching the check off for one run
        is the user's explicit decision, and changes nothing for the next run.
        """
        if source.check or not self.check:
            return
        last = self.states.newest(source.index_addresses)
        if last is not None:
            raise SignatureLostError(
                f"{source.shown_uri}: an index signed by {last.signer} at {show(last.signed_at)} was "
                f"accepted before; now the configuration of {source.name} has unsigned=yes",
                hint="configure its gpgkey again; if its publisher no longer signs, forget the "
                f"signature: {forget_command(source.index_addresses[0])}",
            )

    def _load_streams(self, source: Source) -> LoadedSource:
        """Read a simplestreams source: an index, and the files that it names, each accepted by all rules."""
        from imgbuilder.catalog.simplestreams import joined, parse_products, parse_stream_index  # late: rare

        end = monotonic() + source.patience * len(source.addresses)
        index_file = source.index(signed=self.check and source.check)
        found = self._document(index_file, parse_stream_index)
        used = source = _begun_with(source, index_file, found.source)
        files = []
        for content_id, path in found.content.files:
            # First from the address of the last file: an address that fails costs its time only once.
            wanted = used.at(path)
            file = self._document(wanted, partial(parse_products, content_id=content_id), end - monotonic())
            files.append(file.content)
            used = _begun_with(used, wanted, file.source)
        files.append(Index(refused=found.content.refused))
        index = joined(files, where=source.shown_uri)
        return LoadedSource(
            source, index if self.images is None else self.images.completed(index), found.signed
        )

    def _document(self, source: Source, parse: Parse[_T], seconds: float = math.inf) -> _Document[_T]:
        """Fetch one file of a source from its addresses, and accept it by all rules or not at all."""
        if not (self.check and source.check):
            return self._unchecked_document(source, parse, seconds)
        last = self.states.newest(source.addresses)
        if self.offline and all(local_path(uri) is None for uri in source.addresses):
            missing = OfflineError(
                f"no index from {source.shown_uri} was ever accepted here, and --offline forbids asking it",
                hint="run pybuilder --list once without --offline, or use a bundle: --source BUNDLE",
            )
            return self._last_accepted(source, last, missing, parse, "is not asked (--offline)")
        failures: list[FetchError | TrustError] = []
        for mirror in self._in_turn(source):
            try:
                data = self._fetch(mirror, seconds)
                loaded, accepted = self._accept(mirror, data, last, parse)
            except (FetchError, TrustError) as error:
                failures.append(error)
                if len(failures) < len(source.addresses):
                    warn(self.on_event, f"source {source.name}: {error.message}; its next address is tried")
            else:
                self.states.remember(source.uri, accepted, data, self.on_event)
                return loaded
        for failure in failures:
            if isinstance(failure, TrustError):
                raise failure
        why = f"cannot be reached: {failures[-1].message}"
        return self._last_accepted(source, last, failures[-1], parse, why)

    def _last_accepted(
        self, source: Source, last: Accepted | None, error: PybuilderError, parse: Parse[_T], why: str
    ) -> _Document[_T]:
        """Use the last accepted index of a source that cannot be reached, if it still passes every rule."""
        data = self.states.last_index(source.addresses) if self.fallback else None
        if data is None:
            raise error
        try:
            loaded, accepted = self._accept(source, data, last, parse)
        except TrustError as refused:
            raise FetchError(
                f"source {source.name} {why}; its last accepted index cannot be used: {refused.message}",
                hint=refused.hint,
            ) from refused
        warn(
            self.on_event,
            f"source {source.name} {why}; its last accepted index is used, "
            f"signed {age(accepted.accepted_at - accepted.signed_at)} ago, at {show(accepted.signed_at)}",
        )
        return loaded

    def _in_turn(self, source: Source) -> list[Source]:
        """Return the source once per address; addresses that could not be reached lately come last."""
        turns = list(_one_by_one(source))
        if len(turns) > 1:
            lost = self.states.unreachable(self.clock())
            turns.sort(key=lambda mirror: _server(mirror) in lost)
        return turns

    def _fetch(self, source: Source, seconds: float) -> bytes:
        body = io.BytesIO()
        server = _server(source)
        try:
            self.fetcher.fetch(self._download(source, body, seconds))
        except FetchError as error:
            if server and (isinstance(error, NoAnswerError) or isinstance(error.__cause__, NoAnswerError)):
                self.states.note_server(server, self.clock(), reached=False)
            raise
        if server:
            self.states.note_server(server, self.clock(), reached=True)
        return body.getvalue()

    def _download(self, source: Source, body: BinaryIO, seconds: float) -> Download:
        return Download(
            source.uri,
            body,
            limit=source.largest_file,
            on_event=self.on_event,
            label=f"Index of {source.name}",
            proxy=source.proxy,
            seconds=max(1.0, min(source.patience, seconds)),
        )

    def _accept(
        self, source: Source, data: bytes, last: Accepted | None, parse: Parse[_T]
    ) -> tuple[_Document[_T], Accepted]:
        where, now = source.shown_uri, self.clock()
        trusted = replace((self.keys_of or trusted_keys)(source), extra_signatures=source.extra_signatures)
        forget = forget_command(source.uri)
        policy = AcceptPolicy(trusted, last, source.max_age, where, forget, source.largest_file)
        accepted = accept(data, policy, parse, verifier=self.verifier, now=now)
        signed = accepted.signed
        debug(
            self.on_event,
            f"{where}: signed by {signed.primary_fingerprint} at {show(signed.signed_at)}, "
            f"{age(now - signed.signed_at)} ago",
        )
        return _Document(source, accepted.content, signed), accepted.record

    def _unchecked_document(self, source: Source, parse: Parse[_T], seconds: float) -> _Document[_T]:
        used, data = self._fetch_unchecked(source, seconds)
        text = unverified_text(data, where=used.shown_uri, limit=source.largest_file)
        read = parse(text, where=used.shown_uri)
        if source.unsigned and local_path(used.uri) is None:
            self.states.keep_unsigned(source.uri, data, self.on_event)
        return _Document(used, read, None)

    def _fetch_unchecked(self, source: Source, seconds: float) -> tuple[Source, bytes]:
        """Fetch a file without a signature, or return the copy that was kept of it."""
        error: FetchError | None = None
        mirrors = self._in_turn(source)
        for mirror in mirrors:
            try:
                return mirror, self._fetch(mirror, seconds)
            except FetchError as failed:
                error = failed
                if mirror is not mirrors[-1]:
                    warn(self.on_event, f"source {source.name}: {error.message}; its next address is tried")
        assert error is not None, "a source has an address"
        kept = self.states.last_unsigned(source.uri) if self.fallback and source.unsigned else None
        if kept is None:
            if isinstance(error, OfflineError) and not source.unsigned:
                error.hint = "only verified indexes are kept: run once without the two options"
            raise error
        why = "is not asked (--offline)" if self.offline else f"cannot be reached: {error.message}"
        warn(self.on_event, f"source {source.name} {why}; its last index is used")
        return source, kept


def _begun_with(source: Source, asked: Source, used: Source) -> Source:
    """Return a source whose first address is that from which one of its files came."""
    return list(_one_by_one(source))[asked.addresses.index(used.uri)]


def _one_by_one(source: Source) -> Iterator[Source]:
    """Return the source once per address, with that address first: templates come from there as well."""
    for uri in source.addresses:
        others = tuple(address for address in source.addresses if address != uri)
        yield replace(source, uri=uri, mirrors=others)


def _server(source: Source) -> str:
    """Return the server of the first address of a source; empty for a file of this machine."""
    if local_path(source.uri) is not None:
        return ""
    scheme, host, port = origin(source.uri)
    return f"{scheme}://{host}:{port}"


def age(time: timedelta) -> str:
    """Return an age in words: days, hours or minutes."""
    for size, unit in (
        (timedelta(days=1), "day"),
        (timedelta(hours=1), "hour"),
        (timedelta(minutes=1), "minute"),
    ):
        if time >= size:
            return counted(time // size, unit)
    return "less than a minute"

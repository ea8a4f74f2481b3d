"""From sources to one catalogue, and from a name to one template.

Each source is fetched, verified and parsed on its own. One that is dead or bad
is left out with a warning, and takes nothing from the others; only when no
source is left is that an error. An earlier source always wins over a later one
(design.md decision 3, ``reliability.md`` T8).
"""

from __future__ import annotations

import difflib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgbuilder.arch import normalise
from imgbuilder.errors import PybuilderError, TrustError, UsageError
from imgbuilder.events import Reporter, debug, ignore, warn
from imgbuilder.fetch.transfer import INDEX_LIMIT
from imgbuilder.fetch.urls import template_url
from imgindex.clearsign import unverified_text
from imgindex.parse import parse_index
from imgindex.trust import KeyPin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from imgbuilder.catalog.sources import Source
    from imgbuilder.fetch.transfer import Fetcher
    from imgindex.model import Entry, Index
    from imgindex.trust import VerifiedText, Verifier


@dataclass(frozen=True)
class Offer:
    """One template of one source."""

    source: Source
    entry: Entry


@dataclass(frozen=True)
class LoadedSource:
    """A source whose index was accepted.

    Attributes:
        source: The source.
        index: Its templates.
        signed: What was verified, by whom and when; None for a source that is not checked.
    """

    source: Source
    index: Index
    signed: VerifiedText | None


@dataclass(frozen=True)
class FailedSource:
    """A source that is left out, and why."""

    source: Source
    error: PybuilderError


@dataclass(frozen=True)
class Selection:
    """The template that a build starts from.

    Attributes:
        source: Who offers it.
        entry: What the index says about it.
        url: Address of its file; may hold a password.
    """

    source: Source
    entry: Entry
    url: str


@dataclass(frozen=True)
class Catalog:
    """All templates of all usable sources.

    Attributes:
        loaded: The usable sources, the most important first.
        failed: The others.
    """

    loaded: tuple[LoadedSource, ...]
    failed: tuple[FailedSource, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """The usable sources, the most important first."""
        return tuple(item.source for item in self.loaded)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What can be selected, in the order of the sources: hidden templates too, shadowed ones not."""
        return tuple(offer for offer, shadowed in self._marked() if not shadowed)

    @property
    def shadowed(self) -> tuple[Offer, ...]:
        """What an earlier source offers under the same name and architecture."""
        return tuple(offer for offer, shadowed in self._marked() if shadowed)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries of ``offers``, for listings."""
        return tuple(offer.entry for offer in self.offers)

    def _marked(self) -> Iterator[tuple[Offer, bool]]:
        taken: dict[tuple[str, str], Source] = {}
        for item in self.loaded:
            for entry in item.index.entries:
                owner = taken.setdefault((entry.os_version, normalise(entry.arch)), item.source)
                yield Offer(item.source, entry), owner is not item.source

    def select(self, name: str, arch: str) -> Selection:
        """Choose a template.

        The first source that knows the name for the architecture is taken; within one source a template's
        name counts before another's alias (``reliability.md`` P17).

        Args:
            name: Name or alias of the template; hidden ones can be named too.
            arch: Architecture in any spelling.

        Raises:
            UsageError: No usable source offers it; the hint names what comes near.
            RepositoryError: The index gives it an address outside the source.
        """
        wanted = normalise(arch)
        for item in self.loaded:
            entry = _find(item.index.entries, name, wanted)
            if entry is not None:
                return Selection(item.source, entry, template_url(item.source.uri, entry.file))
        raise UsageError(
            f"no source offers a template {name!r} for {wanted}", hint=self._advice(name, wanted)
        )

    def _advice(self, name: str, wanted: str) -> str:
        advice = []
        visible = [entry for entry in self.entries if not entry.hidden]
        others = sorted(
            {normalise(entry.arch) for item in self.loaded for entry in _named(item.index.entries, name)}
        )
        if others:
            advice.append(f"it exists for other architectures: --arch {' or '.join(others)}")
        known = {
            word
            for entry in visible
            if normalise(entry.arch) == wanted
            for word in (entry.os_version, *entry.aliases)
        }
        near = difflib.get_close_matches(name, sorted(known), n=3)
        if near and not others:
            advice.append(f"did you mean {' or '.join(near)}?")
        if self.failed:
            names = ", ".join(item.source.name for item in self.failed)
            advice.append(f"it may be in a source that could not be used now: {names}")
        return "; ".join([*advice, "--list shows all templates"])


def _named(entries: Iterable[Entry], name: str) -> list[Entry]:
    """Return the entries of one index that a name means, for all architectures."""
    entries = list(entries)
    exact = [entry for entry in entries if entry.os_version == name]
    if exact:
        return exact
    meant = next((entry.os_version for entry in entries if name in entry.aliases), None)
    return [entry for entry in entries if entry.os_version == meant]


def _find(entries: Iterable[Entry], name: str, arch: str) -> Entry | None:
    return next((entry for entry in _named(entries, name) if normalise(entry.arch) == arch), None)


def load_catalog(
    sources: Iterable[Source],
    fetcher: Fetcher,
    verifier: Verifier,
    *,
    check: bool = True,
    report: Reporter = ignore,
    pin_of: Callable[[Source], KeyPin] | None = None,
    until: tuple[str, str] | None = None,
) -> Catalog:
    """Fetch, verify and parse the indexes of the sources.

    Args:
        sources: The sources, the most important first.
        fetcher: Gets the indexes.
        verifier: Judges their signatures.
        check: Whether signatures are checked in this run; sources may be exempt by their configuration.
        report: Told about progress, and warned of each source that is left out.
        pin_of: Finds the keys of a source; by default those of its ``key``.
        until: Name and architecture of a template: sources behind the first that offers it are not asked,
            since they could not change what is selected.

    Raises:
        UsageError: There are no sources.
        PybuilderError: No source could be used, or one of the command line could not.
        TrustError: A source before the one that offers ``until`` is not proved to come from its publisher.
    """
    loaded: list[LoadedSource] = []
    failed: list[FailedSource] = []
    for source in sources:
        try:
            loaded.append(_load(source, fetcher, verifier, pin_of or key_pin, report, check=check))
        except PybuilderError as error:
            if source.origin is None:
                raise  # named for this very run: another source's template is not what was meant
            if until is not None and isinstance(error, TrustError):
                raise  # whoever broke it must not be able to choose which source is used instead
            failed.append(FailedSource(source, error))
            continue
        if until is not None and _find(loaded[-1].index.entries, until[0], normalise(until[1])):
            break
    if not loaded and not failed:
        raise UsageError(
            "no sources of templates are configured",
            hint="give --source and --fingerprint, or write a file in repos.d",
        )
    if not loaded:
        raise _all_failed(failed)
    for item in failed:
        advice = f" ({item.error.hint})" if item.error.hint else ""
        warn(report, f"source {item.source.name} is left out: {item.error.message}{advice}")
    return Catalog(tuple(loaded), tuple(failed))


def _load(
    source: Source,
    fetcher: Fetcher,
    verifier: Verifier,
    pin_of: Callable[[Source], KeyPin],
    report: Reporter,
    *,
    check: bool,
) -> LoadedSource:
    where = source.shown_uri
    body = io.BytesIO()
    fetcher.fetch(
        source.uri,
        body,
        limit=INDEX_LIMIT,
        report=report,
        label=f"Index of {source.name}",
        proxy=source.proxy,
    )
    if check and source.check:
        signed = verifier.verify(body.getvalue(), pin_of(source), where=where)
        debug(
            report,
            f"{where}: signed by {signed.primary_fingerprint} at {signed.signed_at:%Y-%m-%d %H:%M} UTC",
        )
        return LoadedSource(source, parse_index(signed, where=where), signed)
    text = unverified_text(body.getvalue(), where=where)
    warn(report, f"source {source.name}: nothing proves who made these templates: {_why(source)}")
    return LoadedSource(source, parse_index(text, where=where), None)


def _why(source: Source) -> str:
    return "its configuration says unsigned=yes" if source.unsigned else "signature checks are switched off"


def key_pin(source: Source) -> KeyPin:
    """Read the keys that a source may be signed with.

    Raises:
        UsageError: The source has no key.
        PybuilderError: The key file or the user's keyring does not hold them.
    """
    from imgindex.gpg import key_pin_from_file, key_pin_from_user_keyring

    if not source.key:
        raise UsageError(f"source {source.name} has no key", hint="add gpgkey= to its configuration")
    if isinstance(source.key, tuple):
        return _joined([key_pin_from_user_keyring(fingerprint) for fingerprint in source.key])
    return key_pin_from_file(source.key, where=f"source {source.name}")


def _joined(pins: Sequence[KeyPin]) -> KeyPin:
    """Make one pin of several: each of their keys may have signed."""
    return KeyPin(
        frozenset().union(*(pin.fingerprints for pin in pins)),
        b"".join(pin.keyring for pin in pins),  # keyrings are sequences of packets, RFC 4880 section 3.6
        tuple(item for pin in pins for item in pin.unusable),
        sha1_self_signatures=any(pin.sha1_self_signatures for pin in pins),
    )


def _all_failed(failed: list[FailedSource]) -> PybuilderError:
    """Choose the error that stands for all: the gravest, by its exit code."""
    gravest = max(failed, key=lambda item: item.error.exit_code).error
    if len(failed) == 1:
        return gravest
    lines = [f"none of the {len(failed)} sources can be used"]
    lines += [f"{item.source.name}: {item.error.message}" for item in failed]
    error = PybuilderError("\n".join(lines), hint=gravest.hint)
    error.exit_code = gravest.exit_code
    return error

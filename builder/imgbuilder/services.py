"""The ports to the outside, put together in one place.

A build gets everything that touches the network, the disk or the appliance from
here; tests put other things in. Nothing else constructs a port.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from imgbuilder.catalog.catalog import Catalog, Selection, load_catalog
from imgbuilder.catalog.loader import Loader
from imgbuilder.catalog.sourcefiles import SourcesResult, read_sources
from imgbuilder.catalog.sources import SourceFormat, sources_from_command_line, trusted_keys
from imgbuilder.catalog.state import KnownImages, SourceStates, identity
from imgbuilder.errors import UsageError
from imgbuilder.events import Reporter, ignore, warn
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.urls import hide_in
from imgbuilder.host import paths
from imgindex.keys import KeyMemory
from imgindex.model import UNKNOWN_SIZE

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from imgbuilder.appliance import ApplianceOptions, Attachment
    from imgbuilder.cache.elsewhere import Elsewhere
    from imgbuilder.cache.store import TemplateCache
    from imgbuilder.catalog.sources import Source
    from imgbuilder.customize.context import GuestContext
    from imgbuilder.customize.failure import GuestShell
    from imgbuilder.errors import OperationError
    from imgbuilder.fetch.transfer import Fetcher
    from imgbuilder.guests.ports import Appliance, Guest
    from imgbuilder.host.variation import Variation
    from imgindex.trust import Verifier

ApplianceOpener = Callable[
    ["Sequence[Attachment]", "ApplianceOptions | None", Reporter], "AbstractContextManager[Appliance]"
]
"""Starts an appliance with disks and ends it when the block is left."""
HostsideOpener = Callable[["Attachment", "Variation", Reporter], "AbstractContextManager[Appliance]"]
"""Opens a raw image for changes on the host, and closes it when the block is left."""


def _open_appliance(
    disks: Sequence[Attachment], options: ApplianceOptions | None, on_event: Reporter
) -> AbstractContextManager[Appliance]:
    from imgbuilder.appliance import open_appliance  # late: lists and notes start none

    return open_appliance(disks, options, on_event)


def _open_hostside(
    disk: Attachment, variation: Variation, on_event: Reporter
) -> AbstractContextManager[Appliance]:
    from imgbuilder.appliance.hostside.connection import open_hostside  # late, as above

    return open_hostside(disk, on_event, clock=variation.clock, entropy=variation.random_bytes)


def _no_shell(guest: Guest, context: GuestContext, error: OperationError) -> bool:
    from imgbuilder.customize.failure import no_shell  # late, as above

    return no_shell(guest, context, error)


@dataclass(frozen=True)
class Settings:
    """The sources and the cache that a command line names."""

    sources: Sequence[str] = ()
    fingerprints: Sequence[str] = ()
    check_signature: bool = True
    cache: Path | None = None
    use_cache: bool = True
    cache_size: int | None = None
    offline: bool = False
    reuse: Sequence[Path] = ()
    """Files of the user whose blocks may be those of a template."""
    gpg: Sequence[str] = ("gpg",)
    """The gpg that has the user's keyring, and options for it."""

    def __post_init__(self) -> None:
        hide_in(self, "sources")

    def cache_folder(self) -> Path | None:
        """Return the folder of the cache; None for a run without cache."""
        if not self.use_cache:
            return None
        return self.cache if self.cache is not None else paths.cache_dir()

    def cache_folder_if_any(self, on_event: Reporter = ignore) -> Path | None:
        """Return the same for work that can be done without a cache (``docs/threat-model.md`` C15)."""
        try:
            return self.cache_folder()
        except UsageError as error:
            warn(on_event, f"working without a cache: {error.in_one_line}")
            return None

    def cache_limit(self) -> int | None:
        """Return how many bytes the cache may hold; None for a share of the disk."""
        return paths.cache_size() if self.cache_size is None else self.cache_size

    def appliance_options(self, options: ApplianceOptions, *, network: bool) -> ApplianceOptions:
        """Return options with a network or without, and with the place of the saved appliances: our cache."""
        return replace(
            options,
            network=network,
            instant=options.instant and self.use_cache,
            cache=self.cache if options.cache is None else options.cache,
        )

    def configured_sources(self, on_event: Reporter) -> tuple[Source, ...]:
        """Return all usable sources, ``--source`` first; broken configuration files are reported."""
        return self.all_sources(on_event).sources

    def all_sources(self, on_event: Reporter) -> SourcesResult:
        """Return the same, and which sources are switched off."""
        given = sources_from_command_line(self.sources, self.fingerprints, check=self.check_signature)
        found = read_sources(paths.config_dirs(), check=self.check_signature)
        for problem in found.problems:
            warn(on_event, problem.in_one_line)
        return replace(found, sources=_no_place_twice(given + found.sources))


def _no_place_twice(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """Leave out a source of the package that is configured under another name as well."""
    known: set[str] = set()
    kept = []
    for source in sources:
        places = {identity(uri).partition("://")[2] for uri in source.addresses}
        if source.origin is None or source.origin.parent != paths.STOCK_SOURCES or not places & known:
            kept.append(source)
        known |= places
    return tuple(kept)


def _system_verifier() -> Verifier:
    from imgindex.gpg import GpgVerifier

    return GpgVerifier()


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """The ports of a build."""

    settings: Settings
    fetcher: Fetcher = field(default_factory=SourceFetcher)
    verifier: Callable[[], Verifier] = _system_verifier
    """Makes what judges signatures, when it is needed."""
    open_appliance: ApplianceOpener = _open_appliance
    open_hostside: HostsideOpener = _open_hostside
    guest_shell: GuestShell = _no_shell
    """Lets the user look into a guest whose customization failed."""
    clock: Callable[[], datetime] = _now
    """Returns the time in UTC, by which the age of indexes is judged."""

    def __post_init__(self) -> None:
        if self.settings.offline:
            from imgbuilder.fetch.router import OfflineFetcher  # late: few runs are

            object.__setattr__(self, "fetcher", OfflineFetcher(self.fetcher))

    def states(self) -> SourceStates:
        """Return the memory of what was accepted of each source."""
        folder = paths.state_dir() / "sources"
        return SourceStates(folder, writable=paths.can_be_written(folder))

    def images(self) -> KnownImages:
        """Return the memory of what simplestreams sources do not say of their images."""
        return KnownImages(paths.state_dir() / "images")

    def loader(self, on_event: Reporter, *, fallback: bool = True) -> Loader:
        """Return what gets and judges the index of one source."""
        states = self.states()
        if not states.writable:
            warn(
                on_event,
                f"{states.folder} cannot be written to: an older index of a source would not be noticed "
                "by the next run (XDG_STATE_HOME names another folder)",
            )
        memory = KeyMemory(paths.state_dir() / "keys")
        return Loader(
            self.fetcher,
            self.verifier(),
            states,
            self.clock,
            check=self.settings.check_signature,
            on_event=on_event,
            keys_of=partial(trusted_keys, memory=memory, gpg=self.settings.gpg),
            images=self.images(),
            fallback=fallback,
            offline=self.settings.offline,
        )

    def catalog(self, on_event: Reporter, *, until: tuple[str, str] | None = None) -> Catalog:
        """Fetch, verify and read the indexes of the sources, up to the one with the template ``until``."""
        loader = self.loader(on_event)
        found = self.settings.all_sources(on_event)
        unused = len(found.problems) + len(found.disabled)
        return load_catalog(found.sources, loader, until=until, unused=unused)

    def select(self, name: str, arch: str, on_event: Reporter, *, only_shown: bool = False) -> Selection:
        """Choose a template, asking no more sources than needed."""
        return self.catalog(on_event, until=(name, arch)).select(name, arch, only_shown=only_shown)

    def select_disk(self, name: str, arch: str, on_event: Reporter) -> Selection:
        """Choose a template for a build: the same, with format and size of the disk in any case."""
        chosen = self.select(name, arch, on_event)
        if chosen.entry.size != UNKNOWN_SIZE:
            return chosen
        from imgbuilder.cache.imagefacts import with_disk_facts  # late: few sources need it

        return with_disk_facts(chosen, self.fetcher, on_event)

    def elsewhere(self) -> Elsewhere:
        """Return the places besides the sources that may have templates, or blocks of them."""
        from imgbuilder.cache.elsewhere import PEER_LIMITS, Elsewhere, Peers  # late, as below

        files = (*self.settings.reuse, *paths.reused_files())
        peers = Peers(paths.peers(), SourceFetcher(PEER_LIMITS)) if paths.peers() else None
        return Elsewhere(paths.shared_caches(), files, None if self.settings.offline else peers)

    def open_cache(self, scratch: Path, on_event: Reporter) -> TemplateCache:
        """Open the cache, or a temporary one in ``scratch`` where it cannot be used or has no known place."""
        from imgbuilder.cache.store import open_cache  # late: lists and notes need no cache

        return open_cache(
            self.settings.cache_folder_if_any(on_event),
            scratch,
            on_event,
            limit=self.settings.cache_limit(),
            elsewhere=self.elsewhere(),
        )

    def template_disk(self, cache: TemplateCache, chosen: Selection, on_event: Reporter) -> Path:
        """Return the unpacked disk of a template, fetched and checked when it is not in the cache."""
        known = cache.identify(chosen, self.fetcher, on_event)
        disk = cache.get_disk(known, self.fetcher, on_event)
        if known.source.format is SourceFormat.SIMPLESTREAMS:
            self.images().remember(known.entry, on_event)
        return disk

    def template_file(self, cache: TemplateCache, chosen: Selection, on_event: Reporter) -> Path:
        """Return a template's file as published, fetched and checked when it is not in the cache."""
        known = cache.identify(chosen, self.fetcher, on_event)
        path = cache.get_template(known, self.fetcher, on_event)
        if known.entry.size == UNKNOWN_SIZE:
            from imgbuilder.cache.imagefacts import of_verified_file

            self.images().remember(of_verified_file(known.entry, path), on_event)
        return path

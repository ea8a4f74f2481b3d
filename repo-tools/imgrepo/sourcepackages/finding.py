"""Where the sources of an image are looked for, and why some are not found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from imgbuilder.errors import FileMissingError, UsageError
from imgbuilder.events import Reporter, debug
from imgbuilder.fetch.urls import hide_in, without_slash
from imgindex.trust import KeyPin, VerifiedText
from imgrepo.contents.debcontrol import compare_versions
from imgrepo.library.records import ContentsRecord, SourceGap
from imgrepo.services import Services
from imgrepo.sourcepackages.archive import RELEASE_LIMIT, Findings, Lists, Suite
from imgrepo.sourcepackages.maintainers import MAINTAINER_KEYRING, Pool
from imgrepo.sourcepackages.model import SourceId, SourcePackage
from imgrepo.template.recipes import (
    DEBIAN_MIRROR,
    DEBIAN_SECURITY_MIRROR,
    GUEST_KEYRING,
    RECIPES,
    Sources,
    check_mirror,
)

_OTHERS_SHOWN = 3


@dataclass(frozen=True)
class Places:
    """The archives that have source packages.

    Attributes:
        mirror: Address of the archive.
        security: Address of the archive with security updates.
        suites: Suites of ``mirror`` alone to look into; empty for those of the guest's Debian.
        components: Components of each.
        snapshots: Archives as they were once, asked for what the others no longer have.
        keyring: Public keys that may have signed the lists.
        maintainers: Public keys that may have signed a ``.dsc`` in the pool of a snapshot.
    """

    mirror: str = DEBIAN_MIRROR
    security: str = DEBIAN_SECURITY_MIRROR
    suites: tuple[str, ...] = ()
    components: tuple[str, ...] = ("main",)
    snapshots: tuple[str, ...] = ()
    keyring: Path = GUEST_KEYRING
    maintainers: Path = MAINTAINER_KEYRING

    def __post_init__(self) -> None:
        hide_in(self, "mirror", "security", "snapshots")
        for url in (self.mirror, self.security, *self.snapshots):
            check_mirror(url)

    def of(self, contents: ContentsRecord) -> tuple[Suite, ...]:
        """Return the suites to look into for an image.

        Raises:
            UsageError: None are given, and its system is no Debian that is known.
        """
        if self.suites:
            return tuple(Suite(without_slash(self.mirror), name, self.components) for name in self.suites)
        recipe = RECIPES.get(f"{contents.distribution}-{contents.release or 'sid'}")
        if recipe is None:
            system = contents.system or contents.distribution or "a system without a name"
            raise UsageError(
                f"the suites of {system} are not known",
                hint="name them, their archive and its keys: --mirror URL --suite noble --suite "
                "noble-updates --component main --component universe --keyring FILE",
            )
        return tuple(
            Suite(without_slash(url), name, self.components)
            for url, names in recipe.suites(Sources(self.mirror, self.security))
            for name in names
        )


@dataclass(frozen=True)
class Found:
    """Source packages that archives have, and those that none has."""

    packages: tuple[SourcePackage, ...]
    gaps: tuple[SourceGap, ...]


def find_packages(
    contents: ContentsRecord,
    wanted: frozenset[SourceId],
    places: Places,
    services: Services,
    scratch: Path,
    on_event: Reporter,
) -> Found:
    """Look for source packages in all places.

    Args:
        contents: Whose they are.
        wanted: Names and versions.
        places: Where to look.
        services: Fetcher and verifier.
        scratch: A private folder.
        on_event: Called with each event.

    Raises:
        TrustError: A list is not what the archive's keys signed.
        FetchError: A list cannot be had.
        UsageError: It is not known where to look, or the keys cannot be used.
    """
    if not wanted:
        return Found((), ())
    if contents.manager != "dpkg":
        reason = f"source packages of {contents.manager} cannot be verified yet, and are not taken unverified"
        return Found((), _gaps(wanted, lambda _source: reason))
    suites = places.of(contents)
    # Distributions sign with an old and a new key side by side for years; one that is known is enough.
    pin = replace(services.pin_from_file(places.keyring, where="--keyring"), extra_signatures=True)
    lists = Lists(_verifier(services, pin), services.fetcher, scratch, on_event)
    found = lists.find(suites, wanted)
    for snapshot in places.snapshots:
        rest = wanted - found.packages.keys()
        if rest:
            then = [replace(suite, root=without_slash(snapshot)) for suite in suites]
            try:
                older = lists.find(dict.fromkeys(then), rest, some_missing=True)
            except FileMissingError as error:
                debug(on_event, error.message)  # a pool alone, which is asked below
                continue
            found.packages.update(older.packages)
    reasons: dict[SourceId, str] = {}
    for snapshot in places.snapshots:
        pool = Pool(snapshot.rstrip("/"), places.components, places.maintainers)
        for source in sorted(wanted - found.packages.keys()):
            answer = pool.find(source, services.verifier, services.fetcher, on_event)
            if isinstance(answer, str):
                reasons[source] = answer
            else:
                found.packages[source] = answer
    missing = wanted - found.packages.keys()
    return Found(
        tuple(found.packages.values()),
        _gaps(missing, lambda source: reasons.get(source) or _why(source, found, suites)),
    )


def _verifier(services: Services, pin: KeyPin) -> Callable[[bytes, str], VerifiedText]:
    return lambda data, where: services.verifier.verify(data, pin, where=where, limit=RELEASE_LIMIT)


def _gaps(missing: frozenset[SourceId], why: Callable[[SourceId], str]) -> tuple[SourceGap, ...]:
    return tuple(SourceGap(*source, why(source)) for source in sorted(missing))


def _why(source: SourceId, found: Findings, suites: tuple[Suite, ...]) -> str:
    asked = ", ".join(dict.fromkeys(suite.name for suite in suites))
    others = sorted(found.others.get(source[0], ()), key=functools.cmp_to_key(compare_versions))
    if others:
        newest = ", ".join(others[-_OTHERS_SHOWN:])
        return f"no longer in {asked}, which have {newest}; --snapshot URL may have it"
    return f"{asked} have no source package of this name"

"""The catalogue of all sources, and the choice of a template by its name.

Each source is fetched, verified and parsed separately. A dead or bad source is
left out with a warning; it is an error only when no source remains. An earlier
source always wins over a later one (``docs/threat-model.md`` T8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from imgbuilder.errors import PybuilderError, RepositoryError, TrustError, UsageError
from imgbuilder.events import warn
from imgbuilder.fetch.urls import hide_in, template_url
from imgbuilder.host.arch import normalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgbuilder.catalog.loader import LoadedSource, Loader
    from imgbuilder.catalog.sources import Source
    from imgindex.model import Entry


class NoTemplateError(UsageError):
    """No usable source offers the template."""


class Offer(NamedTuple):
    """One template of one source."""

    source: Source
    entry: Entry


class FailedSource(NamedTuple):
    """A source that is left out."""

    source: Source
    error: PybuilderError
    position: int = 0
    """Number of usable sources before it."""


@dataclass(frozen=True)
class Selection:
    """The template that a build starts from."""

    source: Source
    entry: Entry
    url: str

    def __post_init__(self) -> None:
        hide_in(self, "url")


class Catalog(NamedTuple):
    """All templates of all usable sources."""

    loaded: tuple[LoadedSource, ...]
    failed: tuple[FailedSource, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """The usable sources, the most important first."""
        return tuple(item.source for item in self.loaded)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The templates that can be selected, hidden ones included, in the order of the sources."""
        return tuple(offer for offer, shadowed in self._marked() if not shadowed)

    @property
    def every_offer(self) -> tuple[Offer, ...]:
        """All templates of all usable sources, including shadowed ones."""
        return tuple(offer for offer, _shadowed in self._marked())

    @property
    def shadowed(self) -> tuple[Offer, ...]:
        """Templates that an earlier source offers under the same name and architecture."""
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

    def select(self, name: str, arch: str, *, only_shown: bool = False) -> Selection:
        """Choose a template.

        The first source that has the name for the architecture is used; within one source a template's
        name counts before another template's alias (``docs/threat-model.md`` P17).
        """
        wanted = normalise(arch)
        for position, item in enumerate(self.loaded):
            entry = _entry_named(item, name, wanted)
            if entry is not None:
                if not only_shown:
                    self._check_before(position, item.source, name)
                return Selection(item.source, entry, template_url(item.source.uri, entry.file))
        raise NoTemplateError(
            f"no source offers a template {name!r} for {wanted}", hint=self._advice(name, wanted)
        )

    def _check_before(self, position: int, found: Source, name: str) -> None:
        """Refuse a template if an earlier source has failed: breaking that must not choose this one."""
        for failed in self.failed:
            if failed.position <= position and not failed.source.optional:
                error = PybuilderError(
                    f"source {failed.source.name}, which comes before {found.name}, may offer {name} and "
                    f"cannot be used: {failed.error.message}",
                    hint="try again later; or allow other sources to replace it: optional=yes in its section "
                    f"in {failed.source.origin}; or choose a source with --source",
                )
                error.exit_code = failed.error.exit_code
                raise error

    def _advice(self, name: str, wanted: str) -> str:
        import difflib  # late: only mistakes need it

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
        if self.failed:
            names = ", ".join(item.source.name for item in self.failed)
            advice.append(f"it may be in a source that could not be used now: {names}")
        if near and not others:
            advice.append(f"did you mean {' or '.join(near)}? All templates: pybuilder list")
        else:
            advice.append("all templates: pybuilder list")
        return "; ".join(advice)


def _entry_named(loaded: LoadedSource, name: str, arch: str) -> Entry | None:
    """Return the entry of a source for a name and a normalised architecture."""
    entry = _find(loaded.index.entries, name, arch)
    if entry is not None and entry.os_version == name:
        return entry
    for item in loaded.index.refused:
        if name in item.names and (item.arch is None or normalise(item.arch) == arch):
            raise RepositoryError(
                f"source {loaded.source.name} offers {name} in a broken entry: {item.problem.message}",
                hint="tell the publisher, or name another source with --source",
            )
    return entry


def _named(entries: Iterable[Entry], name: str) -> list[Entry]:
    """Return the entries of one index for a name, for all architectures, the best first.

    Those with that name; only if there are none, those with that alias, followed by the entries of the same
    names for other architectures, which need not repeat the alias.
    """
    entries = list(entries)
    exact = [entry for entry in entries if entry.os_version == name]
    if exact:
        return exact
    claiming = [entry for entry in entries if name in entry.aliases]
    known, meant = set(map(id, claiming)), {entry.os_version for entry in claiming}
    return claiming + [entry for entry in entries if entry.os_version in meant and id(entry) not in known]


def _find(entries: Iterable[Entry], name: str, arch: str) -> Entry | None:
    return next((entry for entry in _named(entries, name) if normalise(entry.arch) == arch), None)


def _is_known(loaded: LoadedSource, name: str, arch: str) -> bool:
    try:
        return _entry_named(loaded, name, arch) is not None
    except RepositoryError:
        return True


def load_catalog(
    sources: Iterable[Source], loader: Loader, *, until: tuple[str, str] | None = None, unused: int = 0
) -> Catalog:
    """Fetch, verify and parse the indexes of the sources: fetched side by side, then judged in order.

    Args:
        sources: The sources, the most important first.
        loader: Fetches and verifies each of them; it reports each source that is left out.
        until: Name and architecture of a template: sources after the first that offers it are not read,
            since they could not change the selection.
        unused: Number of other configured sources, which are switched off or have mistakes.
    """
    loaded: list[LoadedSource] = []
    failed: list[FailedSource] = []
    if until is None:
        sources = tuple(sources)
        loader = loader.side_by_side(sources)
    for source in sources:
        try:
            loaded.append(loader.load(source))
        except PybuilderError as error:
            if source.origin is None:
                raise  # named for this run: the user did not mean the template of another source
            if until is not None and isinstance(error, TrustError):
                # An attacker who breaks it must not choose the source that is used instead.
                raise _placed(error, source) from error
            failed.append(FailedSource(source, error, len(loaded)))
            continue
        if until is not None and _is_known(loaded[-1], until[0], normalise(until[1])):
            break
    if not loaded and not failed and unused:
        raise UsageError(
            "no sources of templates can be used: those configured are switched off, or have mistakes",
            hint="see the warnings above, and: pybuilder source list",
        )
    if not loaded and not failed:
        raise UsageError(
            "no sources of templates are configured",
            hint="pybuilder source add NAME URL --gpgkey FILE; or give --source and --fingerprint",
        )
    if not loaded:
        raise _all_failed(failed)
    for item in failed:
        warn(loader.on_event, f"source {item.source.name} is left out: {item.error.in_one_line}")
    return Catalog(tuple(loaded), tuple(failed))


def _placed(error: PybuilderError, source: Source) -> PybuilderError:
    """Add the name and the file of a source to the hint of its error."""
    place = f"this is the source {source.name} of {source.origin}"
    error.hint = f"{error.hint}; {place}" if error.hint else place
    return error


def _all_failed(failed: list[FailedSource]) -> PybuilderError:
    """Make one error of all; its exit code and hint are those of the gravest."""
    worst = max(failed, key=lambda item: item.error.exit_code)
    gravest = worst.error
    if len(failed) == 1:
        return _placed(gravest, worst.source)
    lines = [f"none of the {len(failed)} sources can be used"]
    lines += [f"{item.source.name}: {item.error.message}" for item in failed]
    error = PybuilderError("\n".join(lines), hint=gravest.hint)
    error.exit_code = gravest.exit_code
    return error

"""Finds out what a fleet needs: the templates of its hosts, and what became of each host before."""

from __future__ import annotations

from dataclasses import dataclass

from imgbuilder.building.output import place_for_temporary_files
from imgbuilder.building.preflight import Prepared, prepare
from imgbuilder.building.request import HostsideMode
from imgbuilder.catalog.catalog import Selection
from imgbuilder.customize.run import needs_appliance
from imgbuilder.errors import PybuilderError
from imgbuilder.events import Reporter
from imgbuilder.fleet.budget import Load, memory_of
from imgbuilder.fleet.engine import Job
from imgbuilder.fleet.hosts import Fleet, Host
from imgbuilder.fleet.places import Places
from imgbuilder.fleet.state import FleetState, Record, Standing
from imgbuilder.services import Services


@dataclass(frozen=True)
class Surveyed:
    """A host, the state of its image, and the job that would build it now.

    Attributes:
        job: The job.
        record: The last build of the host.
        standing: The state of its image.
        there: Whether there is something at the place of the image.
    """

    job: Job
    record: Record | None
    standing: Standing
    there: bool

    @property
    def host(self) -> Host:
        """The host."""
        return self.job.host


def survey(
    fleet: Fleet,
    state: FleetState,
    services: Services,
    places: Places,
    on_event: Reporter,
    *,
    hostside: HostsideMode | None = None,
) -> tuple[Surveyed, ...]:
    """Look at all hosts; hosts that are alike are prepared once.

    Raises:
        PybuilderError: A template cannot be used, or the host's image cannot be made; the message has the
            host's file and line. Or a server with images does not answer.
    """
    known: dict[tuple[object, ...], Prepared] = {}
    found = []
    for host in fleet.hosts:
        kind = _kind(host)
        if kind not in known:
            known[kind] = _prepare(host, services, on_event, hostside)
        found.append(_look(host, known[kind], state, places))
    return tuple(found)


def _kind(host: Host) -> tuple[object, ...]:
    """Return what hosts that can be prepared together have in common."""
    names = ("template", "arch", "size", "format", "linked", "compress", "memsize")
    settings = tuple(host.recipe.settings.get(name) for name in names)
    place = host.output if host.output.is_block_device() else host.output.parent
    return (*settings, any(map(needs_appliance, host.operations)), place)


def _prepare(host: Host, services: Services, on_event: Reporter, hostside: HostsideMode | None) -> Prepared:
    try:
        return prepare(host.request(hostside), services, on_event)
    except PybuilderError as error:
        error.message = f"{host.place()}: {host.name}: {error.message}"
        raise


def _look(host: Host, prepared: Prepared, state: FleetState, places: Places) -> Surveyed:
    plan, template = prepared.plan, template_digest(prepared.selection)
    load = Load(
        memory_of(appliance=plan.obstacle is not None, memsize=host.recipe.settings.get("memsize")),
        place_for_temporary_files(plan.image),
        0 if plan.image.linked else plan.template.used or 0,
    )
    key = state.key(host, template)
    record = state.record(host.name)
    job = Job(host, key, template, plan.template.unpacked, load)
    there = record is not None and record.built and places.has(host)
    return Surveyed(job, record, state.standing(host, record, key, template, there=there), there)


def template_digest(chosen: Selection) -> str:
    """Return what identifies the content of a template."""
    return f"{chosen.entry.os_version}:{chosen.entry.sha512 or chosen.url}"

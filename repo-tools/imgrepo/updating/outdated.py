"""Finds what should be renewed before long: images, signatures, keys, deprecated templates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from imgbuilder.events import Reporter
from imgindex.fields import deprecation
from imgrepo.publishing.settings import LibrarySettings
from imgrepo.publishing.status import ends, keys_of
from imgrepo.publishing.templates import PublishedTemplate, TemplateState, templates_in
from imgrepo.services import Services, Signing
from imgrepo.sharing.upload import Target, UploadPlace
from imgrepo.updating.update import UpdateRequest, update
from imgrepo.webroot.revisions import history, last_replaced
from imgrepo.webroot.signing import PUBLIC_KEY


@dataclass(frozen=True)
class Outdated:
    """A template that should be renewed, and why; without a name, it is the index or a key."""

    name: str
    reason: str


@dataclass(frozen=True)
class OutdatedRequest:
    """A library, or only a served folder.

    Attributes:
        settings: Settings of the library, whose origins are asked; None for a served folder.
        days: Days after which a template that was not renewed counts.
        within: Time in which signatures, keys and deprecations end.
    """

    folder: Path
    settings: LibrarySettings | None
    days: int
    within: timedelta

    @property
    def webroot(self) -> Path:
        """The served folder."""
        return self.folder if self.settings is None else self.folder / self.settings.webroot


def find_outdated(
    request: OutdatedRequest,
    services: Services,
    open_target: Callable[[UploadPlace], Target],
    on_event: Reporter,
) -> tuple[Outdated, ...]:
    """Find what should be renewed; nothing is changed."""
    now = services.clock()
    signed, templates = templates_in(request.webroot, services)
    replaced = last_replaced(history(request.webroot, services))
    found: list[Outdated] = []
    if request.settings is not None:
        signing = Signing(request.settings.keys[0])
        looked = UpdateRequest(request.folder, request.settings, signing, dry_run=True)
        report = update(looked, services, open_target, on_event)
        due = [(one.name, one.problem or one.renewed) for one in report.templates]
        found += [Outdated(name, reason) for name, reason in due if reason]
    for template in templates:
        if TemplateState.WITHDRAWN not in template.states:
            found += _of_template(template, replaced.get((template.name, template.arch)), now, request)
    keys = keys_of(request.webroot / PUBLIC_KEY)
    return (*found, *(Outdated("", reason) for reason in ends(signed, keys, now, request.within)))


def _of_template(
    template: PublishedTemplate, replaced: datetime | None, now: datetime, request: OutdatedRequest
) -> Iterator[Outdated]:
    since = replaced or template.packed_at
    if since is not None and (now - since).days >= request.days:
        yield Outdated(template.name, f"its image is {(now - since).days} days old")
    end = None if template.entry is None else deprecation(template.entry)
    if end is not None and end.until is not None and end.until <= (now + request.within).date():
        yield Outdated(template.name, f"it is deprecated until {end.until}: withdraw it then")

"""Makes the catalogue: gather, render, put in place."""

from __future__ import annotations

from dataclasses import dataclass

from imgbuilder.events import Reporter, Step
from imgrepo.catalogue.gather import gather
from imgrepo.catalogue.memory import MEMORY_NAME, memory_text
from imgrepo.catalogue.model import CatalogueRequest
from imgrepo.catalogue.put import check_place, put_site
from imgrepo.catalogue.render import render
from imgrepo.catalogue.text import address
from imgrepo.services import Services
from imgrepo.stats.count import Statistics


@dataclass(frozen=True)
class CatalogueResult:
    """The outcome of a run.

    Attributes:
        templates: How many templates are shown.
        changed: Whether anything was written.
    """

    templates: int
    changed: bool


def make_catalogue(
    request: CatalogueRequest, services: Services, on_event: Reporter, statistics: Statistics | None = None
) -> CatalogueResult:
    """Make the catalogue of a published folder.

    Args:
        request: The catalogue to make.
        services: Verifier and clock.
        on_event: Called with each event.
        statistics: Downloads, if logs were given.

    Raises:
        UsageError: Nothing is published there, or the output holds something else.
        TrustError: The index is not by a key of the key file next to it.
        RepositoryError: An entry, a record, or the former catalogue cannot be read.
        WorkspaceError: The site cannot be written.
    """
    check_place(request.output)
    on_event(Step(f"Making the catalogue {request.output}"))
    gathered = gather(request, services, on_event, statistics)
    site = gathered.site
    name = request.output.absolute().name
    site_url = f"{site.base_url}{address(name)}/" if site.base_url and site.home else ""
    made = render(site, site_url)
    names = {*made, *gathered.files, MEMORY_NAME}
    made[MEMORY_NAME] = memory_text(gathered.remembered, names)
    changed = put_site(request.output, made, gathered.files)
    return CatalogueResult(len(site.pages), changed)

"""The way in for programs: ``from imgbuilder import Builder`` (docs/api.md)."""

from __future__ import annotations

from imgbuilder.building import build as building
from imgbuilder.building import existing
from imgbuilder.building.build import BuildResult
from imgbuilder.building.existing import CustomizeRequest
from imgbuilder.building.plan import BuildPlan
from imgbuilder.building.request import BuildRequest
from imgbuilder.customize.firstboot_status import FirstbootReport
from imgbuilder.customize.sysprep import Finding
from imgbuilder.events import Reporter, ignore
from imgbuilder.services import Services, Settings
from imgindex.model import Entry


class Builder:
    """Builds and customizes disk images.

    Its methods raise ``PybuilderError``, and nothing else because of what they are given or of what happens.
    Nothing is printed: what goes on is told to the reporter.

    Args:
        settings: Which sources and which cache; by default those of the command ``pybuilder``.
        on_event: Called with each event.
        services: The ports to the outside, for programs that replace one; made of the settings by default.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        on_event: Reporter = ignore,
        *,
        services: Services | None = None,
    ) -> None:
        self._services = services or Services(settings or Settings())
        self._report = on_event

    def templates(self) -> tuple[Entry, ...]:
        """Return the templates that the sources offer.

        Raises:
            PybuilderError: No source can be used.
        """
        return self._services.catalog(self._report).entries

    def plan(self, request: BuildRequest) -> BuildPlan:
        """Decide how to build, and refuse what cannot work; no template is fetched, nothing is written.

        Raises:
            PybuilderError: The request cannot be met.
        """
        return building.prepare(request, self._services, self._report).plan

    def build(self, request: BuildRequest) -> BuildResult:
        """Build an image.

        Raises:
            PybuilderError: It could not be built; what was at the output's place before is still there.
        """
        return building.build(request, self._services, self._report)

    def customize(self, request: CustomizeRequest) -> None:
        """Customize the guest on existing disks.

        Raises:
            PybuilderError: It failed; the hint says whether the disks were changed.
        """
        existing.customize_disks(request, self._services, self._report)

    def find_identity(self, request: CustomizeRequest) -> list[Finding]:
        """Find what identifies one machine on the disks, which are only read.

        Raises:
            PybuilderError: The guest could not be examined.
        """
        return existing.find_identity(request, self._services, self._report)

    def firstboot_report(self, request: CustomizeRequest) -> FirstbootReport:
        """Read how the first-boot scripts on the disks fared; they are only read.

        Raises:
            PybuilderError: The guest could not be examined.
        """
        return existing.firstboot_report(request, self._services, self._report)

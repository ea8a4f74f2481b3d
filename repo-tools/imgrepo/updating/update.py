"""Brings a library up to date: every image from its origin, its proofs, one publication, pages and targets.

What fails for one template is reported, and the others go on. Each step is skipped when its record is of the
very image that is there, so that a run that was killed is continued by the next one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import PybuilderError
from imgbuilder.events import Reporter
from imgbuilder.host import process
from imgbuilder.host.workspace import explaining
from imgbuilder.machine.model import board
from imgbuilder.sizes import counted
from imgindex.model import Entry
from imgrepo.catalogue.make import make_catalogue
from imgrepo.catalogue.model import CatalogueRequest
from imgrepo.images.scan import SourceImage
from imgrepo.library.folder import find_images
from imgrepo.publishing.public import address_behind
from imgrepo.publishing.publish import publish
from imgrepo.publishing.request import PublishRequest
from imgrepo.publishing.settings import Built, LibrarySettings, Origin, UpdateStep
from imgrepo.services import Services, Signing
from imgrepo.sharing.upload import Target, UploadPlace, UploadRequest, read_place, upload
from imgrepo.updating.images import ImageSource
from imgrepo.updating.plan import reason_to_renew
from imgrepo.updating.proofs import NotBootingError, Proofs
from imgrepo.updating.report import TemplateReport, UpdateReport
from imgrepo.webroot.retired import GRACE
from imgrepo.webroot.signing import SIGNED_INDEX, read_index_file
from imgrepo.webroot.state import read_state
from imgrepo.webroot.transaction import UPDATE_LOCK_NAME, check_can_be_made, locked

OpenTarget = Callable[[UploadPlace], Target]


@dataclass(frozen=True)
class UpdateRequest:
    """A library to bring up to date.

    Attributes:
        dry_run: Whether only to look what there is to do.
        wait: Seconds to wait for another update, publisher or upload.
    """

    folder: Path
    settings: LibrarySettings
    signing: Signing
    appliance: ApplianceOptions = field(default_factory=ApplianceOptions)
    dry_run: bool = False
    wait: float = 0.0

    @property
    def webroot(self) -> Path:
        """The folder that is served."""
        return self.folder / self.settings.webroot

    @property
    def grace(self) -> timedelta:
        """The time that old files stay."""
        days = self.settings.grace
        return GRACE if days is None else timedelta(days=days)

    def publication(self, held_back: dict[str, PybuilderError]) -> PublishRequest:
        """Return the request to publish its images."""
        settings = self.settings
        level = settings.zstd_level or 19
        return PublishRequest(
            self.folder,
            self.webroot,
            self.signing,
            preset=settings.xz_preset or "6",
            appliance=self.appliance,
            zstd_level=level if settings.zstd else None,
            prune=settings.prune,
            grace=self.grace,
            require=settings.require,
            reviewers=self._path(settings.reviewers),
            held_back=held_back,
            wait=self.wait,
        )

    def pages(self) -> CatalogueRequest:
        """Return the request to make the catalogue."""
        settings = self.settings
        title = settings.title or CatalogueRequest.title
        return CatalogueRequest(
            self.folder,
            self.webroot,
            self.webroot / "catalogue",
            title,
            self.base_url,
            settings.calendar,
            self._path(settings.reviewers),
        )

    @property
    def base_url(self) -> str:
        """The address of the served folder, with a slash at its end; empty when it is not known."""
        return f"{self.settings.base_url.rstrip('/')}/" if self.settings.base_url else ""

    def _path(self, name: str | None) -> Path | None:
        return None if name is None else self.folder / name


def update(
    request: UpdateRequest, services: Services, open_target: OpenTarget, on_event: Reporter
) -> UpdateReport:
    """Bring a library up to date, or with ``dry_run`` report what there is to do.

    Only other updates are locked out all the time; the index is locked only while it is read and replaced.
    """
    run = _Update(request, services, open_target, on_event)
    if request.dry_run:
        run.renew_all()
        run.look_at_images()
        return run.report
    check_can_be_made(request.webroot)
    with explaining(request.webroot):
        request.webroot.mkdir(exist_ok=True)
    with locked(request.webroot, UPDATE_LOCK_NAME, patience=request.wait):
        run.check_programs()
        run.renew_all()
        run.look_at_images()
        if run.publish():
            run.make_pages()
            run.upload()
            run.look_at_address()
    return run.report


class _Update:
    """One run; ``report`` grows with its steps."""

    def __init__(
        self, request: UpdateRequest, services: Services, open_target: OpenTarget, on_event: Reporter
    ) -> None:
        self._request, self._services = request, services
        self._open_target, self._on_event = open_target, on_event
        self._origins = request.settings.origins
        self._images = ImageSource(request.folder, request.settings, services, request.appliance, on_event)
        self._proofs = Proofs(request.folder, services, request.appliance, on_event)
        self._reports: dict[str, TemplateReport] = {}
        self._held_back: dict[str, PybuilderError] = {}
        self._new: list[Entry] = []
        self.report = UpdateReport()

    def _of(self, name: str) -> TemplateReport:
        if name not in self._reports:
            self._reports[name] = TemplateReport(name)
            self.report.templates.append(self._reports[name])
        return self._reports[name]

    @contextlib.contextmanager
    def _reporting(self, name: str) -> Iterator[TemplateReport]:
        """Let an error be that of one template."""
        report = self._of(name)
        try:
            yield report
        except PybuilderError as error:
            report.problem = report.problem or error.in_one_line

    def check_programs(self) -> None:
        """Check before all work what all of it needs: keys that sign, programs, targets, origins."""
        request, settings = self._request, self._request.settings
        keys = self._services.make_keys(request.signing)
        first, *also = (keys.check_key(name) for name in (request.signing.key, *request.signing.also))
        keys.clearsign("probe\n", first, tuple(also))
        programs = {"xz": True, "zstd": settings.zstd}
        if UpdateStep.BOOT_CHECK in settings.steps:
            found = find_images(request.folder)
            entries = {entry.folder.name: entry.description.arch for entry in found.entries.values()}
            others = {*self._origins, *(image.stem for image in found.images)} - set(entries)
            arches = {*entries.values(), *(["x86_64"] if others else [])}
            programs |= {board(arch).program: True for arch in arches}
        for program in (name for name, needed in programs.items() if needed):
            process.require_program(program)
        for target in settings.targets:
            self._open_target(read_place(target))
        for name, origin in self._origins.items():
            with self._reporting(name):
                self._images.check(name, origin)

    def renew_all(self) -> None:
        """Renew the images that need it, each after its base."""
        for name, origin in self._origins.items():
            with self._reporting(name) as report:
                if not report.problem:
                    self._renew(report, origin)

    def _renew(self, report: TemplateReport, origin: Origin) -> None:
        name, dry_run = report.name, self._request.dry_run
        if dry_run and isinstance(origin, Built) and self._renewed(origin.base):
            report.renewed = f"its base {origin.base} is renewed"
            return
        if not dry_run:
            self._images.recover(name)
        situation = self._images.situation(name, origin)
        reason = reason_to_renew(origin, situation, self._services.clock())
        if reason and (dry_run or self._images.renew(name, origin, situation)):
            report.renewed = reason

    def _renewed(self, name: str) -> bool:
        return name in self._reports and self._reports[name].renewed != ""

    def look_at_images(self) -> None:
        """Make the proofs that are missing; an image that does not boot is not published as it is."""
        found = find_images(self._request.folder)
        published = read_state(self._request.webroot, self._request.folder)
        if not self._request.dry_run:
            self._list_packages(found.images)
        for image in found.images:
            with self._reporting(image.stem) as report:
                if self._request.dry_run:
                    known = published.get(image.name)
                    report.published = known is None or known.fingerprint != image.fingerprint
                self._prove(image, report)

    def _steps_of(self, image: SourceImage) -> tuple[UpdateStep, ...]:
        origin = self._origins.get(image.stem)
        own = None if origin is None else origin.steps
        return self._request.settings.steps if own is None else own

    def _list_packages(self, images: Sequence[SourceImage]) -> None:
        """List the packages of those images that can share an appliance, where it is to be done."""
        wanted = []
        for image in images:
            with self._reporting(image.stem):
                if UpdateStep.SBOM in self._proofs.missing(image, self._steps_of(image)):
                    wanted.append(image)
        if len(wanted) > 1:
            found = self._proofs.list_together(wanted)
            for image in (image for image in wanted if image.name in found):
                with self._reporting(image.stem) as report:
                    result = self._proofs.keep_list(image, found[image.name])
                    report.steps[UpdateStep.SBOM.value] = result

    def _prove(self, image: SourceImage, report: TemplateReport) -> None:
        origin, steps = self._origins.get(image.stem), self._steps_of(image)
        try:
            for step in self._proofs.missing(image, steps):
                report.steps[step.value] = "to do"
                if not self._request.dry_run:
                    report.steps[step.value] = "failed"
                    report.steps[step.value] = self._proofs.make(image, step, origin)
            if UpdateStep.BOOT_CHECK in steps:
                self._proofs.check_boots(image)
        except NotBootingError as error:
            self._held_back[image.name] = error
            raise

    def publish(self) -> bool:
        """Publish what may be published; return whether there is an index."""
        path = self._request.webroot / SIGNED_INDEX
        before = read_index_file(path)
        try:
            result = publish(self._request.publication(self._held_back), self._services, self._on_event)
        except PybuilderError as error:
            self.report.failed = True
            self.report.problems.append(error.in_one_line)
            return False
        for name, problem in result.refused.items():
            with self._reporting(Path(name).stem):
                raise problem
        self._new = [entry for entry in result.index.entries if entry.os_version in result.changed]
        for entry in self._new:
            self._of(entry.os_version).published = True
        self.report.signed = read_index_file(path) != before
        return result.has_index

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Let an error be one of many, so that the next steps are done all the same."""
        try:
            yield
        except PybuilderError as error:
            self.report.problems.append(error.in_one_line)

    def make_pages(self) -> None:
        """Make the web pages."""
        if UpdateStep.CATALOGUE not in self._request.settings.steps:
            return
        with self._noting():
            made = make_catalogue(self._request.pages(), self._services, self._on_event)
            if made.changed:
                self.report.changes.append(f"pages of {counted(made.templates, 'template')} made")

    def upload(self) -> None:
        """Bring the served folder to its targets."""
        request, settings = self._request, self._request.settings
        for target in settings.targets:
            with self._noting():
                place = read_place(target)
                wanted = UploadRequest(
                    request.webroot, place, settings.prune, request.grace, wait=request.wait
                )
                sent = upload(wanted, self._services, self._open_target, self._on_event).sent
                if sent:
                    self.report.changes.append(f"{place.shown}: {counted(len(sent), 'file')} sent")

    def look_at_address(self) -> None:
        """Check that users get this index, and the files that are new in it."""
        if not self._request.base_url:
            return
        self.report.problems += address_behind(
            self._request.webroot, self._request.base_url, self._new, self._services.fetcher, self._on_event
        )

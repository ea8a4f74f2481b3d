"""Makes what is missing about an image: its boot check, its list of packages, their sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import RepositoryError
from imgbuilder.events import Reporter
from imgbuilder.sizes import counted
from imgrepo.bootcheck import check as bootcheck
from imgrepo.contents import packages
from imgrepo.images.scan import SourceImage
from imgrepo.library.records import (
    BOOT_FILE,
    CONTENTS_FILE,
    SOURCES_FILE,
    BootRecord,
    ContentsRecord,
    SourcesRecord,
    Verdict,
)
from imgrepo.publishing.settings import Made, Origin, UpdateStep
from imgrepo.recordfile import RecordFile
from imgrepo.services import Services
from imgrepo.sourcepackages.collect import SourcesRequest, collect
from imgrepo.sourcepackages.finding import SourceArchives

_Record = TypeVar("_Record", BootRecord, ContentsRecord, SourcesRecord)
_OF_AN_IMAGE = (UpdateStep.BOOT_CHECK, UpdateStep.SBOM, UpdateStep.SOURCES)


class NotBootingError(RepositoryError):
    """An image does not boot, and is not published."""


@dataclass(frozen=True)
class Proofs:
    """The proofs about the images of a library, made by the same programs as one by one."""

    library: Path
    services: Services
    appliance: ApplianceOptions
    on_event: Reporter

    def missing(self, image: SourceImage, steps: tuple[UpdateStep, ...]) -> tuple[UpdateStep, ...]:
        """Return the steps without a record of this very image."""
        return tuple(step for step in steps if step in _OF_AN_IMAGE and not self._record(image, step))

    def make(self, image: SourceImage, step: UpdateStep, origin: Origin | None) -> str:
        """Do one step; return its result in a word or two.

        Raises:
            NotBootingError: The image does not boot, which is recorded.
        """
        match step:
            case UpdateStep.BOOT_CHECK:
                return self._boot(image)
            case UpdateStep.SBOM:
                return self._list(image)
            case _:
                return self._collect(image, origin)

    def check_boots(self, image: SourceImage) -> None:
        """Refuse an image of which the last boot check has failed; without one it passes."""
        record = self._record(image, UpdateStep.BOOT_CHECK)
        if isinstance(record, BootRecord) and record.verdict is Verdict.FAILED:
            raise self._not_booting(image, record)

    def _record(
        self, image: SourceImage, step: UpdateStep
    ) -> BootRecord | ContentsRecord | SourcesRecord | None:
        match step:
            case UpdateStep.BOOT_CHECK:
                target = bootcheck.find_target(str(image.path), bootcheck.Overrides(), library=self.library)
                return self._fitting(BOOT_FILE, target.folder, image)
            case UpdateStep.SBOM:
                return self._fitting(CONTENTS_FILE, packages.find_target(self._word(image)).contents, image)
            case _:
                return self._fitting(SOURCES_FILE, packages.find_target(self._word(image)).sources, image)

    def _fitting(self, file: RecordFile[_Record], folder: Path, image: SourceImage) -> _Record | None:
        record = file.read(folder)
        return record if record is not None and record.image.fits(image, self.on_event) else None

    def _word(self, image: SourceImage) -> Path:
        """Return what commands are given for an image: its entry's folder, or its path."""
        folder = image.path.parent
        return image.path if folder.samefile(self.library) else folder

    def _boot(self, image: SourceImage) -> str:
        target = bootcheck.find_target(str(image.path), bootcheck.Overrides(), library=self.library)
        checked = bootcheck.check(target, self.on_event, lambda _line: None, clock=self.services.clock)
        if checked.record.verdict is Verdict.FAILED:
            raise self._not_booting(image, checked.record)
        return "boots"

    def _not_booting(self, image: SourceImage, record: BootRecord) -> NotBootingError:
        return NotBootingError(
            f"{image.name} does not boot: {record.reason}",
            hint=f"see: pybuilder-repo boot-check {image.path}",
        )

    def list_together(self, images: Sequence[SourceImage]) -> dict[str, ContentsRecord]:
        """List the packages of images that can share an appliance, by file name; nothing is written."""
        return packages.list_together(images, self.services.open_appliance, self.appliance, self.on_event)

    def keep_list(self, image: SourceImage, contents: ContentsRecord) -> str:
        """Write down the packages of an image; return the result of the step."""
        target = packages.find_target(self._word(image))
        packages.write_sbom(target, contents, tuple(packages.Format), self.services)
        return counted(len(contents.packages), "package")

    def _list(self, image: SourceImage) -> str:
        target = packages.find_target(self._word(image))
        formats = tuple(packages.Format)
        contents = packages.make_sbom(target, formats, self.services, self.appliance, self.on_event)
        return counted(len(contents.packages), "package")

    def _collect(self, image: SourceImage, origin: Origin | None) -> str:
        archives = SourceArchives()
        if isinstance(origin, Made):
            archives = SourceArchives(origin.mirror, origin.security_mirror)
            if origin.suite_keyring is not None:
                archives = replace(archives, keyring=self.library / origin.suite_keyring)
        request = SourcesRequest(archives)
        target = packages.find_target(self._word(image))
        found = collect(target, request, self.services, self.appliance, self.on_event)
        got = counted(found.wanted - len(found.gaps), "source")
        return f"{got}, {len(found.gaps)} missing" if found.gaps else got

"""Publishing a folder of images: from scan to signed index.

``publish`` is the table of contents. Whatever goes wrong, the folder that is
served stays as it was: the last step replaces the index by one rename.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import DiskError, PybuilderError, RepositoryError, UsageError
from imgbuilder.events import Reporter, Step, info, warn
from imgrepo.compress import check_preset, compress, hash_image
from imgrepo.entries import merge, new_entry, old_entry, published_name
from imgrepo.facts import examine
from imgrepo.scan import measure, scan
from imgrepo.signing import PLAIN_INDEX, SIGNED_INDEX, IndexSigner
from imgrepo.state import Published, read_state, write_state
from imgrepo.transaction import stage

if TYPE_CHECKING:
    from pathlib import Path

    from imgindex.model import Entry, Index
    from imgrepo.facts import ImageFacts
    from imgrepo.scan import SourceImage
    from imgrepo.services import Services
    from imgrepo.transaction import Stage


@dataclass(frozen=True)
class PublishRequest:
    """What to publish.

    Attributes:
        folder: Where the images are.
        output: The folder that is served; the same one, or another.
        key: The signing key, as gpg takes it.
        preset: xz's compression preset.
        options: What shapes the appliance.
    """

    folder: Path
    output: Path
    key: str
    preset: str = "6"
    options: ApplianceOptions = field(default_factory=ApplianceOptions)

    def __post_init__(self) -> None:
        check_preset(self.preset)
        for folder in (self.folder, self.output):
            if not folder.is_dir():
                raise UsageError(f"{folder} is not a folder", hint=f"create it first: mkdir -p {folder}")


@dataclass(frozen=True)
class PublishResult:
    """What was done.

    Attributes:
        index: The index that is published now.
        changed: Names of the templates that are new or changed.
        refused: Why images were not published, by the name of the file.
    """

    index: Index
    changed: tuple[str, ...]
    refused: dict[str, PybuilderError]


def publish(request: PublishRequest, services: Services, report: Reporter) -> PublishResult:
    """Publish the images of a folder.

    Args:
        request: What to publish.
        services: Keys, verifier and appliance.
        report: Hears of the steps.

    Returns:
        What was done. Images that were refused do not keep the others from being published (T24); their
        old templates, if any, stay.

    Raises:
        SigningError: The key cannot sign; nothing was compressed (R3).
        TrustError: The published index is not by this key; nothing was built on it (R17).
        PybuilderError: Anything else; the published index is as it was.
    """
    with stage(request.output) as work:
        signer = IndexSigner(services, request.key, work)
        old = signer.read(request.output)
        if signer.was_edited(request.output, old):
            warn(
                report,
                f"{PLAIN_INDEX} differs from {SIGNED_INDEX}, and only the signed one counts; to publish what "
                f"you wrote: gpg --yes --clearsign -o {SIGNED_INDEX} {PLAIN_INDEX}",
            )
        run = _Run(request, services, work, old.index, report)
        run.find_changed()
        run.look_into()
        run.compress()
        new = run.merge()
        for name in run.files:
            work.publish(name)
        if new != old.index:
            report(Step(f"Signing the index of {len(new.entries)} templates"))
            signer.replace(request.output, old, new)
        elif not run.files:
            info(report, "nothing new to publish")
        write_state(request.folder, run.state)
    changed = tuple(entry.os_version for entry in new.entries if entry not in old.index.entries)
    return PublishResult(new, changed, run.refused)


@dataclass(frozen=True)
class _Candidate:
    """An image that is new or was written to.

    Attributes:
        image: The image.
        size: Size of its disk in bytes.
        facts: What it holds; None before it was looked into.
        old: The template that it replaces; None for a new one.
    """

    image: SourceImage
    size: int
    facts: ImageFacts | None = None
    old: Entry | None = None


class _Run:
    """One run's way from images to index, step by step.

    Attributes:
        refused: Why images are not published, by the name of the file.
        state: What to remember of each image.
        files: Names of the compressed files on the stage.
    """

    def __init__(
        self, request: PublishRequest, services: Services, work: Stage, old: Index, report: Reporter
    ) -> None:
        self._request, self._services, self._work = request, services, work
        self._old, self._report = old, report
        self._candidates: list[_Candidate] = []
        self._owners: dict[tuple[str, str], str] = {}
        self._replaced: dict[tuple[str, str], Entry] = {}
        self._added: list[Entry] = []
        self.refused: dict[str, PybuilderError] = {}
        self.state: dict[str, Published] = {}
        self.files: list[str] = []

    def find_changed(self) -> None:
        """Find the images that are not published as they are now."""
        images, skipped = scan(self._request.folder)
        for name, reason in skipped:
            warn(self._report, f"{name} is not published: {reason}")
        if not images and not self._old.entries:
            raise UsageError(
                f"there are no images in {self._request.folder}",
                hint="images are regular files named NAME.img, NAME.raw or NAME.qcow2",
            )
        remembered = read_state(self._request.folder)
        for image in images:
            if image.name in remembered:
                self.state[image.name] = remembered[image.name]
            try:
                if not self._is_published(image):
                    self._candidates.append(_Candidate(image, measure(image)))
            except DiskError as error:
                self.refused[image.name] = error

    def _is_published(self, image: SourceImage) -> bool:
        last = self.state.get(image.name)
        entry = None if last is None else old_entry(self._old, image, last)
        if last is None or entry is None or entry.file != last.file or not self._is_there(entry):
            return False
        if image.fingerprint != last.fingerprint:
            if hash_image(image, self._report) != last.sha512:
                return False
            self.state[image.name] = dataclasses.replace(last, fingerprint=image.fingerprint)
        self._claim(entry.os_version, entry.arch, image)
        return True

    def _is_there(self, entry: Entry) -> bool:
        path = self._request.output / entry.file
        return path.is_file() and path.stat().st_size == (entry.compressed_size or path.stat().st_size)

    def _claim(self, name: str, arch: str, image: SourceImage) -> None:
        """Refuse two images that would be the same template (``reliability.md`` R16)."""
        first = self._owners.setdefault((name, arch), image.name)
        if first != image.name:
            raise RepositoryError(
                f"{first} and {image.name} would both be the template {name} for {arch}",
                hint="rename or remove one of them",
            )

    def look_into(self) -> None:
        """Find out what the changed images hold, in one appliance for all of them."""
        if not self._candidates:
            return
        images = [candidate.image for candidate in self._candidates]
        found = examine(images, self._services.open_appliance, self._request.options, self._report)
        known = []
        for candidate in self._candidates:
            image, facts = candidate.image, found[candidate.image.name]
            if isinstance(facts, PybuilderError):
                self.refused[image.name] = facts
                continue
            old = old_entry(self._old, image, self.state.get(image.name), facts.arch)
            self._claim(old.os_version if old else image.stem, old.arch if old else facts.arch, image)
            known.append(dataclasses.replace(candidate, facts=facts, old=old))
        self._candidates = known

    def compress(self) -> None:
        """Compress the changed images onto the stage, and describe them."""
        for candidate in self._candidates:
            try:
                self._compress_one(candidate)
            except DiskError as error:
                self.refused[candidate.image.name] = error

    def _compress_one(self, candidate: _Candidate) -> None:
        image, facts, old = candidate.image, candidate.facts, candidate.old
        assert facts is not None
        self._report(Step(f"Compressing {image.name}"))
        part = self._work.folder / f"{image.name}.part"
        made = compress(image, part, self._request.preset, self._report)
        entry = new_entry(image, candidate.size, facts, made, old)
        if entry is old and self._is_there(entry):
            part.unlink()
        else:
            entry = dataclasses.replace(entry, file=published_name(image.stem, made.sha512))
            part.rename(self._work.folder / entry.file)
            self.files.append(entry.file)
        if old is None:
            self._added.append(entry)
        else:
            self._replaced[old.os_version, old.arch] = entry
        self.state[image.name] = Published(
            image.fingerprint, made.source_sha512, entry.file, entry.os_version, entry.arch
        )

    def merge(self) -> Index:
        """Make the new index; a template whose file is gone is dropped."""
        new = merge(self._old, self._replaced, self._added)
        coming = set(self.files)
        for entry in new.entries:
            if entry.file not in coming and not self._is_there(entry):
                warn(self._report, f"the template {entry.os_version} is dropped: {entry.file} is gone")
        kept = tuple(entry for entry in new.entries if entry.file in coming or self._is_there(entry))
        if not kept and not self._old.entries:
            reasons = "; ".join(error.message for error in self.refused.values())
            raise RepositoryError(f"no image can be published: {reasons}")
        return dataclasses.replace(new, entries=kept)

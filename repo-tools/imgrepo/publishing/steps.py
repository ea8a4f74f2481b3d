"""The steps of one run, from images to the new index; ``publish`` has their order."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath

from imgbuilder.errors import DiskError, PybuilderError, RepositoryError, UsageError, WorkspaceError
from imgbuilder.events import Reporter, info, warn
from imgbuilder.host import process
from imgbuilder.host.privatefolder import scratch_folder
from imgindex.model import Entry, Index
from imgrepo.images.compress import ImageCopy, copy_image, hash_image, space_needed
from imgrepo.images.facts import BATCH, ImageFacts, NoSystemError, examine
from imgrepo.images.scan import SourceImage, measure
from imgrepo.library.approval import read_reviewers
from imgrepo.publishing.eligibility import Decisions, Eligibility
from imgrepo.publishing.pack import Candidate, Packer, planned_entry
from imgrepo.publishing.request import PublishRequest, ask_about
from imgrepo.services import Services
from imgrepo.webroot.entries import UNKNOWN_ARCH, files_of, is_complete, merge, old_entry, read_sidecar
from imgrepo.webroot.state import Published, former_entries, read_state
from imgrepo.webroot.transaction import Session


class PublishRun:
    """The state of a run between its steps.

    Attributes:
        refused: Why images are not published, by the name of the file.
        facts: What was found in changed images, by the name of the file.
        waiting: Messages about the images whose day has not come.
        files: Names of the files that were packed.
        state: The record of each image, for the next run.
    """

    def __init__(
        self,
        request: PublishRequest,
        services: Services,
        session: Session,
        old: Index,
        on_event: Reporter,
        facts: Mapping[str, ImageFacts | PybuilderError] | None = None,
    ) -> None:
        self.facts = dict(facts or {})
        self._request, self._services = request, services
        self._old, self._on_event = old, on_event
        self._owners: dict[tuple[str, str], str] = {}
        self._replaced: dict[tuple[str, str], Entry] = {}
        self._added: list[Entry] = []
        self._unpublished: set[int] = set()
        self._decisions = Decisions(request.output, on_event)
        self.refused: dict[str, PybuilderError] = dict(request.held_back)
        reviewers = None if request.reviewers is None else read_reviewers(request.reviewers, services)
        self._eligibility = Eligibility(request, services.clock(), self.refused, on_event, reviewers)
        self._packer = Packer(request, session, on_event)
        self.waiting, self.files = self._eligibility.waiting, self._packer.files
        self.state: dict[str, Published] = {}

    def scan(self) -> list[Candidate]:
        """Find the images that are not published as they are now, and note those that are gone."""
        candidates = []
        found = self._eligibility.found
        images = found.images
        for name, reason in found.skipped:
            warn(self._on_event, f"{name} is not published: {reason}")
        for name in set(found.empty) - {entry.os_version for entry in self._old.entries}:
            info(self._on_event, f"{name} is not published: its folder has no image yet")
        self.refused.update(found.broken)
        if not images and not found.broken and not self._old.entries:
            raise UsageError(
                f"there are no images in {self._request.folder}",
                hint="images are regular files named NAME.img, NAME.raw or NAME.qcow2; others are converted "
                "by: qemu-img convert -O qcow2 OLD NAME.qcow2",
            )
        remembered = read_state(self._request.output, self._request.folder)
        sidecars = [entry for entry in map(self._sidecar, images) if entry is not None]
        given = {(entry.os_version, entry.arch) for entry in (*self._old.entries, *sidecars)}
        former = former_entries(self._request.output)
        unpublished = (*sidecars, *(entry for key, entry in former.items() if key not in given))
        self._unpublished = {id(entry) for entry in unpublished}
        self._old = dataclasses.replace(self._old, entries=(*self._old.entries, *unpublished))
        for image in images:
            last = remembered.get(image.name)
            try:
                if last is None:
                    last = self._recognised(image)
                if last is not None:
                    self.state[image.name] = dataclasses.replace(last, gone_since=None)
                if image.name in self.refused:
                    continue
                if (
                    last is not None
                    and image.fingerprint == last.fingerprint
                    and self._decisions.is_withdrawn(image, last.entry, last.arch)
                ):
                    continue
                if last is not None and self._decisions.is_set_aside(image, last, self._old):
                    continue
                if self._is_published(image) or not self._eligibility.is_eligible(image):
                    continue
                if last is None or not self._is_protected(image, last.entry, last.arch):
                    candidates.append(Candidate(image, measure(image)))
            except DiskError as error:
                self.refused[image.name] = error
        for name in set(remembered) - {image.name for image in images}:
            if PurePosixPath(name).stem in found.broken:  # its image may well be there
                self.state[name] = remembered[name]
        self._drop_removed(remembered, {image.name for image in images} | set(self.state))
        return candidates

    def _sidecar(self, image: SourceImage) -> Entry | None:
        """Read the entry next to an image; a bad one refuses this image, and no other."""
        try:
            return read_sidecar(image, self._old)
        except PybuilderError as error:
            self.refused[image.name] = error
            return None

    def _recognised(self, image: SourceImage) -> Published | None:
        """Find by its content an image that was published from another folder or machine."""
        for name, packed in self._packer.known.items():
            if not name.startswith(f"{image.stem}-") or hash_image(image, self._on_event) != packed.image:
                continue
            if name in self._decisions.set_aside or any(entry.file == name for entry in self._old.entries):
                return Published(
                    image.fingerprint, packed.image, name, packed.entry, packed.arch,
                    packed.system, packed.name, packed.osinfo,
                )  # fmt: skip
        return None

    def check_programs(self, candidates: Sequence[Candidate]) -> None:
        """Check that the programs that will pack the changed images are installed."""
        request = self._request
        if not candidates or request.dry_run:
            return
        if request.compress:
            process.require_program("xz")
        if request.zstd_level is not None or any(entry.zstd is not None for entry in self._old.entries):
            process.require_program("zstd")

    def _drop_removed(self, remembered: dict[str, Published], present: set[str]) -> None:
        """Report templates whose image is gone; drop them after the grace time, with ``--prune``."""
        now = self._services.clock()
        for name in sorted(set(remembered) - present):
            last = remembered[name]
            entry = self._entry_of(last)
            if entry is None:
                continue
            gone_since = last.gone_since or now
            protected = (last.entry, last.arch) in self._decisions.protected
            if self._request.prune and not protected and now - gone_since >= self._request.grace:
                info(self._on_event, f"the template {entry.os_version} is dropped: its image {name} is gone")
                self._old = dataclasses.replace(
                    self._old, entries=tuple(one for one in self._old.entries if one is not entry)
                )
                continue
            self.state[name] = dataclasses.replace(last, gone_since=gone_since)
            self._warn_of_removed(name, entry, gone_since)

    def _warn_of_removed(self, name: str, entry: Entry, since: datetime) -> None:
        if self._request.prune:
            until = since + self._request.grace
            what = f"it is dropped by a run with --prune after {until:%Y-%m-%d %H:%M} UTC"
        else:
            what = "it stays published, unless you use --prune"
        warn(self._on_event, f"the image {name} of the template {entry.os_version} is gone; {what}")

    def _entry_of(self, last: Published) -> Entry | None:
        entry = self._old.find(last.entry, last.arch)
        return None if entry is None or id(entry) in self._unpublished else entry

    def _is_published(self, image: SourceImage) -> bool:
        last = self.state.get(image.name)
        entry = None if last is None else old_entry(self._old, image.stem, last)
        if last is None or entry is None or id(entry) in self._unpublished:
            return False
        if entry.file != last.file or not self._is_there(entry):
            return False
        if self._request.zstd_level is not None and (
            entry.zstd is None or (entry.blocks is None and self._request.lists_blocks(image))
        ):
            return False
        if image.fingerprint != last.fingerprint:
            if hash_image(image, self._on_event) != last.sha512:
                return False
            self.state[image.name] = dataclasses.replace(last, fingerprint=image.fingerprint)
        self._claim(entry.os_version, entry.arch, image)
        return True

    def _is_there(self, entry: Entry) -> bool:
        """Check by their sizes whether all files of an entry are in place."""
        return all(is_complete(self._request.output, file) for file in files_of(entry))

    def _claim(self, name: str, arch: str, image: SourceImage) -> None:
        """Refuse two images that would be the same template (``docs/threat-model.md`` R16)."""
        first = self._owners.setdefault((name, arch), image.name)
        if first != image.name:
            raise RepositoryError(
                f"{first} and {image.name} would both be the template {name} for {arch}",
                hint="rename or remove one of them",
            )

    def pack_in_batches(self, candidates: Sequence[Candidate]) -> dict[str, ImageCopy]:
        """Copy, examine and pack images, a few at a time; return their copies, which are gone by then."""
        copies: dict[str, ImageCopy] = {}
        for start in range(0, len(candidates), BATCH):
            copies |= self._pack_batch(candidates[start : start + BATCH])
        return copies

    def _pack_batch(self, batch: Sequence[Candidate]) -> dict[str, ImageCopy]:
        try:
            with self._copies_of(batch) as copies:
                self.pack(self.examine(batch, copies))
        except WorkspaceError as error:  # where several do not fit, one may
            if len(batch) == 1:
                self.refused[batch[0].image.name] = error
                return {}
            return dict(pair for one in batch for pair in self._pack_batch([one]).items())
        return copies

    @contextlib.contextmanager
    def _copies_of(self, candidates: Sequence[Candidate]) -> Iterator[dict[str, ImageCopy]]:
        """Make the copies on which free space is given back, by image; none with ``--no-trim``."""
        if not candidates or self._request.dry_run or not self._request.trim:
            yield {}
            return
        images = [candidate.image for candidate in candidates]
        with scratch_folder(needed=space_needed(images)) as folder:
            copies: dict[str, ImageCopy] = {}
            for image in images:
                try:
                    copies[image.name] = copy_image(image, folder, self._on_event)
                except DiskError as error:
                    self.refused[image.name] = error
            yield copies

    def examine(self, candidates: Sequence[Candidate], copies: Mapping[str, ImageCopy]) -> list[Candidate]:
        """Find out the facts of changed images, as far as they are not known yet."""
        possible = [one for one in candidates if one.image.name not in self.refused]
        images = [one.image for one in possible if one.image.name not in self.facts]
        if images:
            self.facts |= examine(
                images, self._services.open_appliance, self._request.appliance, self._on_event, copies=copies
            )
        known = []
        for candidate in possible:
            facts = self.facts.get(candidate.image.name)
            judged = None if facts is None else self._judge(candidate, facts)
            if judged is not None:
                known.append(dataclasses.replace(judged, copy=copies.get(candidate.image.name)))
        return known

    def _judge(self, candidate: Candidate, facts: ImageFacts | PybuilderError) -> Candidate | None:
        """Decide under which name an image is published; None if it is not."""
        image, ask = candidate.image, self._request.ask
        nothing = isinstance(facts, NoSystemError)
        arch = facts.arch if isinstance(facts, ImageFacts) else None
        last = self.state.get(image.name)
        old = old_entry(self._old, image.stem, last, arch)
        lost = last is not None and last.system  # it had one before: then it is broken, not special
        if nothing and not lost and old is not None and old.arch != UNKNOWN_ARCH:
            warn(self._on_event, f"no system was found in {image.name}: using the architecture of its entry")
            facts = ImageFacts(old.arch, None, None, None, system=False)
        name = old.os_version if old else image.stem
        if ask is not None and (nothing or isinstance(facts, ImageFacts)):
            name, facts = ask_about(
                image.name, name, facts if isinstance(facts, ImageFacts) else None, old, ask
            )
        if isinstance(facts, PybuilderError):
            self.refused[image.name] = facts
            return None
        arch = facts.arch if old is None or old.arch == UNKNOWN_ARCH else old.arch
        if self._decisions.is_withdrawn(image, name, arch) or self._is_protected(image, name, arch):
            return None
        self._claim(name, arch, image)
        return dataclasses.replace(candidate, name=name, facts=facts, old=old, last=last)

    def _is_protected(self, image: SourceImage, name: str, arch: str) -> bool:
        """Check whether an image would replace that of a protected template; if so, it is refused."""
        refusal = self._decisions.refusal(name, arch, self._old)
        if refusal is not None:
            self.refused[image.name] = refusal
        return refusal is not None

    def pack(self, candidates: Sequence[Candidate]) -> None:
        """Pack the changed images and describe them; in a dry run only describe them."""
        for candidate in candidates:
            try:
                if self._request.dry_run:
                    self._note(candidate.old, planned_entry(candidate))
                    continue
                entry, published = self._packer.pack(candidate)
                self.state[candidate.image.name] = published
                # Without the record of packed files, an image that was set aside is recognised only now.
                if not self._decisions.is_set_aside(candidate.image, published, self._old):
                    self._note(candidate.old, entry)
            except (DiskError, WorkspaceError) as error:  # without space for one, others may still fit
                self.refused[candidate.image.name] = error

    def _note(self, old: Entry | None, entry: Entry) -> None:
        if old is None:
            self._added.append(entry)
        else:
            self._replaced[old.os_version, old.arch] = entry

    def new_index(self) -> Index:
        """Make the new index; a template whose file is gone is dropped."""
        new = merge(self._old, self._replaced, self._added)
        changed = {id(entry) for entry in (*self._replaced.values(), *self._added)}
        kept = []
        for entry in new.entries:
            if id(entry) in changed:
                kept.append(entry)
            elif id(entry) in self._unpublished:
                continue  # its image is gone, or was refused, which is reported elsewhere
            elif not self._is_there(entry):
                warn(self._on_event, f"the template {entry.os_version} is dropped: {entry.file} is gone")
            elif entry.sha512 is None or entry.arch == UNKNOWN_ARCH:
                warn(
                    self._on_event,
                    f"the template {entry.os_version} is dropped: its hand-written entry has neither image "
                    "nor digest",
                )
            else:
                kept.append(entry)
        return dataclasses.replace(new, entries=tuple(self._described(entry) for entry in kept))

    def _described(self, entry: Entry) -> Entry:
        """Update a template with the present description of its image."""
        name = self._owners.get((entry.os_version, entry.arch), "")
        return entry if name in self.refused else self._eligibility.updated(entry, name)

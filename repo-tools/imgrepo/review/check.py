"""``entry check``: what is missing or wrong with an entry. What takes long is looked at once per image."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import PybuilderError, RepositoryError, WorkspaceError
from imgbuilder.events import Reporter, Step, warn
from imgbuilder.host.privatefolder import scratch_folder
from imgbuilder.host.workspace import explain
from imgrepo.images.compress import compress, copy_image, space_needed, xz_arguments, zstd_arguments
from imgrepo.images.scan import SourceImage, check_unchanged
from imgrepo.library.description import Description
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import ImageMark
from imgrepo.review.checkitems import Item, ItemState, Lack, fits_budget, hints_digest, is_proven, judge_entry
from imgrepo.review.checkrecord import CheckRecord, Packed, PasswordState, RunTrial, write_check
from imgrepo.review.evidence import Known
from imgrepo.review.inside import look_inside
from imgrepo.review.runtrial import try_script
from imgrepo.services import Services

_PRESET = "6"
"""As ``publish`` packs, when nobody says otherwise."""
_QUICK_LEVEL = 3


@dataclass(frozen=True)
class Checked:
    """An entry that was checked.

    Attributes:
        name: Its name.
        items: How each point stands.
    """

    name: str
    items: tuple[Item, ...]

    @property
    def checked(self) -> bool:
        """Whether nothing is missing, wrong or unknown."""
        return is_proven(self.items)

    @property
    def fails(self) -> bool:
        """Whether something is missing or wrong."""
        return any(item.fails for item in self.items)


def check_entry(
    folder: EntryFolder, services: Services, options: ApplianceOptions, on_event: Reporter, *, quick: bool
) -> Checked:
    """Check an entry.

    Args:
        folder: The entry.
        services: The appliance.
        options: What shapes it.
        on_event: Called with each event.
        quick: Look at nothing that takes long; what was found out of this image before counts.

    Raises:
        DiskError: The image changed meanwhile.
    """
    known = Known(folder, on_event)
    if quick:
        return Checked(folder.name, judge_entry(known.evidence()))
    looker = _Looker(known, services, options, on_event)
    lacks = looker.look()
    return Checked(folder.name, judge_entry(known.evidence(lacks)))


def is_checked(folder: EntryFolder, on_event: Reporter) -> PybuilderError | None:
    """Say what an entry lacks to be checked, the first of it; None when it is.

    Args:
        folder: The entry.
        on_event: Reports how much of a file was read, if it was touched since.
    """
    for item in judge_entry(Known(folder, on_event).evidence()):
        if item.state is not ItemState.OK:
            return RepositoryError(f"{folder.name} is not checked: {item.key}: {item.detail}", hint=item.hint)
    return None


class _Looker:
    """Finds out what takes long, and writes it down."""

    def __init__(
        self, known: Known, services: Services, options: ApplianceOptions, on_event: Reporter
    ) -> None:
        self._known, self._services, self._options, self._report = known, services, options, on_event
        self._lacks: dict[str, Lack] = {}

    def look(self) -> dict[str, Lack]:
        """Look at what is not known yet of this image; return why something could not be found out."""
        image = self._known.image
        if isinstance(image, Lack):
            return {}
        old = self._known.record or CheckRecord(ImageMark.of(image, self._report))
        new = dataclasses.replace(old, image=dataclasses.replace(old.image, fingerprint=image.fingerprint))
        description = self._known.description
        if not isinstance(description, Lack):
            new = self._look_inside(new, image, description)
        new = self._try_script(new, image)
        check_unchanged(image)
        new = dataclasses.replace(new, archive=self._known.archive(self._known.evidence().sources))
        if new != self._known.record:
            self._write(new)
        self._known.record = new
        return self._lacks

    def _look_inside(self, record: CheckRecord, image: SourceImage, description: Description) -> CheckRecord:
        budget = description.size_budget
        pack = budget is not None and (record.packed is None or fits_budget(record.packed, budget) is None)
        digest = hints_digest(description)
        if not pack and not _is_stale(record, digest):
            return record
        with self._or_lack("inside", "packed"), self._copied(image, pack=pack) as copy:
            inside = look_inside(
                image,
                description.hints,
                self._services.open_appliance,
                self._options,
                self._report,
                copy=copy,
            )
            record = dataclasses.replace(record, inside=dataclasses.replace(inside, hints=digest))
            if copy is not None and budget is not None:
                with self._or_lack("packed"):
                    packed = self._pack(image, copy, budget)
                    record = dataclasses.replace(record, packed=packed)
        return record

    @contextlib.contextmanager
    def _copied(self, image: SourceImage, *, pack: bool) -> Iterator[Path | None]:
        if not pack:
            yield None
            return
        with scratch_folder(needed=2 * space_needed([image])) as folder:
            yield copy_image(image, folder, self._report).path

    def _pack(self, image: SourceImage, copy: Path, budget: int) -> Packed:
        """Pack by zstd, which is quick, and as publish does only if that does not decide."""
        self._report(Step(f"Packing {image.name}"))
        quick = self._packed_size(image, copy, zstd_arguments(_QUICK_LEVEL))
        if fits_budget(Packed(quick, None), budget) is not None:
            return Packed(quick, None)
        return Packed(quick, self._packed_size(image, copy, xz_arguments(_PRESET)))

    def _packed_size(self, image: SourceImage, copy: Path, arguments: list[str]) -> int:
        made = compress(image, copy.with_name("packed"), arguments, self._report, content=copy)
        made.path.unlink()
        return made.size

    def _try_script(self, record: CheckRecord, image: SourceImage) -> CheckRecord:
        script = self._known.script
        if isinstance(script, Lack):
            return record
        text, machine = script
        digest = hashlib.sha256(text.encode()).hexdigest()
        if record.run is None or record.run.script != digest:
            with self._or_lack("run"):
                trial = RunTrial(digest, try_script(text, machine, image, self._report))
                return dataclasses.replace(record, run=trial)
        return record

    @contextlib.contextmanager
    def _or_lack(self, *fields: str) -> Iterator[None]:
        """What cannot be found out now is not known, and is not written down."""
        try:
            yield
        except PybuilderError as error:
            self._lacks |= dict.fromkeys(fields, Lack(ItemState.UNKNOWN, error.message, error.hint))

    def _write(self, record: CheckRecord) -> None:
        folder = self._known.folder.check
        try:
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise explain(error, folder) from error
            write_check(folder, record)
        except WorkspaceError as error:
            warn(self._report, f"what was found out is not kept: {error.message}")


def _is_stale(record: CheckRecord, hints: str) -> bool:
    """Tell whether an image has to be looked into: never done, or other hints may tell other passwords."""
    inside = record.inside
    if inside is None or not inside.system:  # which may have been for want of something else than a system
        return True
    asked = {PasswordState.TOLD, PasswordState.UNTOLD}
    return inside.hints != hints and any(one.password in asked for one in inside.accounts)

"""What is known of an entry without looking into its image: its files, its records, and earlier checks."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import DiskError, PybuilderError, RepositoryError
from imgbuilder.events import Reporter
from imgbuilder.machine.model import Machine
from imgbuilder.machine.runscript import run_script
from imgbuilder.sizes import human_size
from imgindex.files import open_file
from imgrepo.images.compress import hash_image
from imgrepo.images.pictures import screenshot_problem
from imgrepo.images.scan import Fingerprint, SourceImage, measure, scan
from imgrepo.library.description import Description
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import (
    ContentsRecord,
    ImageMark,
    SourcesRecord,
    read_boot,
    read_contents,
    read_sources,
)
from imgrepo.library.running import script_machine
from imgrepo.review.checkitems import Evidence, ItemState, Lack, command
from imgrepo.review.checkrecord import CheckRecord, RunTrial, read_check

_LARGEST_SCRIPT = 1 << 20
_BOOT_SCREEN = "screen.png"


class Known:
    """Finds out about one entry, each thing once.

    Args:
        folder: The entry.
        on_event: Reports how much of a file was read, if it was touched since a record of it was made.
    """

    def __init__(self, folder: EntryFolder, on_event: Reporter) -> None:
        self.folder = folder
        self._report = on_event
        self.record = self._read_record()

    def evidence(self, lacks: Mapping[str, Lack] | None = None) -> Evidence:
        """Put together what is known.

        Args:
            lacks: Why something that takes long was not found out, by its field in the record.
        """
        record, more = self.record, lacks or {}
        none = Lack(ItemState.UNKNOWN, "nobody has looked at this image yet", self._again())
        if isinstance(self.image, Lack):
            none, record = self._without_image(), None
        packed = None if record is None else record.packed
        inside = None if record is None else record.inside
        return Evidence(
            folder=command("", str(self.folder.path)).strip(),
            image=command("", str(self._image_path())).strip(),
            description=self.description,
            image_is=self._image_is(),
            screenshot=self._screenshot(),
            contents=self.contents,
            sources=self._sources(),
            packed=packed or more.get("packed", none),
            inside=inside or more.get("inside", none),
            run=self._run(record, more.get("run", none)),
        )

    @functools.cached_property
    def description(self) -> Description | Lack:
        """What its contributor says."""
        try:
            return self.folder.read()
        except RepositoryError as error:
            return Lack(ItemState.WRONG, error.message, error.hint)

    @functools.cached_property
    def image(self) -> SourceImage | Lack:
        """The image, whose header was judged."""
        try:
            if scan(self.folder.path) == ((), ()):
                hint = f"put it there as {self.folder.name}.qcow2 or {self.folder.name}.img"
                return Lack(ItemState.MISSING, "there is no image", hint)
            image = self.folder.image()
            measure(image)
        except (DiskError, RepositoryError) as error:
            return Lack(ItemState.WRONG, error.message, error.hint)
        except PybuilderError as error:
            return Lack(ItemState.UNKNOWN, error.message, error.hint)
        except OSError as error:
            return Lack(ItemState.WRONG, f"the image cannot be read: {error.strerror}")
        return image

    @functools.cached_property
    def script(self) -> tuple[str, Machine] | Lack:
        """The script that starts it, and the machine; the script is the one that would be written now."""
        hint = command("write it: pybuilder-repo entry run-script", self.folder.name, *self._library())
        path = self.folder.run_script
        if isinstance(self.image, Lack):
            return self._without_image()
        if not os.path.lexists(path):
            return Lack(ItemState.MISSING, "there is no script run", hint)
        try:
            machine = script_machine(self.folder, self._report)
            text = run_script(machine)
        except PybuilderError as error:
            return Lack(ItemState.UNKNOWN, error.message, error.hint)
        if _content(path) != text.encode():
            reason = "the script run is old: another one would be written now"
            return Lack(ItemState.WRONG, reason, hint)
        if not os.access(path, os.X_OK):
            return Lack(ItemState.WRONG, "the script run cannot be executed", hint)
        return text, machine

    @functools.cached_property
    def contents(self) -> ContentsRecord | Lack:
        """Its packages."""
        hint = command("list them: pybuilder-repo sbom", str(self.folder.path))
        try:
            found = read_contents(self.folder.contents)
        except RepositoryError as error:
            return Lack(ItemState.WRONG, error.message, hint)
        if found is None:
            return Lack(ItemState.MISSING, "nobody has listed its packages", hint)
        if not self._fits(found.image):
            return Lack(ItemState.WRONG, "the packages are those of another image", hint)
        return found

    def _sources(self) -> SourcesRecord | Lack:
        hint = command("collect them: pybuilder-repo sources", str(self.folder.path))
        try:
            found = read_sources(self.folder.sources)
        except RepositoryError as error:
            return Lack(ItemState.WRONG, error.message, hint)
        if found is None:
            return Lack(ItemState.MISSING, "nobody has collected the sources", hint)
        if not self._fits(found.image):
            return Lack(ItemState.WRONG, "the sources are those of another image", hint)
        problem = self._archive_problem(found)
        return found if problem is None else Lack(ItemState.WRONG, problem, hint)

    def archive(self, sources: SourcesRecord | Lack) -> ImageMark | None:
        """Return the mark of an archive of sources that is the one of its record."""
        if isinstance(sources, Lack) or not sources.archive:
            return None
        try:
            facts = (self.folder.sources / sources.archive).lstat()
        except OSError:
            return None
        return ImageMark(sources.sha512, Fingerprint.of(facts))

    def _archive_problem(self, record: SourcesRecord) -> str | None:
        name = record.archive
        if not name:
            return None if not record.covered else "the record of the sources names no archive"
        # The record may come from a contributor: it must not lead anywhere else.
        if "/" in name or "\0" in name or name.startswith("."):
            return "the record of the sources names an odd archive"
        path = self.folder.sources / name
        try:
            facts = path.lstat()
        except OSError as error:
            return f"{name}: {error.strerror}"
        if not stat.S_ISREG(facts.st_mode):
            return f"{name} is no regular file"
        if facts.st_size != record.size:
            return f"{name} has {facts.st_size} bytes, and not {record.size}"
        mark = ImageMark(record.sha512, Fingerprint.of(facts))
        if self.record is not None and self.record.archive == mark:
            return None
        try:
            digest = hash_image(SourceImage(path, path.stem, DiskFormat.RAW, mark.fingerprint), self._report)
        except PybuilderError as error:
            return error.message
        return None if digest == record.sha512 else f"{name} is another one than was collected"

    def _read_record(self) -> CheckRecord | None:
        """Return what a check found out, if it is of the image that is here now."""
        try:
            record = read_check(self.folder.check)
        except RepositoryError:  # it is made anew
            return None
        return record if record is not None and self._fits(record.image) else None

    def _fits(self, mark: ImageMark) -> bool:
        return isinstance(self.image, SourceImage) and mark.fits(self.image, self._report)

    def _run(self, record: CheckRecord | None, none: Lack) -> RunTrial | Lack:
        if isinstance(self.script, Lack):
            return self.script
        trial = None if record is None else record.run
        digest = hashlib.sha256(self.script[0].encode()).hexdigest()
        return trial if trial is not None and trial.script == digest else none

    def _image_is(self) -> str | Lack:
        if isinstance(self.image, Lack):
            return self.image
        return f"{self.image.name}, {human_size(self.image.fingerprint.size)}"

    def _image_path(self) -> Path:
        if isinstance(self.image, Lack):
            return self.folder.path / f"{self.folder.name}.qcow2"
        return self.image.path

    def _screenshot(self) -> str | Lack:
        path, hint = self.folder.screenshot, "take one: pybuilder-repo boot-check --keep-screenshot"
        if os.path.lexists(path):
            problem = screenshot_problem(path)
            return (
                Lack(ItemState.WRONG, f"{path.name}: {problem}", "put another one there")
                if problem
                else path.name
            )
        try:
            boot = read_boot(self.folder.boot)
        except RepositoryError:
            boot = None
        seen = self.folder.boot / _BOOT_SCREEN
        if boot is not None and boot.pictures and self._fits(boot.image) and not screenshot_problem(seen):
            return "the one of the boot check"
        return Lack(ItemState.MISSING, "there is no screenshot.png", command(hint, str(self.folder.path)))

    def _without_image(self) -> Lack:
        return Lack(ItemState.UNKNOWN, "there is no image to look at")

    def _library(self) -> tuple[str, str]:
        return "--library", str(self.folder.path.parent)

    def _again(self) -> str:
        return command("look: pybuilder-repo entry check", self.folder.name, *self._library())


def _content(path: Path) -> bytes:
    """Return the start of a file; nothing of what is none."""
    try:
        with open_file(path) as file:
            return file.read(_LARGEST_SCRIPT)
    except OSError:
        return b""

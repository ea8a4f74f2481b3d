"""Facts about an entry: its files, its records, and what earlier checks found in its image."""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import DiskError, PybuilderError, RepositoryError
from imgbuilder.events import Reporter
from imgbuilder.host.hashing import Fingerprint
from imgbuilder.machine.model import Machine
from imgbuilder.machine.runscript import run_script
from imgbuilder.sizes import human_size
from imgindex.files import open_file
from imgrepo.images.compress import hash_image
from imgrepo.images.pictures import screenshot_problem
from imgrepo.images.scan import SourceImage, measure, scan
from imgrepo.library.description import Description
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import (
    BOOT_FILE,
    CHECK_FILE,
    CONTENTS_FILE,
    SOURCES_FILE,
    CheckRecord,
    CompressedSize,
    ContentsRecord,
    ImageMark,
    Inside,
    RunTrial,
    SourcesRecord,
)
from imgrepo.library.running import script_machine
from imgrepo.recordfile import RecordFile
from imgrepo.review.results import Issue, Status

_LARGEST_SCRIPT = 1 << 20
_NO_IMAGE = Issue(Status.UNKNOWN, "the image is missing")
_BOOT_SCREEN = "screen.png"
_Record = TypeVar("_Record", ContentsRecord, SourcesRecord)


@dataclass(frozen=True)
class EntryFacts:
    """All that is known of an entry now; an ``Issue`` stands for what is missing or unknown.

    ``folder`` and ``image`` are paths, quoted for a command.
    """

    folder: str
    image: str
    description: Description | Issue
    image_summary: str | Issue
    screenshot: str | Issue
    contents: ContentsRecord | Issue
    sources: SourcesRecord | Issue
    packed: CompressedSize | Issue
    inside: Inside | Issue
    run: RunTrial | Issue


class FactCollector:
    """Collects the facts about one entry, each of them once."""

    def __init__(self, folder: EntryFolder, on_event: Reporter) -> None:
        self.folder = folder
        self._report = on_event
        self.record = self._read_record()

    def facts(self, issues: Mapping[str, Issue] | None = None) -> EntryFacts:
        """Return all facts; ``issues`` has why something that takes long could not be found out, by field."""
        record, more = self.record, issues or {}
        again = command("check it: pybuilder-repo entry check", self.folder.name, *self._library())
        none = Issue(Status.UNKNOWN, "this image was not checked yet", again)
        if isinstance(self.image, Issue):
            none, record = _NO_IMAGE, None
        packed = None if record is None else record.packed
        inside = None if record is None else record.inside
        return EntryFacts(
            folder=command("", str(self.folder.path)).strip(),
            image=command("", str(self._image_path())).strip(),
            description=self.description,
            image_summary=self._image_summary(),
            screenshot=self._screenshot(),
            contents=self.contents,
            sources=self._sources(),
            packed=packed or more.get("packed", none),
            inside=inside or more.get("inside", none),
            run=self._run(record, more.get("run", none)),
        )

    @functools.cached_property
    def description(self) -> Description | Issue:
        """Its ``entry.toml``."""
        try:
            return self.folder.read()
        except RepositoryError as error:
            return Issue.of(error)

    @functools.cached_property
    def image(self) -> SourceImage | Issue:
        """The image, whose header was judged."""
        try:
            if scan(self.folder.path) == ((), ()):
                hint = f"put it there as {self.folder.name}.qcow2 or {self.folder.name}.img"
                return Issue(Status.MISSING, "the image is missing", hint)
            image = self.folder.image()
            measure(image)
        except (DiskError, RepositoryError) as error:
            return Issue.of(error)
        except PybuilderError as error:
            return Issue.of(error, Status.UNKNOWN)
        except OSError as error:
            return Issue(Status.WRONG, f"the image cannot be read: {error.strerror}")
        return image

    @functools.cached_property
    def script(self) -> tuple[str, Machine] | Issue:
        """The script that starts it, if it is up to date, and its machine."""
        hint = command("write it: pybuilder-repo entry run-script", self.folder.name, *self._library())
        path = self.folder.run_script
        if isinstance(self.image, Issue):
            return _NO_IMAGE
        if not os.path.lexists(path):
            return Issue(Status.MISSING, "the script run is missing", hint)
        try:
            machine = script_machine(self.folder, self._report)
            text = run_script(machine)
        except PybuilderError as error:
            return Issue.of(error, Status.UNKNOWN)
        if _content(path) != text.encode():
            reason = "the script run is out of date"
            return Issue(Status.WRONG, reason, hint)
        if not os.access(path, os.X_OK):
            return Issue(Status.WRONG, "the script run cannot be executed", hint)
        return text, machine

    @functools.cached_property
    def contents(self) -> ContentsRecord | Issue:
        """Its packages."""
        hint = command("list them: pybuilder-repo sbom", str(self.folder.path))
        return self._recorded(CONTENTS_FILE, self.folder.contents, "packages", "listed", hint)

    def _sources(self) -> SourcesRecord | Issue:
        hint = command("collect them: pybuilder-repo sources", str(self.folder.path))
        found = self._recorded(SOURCES_FILE, self.folder.sources, "sources", "collected", hint)
        problem = None if isinstance(found, Issue) else self._archive_problem(found)
        return found if problem is None else Issue(Status.WRONG, problem, hint)

    def _recorded(
        self, file: RecordFile[_Record], folder: Path, what: str, done: str, hint: str
    ) -> _Record | Issue:
        try:
            found = file.read(folder)
        except RepositoryError as error:
            return Issue(Status.WRONG, error.message, hint)
        if found is None:
            return Issue(Status.MISSING, f"the {what} are not {done}", hint)
        if not self._fits(found.image):
            return Issue(Status.WRONG, f"the {what} are of a different image", hint)
        return found

    def archive(self, sources: SourcesRecord | Issue) -> ImageMark | None:
        """Return the mark of an archive of sources that was compared with its record."""
        if isinstance(sources, Issue) or not sources.archive:
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
        # The record may come from a contributor: its path must stay in the folder.
        if "/" in name or "\0" in name or name.startswith("."):
            return "the record of the sources has an invalid archive name"
        path = self.folder.sources / name
        try:
            facts = path.lstat()
        except OSError as error:
            return f"{name}: {error.strerror}"
        if not stat.S_ISREG(facts.st_mode):
            return f"{name} is not a regular file"
        if facts.st_size != record.size:
            return f"{name} has {facts.st_size} bytes instead of {record.size}"
        mark = ImageMark(record.sha512, Fingerprint.of(facts))
        if self.record is not None and self.record.archive == mark:
            return None
        try:
            digest = hash_image(SourceImage(path, path.stem, DiskFormat.RAW, mark.fingerprint), self._report)
        except PybuilderError as error:
            return error.message
        return None if digest == record.sha512 else f"{name} changed since it was collected"

    def _read_record(self) -> CheckRecord | None:
        """Return the record of the last check, if it is of the present image."""
        try:
            record = CHECK_FILE.read(self.folder.check)
        except RepositoryError:  # it is made again
            return None
        return record if record is not None and self._fits(record.image) else None

    def _fits(self, mark: ImageMark) -> bool:
        return isinstance(self.image, SourceImage) and mark.fits(self.image, self._report)

    def _run(self, record: CheckRecord | None, none: Issue) -> RunTrial | Issue:
        if isinstance(self.script, Issue):
            return self.script
        trial = None if record is None else record.run
        digest = hashlib.sha256(self.script[0].encode()).hexdigest()
        return trial if trial is not None and trial.script == digest else none

    def _image_summary(self) -> str | Issue:
        if isinstance(self.image, Issue):
            return self.image
        return f"{self.image.name}, {human_size(self.image.fingerprint.size)}"

    def _image_path(self) -> Path:
        if isinstance(self.image, Issue):
            return self.folder.path / f"{self.folder.name}.qcow2"
        return self.image.path

    def _screenshot(self) -> str | Issue:
        path, hint = self.folder.screenshot, "take one: pybuilder-repo boot-check --keep-screenshot"
        if os.path.lexists(path):
            problem = screenshot_problem(path)
            return Issue(Status.WRONG, f"{path.name}: {problem}", "replace it") if problem else path.name
        try:
            boot = BOOT_FILE.read(self.folder.boot)
        except RepositoryError:
            boot = None
        seen = self.folder.boot / _BOOT_SCREEN
        if boot is not None and boot.pictures and self._fits(boot.image) and not screenshot_problem(seen):
            return "the screen of the boot check"
        return Issue(Status.MISSING, "screenshot.png is missing", command(hint, str(self.folder.path)))

    def _library(self) -> tuple[str, str]:
        return "--library", str(self.folder.path.parent)


def _content(path: Path) -> bytes:
    """Return the start of a file; nothing if it cannot be read."""
    try:
        with open_file(path) as file:
            return file.read(_LARGEST_SCRIPT)
    except OSError:
        return b""


def command(text: str, *names: str) -> str:
    """Return a command with names quoted for a shell."""
    return " ".join([text, *map(shlex.quote, names)])

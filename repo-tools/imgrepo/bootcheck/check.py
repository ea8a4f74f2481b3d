"""Checks that an image boots, an entry's or any other, and records the result."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from imgbuilder.errors import RepositoryError, WorkspaceError
from imgbuilder.events import Reporter, Step, info
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.privatefolder import scratch_folder
from imgbuilder.host.workspace import explaining, new_file
from imgbuilder.machine.model import Firmware
from imgrepo.bootcheck.boot import Outcome, ShowLine, Trial, boot
from imgrepo.bootcheck.console import BootMarker, BootState
from imgrepo.bootcheck.hypervisor import hypervisor_version
from imgrepo.images.scan import FORMATS, SourceImage, check_unchanged
from imgrepo.library.description import BootTable, Description, MachineTable
from imgrepo.library.folder import EntryFolder, entry_at, find_entry, image_at
from imgrepo.library.records import BOOT_FILE, BootRecord, ImageMark, Verdict
from imgrepo.library.running import machine_of

_HINT = "give the folder of an entry, the name of one, or an image"


@dataclass(frozen=True)
class Overrides:
    """Options that override ``entry.toml``; None for none. Ports are added to those of the entry."""

    arch: str | None = None
    memory: int | None = None
    firmware: Firmware | None = None
    marker: str | None = None
    seconds: int | None = None
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class BootTarget:
    """An image to boot, what is known about it, and where the record goes.

    Attributes:
        name: Its name without the ending.
        description: The entry's description; of an image alone, the options.
        marker_from: The origin of the marker, for messages.
        entry: The entry; None for an image alone.
    """

    name: str
    image: SourceImage
    description: Description
    marker_from: str
    folder: Path
    entry: EntryFolder | None = None


def find_target(word: str, overrides: Overrides, *, library: Path, output: Path | None = None) -> BootTarget:
    """Find the target that a command names: an entry's folder, the name of an entry, or an image.

    The record goes to a folder of the target's name in ``output``; without it, to the entry's own folder, or
    to ``NAME.boot`` next to an image.
    """
    entry = _entry(word, library)
    if entry is not None:
        image, folder = entry.image(), entry.boot
        description, where = entry.read(), f"{entry.description}: [boot] marker"
    else:
        path = Path(word).absolute()
        image = image_at(path, hint=_HINT)
        folder, description, where = path.parent / f"{image.stem}.boot", Description(), "--marker"
    if overrides.marker is not None:
        where = "--marker"
    if output is not None:
        folder = output / image.stem / "boot"
    return BootTarget(image.stem, image, _with_overrides(description, overrides), where, folder, entry)


def _entry(word: str, library: Path) -> EntryFolder | None:
    path = Path(word)
    if path.is_dir():
        return entry_at(path, hint=_HINT)
    if path.suffix in FORMATS or "/" in word or path.exists():
        around = EntryFolder(path.absolute().parent)
        inside = around.name == path.stem and around.description.is_file()
        return around if inside else None
    return find_entry(library, word)


def _with_overrides(description: Description, overrides: Overrides) -> Description:
    machine: dict[str, object] = {"memory": overrides.memory, "firmware": overrides.firmware}
    boot: dict[str, object] = {"marker": overrides.marker, "seconds": overrides.seconds}
    ports = (*description.boot.ports, *overrides.ports)
    return description.model_copy(
        update={
            "arch": overrides.arch or description.arch,
            "machine": _changed(description.machine, machine),
            "boot": _changed(description.boot, {**boot, "ports": tuple(dict.fromkeys(ports))}),
        }
    )


def _changed(table: MachineTable | BootTable, values: dict[str, object]) -> MachineTable | BootTable:
    return table.model_copy(update={key: value for key, value in values.items() if value is not None})


LOG, SCREEN, THUMBNAIL = "serial.log", "screen.png", "thumbnail.png"


@dataclass(frozen=True)
class BootCheckResult:
    """A boot check that was made; ``tail`` has the last lines of the console."""

    target: BootTarget
    record: BootRecord
    tail: tuple[str, ...]


def check(
    target: BootTarget,
    on_event: Reporter,
    show: ShowLine,
    *,
    clock: Callable[[], datetime],
    exact: bool = False,
    keep_screenshot: bool = False,
) -> BootCheckResult:
    """Boot an image and record the result.

    The header of the image is checked before anything opens it, and the image is only read. The record
    appears whole or not at all; a failed boot has one as well. With ``exact``, the time limit holds for
    emulation as well; with ``keep_screenshot``, an entry without a screenshot gets the picture of the screen.
    """
    description = target.description
    marker = BootMarker(description.boot.marker, where=target.marker_from)
    machine = machine_of(target.image, description, relative=False)
    version = hypervisor_version(machine)
    trial = Trial(machine, marker, description.boot.seconds, exact, description.boot.ports)
    with _folder_for(target), scratch_folder() as scratch:
        started = clock()
        on_event(Step(f"Booting {target.image.name} ({description.arch}, {machine.firmware.value})"))
        outcome = boot(trial, scratch, on_event, show)
        record = BootRecord(
            _mark(target, on_event),
            Verdict.BOOTED if outcome.judgement.state is BootState.BOOTED else Verdict.FAILED,
            outcome.judgement.reason,
            version,
            outcome.accelerator,
            started,
            round(outcome.seconds, 1),
            outcome.concerns,
            outcome.answered,
            outcome.pictures,
        )
        _write(target.folder, scratch, outcome, record)
        if outcome.pictures:
            _screenshot(target, scratch / SCREEN, on_event, keep=keep_screenshot)
    return BootCheckResult(target, record, outcome.tail)


@contextmanager
def _folder_for(target: BootTarget) -> Iterator[None]:
    """Make the folder of the record before the boot; if it was made and stays empty, it is removed again."""
    folder = target.folder
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WorkspaceError(
            f"{folder} cannot be written to: {error.strerror}",
            hint="give another folder for the record: --output DIR",
        ) from error
    try:
        yield
    finally:
        if new:
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()


def _mark(target: BootTarget, on_event: Reporter) -> ImageMark:
    """Return the mark of the image; an image that the last record is of is not read again."""
    check_unchanged(target.image)
    with contextlib.suppress(RepositoryError):
        last = BOOT_FILE.read(target.folder)
        if last is not None and last.image.fingerprint == target.image.fingerprint:
            return last.image
    return ImageMark.of(target.image, on_event)


def _write(folder: Path, scratch: Path, outcome: Outcome, record: BootRecord) -> None:
    """Write record, log and pictures. If it is killed, there may be no record, but never one of other files.

    All is written before anything is replaced, and the record gets its name last.
    """
    names = (SCREEN, THUMBNAIL) if record.pictures else ()
    with uninterrupted(), contextlib.ExitStack() as stack:
        stack.enter_context(BOOT_FILE.writing(folder, record))
        new = {name: stack.enter_context(new_file(folder / name)) for name in (LOG, *names)}
        with explaining(folder / BOOT_FILE.name):
            new[LOG].write_text(outcome.log, encoding="utf-8")
            for name in names:
                shutil.copyfile(scratch / name, new[name])
            (folder / BOOT_FILE.name).unlink(missing_ok=True)
            for name in {SCREEN, THUMBNAIL} - {*names}:
                (folder / name).unlink(missing_ok=True)


def _screenshot(target: BootTarget, screen: Path, on_event: Reporter, *, keep: bool) -> None:
    entry = target.entry
    if entry is None or entry.screenshot.exists():
        if keep and entry is not None:
            info(on_event, f"{entry.screenshot} exists already and is kept")
        return
    if not keep:
        info(on_event, f"{entry.name} has no screenshot.png; with --keep-screenshot it gets this picture")
        return
    with new_file(entry.screenshot) as temporary, explaining(entry.screenshot):
        shutil.copyfile(screen, temporary)

"""The target of ``boot-check``: an entry of the library, or an image alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imgbuilder.machine.model import Firmware
from imgrepo.images.scan import FORMATS, SourceImage
from imgrepo.library.description import BootTable, Description, MachineTable
from imgrepo.library.folder import EntryFolder, entry_at, find_entry, image_at

_HINT = "give the folder of an entry, the name of one, or an image"


@dataclass(frozen=True)
class Overrides:
    """Options that override ``entry.toml``; None or empty for none.

    Attributes:
        arch: Architecture.
        memory: MiB.
        firmware: The firmware.
        marker: A regular expression that shows that the system has booted.
        seconds: Time limit, with and without KVM.
        ports: Ports that must answer besides those of the entry.
    """

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
        image: The image.
        description: The entry's description; of an image alone, the options.
        marker_from: The origin of the marker, for messages.
        folder: Where the record goes.
        entry: The entry; None for an image alone.
    """

    name: str
    image: SourceImage
    description: Description
    marker_from: str
    folder: Path
    entry: EntryFolder | None = None


def find_target(word: str, overrides: Overrides, *, library: Path, output: Path | None = None) -> BootTarget:
    """Find the target that a command names.

    Args:
        word: An entry's folder, an image, or the name of an entry of the library.
        overrides: The options.
        library: The folder of entries.
        output: Where the record goes, in a folder of the target's name; None for the entry's own folder, or
            ``NAME.boot`` next to an image.
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

"""Linked images: qcow2 images that lie over an unpacked disk of the cache, which stays for their sake.

``disks/SHA512.FORMAT.links.json`` names the images over a disk. It is written before an image appears, so
that a killed run leaves no image without its disk. An image at a recorded path counts until another file is
there. A missing one counts as well: it may have been moved, or its filesystem may not be mounted. Only
``pybuilder unlink`` ends that, so no image ever loses its disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imgbuilder.cache.folder import CacheFolder, is_digest
from imgbuilder.disk.imageheader import check_qcow2
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import DiskError, UsageError, WorkspaceError
from imgbuilder.host import paths
from imgindex.files import read_json, write_json

SUFFIX = ".links"
"""Suffix of the record's name, before that of all records."""
_VERSION = 1
_LARGEST = 4 << 20


@dataclass(frozen=True)
class LinkedImage:
    """An image that lies over a disk of the cache, as recorded.

    Attributes:
        image: Its absolute path at that time.
        disk: The disk.
    """

    image: Path
    disk: Path

    @property
    def is_missing(self) -> bool:
        """True if no file is at the path now."""
        return not self.image.exists()


def links_of(disk: Path) -> list[LinkedImage]:
    """Return the links to a disk that count.

    Raises:
        WorkspaceError: The record cannot be read, so that the disk must stay.
    """
    links = [LinkedImage(image, disk) for image in _recorded(disk)]
    return [link for link in links if link.is_missing or lies_over(link.image, disk)]


def add_link(folder: CacheFolder, disk: Path, image: Path) -> None:
    """Record that an image will lie over a disk."""
    with folder.entry(_digest(disk)):
        # All that are recorded stay: a build that runs now replaces another file at the path of its image.
        _record(disk, list(dict.fromkeys([*_recorded(disk), image])))


def remove_link(folder: CacheFolder, disk: Path, image: Path) -> None:
    """Forget an image that lies over a disk no more."""
    with folder.entry(_digest(disk)):
        _record(disk, [other for other in _recorded(disk) if other != image])


def all_links(folder: CacheFolder) -> list[LinkedImage]:
    """Return the links to all disks of a cache."""
    records = sorted(folder.disks.glob(f"*{SUFFIX}.json"))
    disks = [path.with_name(path.name.removesuffix(f"{SUFFIX}.json")) for path in records]
    return [link for disk in disks for link in links_of(disk)]


def disk_below(image: Path) -> Path | None:
    """Return the file that a qcow2 image lies over; None if it lies over none.

    Raises:
        DiskError: It is not a qcow2 image, or cannot be read.
    """
    backing = check_qcow2(image, role=Role.GUEST, overlay=True).backing
    return None if backing is None else image.parent / backing


def own_disk_below(image: Path) -> tuple[Path, ...]:
    """Return the disk in the user's usual cache that an image lies over, if there is one.

    Such an image may be opened without asking: even if it is a stranger's, it shows no more than a template.
    """
    try:
        below, disks = disk_below(image), paths.cache_dir() / "disks"
    except (DiskError, OSError, UsageError):
        return ()
    is_ours = below is not None and is_digest(_digest(below)) and below.parent.resolve() == disks.resolve()
    return (below,) if below is not None and is_ours else ()


def lies_over(image: Path, disk: Path) -> bool:
    """Tell whether an image lies over a disk; if one of them was removed meanwhile, it counts as such."""
    try:
        below = disk_below(image)
        return below is not None and below.samefile(disk)
    except FileNotFoundError:
        return True
    except (DiskError, OSError):
        return False


def _digest(disk: Path) -> str:
    return disk.name.partition(".")[0]


def _path(disk: Path) -> Path:
    return disk.with_name(f"{disk.name}{SUFFIX}.json")


def _recorded(disk: Path) -> list[Path]:
    path = _path(disk)
    try:
        images = read_json(path, version=_VERSION, limit=_LARGEST, private=True)["images"]
        return [Path(image) for image in images]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(
            f"{path}, which names the images that lie over a disk of the cache, cannot be read: {error}",
            hint="if no linked image is left, remove it",
        ) from error


def _record(disk: Path, images: list[Path]) -> None:
    if images:
        write_json(
            _path(disk),
            {"images": list(map(str, images))},
            version=_VERSION,
            durable=True,
            owner=_digest(disk),
        )
    else:
        _path(disk).unlink(missing_ok=True)

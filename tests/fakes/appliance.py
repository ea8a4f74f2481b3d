"""An appliance in memory: disks with filesystems, each of which is a ``FakeGuest``'s tree.

``FakeAppliances`` is an ``open_appliance`` for tests. It finds out what is on a
disk by the name of the image file, and records which disks each launch had.
"""

from __future__ import annotations

import contextlib
import errno
import string
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgbuilder.errors import GuestCallError
from imgbuilder.guest import FilesystemUse
from tests.fakes.guest import FakeGuest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from imgbuilder.appliance import ApplianceOptions, Attachment
    from imgbuilder.events import Reporter


@dataclass
class FakeFilesystem:
    """What a partition holds.

    Attributes:
        kind: Such as ``ext4`` or ``swap``.
        guest: Its files.
        uuid: Its UUID.
    """

    kind: str = "ext4"
    guest: FakeGuest = field(default_factory=FakeGuest)
    uuid: str = "11111111-2222-3333-4444-555555555555"


@dataclass
class FakeDisk:
    """A disk.

    Attributes:
        filesystems: By number of the partition; 0 is the whole disk.
        roots: What inspection finds: its facts by the device's name, such as ``/dev/sda1``.
        size: Bytes.
    """

    filesystems: dict[int, FakeFilesystem] = field(default_factory=dict)
    roots: dict[str, dict[str, str]] = field(default_factory=dict)
    size: int = 1 << 30


class FakeAppliance(FakeGuest):
    """An in-memory ``Appliance``; ``log`` records what was done to disks, in order."""

    def __init__(self, disks: Sequence[FakeDisk]) -> None:
        super().__init__()
        self.log: list[tuple[str, str]] = []
        self.tables: dict[str, tuple[tuple[int, int, str], ...]] = {}
        self.is_up = True
        self._empty = self.root
        self._disks = {f"/dev/sd{string.ascii_lowercase[at]}": disk for at, disk in enumerate(disks)}

    def supports(self, *features: str) -> bool:
        return True

    def device_size(self, device: str) -> int:
        return self._disks[device].size

    def partitions(self) -> list[str]:
        return [device for device in self._all() if device[-1].isdigit()]

    def filesystems(self) -> dict[str, str]:
        return {device: filesystem.kind for device, filesystem in self._all().items()}

    def filesystem_type(self, device: str) -> str:
        return self._filesystem(device).kind

    def filesystem_uuid(self, device: str) -> str:
        return self._filesystem(device).uuid

    def find_by_uuid(self, identity: str) -> str:
        for device, filesystem in self._all().items():
            if filesystem.uuid == identity:
                return device
        raise _missing(identity)

    def find_by_label(self, label: str) -> str:
        raise _missing(label)

    def make_gpt(self, device: str, partitions: Sequence[tuple[int, int, str]]) -> None:
        self.log.append(("make_gpt", device))
        self.tables[device] = tuple(partitions)
        self._disks[device].filesystems = {
            number: FakeFilesystem("unknown") for number, _part in enumerate(partitions, start=1)
        }

    def make_filesystem(self, kind: str, device: str, *, label: str | None = None) -> None:
        self.log.append(("make_filesystem", device))
        filesystem = self._filesystem(device)
        filesystem.kind, filesystem.guest = kind, FakeGuest()

    def mount(self, device: str, path: str, *, options: str = "") -> None:
        self.log.append(("mount", device))
        filesystem = self._filesystem(device)
        if filesystem.kind in {"swap", "unknown"}:
            raise GuestCallError(f"mount: {device}: wrong fs type", errno_name="EINVAL")
        assert path == "/", "this fake mounts one filesystem at a time"
        self.root = filesystem.guest.root

    def unmount_all(self) -> None:
        self.log.append(("unmount_all", ""))
        self.root = self._empty

    def check_ext(self, device: str) -> None:
        self.log.append(("check_ext", device))

    def grow_ext(self, device: str) -> None:
        self.log.append(("grow_ext", device))

    def trim(self, path: str) -> None:
        self.log.append(("trim", path))

    def tar_in(self, local: Path, directory: str, *, compress: str | None = None) -> None:
        self.log.append(("tar_in", directory))
        with tarfile.open(local) as archive:
            for member in archive:
                path = f"{directory.rstrip('/')}/{member.name}"
                if member.isdir():
                    self.add_dir(path, mode=member.mode)
                elif member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None
                    self.add(path, content.read(), mode=member.mode, uid=member.uid, gid=member.gid)

    def inspect_roots(self) -> list[str]:
        return [root for disk in self._disks.values() for root in disk.roots]

    def inspect_facts(self, root: str) -> dict[str, str]:
        return next(disk.roots[root] for disk in self._disks.values() if root in disk.roots)

    def inspect_mountpoints(self, root: str) -> dict[str, str]:
        return {"/": root}

    def filesystem_use(self) -> list[FilesystemUse]:
        return [FilesystemUse(1 << 30, 1 << 29)]

    def resolves(self, host: str) -> bool:
        return False

    def shutdown(self) -> None:
        self.log.append(("shutdown", ""))
        self.is_up = False

    def _all(self) -> dict[str, FakeFilesystem]:
        return {
            f"{name}{number or ''}": filesystem
            for name, disk in self._disks.items()
            for number, filesystem in disk.filesystems.items()
        }

    def _filesystem(self, device: str) -> FakeFilesystem:
        try:
            return self._all()[device]
        except KeyError:
            raise _missing(device) from None


def _missing(what: str) -> GuestCallError:
    return GuestCallError(f"{what}: No such file or directory", errno_name=errno.errorcode[errno.ENOENT])


class FakeAppliances:
    """An ``open_appliance`` that opens ``FakeAppliance``.

    Args:
        disks: What is on the disks, by the image's file name; others are empty and as large as it.
        prepare: Called with each new appliance before it is used.
    """

    def __init__(
        self, disks: dict[str, FakeDisk] | None = None, prepare: Callable[[FakeAppliance], None] | None = None
    ) -> None:
        self.disks = disks or {}
        self.launches: list[list[Attachment]] = []
        self.appliances: list[FakeAppliance] = []
        self._prepare = prepare

    @contextlib.contextmanager
    def __call__(
        self, disks: Sequence[Attachment], options: ApplianceOptions | None, report: Reporter
    ) -> Iterator[FakeAppliance]:
        self.launches.append(list(disks))
        appliance = FakeAppliance([self._disk(disk.path) for disk in disks])
        self.appliances.append(appliance)
        if self._prepare is not None:
            self._prepare(appliance)
        yield appliance

    def _disk(self, path: Path) -> FakeDisk:
        return self.disks.get(path.name) or FakeDisk(size=path.stat().st_size)

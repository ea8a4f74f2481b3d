"""The image of a run: a template, customized once, in the cache; or a disk of the user (docs/adr/0044)."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from imgbuilder.appliance import Attachment
from imgbuilder.building.build import build_prepared
from imgbuilder.building.customize_image import customize_disks
from imgbuilder.building.preflight import prepare
from imgbuilder.building.request import BuildRequest, CustomizeRequest
from imgbuilder.customize import run as customization
from imgbuilder.customize.operation import Operation
from imgbuilder.customize.ops.accounts import RootPassword
from imgbuilder.customize.ops.buildoptions import PackageCache
from imgbuilder.customize.ops.files import AppendLine
from imgbuilder.customize.passwords import PasswordSelector, PasswordSource, random_password
from imgbuilder.disk import diskimage, partition
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.events import Reporter
from imgbuilder.host import paths
from imgbuilder.host.hashing import Fingerprint
from imgbuilder.host.privatefolder import scratch_folder
from imgbuilder.services import Services
from imgindex import __version__

_ASKED = ("template", "arch", "size", "attachments", "operations", "keys", "network", "seed")
"""Fields of a request that decide what is in its image."""


@dataclass(frozen=True)
class ReadyImage:
    """An image to run.

    Attributes:
        name: The guest's name for the user.
        path: The image.
        format: Its format.
        password: The random password of root; None if it got none, or is not known.
    """

    name: str
    path: Path
    format: OutputFormat
    password: str | None = None


@contextmanager
def cached_image(request: BuildRequest, services: Services, on_event: Reporter) -> Iterator[ReadyImage]:
    """Yield the image of a request, from the cache or built there; it stays until the block ends."""
    with services.open_cache(paths.temporary_dir(), on_event) as cache:
        if cache.private:
            raise WorkspaceError(
                "the image of a run is kept in the cache, which cannot be used",
                hint="choose another folder with --cache DIR",
            )
        key = run_key(request)
        # Not synced: after a power cut its record does not fit, and it is made again.
        request = replace(_linked(request), output=cache.run_image_path(key), sync=False)
        prepared = prepare(request, services, on_event)
        name = prepared.selection.entry.os_version

        def make(_path: Path) -> dict[str, str]:
            done = "; ".join(item.describe() for item in request.operations)
            facts = {"template": name, "customized": done}
            if customization.sets_root_password(request.operations):
                build_prepared(request, prepared, services, on_event)
                return facts
            password = random_password()
            with_login = replace(request, operations=(*request.operations, *_login(password)))
            build_prepared(with_login, prepared, services, on_event)
            return {**facts, "password": password}

        disk = services.template_disk(cache, prepared.selection, on_event)
        image = cache.get_run_image(key, disk, make, on_event)
        yield ReadyImage(name, image.path, OutputFormat.QCOW2, image.facts.get("password"))


def _login(password: str) -> tuple[Operation, ...]:
    # The lines of a boot push what we print out of sight, so getty shows the password at its prompt as well.
    line = f"Log in as root with the password {password}"
    return (RootPassword(PasswordSelector(PasswordSource.TEXT, password)), AppendLine("/etc/issue", line))


def kept_image(request: BuildRequest, services: Services, on_event: Reporter) -> ReadyImage:
    """Build a linked image that stays, in the current folder if the request names no file."""
    request = _linked(request)
    prepared = prepare(request, services, on_event)
    path = prepared.plan.image.path
    if os.path.lexists(path):
        again = shlex.quote(str(path) if path.is_absolute() else f"./{path}")
        raise UsageError(
            f"{path} is there already, and was not changed",
            hint=f"to run it: pybuilder run {again} --keep; to make another image: -o FILE",
        )
    result = build_prepared(request, prepared, services, on_event)
    name = prepared.selection.entry.os_version
    return ReadyImage(name, result.path.absolute(), result.format, result.root_password)


@contextmanager
def customized_image(
    disk: Attachment, request: CustomizeRequest, services: Services, on_event: Reporter
) -> Iterator[ReadyImage]:
    """Yield a customized overlay of a checked disk of the user, which is removed after the block."""
    assert disk.format is not None
    below = DiskFormat(disk.format)
    with scratch_folder() as folder:
        overlay = folder / "overlay.qcow2"
        diskimage.create_overlay(overlay, disk.path, below, partition.virtual_size(disk.path, below))
        changed = Attachment(overlay, DiskFormat.QCOW2)
        customize_disks(
            replace(request, disks=(changed,), backing=(disk.path, *disk.backing)), services, on_event
        )
        yield ReadyImage(disk.path.stem, overlay, OutputFormat.QCOW2)


def _linked(request: BuildRequest) -> BuildRequest:
    return replace(request, format=OutputFormat.QCOW2, compressed=False, linked=True)


def run_key(request: BuildRequest) -> str:
    """Return the key of a request's image: another one when the request, or a file that it names, changes."""
    asked = {name: _plain(getattr(request, name)) for name in _ASKED}
    return hashlib.sha512(json.dumps([__version__, asked]).encode()).hexdigest()


def _plain(value: object) -> object:
    """Return a value as plain data, with the state of the files that it names."""
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return [str(value.absolute()), list(_state(value))]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, PackageCache):  # nothing of it is in the image
        return value.keyword
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return [type(value).__name__, fields]
    raise TypeError(f"{value!r} has no key")


def _state(path: Path) -> Iterator[tuple[str, *tuple[int, ...]]]:
    """Yield the state of a file, or of all files below a folder; not their content, which may be large."""
    try:
        facts = path.stat()
        yield ("", facts.st_mode, *Fingerprint.of(facts))
        for folder, folders, files in os.walk(path):
            folders.sort()
            for name in sorted([*folders, *files]):
                place = Path(folder, name)
                facts = place.lstat()
                yield (str(place.relative_to(path)), facts.st_mode, *Fingerprint.of(facts))
    except OSError:
        return  # the build will find out

"""What the tools found out about an entry's image, each in a JSON file beside it.

A record is of one image, by its SHA-512: of another image it says nothing.
"""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imgbuilder.errors import RepositoryError
from imgbuilder.events import Reporter
from imgbuilder.host.workspace import explain, new_file
from imgindex.files import open_file
from imgrepo.images.compress import hash_image
from imgrepo.images.scan import Fingerprint, SourceImage

if TYPE_CHECKING:
    from _typeshed import DataclassInstance  # exists for type checkers only


@dataclass(frozen=True)
class ImageMark:
    """Which image a record is of.

    Attributes:
        sha512: SHA-512 of the file, in hex.
        fingerprint: What it looked like then; if it still does, nothing is read.
    """

    sha512: str
    fingerprint: Fingerprint

    @classmethod
    def of(cls, image: SourceImage, on_event: Reporter) -> ImageMark:
        """Read the image."""
        return cls(hash_image(image, on_event), image.fingerprint)

    def fits(self, image: SourceImage, on_event: Reporter) -> bool:
        """Tell whether an image is the one; it is read only when it was touched."""
        return self.fingerprint == image.fingerprint or self.sha512 == hash_image(image, on_event)


class Verdict(enum.Enum):
    """What a boot check says."""

    BOOTED = "booted"
    FAILED = "failed"


@dataclass(frozen=True)
class BootRecord:
    """``boot/boot.json``. Beside it: ``serial.log``, ``screen.png`` and ``thumbnail.png`` (320x240).

    Attributes:
        image: Which image was booted.
        verdict: Whether it booted.
        reason: Why not, in one line; empty when it did.
        qemu: Version of QEMU, such as ``7.2.11``.
        accelerator: ``kvm`` or ``tcg``.
        started: When, in UTC.
        seconds: From the start to the marker, or to the end when it failed.
        concerns: Lines of the kernel and of services that somebody should look at.
        ports: Ports of the guest that answered.
        pictures: Whether there are pictures.
    """

    image: ImageMark
    verdict: Verdict
    reason: str
    qemu: str
    accelerator: str
    started: datetime
    seconds: float
    concerns: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    pictures: bool = False


@dataclass(frozen=True)
class Package:
    """A binary package of the guest.

    Attributes:
        name: Its name.
        version: Its version, with epoch and revision.
        arch: Its architecture, as the package manager calls it.
        source: The source package that it was built from.
        source_version: Version of that.
        licences: SPDX identifiers or the words of the package's copyright file; empty when not known.
        copyleft: Whether a licence asks for sources; None when not known.
        built_using: Other source packages that parts of it were taken from, name and version.
    """

    name: str
    version: str
    arch: str
    source: str
    source_version: str
    licences: tuple[str, ...] = ()
    copyleft: bool | None = None
    built_using: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ContentsRecord:
    """``contents/contents.json``. Beside it: ``contents.cdx.json`` and ``contents.spdx.json``.

    Attributes:
        image: Which image was looked into.
        system: Name of the system, for people.
        distribution: Its ID in os-release, such as ``debian``.
        release: Its VERSION_ID; empty for rolling ones.
        manager: ``dpkg``, ``rpm`` or ``apk``.
        packages: By name.
    """

    image: ImageMark
    system: str
    distribution: str
    release: str
    manager: str
    packages: tuple[Package, ...]


@dataclass(frozen=True)
class SourceGap:
    """A source package that was not found."""

    source: str
    version: str
    reason: str


@dataclass(frozen=True)
class SourcesRecord:
    """``sources/sources.json``. Beside it: the archive, one tar file of source packages and the offer's text.

    Attributes:
        image: Whose packages they are.
        archive: Name of the tar file; empty when nothing is in it.
        sha512: SHA-512 of that.
        size: Bytes of that.
        covered: Source packages in it, name and version.
        gaps: Those that were not found.
    """

    image: ImageMark
    archive: str
    sha512: str
    size: int
    covered: tuple[tuple[str, str], ...]
    gaps: tuple[SourceGap, ...] = ()


def mark_from(fields: Any) -> ImageMark:  # noqa: ANN401 - json's own
    """Read the mark of an image from what ``read_record`` hands on."""
    return ImageMark(str(fields["sha512"]), Fingerprint(*(int(number) for number in fields["fingerprint"])))


def _boot(fields: Any) -> BootRecord:  # noqa: ANN401 - json's own
    return BootRecord(
        mark_from(fields["image"]),
        Verdict(fields["verdict"]),
        **{key: str(fields[key]) for key in ("reason", "qemu", "accelerator")},
        started=datetime.fromisoformat(fields["started"]).astimezone(UTC),
        seconds=float(fields["seconds"]),
        concerns=tuple(str(line) for line in fields["concerns"]),
        ports=tuple(int(port) for port in fields["ports"]),
        pictures=bool(fields["pictures"]),
    )


def _package(fields: Any) -> Package:  # noqa: ANN401 - json's own
    copyleft = fields["copyleft"]
    return Package(
        **{key: str(fields[key]) for key in ("name", "version", "arch", "source", "source_version")},
        licences=tuple(str(word) for word in fields["licences"]),
        copyleft=None if copyleft is None else bool(copyleft),
        built_using=tuple((str(name), str(version)) for name, version in fields["built_using"]),
    )


def _contents(fields: Any) -> ContentsRecord:  # noqa: ANN401 - json's own
    return ContentsRecord(
        mark_from(fields["image"]),
        **{key: str(fields[key]) for key in ("system", "distribution", "release", "manager")},
        packages=tuple(_package(one) for one in fields["packages"]),
    )


def _sources(fields: Any) -> SourcesRecord:  # noqa: ANN401 - json's own
    return SourcesRecord(
        mark_from(fields["image"]),
        str(fields["archive"]),
        str(fields["sha512"]),
        int(fields["size"]),
        tuple((str(name), str(version)) for name, version in fields["covered"]),
        tuple(
            SourceGap(str(gap["source"]), str(gap["version"]), str(gap["reason"])) for gap in fields["gaps"]
        ),
    )


BOOT_NAME, CONTENTS_NAME, SOURCES_NAME = "boot.json", "contents.json", "sources.json"


def write_boot(folder: Path, record: BootRecord) -> None:
    """Write the record of a boot check into an entry's ``boot`` folder.

    Raises:
        WorkspaceError: It cannot be written.
    """
    write_record(folder / BOOT_NAME, record)


def read_boot(folder: Path) -> BootRecord | None:
    """Read it; None when there is none.

    Raises:
        RepositoryError: It cannot be read.
    """
    return read_record(folder / BOOT_NAME, _boot)


def write_contents(folder: Path, record: ContentsRecord) -> None:
    """Write the record of an image's packages into an entry's ``contents`` folder.

    Raises:
        WorkspaceError: It cannot be written.
    """
    write_record(folder / CONTENTS_NAME, record)


def read_contents(folder: Path) -> ContentsRecord | None:
    """Read it; None when there is none.

    Raises:
        RepositoryError: It cannot be read.
    """
    return read_record(folder / CONTENTS_NAME, _contents)


def write_sources(folder: Path, record: SourcesRecord) -> None:
    """Write the record of the source packages into an entry's ``sources`` folder.

    Raises:
        WorkspaceError: It cannot be written.
    """
    write_record(folder / SOURCES_NAME, record)


def read_sources(folder: Path) -> SourcesRecord | None:
    """Read it; None when there is none.

    Raises:
        RepositoryError: It cannot be read.
    """
    return read_record(folder / SOURCES_NAME, _sources)


# Files of what the tools found out: JSON with a version, written whole or not at all.


_VERSION = 1
_LARGEST = 64 << 20
_Record = TypeVar("_Record")


def write_record(path: Path, record: DataclassInstance) -> None:
    """Write a record.

    Args:
        path: The file.
        record: Of dataclasses, enumerations, times and what JSON has.

    Raises:
        WorkspaceError: It cannot be written.
    """
    with record_written(path, record):
        pass


@contextlib.contextmanager
def record_written(path: Path, record: DataclassInstance) -> Iterator[None]:
    """Write a record as ``write_record``, at once; it gets its name when the block ends without error."""
    with new_file(path) as temporary:
        try:
            text = json.dumps({"version": _VERSION, **asdict(record)}, default=_plain, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise explain(error, path) from error
        yield


def read_record(path: Path, build: Callable[[Any], _Record]) -> _Record | None:
    """Read a record.

    Args:
        path: The file.
        build: Makes the record of its fields; what is wrong with them raises what a wrong key, type or
            value raises.

    Returns:
        The record; None when there is no such file.

    Raises:
        RepositoryError: It cannot be read.
    """
    try:
        with open_file(path) as file:
            fields = json.loads(file.read(_LARGEST))
        if fields["version"] != _VERSION:
            raise RepositoryError(
                f"{path} was written by another version of this program", hint="make it anew"
            )
        return build(fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RepositoryError(f"{path} cannot be read: {error}", hint="remove it and make it anew") from error


def _plain(value: Any) -> Any:  # noqa: ANN401 - json's own
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(type(value))

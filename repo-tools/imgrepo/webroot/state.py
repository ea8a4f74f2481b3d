"""What the publisher remembers about the images of a folder, so that unchanged ones cost nothing.

The record is a convenience: without it images are compressed again, and come
out as what they already are. It is not published and nothing is trusted to it
that the signed index does not confirm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgbuilder.errors import RepositoryError
from imgbuilder.host.workspace import explain, new_file
from imgindex.files import open_file
from imgrepo.images.scan import Fingerprint

STATE_NAME = ".pybuilder-repo.json"
_VERSION = 1
_LARGEST = 16 << 20


@dataclass(frozen=True)
class Published:
    """An image that was published.

    Attributes:
        fingerprint: What it looked like then.
        sha512: SHA-512 of the image.
        file: Name of the published file.
        entry: Name of its template in the index.
        arch: Architecture of that template.
        system: Whether an operating system was found in it.
        gone_since: When the image was first missed, in UTC; None while it is there.
    """

    fingerprint: Fingerprint
    sha512: str
    file: str
    entry: str
    arch: str
    system: bool = True
    gone_since: datetime | None = None


def read_state(folder: Path) -> dict[str, Published]:
    """Return what is remembered by name of the image; nothing if the record is missing or damaged."""
    try:
        with open_file(folder / STATE_NAME) as file:
            record = json.loads(file.read(_LARGEST))
        if record["version"] != _VERSION:
            return {}
        return {str(name): _published(fields) for name, fields in record["images"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _published(fields: dict[str, Any]) -> Published:
    values = {key: str(fields[key]) for key in ("sha512", "file", "entry", "arch")}
    gone = fields.get("gone_since")
    return Published(
        Fingerprint(*(int(number) for number in fields["fingerprint"])),
        **values,
        system=bool(fields.get("system", True)),
        gone_since=None if gone is None else datetime.fromisoformat(gone).astimezone(UTC),
    )


def _record_of(image: Published) -> dict[str, Any]:
    gone = image.gone_since
    return asdict(image) | {"gone_since": None if gone is None else gone.isoformat()}


def write_state(folder: Path, images: dict[str, Published]) -> None:
    """Replace the record, at once.

    Raises:
        WorkspaceError: It cannot be written.
    """
    path = folder / STATE_NAME
    record = {"version": _VERSION, "images": {name: _record_of(images[name]) for name in sorted(images)}}
    with new_file(path) as temporary:
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(record, file, indent=1)
                file.write("\n")
        except OSError as error:
            raise explain(error, path) from error


# withdrawn: Templates that were taken back, although their images are still there.


WITHDRAWN_NAME = ".pybuilder-repo-withdrawn.json"


def withdrawn_templates(folder: Path) -> frozenset[tuple[str, str]]:
    """Return name and architecture of each template that was withdrawn from a served folder.

    Raises:
        RepositoryError: The record cannot be read: guessing would publish again what was withdrawn.
    """
    path = folder / WITHDRAWN_NAME
    try:
        with open_file(path) as file:
            record = json.loads(file.read(_LARGEST))
        return frozenset((str(name), str(arch)) for name, arch in record["templates"])
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RepositoryError(
            f"{path} cannot be read: {error}",
            hint="it lists the templates that were withdrawn; remove it to publish all images again",
        ) from error


def remember_withdrawn(folder: Path, templates: Iterable[tuple[str, str]]) -> None:
    """Replace the record.

    Raises:
        WorkspaceError: It cannot be written.
    """
    path = folder / WITHDRAWN_NAME
    with new_file(path) as temporary:
        try:
            record = {"version": 1, "templates": sorted(templates)}
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise explain(error, path) from error

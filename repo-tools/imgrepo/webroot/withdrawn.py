"""Templates that were taken back, although their images are still there.

A record in the served folder, hidden from its listing, keeps the next run of
``publish`` from publishing them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from imgbuilder.errors import RepositoryError
from imgbuilder.host.workspace import explain, new_file
from imgindex.regular import open_file

RECORD_NAME = ".pybuilder-repo-withdrawn.json"
_LARGEST = 16 << 20


def withdrawn_templates(folder: Path) -> frozenset[tuple[str, str]]:
    """Return name and architecture of each template that was withdrawn from a served folder.

    Raises:
        RepositoryError: The record cannot be read: guessing would publish again what was withdrawn.
    """
    path = folder / RECORD_NAME
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
    path = folder / RECORD_NAME
    with new_file(path) as temporary:
        try:
            record = {"version": 1, "templates": sorted(templates)}
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise explain(error, path) from error

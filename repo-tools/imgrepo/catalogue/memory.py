"""What one run of the catalogue tells the next: ``catalogue.json``, a file of the site itself.

Of each template: the revision that is shown, when it was first shown, its
packages, and how it differs from the revision before. So the pages can tell
what changed, and the feed keeps its dates, while the library holds only what
is. It marks the folder as a catalogue, too, and names its files. It is served,
so programs may read the packages there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgbuilder.errors import RepositoryError
from imgindex.files import open_file
from imgrepo.catalogue.model import Change, Changes
from imgrepo.contents.diff import pair_up
from imgrepo.library.records import Package

MEMORY_NAME = "catalogue.json"
_VERSION = 1
LARGEST = 256 << 20
_Versions = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Shown:
    """A template as it was shown.

    Attributes:
        revision: Its revision.
        sha512: SHA-512 of its file, empty when not known.
        published: When this revision was first shown, in UTC.
        packages: Name and version; None when nobody looked.
        changes: How it differs from the revision before.
    """

    revision: int
    sha512: str
    published: datetime
    packages: _Versions | None = None
    changes: Changes | None = None


@dataclass(frozen=True)
class Memory:
    """What a former run knew.

    Attributes:
        identity: What the feed is known by, ``urn:uuid:...``.
        shown: By name and architecture.
    """

    identity: str
    shown: Mapping[tuple[str, str], Shown]


def versions_of(packages: Iterable[Package]) -> _Versions:
    """Return names and versions. A package that is there for several architectures has them in its name."""
    known = sorted({(one.name, one.arch, one.version) for one in packages})
    archs: dict[str, set[str]] = {}
    for name, arch, _version in known:
        archs.setdefault(name, set()).add(arch)
    return tuple(
        (f"{name}:{arch}" if len(archs[name]) > 1 else name, version) for name, arch, version in known
    )


def compare(before: _Versions, after: _Versions) -> tuple[Change, ...]:
    """Tell which packages came, went, or have another version; kernels may be there several times."""
    old, new = ((((name,), version, version) for name, version in versions) for versions in (before, after))
    return tuple(
        Change(name, ", ".join(was), ", ".join(now)) for (name,), was, now in pair_up(old, new) if was != now
    )


def next_shown(
    before: Shown | None, revision: int, sha512: str, signed_at: datetime, packages: _Versions | None
) -> Shown:
    """Work out what to show of a template now. A pure function.

    Args:
        before: What was shown last.
        revision: Its revision now.
        sha512: SHA-512 of its file now.
        signed_at: When the index was signed.
        packages: Its packages now.
    """
    if before is None:
        return Shown(revision, sha512, signed_at, packages)
    if (before.revision, before.sha512) != (revision, sha512):
        both = before.packages is not None and packages is not None
        changes = Changes(before.revision, compare(before.packages or (), packages or ())) if both else None
        return Shown(revision, sha512, signed_at, packages, changes)
    # The same file: who looked into it only now must not lose what was known before.
    known = before.packages if packages is None else packages
    return Shown(revision, sha512, before.published, known, before.changes)


def memory_text(memory: Memory, files: Iterable[str]) -> str:
    """Write it down; ``files`` are the names of all files of the site."""
    templates = [
        {
            "name": name,
            "arch": arch,
            "revision": one.revision,
            "sha512": one.sha512,
            "published": one.published.astimezone(UTC).isoformat(),
            "packages": one.packages,
            "changes": None
            if one.changes is None
            else {
                "revision": one.changes.revision,
                "packages": [[item.name, item.before, item.after] for item in one.changes.packages],
            },
        }
        for (name, arch), one in sorted(memory.shown.items())
    ]
    record = {
        "version": _VERSION,
        "identity": memory.identity,
        "templates": templates,
        "files": sorted(files),
    }
    return json.dumps(record, indent=1) + "\n"


def read_memory(folder: Path) -> Memory | None:
    """Read what the former run wrote; None when the folder has none.

    Raises:
        RepositoryError: It cannot be read.
    """
    path = folder / MEMORY_NAME
    try:
        with open_file(path) as file:
            record = json.loads(file.read(LARGEST))
        if record["version"] != _VERSION:
            raise RepositoryError(
                f"{path} was written by another version of this program",
                hint=f"remove {folder}; the next catalogue then tells of no changes",
            )
        shown = {(str(one["name"]), str(one["arch"])): _shown(one) for one in record["templates"]}
        return Memory(f"urn:uuid:{uuid.UUID(record['identity'])}", shown)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RepositoryError(
            f"{path} cannot be read: {error}",
            hint=f"remove {folder}; the next catalogue then tells of no changes",
        ) from error


def _shown(one: Any) -> Shown:  # noqa: ANN401 - json's own
    packages, changes = one["packages"], one["changes"]
    return Shown(
        int(one["revision"]),
        str(one["sha512"]),
        datetime.fromisoformat(one["published"]).astimezone(UTC),
        None if packages is None else tuple((str(name), str(version)) for name, version in packages),
        None
        if changes is None
        else Changes(
            int(changes["revision"]),
            tuple(Change(str(name), str(old), str(new)) for name, old, new in changes["packages"]),
        ),
    )


def files_named(data: bytes) -> tuple[str, ...]:
    """Return the files that a ``catalogue.json`` names; none when it is not one.

    Names that could not be of our making are left out: somebody else may have written it.
    """
    try:
        names = json.loads(data)["files"]
        return tuple(str(name) for name in names if _is_ours(str(name)))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def _is_ours(name: str) -> bool:
    plain = all(one.isascii() and (one.isalnum() or one in "._~-/") for one in name)
    return plain and not any(part.startswith(".") or not part for part in name.split("/"))

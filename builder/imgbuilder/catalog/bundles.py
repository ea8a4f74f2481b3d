"""Keys in bundles, and the making of bundles; their format is in ``imgbuilder.fetch.bundle``."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imgbuilder.errors import FileMissingError, UsageError
from imgbuilder.events import Progress, ProgressEnd, Reporter, ignore
from imgbuilder.fetch.bundle import FINGERPRINTS, KEY, fetch_member
from imgbuilder.fetch.transfer import Download
from imgbuilder.fetch.urls import BUNDLE_INDEX, BUNDLE_SUFFIX, INSIDE, inside
from imgbuilder.host.workspace import check_space, explain, follow
from imgindex.files import open_file, publish, temporary_file
from imgindex.trust import TrustedKeys

_LARGEST_KEYS = 1 << 20
_RESERVED = (BUNDLE_INDEX, KEY, FINGERPRINTS)


@dataclass(frozen=True)
class BundledTemplate:
    """A template for a new bundle."""

    name: str
    path: Path


def bundled_key(path: Path, fingerprint: str) -> TrustedKeys | None:
    """Find a key in a bundle by its full fingerprint; None when there is no bundle or no such key."""
    from imgindex.gpg import trusted_keys_from_file

    found = inside(path)
    if found is None:
        return None
    content = io.BytesIO()
    with tempfile.NamedTemporaryFile(prefix="pybuilder-key-") as file:
        try:
            fetch_member(Download(f"{found[0]}{INSIDE}{KEY}", content, limit=_LARGEST_KEYS))
            file.write(content.getvalue())
            file.flush()
            trusted = trusted_keys_from_file(Path(file.name), where=str(path))
        except (FileMissingError, UsageError):
            return None  # that the key is not in the user's keyring is the better error
    if fingerprint not in trusted.fingerprints:
        return None
    return replace(trusted, fingerprints=frozenset({fingerprint}))


def check_name(path: Path) -> None:
    """Refuse a name that a bundle cannot have."""
    if not path.name.endswith(BUNDLE_SUFFIX) or path.name == BUNDLE_SUFFIX:
        raise UsageError(
            f"the name of a bundle ends in {BUNDLE_SUFFIX}, unlike {path}",
            hint=f"write for example {path.stem or 'templates'}{BUNDLE_SUFFIX}",
        )


def write_bundle(
    path: Path,
    index: bytes,
    trusted: TrustedKeys,
    templates: Sequence[BundledTemplate],
    on_event: Reporter = ignore,
) -> int:
    """Make a bundle, whole or not at all, in place of any file of that name; return its size in bytes."""
    check_name(path)
    for packed in templates:
        if packed.name in _RESERVED:
            raise UsageError(f"a template whose file is named {packed.name} cannot be bundled")
    folder = follow(path.parent)
    fingerprints = "".join(f"{fingerprint}\n" for fingerprint in sorted(trusted.fingerprints))
    total = sum(packed.path.stat().st_size for packed in templates)
    check_space(folder, total, "the bundle")
    done = 0

    try:
        with temporary_file(folder) as (descriptor, temporary):
            with (
                os.fdopen(os.dup(descriptor), "wb") as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive,
            ):
                texts = ((BUNDLE_INDEX, index), (FINGERPRINTS, fingerprints.encode()), (KEY, trusted.keyring))
                for name, data in texts:
                    archive.addfile(_member(name, len(data)), io.BytesIO(data))
                for packed in templates:
                    with open_file(packed.path) as template:
                        size = os.fstat(template.fileno()).st_size
                        on_event(Progress(f"Packing {packed.name}", done, total))
                        archive.addfile(_member(packed.name, size), template)
                        done += size
            os.fchmod(descriptor, 0o644)  # it is for other users
            publish(descriptor, temporary, folder / path.name)
            return os.fstat(descriptor).st_size
    except OSError as error:
        raise explain(error, path) from error
    finally:
        on_event(ProgressEnd())


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Describe a file without facts about this machine: no owner, no time."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member

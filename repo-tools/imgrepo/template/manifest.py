"""What a template was made of, in a JSON file beside it.

Two runs with the same inputs, the same state of the archive and the same
``SOURCE_DATE_EPOCH`` give the same system: ``system_sha512`` is that of its tar
archive. The disk around it differs in what ``varies`` names.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from pathlib import Path
from typing import Any

from imgbuilder.host.workspace import explain, new_file
from imgindex.regular import open_file
from imgrepo.template.bootstrap import BootstrapRequest

_VARIES = (
    "UUIDs of filesystems and partitions",
    "times of creation and change of inodes",
    "order of blocks in the filesystem",
)
_STATUS = "./var/lib/dpkg/status"
_LARGEST_STATUS = 64 << 20


def manifest_of(request: BootstrapRequest, size: int, archive: Path) -> dict[str, Any]:
    """Describe a template.

    Args:
        request: What was asked for.
        size: Size of the disk in bytes.
        archive: The system that was installed, as a tar archive.
    """
    with open_file(archive) as file:
        digest = hashlib.file_digest(file, "sha512").hexdigest()
    return {
        "version": 1,
        "recipe": request.recipe.name,
        "suite": request.recipe.suite,
        "arch": request.arch.value,
        "kernel": request.kernel.value,
        "size": size,
        "root": request.layout.root.value,
        "uefi": request.layout.uefi,
        "lvm": request.layout.lvm,
        "locale": request.locale,
        "mirror": request.build_from.mirror,
        "security_mirror": request.build_from.security,
        "include": sorted(request.include),
        "script_sha512": _sha512(request.script),
        "source_date_epoch": request.epoch,
        "system_sha512": digest,
        "packages": installed_packages(archive),
        "varies": list(_VARIES),
    }


def _sha512(path: Path | None) -> str | None:
    if path is None:
        return None
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def installed_packages(archive: Path) -> dict[str, str]:
    """Return the version of each installed package, from dpkg's own list in a system's archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.removeprefix("./") == _STATUS.removeprefix("./") and member.isfile():
                content = tar.extractfile(member)
                assert content is not None  # it is a file
                return _read_status(content.read(_LARGEST_STATUS).decode("utf-8", "replace"))
    return {}


def _read_status(text: str) -> dict[str, str]:
    found = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            found[fields["Package"]] = fields.get("Version", "")
    return dict(sorted(found.items()))


def write_manifest(manifest: dict[str, Any], image: Path) -> None:
    """Write it beside the image, as ``NAME.json``.

    Raises:
        WorkspaceError: It cannot be written.
    """
    path = image.with_suffix(".json")
    with new_file(path) as temporary:
        try:
            temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise explain(error, path) from error

"""Makes a template, from the archive's packages to the bootable disk image and its manifest.

Two runs with the same inputs, the same state of the archive and the same
``SOURCE_DATE_EPOCH`` make the same system: ``system_sha512`` in the manifest is
that of its tar archive. The disk around it differs in the points of ``varies``.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.building.target import find_file_target
from imgbuilder.events import Reporter, Step
from imgbuilder.host.hashing import hash_file
from imgbuilder.host.privatefolder import scratch_folder
from imgbuilder.host.variation import source_date_epoch
from imgbuilder.host.workspace import new_file
from imgrepo.recordfile import write_text
from imgrepo.services import Services
from imgrepo.template.bootstrap import BootstrapRequest, Mode, bootstrap, check_bootstrap
from imgrepo.template.disk import Layout, check_room, check_size, install_system
from imgrepo.template.recipes import DEBIAN, Arch, Kernel, Mirrors, recipe_named

_ARCHIVE_SPACE = 512 << 20
"""Bytes that the tar archive of a small system takes."""


@dataclass(frozen=True)
class TemplateRequest:
    """A template to make: the system, the raw disk image to write, and its size in bytes."""

    bootstrap: BootstrapRequest
    output: Path
    size: int
    appliance: ApplianceOptions = field(default_factory=ApplianceOptions)

    def __post_init__(self) -> None:
        check_size(self.size)


def bootstrap_request(
    *,
    recipe: str,
    kernel: Kernel,
    arch: Arch,
    layout: Layout,
    locale: str,
    script: Path | None,
    include: tuple[str, ...],
    mirror: str,
    security_mirror: str,
    snapshot: bool,
    keep_mirror: bool,
    suite_keyring: Path | None,
    mode: Mode,
) -> BootstrapRequest:
    """Return the request for a system by the options of ``make-template``."""
    build_from = Mirrors(mirror.rstrip("/"), security_mirror.rstrip("/"))
    return BootstrapRequest(
        recipe=recipe_named(recipe),
        kernel=kernel,
        include=tuple(name for words in include for name in words.split(",")),
        build_from=build_from,
        guest_uses=build_from if keep_mirror else DEBIAN,
        keyring=suite_keyring,
        mode=mode,
        arch=arch,
        layout=layout,
        locale=locale,
        script=script,
        valid_until=not snapshot,
        epoch=source_date_epoch(),
    )


def make_template(request: TemplateRequest, services: Services, on_event: Reporter) -> None:
    """Make a template; the image appears when it is complete, or not at all."""
    output = find_file_target(request.output)
    check_bootstrap(request.bootstrap)
    with scratch_folder(needed=_ARCHIVE_SPACE) as scratch:
        archive = scratch / "system.tar"
        recipe = request.bootstrap.recipe
        on_event(Step(f"Installing {recipe.name} from {request.bootstrap.build_from.mirror}"))
        bootstrap(request.bootstrap, archive, scratch, on_event)
        layout = request.bootstrap.layout
        check_room(archive, request.size, layout)
        with new_file(output) as image:
            os.truncate(image, request.size)
            on_event(Step("Starting the appliance"))
            with services.open_appliance(
                [Attachment(image, "raw")], request.appliance, on_event
            ) as appliance:
                on_event(Step("Making the disk"))
                install_system(appliance, archive, layout, request.bootstrap.arch.value)
            on_event(Step("Finishing off"))
            write_manifest(manifest_of(request.bootstrap, request.size, archive), output)


_VARIES = (
    "UUIDs of filesystems and partitions",
    "times of creation and change of inodes",
    "order of blocks in the filesystem",
)
_STATUS = "./var/lib/dpkg/status"
_LARGEST_STATUS = 64 << 20


def manifest_of(request: BootstrapRequest, size: int, archive: Path) -> dict[str, Any]:
    """Describe a template, whose system is in a tar archive."""
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
        "script_sha512": None if request.script is None else hash_file(request.script),
        "source_date_epoch": request.epoch,
        "system_sha512": hash_file(archive),
        "packages": installed_packages(archive),
        "varies": list(_VARIES),
    }


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


def manifest_path(image: Path) -> Path:
    """Return the path of the manifest of an image."""
    return image.with_suffix(".json")


def write_manifest(manifest: dict[str, Any], image: Path) -> None:
    """Write a manifest next to the image, as ``NAME.json``."""
    write_text(manifest_path(image), json.dumps(manifest, indent=1) + "\n")

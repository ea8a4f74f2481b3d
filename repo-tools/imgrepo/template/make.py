"""Making a template, from the archive's packages to the bootable disk image."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.building.place import find_file_place
from imgbuilder.events import Reporter, Step
from imgbuilder.host.workspace import new_file
from imgrepo.images.scratch import scratch_folder
from imgrepo.services import Services
from imgrepo.template.bootstrap import BootstrapRequest, bootstrap, check_bootstrap
from imgrepo.template.disk import check_room, check_size, install_system
from imgrepo.template.manifest import manifest_of, write_manifest

_ARCHIVE_SPACE = 512 << 20
"""Bytes that the tar archive of a small system takes."""


@dataclass(frozen=True)
class TemplateRequest:
    """A template to make.

    Attributes:
        bootstrap: What is installed.
        output: The raw disk image to write.
        size: Size of its disk in bytes.
        options: What shapes the appliance.
    """

    bootstrap: BootstrapRequest
    output: Path
    size: int
    options: ApplianceOptions = field(default_factory=ApplianceOptions)

    def __post_init__(self) -> None:
        check_size(self.size)


def make_template(request: TemplateRequest, services: Services, on_event: Reporter) -> None:
    """Make a template; the image appears when it is complete, or not at all.

    Args:
        request: What to make.
        services: How to start an appliance.
        on_event: Called with each event.

    Raises:
        PybuilderError: It cannot be made; nothing is left behind.
    """
    output = find_file_place(request.output)
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
            with services.open_appliance([Attachment(image, "raw")], request.options, on_event) as appliance:
                on_event(Step("Making the disk"))
                install_system(appliance, archive, layout, request.bootstrap.arch.value)
            on_event(Step("Finishing off"))
            write_manifest(manifest_of(request.bootstrap, request.size, archive), output)

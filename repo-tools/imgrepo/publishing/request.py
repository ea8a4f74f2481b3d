"""What ``publish`` is asked for: its steps read it, each what concerns it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import UsageError
from imgrepo.images.compress import ZSTD_LEVELS, check_preset
from imgrepo.library.approval import check_reviewers
from imgrepo.publishing.prompts import Ask
from imgrepo.review.proof import Requirement
from imgrepo.services import Signing
from imgrepo.webroot.retired import GRACE


@dataclass(frozen=True)
class PublishRequest:
    """What to publish.

    Attributes:
        folder: Where the images are.
        output: The folder that is served; the same one, or another.
        signing: The keys, and how long the signature stays valid.
        preset: xz's compression preset.
        options: What shapes the appliance.
        compress: False to publish the disks as they are, in place of ``.xz`` files.
        zstd_level: Level of a second file, for clients that know it; None for none, unless the template
            has one already.
        trim: Whether free space inside the filesystems is given back first, on a copy.
        prune: Whether templates whose image is gone, and files that nothing names, go after the grace time.
        grace: How long they stay.
        dry_run: Only find out what would be different.
        force: Build on a published index that is not signed by these keys.
        remove_images: Delete the images that were published, at the very end.
        ask: Asks what to publish about new images; None to take what was found.
        require: What images must have been through; others are refused, and published templates stay.
        reviewers: File of the public keys whose approvals count, for what must be signed.
    """

    folder: Path
    output: Path
    signing: Signing
    preset: str = "6"
    options: ApplianceOptions = field(default_factory=ApplianceOptions)
    compress: bool = True
    zstd_level: int | None = None
    trim: bool = True
    prune: bool = False
    grace: timedelta = GRACE
    dry_run: bool = False
    force: bool = False
    remove_images: bool = False
    ask: Ask | None = None
    require: tuple[Requirement, ...] = ()
    reviewers: Path | None = None

    def __post_init__(self) -> None:
        check_preset(self.preset)
        check_reviewers(self.reviewers, signed=Requirement.SIGNED in self.require)
        if self.zstd_level is not None and self.zstd_level not in ZSTD_LEVELS:
            raise UsageError(f"zstd has no level {self.zstd_level} here", hint="give a number from 1 to 19")
        for folder in (self.folder, self.output):
            if folder.is_file():
                raise UsageError(
                    f"{folder} is a file, not a folder",
                    hint="put the image into a folder of its own, and give that",
                )
            if not folder.is_dir():
                raise UsageError(f"{folder} is not a folder", hint=f"create it first: mkdir -p {folder}")
        if not self.compress and self.folder.samefile(self.output):
            raise UsageError(
                "without compression the published disks would lie among the images, and be taken for some",
                hint="publish them into another folder: --output WEBROOT",
            )

"""The request of ``publish``, and the questions of ``--interactive``.

The questions are those of virt-builder-repository, in its order, so that the
answers for that tool can be piped in. An empty answer accepts the fact that was
found; ``-`` leaves the field out, as that tool's manual promises.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import PybuilderError, UsageError
from imgindex.model import Entry
from imgrepo.images.compress import ZSTD_LEVELS, check_preset
from imgrepo.images.facts import ImageFacts
from imgrepo.images.scan import SourceImage
from imgrepo.library.approval import check_reviewers
from imgrepo.review.results import Requirement
from imgrepo.services import Signing
from imgrepo.webroot.entries import UNKNOWN_ARCH
from imgrepo.webroot.retired import GRACE
from imgrepo.webroot.transaction import check_can_be_made

_NOTHING = "-"
_DEVICE = re.compile(r"/dev/[A-Za-z0-9_.+/-]{1,200}")


@dataclass(frozen=True)
class Question:
    """A question to the publisher.

    Attributes:
        default: The meaning of an empty answer; None if an answer is required.
        optional: Whether ``-`` is an answer.
    """

    text: str
    default: str | None
    pattern: re.Pattern[str]
    optional: bool


Ask = Callable[[Question], str]
"""Asks until the answer matches the pattern; returns it, or the default."""

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ARCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}")
_LINE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


def ask_about(
    image: str, identifier: str, facts: ImageFacts | None, old: Entry | None, ask: Ask
) -> tuple[str, ImageFacts]:
    """Ask about an image; return its template's name and facts. Nothing is asked about what ``old`` has."""
    found = facts or ImageFacts("", None, None, None, system=False)

    def answer(label: str, default: str | None, pattern: re.Pattern[str]) -> str | None:
        optional = pattern not in (IDENTIFIER, _ARCH)
        given = ask(
            Question(f"{image}: {label}", default or (_NOTHING if optional else None), pattern, optional)
        )
        return None if optional and given == _NOTHING else given

    if old is None:
        name, title = answer("name of the template", identifier, IDENTIFIER), found.name
        arch = answer("architecture", found.arch, _ARCH)
    else:
        name = old.os_version
        guessed = old.arch == UNKNOWN_ARCH
        arch = answer("architecture", found.arch, _ARCH) if guessed else found.arch or old.arch
        title = old.name or answer("display name", found.name, _LINE)
    osinfo = (old.osinfo if old else None) or answer("libosinfo id", found.osinfo, _LINE)
    expand = (old.expand if old else None) or answer("partition to expand", found.expand, _DEVICE)
    lvexpand = old.lvexpand if old else None
    if found.lvexpand is not None:  # only for images with volumes
        lvexpand = lvexpand or answer("volume to expand", found.lvexpand, _DEVICE)
    assert name is not None
    assert arch is not None
    return name, dataclasses.replace(
        found, arch=arch, name=title, osinfo=osinfo, expand=expand, lvexpand=lvexpand
    )


@dataclass(frozen=True)
class PublishRequest:
    """The images to publish, and how.

    Attributes:
        compress: Whether to publish ``.xz`` files instead of the disks themselves.
        zstd_level: Level of a second file, for clients that support it; None for no such file, unless the
            template has one already.
        blocks: Whether the zstd file of a raw disk gets a list of its blocks, for updates.
        trim: Whether to give back free space in the filesystems first, on a copy.
        prune: Whether to delete old files, and templates whose image is gone, after the grace time.
        force: Whether to build on a published index that is not signed by these keys.
        ask: Asks about new images; None to use the facts that were found.
        require: Proof that images must have; others are refused, and published templates stay.
        held_back: Why images are not to be published as they are, by the name of the file.
        wait: Seconds to wait for another publisher.
    """

    folder: Path
    output: Path
    signing: Signing
    preset: str = "6"
    appliance: ApplianceOptions = field(default_factory=ApplianceOptions)
    compress: bool = True
    zstd_level: int | None = None
    blocks: bool = True
    trim: bool = True
    prune: bool = False
    grace: timedelta = GRACE
    dry_run: bool = False
    force: bool = False
    remove_images: bool = False
    ask: Ask | None = None
    require: tuple[Requirement, ...] = ()
    reviewers: Path | None = None
    held_back: Mapping[str, PybuilderError] = field(default_factory=dict)
    wait: float = 0.0

    def __post_init__(self) -> None:
        check_preset(self.preset)
        check_reviewers(self.reviewers, signed=Requirement.SIGNED in self.require)
        if self.zstd_level is not None and self.zstd_level not in ZSTD_LEVELS:
            raise UsageError(f"zstd has no level {self.zstd_level} here", hint="give a number from 1 to 19")
        if self.folder.is_file():
            raise UsageError(
                f"{self.folder} is a file, not a folder", hint="put the image into a folder, and give that"
            )
        if not self.folder.is_dir():
            raise UsageError(f"the folder {self.folder} does not exist", hint="give the folder of the images")
        check_can_be_made(self.output)
        if not self.compress and self.output.is_dir() and self.folder.samefile(self.output):
            raise UsageError(
                "without compression the published disks would be among the images, and look like them",
                hint="publish them into another folder: --output WEBROOT",
            )

    def lists_blocks(self, image: SourceImage) -> bool:
        """Tell whether the zstd file of an image gets a list of its blocks."""
        return self.blocks and image.format == "raw"

"""``entry new``: the folder of an entry, with all that its contributor has to fill in."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import UsageError
from imgbuilder.events import Reporter
from imgbuilder.host import imagelocks
from imgbuilder.host.hashing import Fingerprint
from imgbuilder.host.sparse import copy_sparse
from imgbuilder.host.workspace import explain, new_file
from imgbuilder.machine.model import BOARDS
from imgrepo.images.scan import FORMATS, SourceImage, check_unchanged, is_stem, measure
from imgrepo.library.description import licence_problem, parse_description
from imgrepo.library.folder import EntryFolder

_SKELETON = """\
# The entry @NAME@ of a library: what people are told of it, and what it needs to run.
#
# What belongs into this folder:
#   @NAME@.qcow2 (or .img, .raw)   the image
#   screenshot.png   a picture of it, 320x240 or larger; the one of boot-check does as well
# What the tools make:
#   contents/        its packages             pybuilder-repo sbom FOLDER
#   sources/         their sources            pybuilder-repo sources FOLDER
#   boot/            what a boot looked like  pybuilder-repo boot-check
#   run              starts it with QEMU      pybuilder-repo entry run-script @NAME@
# What a reviewer makes:
#   approval.asc     says that this is fit    pybuilder-repo entry sign @NAME@ -K KEY
# What is missing tells: pybuilder-repo entry check @NAME@

# One line: what it is.
title = @TITLE@
# A few sentences, plain text; an empty line makes a paragraph.
description = \"""
\"""
# How to use it: who logs in with which password, what to try.
hints = \"""
\"""
# Of the whole, as an SPDX expression (https://spdx.org/licenses), such as "GPL-2.0-or-later AND MIT".
licence = @LICENCE@
# Who made it.
contributor = ""
# Where more is told: http:// or https://
homepage = ""
# Words to find it by: ["web", "demo"]
tags = []
# One of: @ARCHES@.
arch = "x86_64"
# It is not published before this day, or time, in UTC.
# not-before = 2026-12-01
# How large the compressed image may be.
size-budget = "100M"
# Where people ask for sources that are not beside the image: a mail or web address.
source-offer = ""

[machine]
# MiB, and a number.
memory = 1024
processors = 1
# "bios" or "uefi"; without this line it is found out from the image.
# firmware = "bios"
# true: people use its screen; false: its serial console.
graphic = false
# Ports of the guest that can be reached when it runs, HOST:GUEST: ["8080:80", "5353:53/udp"]
ports = []

[boot]
# A regular expression that the serial console shows when it has booted.
marker = "login:"
# How long that may take with KVM.
seconds = 120
# Ports of the guest that answer then: [80]
ports = []
"""


@dataclass(frozen=True)
class NewEntry:
    """What to make.

    Attributes:
        library: The folder of all entries.
        name: Name of the entry.
        image: An image to take in; None for none yet.
        move: Take it away from where it is, in place of copying it.
        title: One line for people.
        licence: An SPDX expression.
    """

    library: Path
    name: str
    image: Path | None = None
    move: bool = False
    title: str = ""
    licence: str = ""


def skeleton(name: str, *, title: str = "", licence: str = "") -> str:
    """Write an ``entry.toml`` with every key, valid as it stands.

    Raises:
        UsageError: The licence is no SPDX expression.
        RepositoryError: The title has characters that it cannot have.
    """
    problem = licence_problem(licence) if licence else None
    if problem is not None:
        raise UsageError(f"--licence {licence}: {problem}", hint="see https://spdx.org/licenses")
    # JSON's strings are TOML's, if nothing but control characters is escaped; and those are refused below.
    words = {
        "@NAME@": name,
        "@TITLE@": json.dumps(title, ensure_ascii=False),
        "@LICENCE@": json.dumps(licence, ensure_ascii=False),
        "@ARCHES@": ", ".join(BOARDS),
    }
    text = "".join(_filled(line, words) for line in _SKELETON.splitlines(keepends=True))
    parse_description(text, where="the new entry")
    return text


def _filled(line: str, words: dict[str, str]) -> str:
    """Fill in a line; what was filled in is not looked at again."""
    for key, value in words.items():
        if key in line:
            return value.join(line.split(key))
    return line


def make_entry(request: NewEntry, on_event: Reporter) -> EntryFolder:
    """Make the folder of a new entry.

    Args:
        request: What to make.
        on_event: Reports how much of the image was copied.

    Raises:
        UsageError: The name or a value cannot be, there is such an entry, or no such image.
        DiskError: The image is damaged, or not what its name says; nothing was made.
        WorkspaceError: A file cannot be written.
    """
    folder = EntryFolder(request.library / request.name)
    if not is_stem(request.name):
        raise UsageError(
            f"{request.name!r} cannot be the name of an entry",
            hint="letters, digits, '.', '_' and '-' make a name, 80 at most",
        )
    if not request.library.is_dir():
        raise UsageError(
            f"{request.library} is not a folder", hint=f"create it first: mkdir -p {request.library}"
        )
    if os.path.lexists(folder.path):
        hint = "edit the file entry.toml in it" if folder.description.is_file() else "choose another name"
        raise UsageError(f"{folder.path} exists already", hint=hint)
    if request.move and request.image is None:
        raise UsageError("--move is of use only with --image")
    text = skeleton(request.name, title=request.title, licence=request.licence)
    image = None if request.image is None else _image_at(request.image)
    if image is not None:
        imagelocks.refuse_if_in_use(image.path, changing=request.move)
    temporary = EntryFolder(request.library / f".{request.name}.{secrets.token_hex(6)}")
    try:
        _fill(temporary, text)
        if image is not None and not request.move:
            _copy(image, temporary.path / f"{request.name}{image.path.suffix}", on_event)
        temporary.path.rename(folder.path)
    except OSError as error:
        raise explain(error, folder.path) from error
    finally:
        shutil.rmtree(temporary.path, ignore_errors=True)  # gone by its name when all went well
    if image is not None and request.move:
        _move(image, folder.path / f"{request.name}{image.path.suffix}", on_event)
    return folder


def _fill(folder: EntryFolder, text: str) -> None:
    folder.path.mkdir()
    for place in (folder.boot, folder.contents, folder.sources):
        place.mkdir()
    folder.description.write_text(text, encoding="utf-8")


def _image_at(path: Path) -> SourceImage:
    """Judge the image that is to be taken in."""
    if path.suffix not in FORMATS:
        raise UsageError(
            f"{path} is no image by its name",
            hint=f"the endings of images are {', '.join(FORMATS)}; others are converted by: "
            "qemu-img convert -O qcow2 OLD NAME.qcow2",
        )
    if not path.is_file():
        raise UsageError(f"there is no image {path}" if not path.exists() else f"{path} is no regular file")
    try:
        image = SourceImage(path.resolve(), path.stem, FORMATS[path.suffix], Fingerprint.of(path.stat()))
        measure(image)
    except OSError as error:
        raise explain(error, path) from error
    return image


def _copy(image: SourceImage, target: Path, on_event: Reporter) -> None:
    with new_file(target) as temporary:
        copy_sparse(image.path, temporary, on_event, label=f"copying {image.name}")
        check_unchanged(image)


def _move(image: SourceImage, target: Path, on_event: Reporter) -> None:
    try:
        image.path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise explain(error, image.path) from error
        _copy(image, target, on_event)
        try:
            image.path.unlink()
        except OSError as left:
            raise explain(left, image.path) from left

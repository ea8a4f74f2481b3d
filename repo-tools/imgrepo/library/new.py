"""Makes the folder of a new entry, with a description for its contributor to complete."""

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
from imgbuilder.host.workspace import explain, explaining, new_file
from imgbuilder.machine.model import BOARDS
from imgrepo.images.scan import FORMATS, SourceImage, check_unchanged, is_stem, measure
from imgrepo.library.description import licence_problem, parse_description
from imgrepo.library.folder import EntryFolder
from imgrepo.webroot.entries import sidecar_of

_SKELETON = """\
# The entry @NAME@ of a library: its description, and the machine that it needs.
#
# Files of this folder that you provide:
#   @NAME@.qcow2 (or .img, .raw)   the image
#   screenshot.png   a picture of it, 320x240 or larger; boot-check can take one
# Files that the tools make:
#   contents/        its packages             pybuilder-repo sbom FOLDER
#   sources/         their sources            pybuilder-repo sources FOLDER
#   boot/            result of a boot check   pybuilder-repo boot-check
#   run              starts it with QEMU      pybuilder-repo entry run-script @NAME@
# File that a reviewer makes:
#   approval.asc     approves the entry       pybuilder-repo entry sign @NAME@ -K KEY
# To see what is missing: pybuilder-repo entry check @NAME@

# One line that says what it is.
title = @TITLE@
# A few sentences of plain text; an empty line starts a paragraph.
description = \"""
\"""
# How to use it: who logs in with which password, what to try.
hints = \"""
\"""
# Licence of the whole image, as an SPDX expression (https://spdx.org/licenses):
# "GPL-2.0-or-later AND MIT".
licence = @LICENCE@
# Who made it.
contributor = ""
# Address of a page about it: http:// or https://
homepage = ""
# Words to find it by: ["web", "demo"]
tags = []
# One of: @ARCHES@.
arch = "x86_64"
# It is not published before this day or time, in UTC.
# not-before = 2026-12-01
# Size limit of the compressed image.
size-budget = "100M"
# Mail or web address for sources that are not published with the image.
source-offer = ""

[machine]
# MiB of memory, and number of processors.
memory = 1024
processors = 1
# "bios" or "uefi"; without this line it is detected from the image.
# firmware = "bios"
# true: users see its screen; false: its serial console.
graphic = false
# Ports of the guest that can be reached when it runs, HOST:GUEST: ["8080:80", "5353:53/udp"]
ports = []

[boot]
# A regular expression that is found on the serial console when it has booted.
marker = "login:"
# Time limit with KVM.
seconds = 120
# Ports of the guest that answer afterwards: [80]
ports = []
"""


@dataclass(frozen=True)
class NewEntry:
    """A request for a new entry; with ``move``, the image is moved instead of copied."""

    library: Path
    name: str
    image: Path | None = None
    move: bool = False
    title: str = ""
    licence: str = ""


def skeleton(name: str, *, title: str = "", licence: str = "") -> str:
    """Return an ``entry.toml`` with every key, valid as it is."""
    problem = licence_problem(licence) if licence else None
    if problem is not None:
        raise UsageError(f"--licence {licence}: {problem}", hint="see https://spdx.org/licenses")
    # JSON's strings are TOML's, if nothing but control characters is escaped; and those are refused below.
    values = {
        "@NAME@": name,
        "@TITLE@": json.dumps(title, ensure_ascii=False),
        "@LICENCE@": json.dumps(licence, ensure_ascii=False),
        "@ARCHES@": ", ".join(BOARDS),
    }
    text = "".join(_filled(line, values) for line in _SKELETON.splitlines(keepends=True))
    parse_description(text, where="the new entry")
    return text


def _filled(line: str, values: dict[str, str]) -> str:
    """Fill in a line once; the value itself is not searched for placeholders."""
    for key, value in values.items():
        if key in line:
            return value.join(line.split(key))
    return line


def make_entry(request: NewEntry, on_event: Reporter) -> EntryFolder:
    """Make the folder of a new entry."""
    folder = EntryFolder(request.library / request.name)
    if not is_stem(request.name):
        raise UsageError(
            f"{request.name!r} cannot be the name of an entry",
            hint="letters, digits, '.', '_' and '-' make a name, 80 at most",
        )
    if not request.library.is_dir():
        raise UsageError(
            f"the folder {request.library} does not exist", hint=f"create it: mkdir -p {request.library}"
        )
    if os.path.lexists(folder.path):
        hint = "edit the file entry.toml in it" if folder.description.is_file() else "choose another name"
        raise UsageError(f"{folder.path} exists already", hint=hint)
    if request.move and request.image is None:
        raise UsageError("--move needs --image")
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
        shutil.rmtree(temporary.path, ignore_errors=True)  # renamed if all went well
    if image is not None and request.move:
        target = folder.path / f"{request.name}{image.path.suffix}"
        _move(image, target, on_event)
        sidecar = sidecar_of(image.path)
        if sidecar.is_file() and image.stem == request.name:  # the next import replaces only what has it
            with explaining(sidecar):
                shutil.move(sidecar, sidecar_of(target))
    return folder


def _fill(folder: EntryFolder, text: str) -> None:
    folder.path.mkdir()
    for place in (folder.boot, folder.contents, folder.sources):
        place.mkdir()
    folder.description.write_text(text, encoding="utf-8")


def _image_at(path: Path) -> SourceImage:
    """Check the image of the new entry."""
    if path.suffix not in FORMATS:
        raise UsageError(
            f"{path} does not have the name of an image",
            hint=f"images end in {', '.join(FORMATS)}; convert others with: "
            "qemu-img convert -O qcow2 OLD NAME.qcow2",
        )
    if not path.is_file():
        raise UsageError(
            f"the image {path} does not exist" if not path.exists() else f"{path} is not a regular file"
        )
    with explaining(path):
        image = SourceImage(path.resolve(), path.stem, FORMATS[path.suffix], Fingerprint.of(path.stat()))
        measure(image)
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

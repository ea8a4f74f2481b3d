"""Makes the catalogue: gather, render, put in place.

The site is made next to the old one, then exchanged with it in one step: a reader
sees the old site or the new one. Only files that differ are written, so that
uploads and caches have nothing to do when nothing changed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.events import Reporter, Step
from imgbuilder.host.hashing import hash_file
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.host.workspace import explaining
from imgindex.files import open_file, sync_folder
from imgrepo.catalogue.gather import gather
from imgrepo.catalogue.memory import LARGEST, MEMORY_NAME, files_named, memory_text
from imgrepo.catalogue.model import CatalogueRequest, Copied
from imgrepo.catalogue.render import START, render, render_start
from imgrepo.catalogue.text import address
from imgrepo.recordfile import writing_file
from imgrepo.services import Services
from imgrepo.stats import Statistics


@dataclass(frozen=True)
class CatalogueResult:
    """The outcome of a run: how many templates are shown, and whether anything was written."""

    templates: int
    changed: bool


def make_catalogue(
    request: CatalogueRequest, services: Services, on_event: Reporter, statistics: Statistics | None = None
) -> CatalogueResult:
    """Make the catalogue of a published folder."""
    check_place(request.output)
    on_event(Step(f"Making the catalogue {request.output}"))
    gathered = gather(request, services, on_event, statistics)
    site = gathered.site
    name = request.output.absolute().name
    site_url = f"{site.base_url}{address(name)}/" if site.base_url and site.home else ""
    made = render(site, site_url)
    names = {*made, *gathered.files, MEMORY_NAME}
    made[MEMORY_NAME] = memory_text(gathered.remembered, names)
    changed = put_site(request.output, made, gathered.files)
    if site.home:
        changed |= _put_start(request.webroot, render_start(site, name))
    return CatalogueResult(len(site.pages), changed)


START_MARK = b'<meta name="generator" content="pybuilder-repo">'
"""Text of the page at the top of a served folder that is ours."""


def _put_start(webroot: Path, page: bytes) -> bool:
    """Let the top of the served folder lead to the site, unless there is a page of the publisher's own."""
    path = webroot / START
    old = own_start(webroot)
    if old == page or (old is None and path.exists()):
        return False
    with writing_file(path, page) as temporary:
        temporary.chmod(0o644)
    return True


def own_start(webroot: Path) -> bytes | None:
    """Return the page at the top of a served folder if it is ours."""
    try:
        with open_file(webroot / START) as file:
            data = file.read(_LARGEST_START + 1)
    except OSError:
        return None
    return data if START_MARK in data and len(data) <= _LARGEST_START else None


_LARGEST_START = 64 << 10
_EXCHANGE = 2  # RENAME_EXCHANGE, see renameat2(2)
_AT_FDCWD = -100


def put_site(output: Path, made: Mapping[str, bytes], copied: Mapping[str, Copied]) -> bool:
    """Replace a site if the new one differs, and return whether it does; files that are not ours stay."""
    check_place(output)
    target = output.absolute()
    with explaining(output), private_folder(target.parent) as scratch:
        new = scratch / "site"
        new.mkdir()
        changed = not target.is_dir()
        for path, content in made.items():
            changed |= _write(new / path, target / path, content)
        for path, item in copied.items():
            changed |= _copy(new / path, target / path, item)
        others = _others(target) - {*made, *copied}
        if not changed and _files(target) == {*made, *copied, *others}:
            return False
        for path in others:
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            _take(target / path, new / path)
        _open_to_readers(new, shared=bool(target.parent.stat().st_mode & stat.S_IWGRP))
        if target.exists():
            _exchange(new, target, scratch / "old")
        else:
            new.rename(target)
        sync_folder(target.parent)
    return True


def check_place(output: Path) -> None:
    """Refuse to replace a folder that is not a catalogue, or cannot be made."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f"{output} is not a folder", hint="choose another one with --output")
    if output.is_dir() and not (output / MEMORY_NAME).is_file() and any(output.iterdir()):
        raise UsageError(
            f"{output} would be replaced, but is not a catalogue",
            hint="choose an empty or new folder with --output",
        )
    if not output.absolute().parent.is_dir():
        raise UsageError(f"the folder {output.parent} does not exist", hint=f"mkdir -p {output.parent}")


def _write(new: Path, old: Path, content: bytes) -> bool:
    """Write a file, or keep the old one if it is the same; return whether it differs."""
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not old.is_symlink() and old.read_bytes() == content:
            _take(old, new)
            return False
    except OSError:
        pass  # there is no old file: the new one is written
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.chmod(0o644)
    return True


def _copy(new: Path, old: Path, item: Copied) -> bool:
    digest = hash_file(item.path)
    if item.sha512 is not None and digest != item.sha512:
        raise RepositoryError(
            f"{item.path} is not the file that its record names", hint="collect the sources again"
        )
    new.parent.mkdir(parents=True, exist_ok=True)
    if old.is_file() and not old.is_symlink() and hash_file(old) == digest:
        _take(old, new)
        return False
    shutil.copyfile(item.path, new, follow_symlinks=False)
    with open_file(new) as file:
        os.fsync(file.fileno())
    new.chmod(0o644)
    if hash_file(new) != digest:
        raise RepositoryError(f"{item.path} changed while it was copied", hint="try again")
    return True


def _take(old: Path, new: Path) -> None:
    """Link an old file into the new site; its time stays, so that caches see that it is the same."""
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}:
            raise
        shutil.copy2(old, new, follow_symlinks=False)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def _others(site: Path) -> set[str]:
    """Return the files of a site that its memory does not name, which are not ours."""
    try:
        with open_file(site / MEMORY_NAME) as file:
            return _files(site).difference(files_named(file.read(LARGEST)))
    except OSError:  # a new site
        return set()


def _open_to_readers(folder: Path, *, shared: bool) -> None:
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o2775 if shared else 0o755)  # a colleague replaces it and uploads into its copy
        sync_folder(path)


def _exchange(new: Path, target: Path, old: Path) -> None:
    """Exchange two folders in one step; if the filesystem cannot, the site is gone for a moment."""
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is not None:
        names = (os.fsencode(new), os.fsencode(target))
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise OSError(number, os.strerror(number), str(target))
    target.rename(old)
    new.rename(target)

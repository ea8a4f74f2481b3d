"""apt's settings for the time of the build: another mirror, and packages that this host has already.

They come by ``APT_CONFIG``, apt.conf(5), so that they hold for the user's own
commands, too, and no file of the guest's configuration is changed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import PackageManager
from imgbuilder.errors import GuestCallError, OperationError
from imgbuilder.events import debug, warn
from imgbuilder.guests.ports import Guest
from imgbuilder.host.hashing import hash_file
from imgindex.files import open_file

FOLDER = "/var/cache/apt/pybuilder"
"""Folder in the guest for lists of the mirror and for packages; removed at the end."""

_ARCHIVE = re.compile(
    r"(?:https?|ftp)://(?:[a-z0-9-]+\.)*(?:debian\.org|ubuntu\.com|kali\.org)(?::\d+)?(?=/)", re.IGNORECASE
)
"""Addresses of the distributions' own archives; other repositories have no copy on a mirror."""
_ENTRY = re.compile(r"\s*deb(?:-src)?\s")
_FIELD = re.compile(r"([A-Za-z-]+):")
_PRINTED = re.compile(r"'[^']*' (\S+) \d+ SHA256:([0-9a-f]{64})")
_MOST_SOURCES = 200
_LARGEST_SOURCE = 1 << 20
_LARGEST_SOURCES = 4 << 20
"""Files of apt's sources that are read, and bytes of one and of all."""
_LARGEST_PACKAGE = 1 << 30
_LARGEST_PACKAGES = 4 << 30
"""Bytes that a guest may leave in the host's folder: in one file, and in one build."""
_COMPARED = 64 * 1024
"""Bytes of the beginning and of the end of two package files that are compared."""
_PACKAGE_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~%_-]{1,240}\.deb")


def needed(context: GuestContext) -> bool:
    """Tell whether apt gets settings of its own in this build."""
    return context.facts.package_manager is PackageManager.APT and bool(
        context.mirror or context.package_cache
    )


def redirect_sources(text: str, mirror: str, *, stanzas: bool) -> str:
    """Let the distribution's own archives be fetched from a mirror, sources.list(5).

    Args:
        text: Content of a ``.list`` file, or of a ``.sources`` file.
        mirror: What replaces ``http://deb.debian.org``: the paths after it, such as ``/debian`` and
            ``/debian-security``, stay.
        stanzas: Whether it is a ``.sources`` file.
    """
    base = mirror.rstrip("/")
    lines = []
    in_uris = False
    for line in text.split("\n"):
        field = _FIELD.match(line)
        if field:
            in_uris = field[1].lower() == "uris"
        elif not line[:1].isspace():
            in_uris = False
        if (stanzas and in_uris) or (not stanzas and _ENTRY.match(line)):
            line = _ARCHIVE.sub(lambda _found: base, line)
        lines.append(line)
    return "\n".join(lines)


def read_sources(guest: Guest) -> Iterator[tuple[str, bytes]]:
    """Read the files of apt's sources, sources.list(5).

    Yields:
        Path and content of each.

    Raises:
        GuestCallError: There are more than any guest has.
    """
    names = [path for path in guest.glob("/etc/apt/sources.list.d/*") if path.endswith((".list", ".sources"))]
    left = _LARGEST_SOURCES
    for path in ["/etc/apt/sources.list", *names]:
        if guest.is_file(path):
            content = guest.read(path, limit=_LARGEST_SOURCE)
            left -= len(content)
            if left < 0 or len(names) > _MOST_SOURCES:
                raise GuestCallError(
                    "the guest has more sources in /etc/apt than are read", errno_name="EFBIG"
                )
            yield path, content


def settings_files(guest: Guest, context: GuestContext) -> dict[str, bytes]:
    """Return the files that belong into the folder in memory, by their names there.

    Args:
        guest: The guest, whose sources are read.
        context: The mirror, and the folder in memory.
    """
    lines = []
    files: dict[str, bytes] = {}
    if context.mirror:
        lines += [
            f'Dir::Etc::sourcelist "{context.memory}/sources.list";',
            f'Dir::Etc::sourceparts "{context.memory}/sources.list.d";',
            f'Dir::State::lists "{FOLDER}/lists";',
        ]
        files["sources.list"] = b""
        for path, content in read_sources(guest):
            text = content.decode(errors="surrogateescape")
            text = redirect_sources(text, context.mirror, stanzas=path.endswith(".sources"))
            files[path.removeprefix("/etc/apt/")] = text.encode(errors="surrogateescape")
    if context.package_cache is not None:
        lines += [f'Dir::Cache::archives "{FOLDER}/archives";', 'APT::Keep-Downloaded-Packages "true";']
    files["apt.conf"] = "".join(f"{line}\n" for line in lines).encode()
    return files


@contextlib.contextmanager
def folder_in_guest(guest: Guest, context: GuestContext) -> Iterator[None]:
    """Keep apt's lists and packages of this build in a folder of their own; fetch the packages at the end."""
    if not needed(context):
        yield
        return
    for name in ("lists/partial", "archives/partial"):
        guest.mkdir_p(f"{FOLDER}/{name}")
    try:
        yield
        if context.package_cache is not None:
            _keep_packages(guest, context, context.package_cache, context.wanted)
    finally:
        with contextlib.suppress(GuestCallError):  # the first error is the one to tell
            guest.remove(FOLDER)


def parse_wanted(text: str) -> dict[str, str]:
    """Read what ``apt-get --print-uris`` printed.

    Returns:
        File name to SHA-256, which apt has from the signed lists of the archive; files without one are left
        to apt.
    """
    found = [match for line in text.split("\n") if (match := _PRINTED.fullmatch(line.strip()))]
    return {match[1]: match[2] for match in found if _PACKAGE_FILE.fullmatch(match[1])}


def give_packages(guest: Guest, context: GuestContext, wanted: Mapping[str, str]) -> int:
    """Put packages into the guest that the host's folder has; return how many.

    Only bytes that have the digest of the archive's signed lists go there: whatever another guest may have
    brought into the folder cannot get into this one in a package's place. Others stay where they are until
    there are better ones, since it is only this guest that says what they should be.
    """
    assert context.package_cache is not None
    context.wanted.update(wanted)
    given = 0
    for name, digest in wanted.items():
        local = context.package_cache / name
        if _has(local, digest):
            guest.upload(local, f"{FOLDER}/archives/{name}")
            given += 1
    debug(context.on_event, f"{given} of {len(wanted)} packages come from {context.package_cache}")
    return given


def _has(path: Path, sha256: str) -> bool:
    return path.is_file() and not path.is_symlink() and hash_file(path, "sha256") == sha256


def _keep_packages(
    guest: Guest, context: GuestContext, folder: Path, wanted: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Copy the guest's package files to the host's folder, within limits.

    Under a name that apt has named, only bytes with that digest are kept. Of others, which the user's own
    commands fetched, it cannot be known here whether they are the archive's: each is checked whenever it is
    used, and replaced by what the next guest has, since it may be of a hostile one.
    """
    left = min(_LARGEST_PACKAGES, shutil.disk_usage(folder).free // 2)
    for name in guest.ls(f"{FOLDER}/archives"):
        kept = folder / name
        if not _PACKAGE_FILE.fullmatch(name) or (kept.exists() and not kept.is_file()):
            continue
        partial = folder / f".{name}.{secrets.token_hex(4)}.part"
        try:
            path, digest = f"{FOLDER}/archives/{name}", wanted.get(name)
            size = guest.stat(path).size
            if kept.is_file() and (
                _looks_alike(guest, path, size, kept) if digest is None else _has(kept, digest)
            ):
                continue
            guest.download(path, partial, limit=min(_LARGEST_PACKAGE, left))
            if digest is not None and not _has(partial, digest):
                warn(context.on_event, f"{name} was not kept in {folder}: it is not what apt wanted")
                continue
            left -= size
            partial.replace(kept)
        except (OSError, GuestCallError) as error:
            warn(context.on_event, f"{name} was not kept in {folder}: {error}")
        finally:
            partial.unlink(missing_ok=True)


def _looks_alike(guest: Guest, path: str, size: int, kept: Path) -> bool:
    """Say whether a file of the guest need not be copied again: size, beginning and end are the same."""
    with open_file(kept) as file:
        if os.fstat(file.fileno()).st_size != size:
            return False
        start = file.read(_COMPARED)
        file.seek(max(0, size - _COMPARED))
        end = file.read(_COMPARED)
    return guest.start_of(path, _COMPARED) == start and guest.end_of(path, _COMPARED) == end


def check_manager(context: GuestContext, keyword: str) -> None:
    """Check that the guest's package manager is apt.

    Raises:
        OperationError: It is another one, or none.
    """
    if context.facts.package_manager is not PackageManager.APT:
        manager = context.facts.package_manager
        present = manager.value if manager else "none that we know"
        raise OperationError(
            f"--{keyword} works with apt only, and the guest has {present}",
            hint="a proxy that caches does the same for all: set http_proxy and https_proxy",
        )


def usable_folder(path: Path) -> Path:
    """Accept a local folder that can be written; it is made when it is missing.

    Raises:
        OSError: It cannot be made.
    """
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(path))
    return path.absolute()

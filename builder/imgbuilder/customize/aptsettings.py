"""apt's settings for the time of the build: a mirror, and packages that are already on this host.

They are passed by ``APT_CONFIG``, apt.conf(5): they also apply to the user's commands, and no file of the
guest's configuration is changed.
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
from imgbuilder.errors import GuestCallError
from imgbuilder.events import debug, warn
from imgbuilder.guests.ports import Guest
from imgbuilder.host.hashing import hash_file
from imgindex.files import open_file

FOLDER = "/var/cache/apt/pybuilder"
"""Folder in the guest for the mirror's lists and for packages; removed at the end."""

_ARCHIVE = re.compile(
    r"(?:https?|ftp)://(?:[a-z0-9-]+\.)*(?:debian\.org|ubuntu\.com|kali\.org)(?::\d+)?(?=/)", re.IGNORECASE
)
"""Addresses of the distributions' archives; mirrors have no copies of other repositories."""
_ENTRY = re.compile(r"\s*deb(?:-src)?\s")
_FIELD = re.compile(r"([A-Za-z-]+):")
_PRINTED = re.compile(r"'[^']*' (\S+) \d+ SHA256:([0-9a-f]{64})")
_MOST_SOURCES = 200
_LARGEST_SOURCE = 1 << 20
_LARGEST_SOURCES = 4 << 20
"""Limits for apt's sources: number of files, bytes of one, bytes of all."""
_LARGEST_PACKAGE = 1 << 30
_LARGEST_PACKAGES = 4 << 30
"""Bytes that a guest may add to the host's folder: in one file, and in one build."""
_COMPARED = 64 * 1024
"""Bytes at the start and at the end of package files that are compared."""
_PACKAGE_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~%_-]{1,240}\.deb")


def needed(context: GuestContext) -> bool:
    """Tell whether apt needs settings for this build."""
    return context.facts.package_manager is PackageManager.APT and bool(
        context.mirror or context.package_cache
    )


def redirect_sources(text: str, mirror: str, *, stanzas: bool) -> str:
    """Replace the addresses of the distribution's archives by a mirror, sources.list(5).

    The mirror stands for ``http://deb.debian.org``: paths such as ``/debian`` and ``/debian-security`` stay.
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
    """Yield path and content of each file of apt's sources, sources.list(5)."""
    names = [path for path in guest.glob("/etc/apt/sources.list.d/*") if path.endswith((".list", ".sources"))]
    left = _LARGEST_SOURCES
    for path in ["/etc/apt/sources.list", *names]:
        if guest.is_file(path):
            content = guest.read(path, limit=_LARGEST_SOURCE)
            left -= len(content)
            if left < 0 or len(names) > _MOST_SOURCES:
                raise GuestCallError(
                    "the guest has too many or too large files of sources in /etc/apt", errno_name="EFBIG"
                )
            yield path, content


def settings_files(guest: Guest, context: GuestContext) -> dict[str, bytes]:
    """Return the files for the folder in memory, by their names."""
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
    """Keep apt's lists and packages of this build in a separate folder; download the packages at the end."""
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
        with contextlib.suppress(GuestCallError):  # the first error is the one to report
            guest.remove(FOLDER)


def parse_wanted(text: str) -> dict[str, str]:
    """Read the output of ``apt-get --print-uris``: file names with the SHA-256 of the archive's signed lists.

    Files without a SHA-256 are left to apt.
    """
    found = [match for line in text.split("\n") if (match := _PRINTED.fullmatch(line.strip()))]
    return {match[1]: match[2] for match in found if _PACKAGE_FILE.fullmatch(match[1])}


def upload_packages(guest: Guest, context: GuestContext, wanted: Mapping[str, str]) -> int:
    """Upload packages from the host's folder to the guest; return their number.

    Only files with the digest of the archive's signed lists are uploaded, so that a file that a different
    guest left in the folder cannot get in as a package. Files that do not match stay until they are replaced,
    since only this guest says what they should be.
    """
    assert context.package_cache is not None
    context.wanted.update(wanted)
    given = 0
    for name, digest in wanted.items():
        local = context.package_cache / name
        if _has(local, digest):
            guest.upload(local, f"{FOLDER}/archives/{name}")
            given += 1
    debug(context.on_event, f"{given} of {len(wanted)} packages were uploaded from {context.package_cache}")
    return given


def _has(path: Path, sha256: str) -> bool:
    return path.is_file() and not path.is_symlink() and hash_file(path, "sha256") == sha256


def _keep_packages(
    guest: Guest, context: GuestContext, folder: Path, wanted: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Copy the guest's package files to the host's folder, within limits.

    A file whose digest apt has printed is kept only if it matches. The origin of other files, which the
    user's commands fetched, is unknown: they are checked whenever they are used, and replaced by the next
    guest's file, since they may come from a hostile guest.
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
                warn(
                    context.on_event,
                    f"{name} was not kept in {folder}: its digest differs from apt's lists",
                )
                continue
            left -= size
            partial.replace(kept)
        except (OSError, GuestCallError) as error:
            warn(context.on_event, f"{name} was not kept in {folder}: {error}")
        finally:
            partial.unlink(missing_ok=True)


def _looks_alike(guest: Guest, path: str, size: int, kept: Path) -> bool:
    """Compare a guest's file with a kept one by size, start and end."""
    with open_file(kept) as file:
        if os.fstat(file.fileno()).st_size != size:
            return False
        start = file.read(_COMPARED)
        file.seek(max(0, size - _COMPARED))
        end = file.read(_COMPARED)
    return guest.start_of(path, _COMPARED) == start and guest.end_of(path, _COMPARED) == end


def usable_folder(path: Path) -> Path:
    """Accept a local folder that can be written, making it if it is missing."""
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(path))
    return path.absolute()

"""Bundles: a source in one file, for machines without a network.

A bundle is a plain tar file, so that it can be listed and unpacked without
pybuilder, and an unpacked bundle is a source like any other::

    index.asc        the index as its publisher signed it
    fingerprints     of the keys that verified it for the maker of the bundle; for people
    key.gpg          those keys
    debian-12.xz ... templates, under the names that the index gives them

Its address is its path, which ends in ``.pybundle``; a file in it has an
exclamation mark between (``/mnt/x.pybundle!/debian-12.xz``). Nothing is trusted
for being in a bundle: the index is verified and each template hashed, as if
they came from a server. Its members are checked strictly all the same.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from pathlib import Path

from imgbuilder.errors import FetchError, FileMissingError
from imgbuilder.fetch.local import copy_open
from imgbuilder.fetch.transfer import Download, Fetched
from imgbuilder.fetch.urls import inside, local_path
from imgindex.files import open_regular

KEY = "key.gpg"
FINGERPRINTS = "fingerprints"

_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+~:,=@-]*(/[A-Za-z0-9_+][A-Za-z0-9._+~:,=@-]*)*")
_MOST_MEMBERS = 10_000
_COPY_AGAIN = "copy it again from where it was made (pybuilder cache export)"
_LARGEST_HEADER = 64 << 10
"""Bytes that tarfile may ask for at once: headers are 512 bytes, and long names have a few blocks."""

_TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError, IndexError)
"""Exceptions that tarfile raises about its input."""


class _Headers(io.RawIOBase):
    """Lets tarfile read headers and nothing else: a hostile header could ask for gigabytes at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET, "all that tarfile needs"
        self._position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError("a header is too long")
        data = os.pread(self._descriptor, size, self._position)
        self._position += len(data)
        return data


def fetch_member(download: Download) -> Fetched:
    """Copy a file out of a bundle, under the same limits as a download."""
    place = inside(local_path(download.url) or Path())
    assert place is not None, "the router sends only addresses of bundles here"
    path, name = place
    where = f"{path}: {name}"
    try:
        descriptor = open_regular(path)
    except OSError as error:
        raise FetchError(f"cannot read {path}: {error.strerror}", hint="check the bundle's path") from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        start, size = _find(descriptor, path, name)
        size = copy_open(file, download, start=start, size=size, where=where)
    return Fetched(where, size)


def _find(descriptor: int, path: Path, wanted: str) -> tuple[int, int]:
    """Return position and size of a file in a bundle; all members are checked."""
    total = os.fstat(descriptor).st_size
    found: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(fileobj=_Headers(descriptor), mode="r:") as archive:
            for member in archive:
                problem = _problem(member, total)
                if member.name in found:
                    problem = "it is in the bundle twice"
                if len(found) == _MOST_MEMBERS:
                    problem = "there are too many files"
                if problem:
                    raise FetchError(f"{path}: unusable bundle: {member.name!r}: {problem}", hint=_COPY_AGAIN)
                found[member.name] = (member.offset_data, member.size)
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
    except _TAR_ERRORS as error:
        raise FetchError(f"{path} is not a bundle, or is damaged: {error}", hint=_COPY_AGAIN) from error
    except OSError as error:
        raise FetchError(
            f"cannot read {path}: {error.strerror or error}", hint="check that disk (see: dmesg)"
        ) from error
    if wanted not in found:
        raise FileMissingError(
            f"{path} has no file {wanted}", hint=f"list its files: tar --list --file {path}"
        )
    return found[wanted]


def _problem(member: tarfile.TarInfo, total: int) -> str:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        return "it is not a plain file"
    if not _NAME.fullmatch(member.name):
        return "the name is not allowed"
    if member.size < 0 or member.offset_data + member.size > total:
        return "it is cut off"
    return ""

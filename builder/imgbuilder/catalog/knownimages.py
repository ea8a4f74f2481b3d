"""Remembered facts about images that their source does not give: SHA-512, format and virtual size.

Simplestreams sources mostly name images by SHA-256. The cache names them by
SHA-512, which is computed while an image is downloaded and its SHA-256 checked.
All three describe those bytes for ever, and so are remembered by the SHA-256,
which the source's signature covers; or by the SHA-512, where it has only that.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from imgbuilder.events import Reporter, debug, ignore
from imgindex.fields import DISK_FORMATS, MAX_DISK_SIZE
from imgindex.files import make_folder, read_json, write_json
from imgindex.model import UNKNOWN_SIZE, Entry, Index

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 1
_LARGEST = 4096
_SHA512 = re.compile(r"[0-9a-f]{128}")


class KnownImages(NamedTuple):
    """Facts about images, by their SHA-256.

    Attributes:
        folder: Folder of the records; made when the first one is written.
    """

    folder: Path

    def completed(self, index: Index) -> Index:
        """Return an index with all known facts about its images."""
        return replace(index, entries=tuple(self._completed(entry) for entry in index.entries))

    def remember(self, entry: Entry, on_event: Reporter = ignore) -> None:
        """Record the facts of an image that was downloaded and verified.

        Args:
            entry: Its entry, completed with SHA-512, format and size.
            on_event: Reports a failure, which only costs time: the facts are found out again.
        """
        key = _key(entry)
        if key is None or entry.sha512 is None or entry.size == UNKNOWN_SIZE:
            return
        if self._facts(key) == (entry.sha512, entry.format, entry.size):
            return
        fields = {"sha512": entry.sha512, "format": entry.format, "size": entry.size}
        try:
            make_folder(self.folder)
            write_json(self._path(key), fields, version=_VERSION, durable=True)
        except OSError as error:
            debug(on_event, f"cannot remember an image in {self.folder}: {error.strerror}")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _facts(self, key: str) -> tuple[str, str, int] | None:
        # A broken record counts as a missing one.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return _parse(read_json(self._path(key), version=_VERSION, limit=_LARGEST))
        return None

    def _completed(self, entry: Entry) -> Entry:
        key = _key(entry)
        if key is None:
            return entry
        facts = self._facts(key)
        if facts is None or entry.sha512 not in (None, facts[0]):
            return entry
        sha512, image_format, size = facts
        return replace(entry, sha512=sha512, format=image_format, size=size)


def _key(entry: Entry) -> str | None:
    return entry.sha256 or entry.sha512


def _parse(fields: dict[str, Any]) -> tuple[str, str, int] | None:
    sha512, image_format, size = fields["sha512"], fields["format"], fields["size"]
    good = (
        _SHA512.fullmatch(sha512)
        and image_format in DISK_FORMATS
        and type(size) is int
        and 0 < size <= MAX_DISK_SIZE
    )
    return (sha512, image_format, size) if good else None

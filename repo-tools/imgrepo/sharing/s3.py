"""A target in an S3 bucket.

Each object carries its SHA-512, and the list of objects has the MD5 of small
ones, so that nothing is sent twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from imgbuilder.errors import PybuilderError, UploadError
from imgbuilder.events import Progress, ProgressEnd, Reporter, Step
from imgbuilder.host.hashing import hash_file
from imgbuilder.outputs.s3 import IN_PARTS, Bucket
from imgbuilder.sizes import counted, human_size
from imgindex.files import open_file
from imgrepo.sharing.frames import Stretch
from imgrepo.sharing.serve import cache_rule
from imgrepo.sharing.serve import content_type as page_type
from imgrepo.sharing.upload import NOTHING, Former, UploadPlace

_DIGEST = "sha512"
_TYPES = {
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
    ".gpg": "application/pgp-keys",
    ".asc": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",
}
_SMALLEST = 5 << 20
"""Fewest bytes of a part of an object, except for the last one; a rule of S3."""
_LARGEST = 16 << 20
"""Bytes of a part that are sent, and held in memory, at once."""
_AT_ONCE = 8
"""Requests at once about small objects."""
_Answer = TypeVar("_Answer")


def content_type(name: str) -> str:
    """Return the Content-Type of a published file."""
    return _TYPES.get(PurePosixPath(name).suffix) or page_type(name)


def _headers(name: str, digest: str) -> dict[str, Any]:
    """Return the headers and metadata of an object."""
    return {
        "ContentType": content_type(name),
        "CacheControl": cache_rule(name.rpartition("/")[2]),
        "Metadata": {_DIGEST: digest},
    }


def copied_parts(
    found: Sequence[Stretch], smallest: int = _SMALLEST, largest: int = _LARGEST
) -> list[Stretch]:
    """Divide an object into parts to upload and parts to copy; empty if nothing can be copied.

    No part but the last may be small, so what is new takes bytes from the copied stretch behind it, and a
    stretch that becomes too short for that is uploaded as well.
    """
    parts: list[Stretch] = []
    for stretch in found:
        new = bool(parts) and parts[-1].old is None
        short = smallest - (parts[-1].end - parts[-1].start) if new else 0
        if stretch.old is not None and stretch.end - stretch.start >= smallest + max(0, short):
            if short > 0:
                at = stretch.start + short
                parts[-1] = parts[-1]._replace(end=at)
                stretch = Stretch(at, stretch.end, stretch.old + short)
            parts.append(stretch)
        elif new:
            parts[-1] = parts[-1]._replace(end=stretch.end)
        else:
            parts.append(stretch._replace(old=None))
    if all(part.old is None for part in parts):
        return []
    return [piece for part in parts for piece in _pieces(part, largest)]


def _pieces(part: Stretch, largest: int) -> Iterator[Stretch]:
    """Divide a part into pieces of about the same size."""
    length = part.end - part.start
    count = -(-length // largest)
    for number in range(count):
        start, end = (part.start + length * place // count for place in (number, number + 1))
        yield Stretch(start, end, None if part.old is None else part.old + start - part.start)


class S3Target:
    """Implements ``Target`` by a bucket; ``endpoint`` is the URL of a server other than Amazon's."""

    def __init__(self, place: UploadPlace, endpoint: str | None = None, rate: int | None = None) -> None:
        self._bucket = Bucket(place.bucket, place.prefix, where=place.text, endpoint=endpoint, rate=rate)
        self._where, self._rate = place.text, rate
        self._tags: dict[str, str] = {}

    def sizes(self) -> dict[str, int]:
        """See ``Target.sizes``."""
        found: dict[str, int] = {}
        for name, item in (*self._bucket.listed(), *self._bucket.listed("catalogue/", deep=True)):
            found[name] = int(item["Size"])
            self._tags[name] = item["ETag"].strip('"')
        return found

    def changed(self, folder: Path, names: Sequence[str]) -> set[str]:
        """See ``Target.changed``."""
        # The tag of a small object is its MD5, unless the server encrypts it with a key of its own.
        unknown = [name for name in names if not self._has_tag(folder / name, name)]

        def differs(name: str) -> bool:
            return self._digest_of(name) != hash_file(folder / name)

        return set(itertools.compress(unknown, self._in_parallel(differs, unknown)))

    def _has_tag(self, path: Path, name: str) -> bool:
        return path.stat().st_size < IN_PARTS and hash_file(path, "md5") == self._tags.get(name)

    def _in_parallel(self, ask: Callable[[str], _Answer], names: Sequence[str]) -> list[_Answer]:
        """Ask about several objects at once; return the answers in the order of the names."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                return list(pool.map(ask, names))
            finally:
                pool.shutdown(cancel_futures=True)

    def read(self, name: str, limit: int) -> bytes:
        """See ``Target.read``."""
        with self._bucket.failing(f"{name} cannot be read"):
            answer = self._bucket.client.get_object(**self._bucket.place(name))
            data: bytes = answer["Body"].read(limit + 1)
        if len(data) > limit:
            raise UploadError(f"{self._where}: {name} is larger than {limit} bytes")
        return data

    def put(
        self, folder: Path, names: Sequence[str], on_event: Reporter, former: Mapping[str, Former] = NOTHING
    ) -> tuple[str, ...]:
        """See ``Target.put``."""
        small = [] if self._rate else [name for name in names if (folder / name).stat().st_size < IN_PARTS]
        self._send_small(folder, small, on_event)
        for name in (name for name in names if name not in set(small)):
            digest = hash_file(folder / name, on_event=on_event, label=f"reading {name}")
            old = former.get(name)
            parts = [] if old is None else copied_parts(old.stretches)
            if old is not None and parts and self._digest_of(old.file.name) == old.file.sha512:
                self._send_parts(folder / name, name, digest, old.file.name, parts, on_event)
            else:
                self._bucket.send(folder / name, name, on_event, _headers(name, digest))
        return tuple(names)

    def _send_small(self, folder: Path, names: Sequence[str], on_event: Reporter) -> None:
        """Send small files, several at once."""
        if not names:
            return
        total = sum((folder / name).stat().st_size for name in names)
        what = names[0] if len(names) == 1 else counted(len(names), "file")
        on_event(Step(f"Uploading to {self._where}: {what}, {human_size(total)}"))

        def send(name: str) -> None:
            data = (folder / name).read_bytes()
            headers = _headers(name, hashlib.sha512(data).hexdigest())
            with self._bucket.failing(f"{name} cannot be written"):
                self._bucket.client.put_object(**self._bucket.place(name), Body=data, **headers)

        self._in_parallel(send, names)

    def _digest_of(self, name: str) -> str | None:
        """Return the digest in an object's metadata; None when the object or the digest is missing."""
        facts = self._bucket.head(name)
        digest: str | None = (facts or {}).get("Metadata", {}).get(_DIGEST)
        return digest

    def _send_parts(
        self, path: Path, name: str, digest: str, old: str, parts: Sequence[Stretch], on_event: Reporter
    ) -> None:
        """Send a file in parts, some of which the server copies from an old object."""
        place, client = self._bucket.place(name), self._bucket.client
        new = sum(part.end - part.start for part in parts if part.old is None)
        total, done = path.stat().st_size, 0
        what = f"{human_size(new)} of {human_size(total)}, the rest is in {old}"
        on_event(Step(f"Uploading {name} to {self._where}: {what}"))
        try:
            with self._bucket.failing(f"{name} cannot be written"):
                upload_id = client.create_multipart_upload(**place, **_headers(name, digest))["UploadId"]
                made = []
                try:
                    with open_file(path) as file:
                        for number, part in enumerate(parts, 1):
                            which = {**place, "UploadId": upload_id, "PartNumber": number}
                            made.append({"PartNumber": number, "ETag": self._part(file, part, old, which)})
                            if self._rate and part.old is None:
                                time.sleep((part.end - part.start) / self._rate)
                            done += part.end - part.start
                            on_event(Progress(name, done, total))
                    client.complete_multipart_upload(
                        **place, UploadId=upload_id, MultipartUpload={"Parts": made}
                    )
                except BaseException:  # parts without an object would be kept, and paid for
                    with contextlib.suppress(PybuilderError), self._bucket.failing("keeps unfinished parts"):
                        client.abort_multipart_upload(**place, UploadId=upload_id)
                    raise
        finally:
            on_event(ProgressEnd())

    def _part(self, file: BinaryIO, part: Stretch, old: str, which: dict[str, Any]) -> str:
        """Make one part of an object; return its ETag."""
        length = part.end - part.start
        if part.old is None:
            file.seek(part.start)
            made = self._bucket.client.upload_part(**which, Body=file.read(length))
        else:
            made = self._bucket.client.upload_part_copy(
                **which,
                CopySource=self._bucket.place(old),
                CopySourceRange=f"bytes={part.old}-{part.old + length - 1}",
            )["CopyPartResult"]
        return str(made["ETag"])

    def delete(self, names: Sequence[str]) -> None:
        """See ``Target.delete``."""
        self._bucket.delete(names)

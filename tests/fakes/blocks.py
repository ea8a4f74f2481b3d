"""A template with a list of its blocks, made by the publisher's code, and a site that offers it."""

from __future__ import annotations

import functools
import hashlib
import lzma
import random
import re
from pathlib import Path

from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.events import ignore
from imgbuilder.host.hashing import Fingerprint
from imgindex.model import Entry, FurtherFile
from imgrepo.images.blocks import compress_blocks
from imgrepo.images.scan import SourceImage
from tests.fakes.faultserver import Reply, answer, honest

BLOCK = 1 << 16
COUNT = 32


def disk(seed: int = 0, *, changed: int = 0) -> bytes:
    """Return a disk of 32 blocks and a bit, every fourth of them zeros; ``changed`` ones differ."""
    rng = random.Random(seed)
    blocks = [bytes(BLOCK) if number % 4 == 3 else rng.randbytes(BLOCK) for number in range(COUNT)]
    for number in range(changed):
        place = (7 * number) % COUNT
        blocks[place] = random.Random(f"{seed} {number}").randbytes(BLOCK)
    return b"".join(blocks) + b"end".ljust(512, b"\0")


class Site:
    """The published files of a disk; ``files`` may be changed.

    Attributes:
        selection: The template, at an address without a server; see ``at``.
    """

    def __init__(self, folder: Path, content: bytes, *, name: str = "tiny") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        image, packed = folder / f"{name}.raw", folder / "d.zst"
        image.write_bytes(content)
        fingerprint = Fingerprint.of(image.stat())
        made, blocks = compress_blocks(
            SourceImage(image, name, DiskFormat.RAW, fingerprint), packed, 1, ignore
        )
        self.blocks = blocks
        self.files = {
            "d.xz": _xz(content),
            "d.zst": packed.read_bytes(),
            "d.blocklist": blocks.to_bytes(),
        }
        self.requests: list[tuple[str, str]] = []
        self._name, self._size = name, len(content)
        assert made.sha512 == hashlib.sha512(self.files["d.zst"]).hexdigest()

    def at(self, *urls: str) -> Selection:
        """Return the template as a source with these addresses offers it."""
        files = {name: FurtherFile(name, _sha512(data), len(data)) for name, data in self.files.items()}
        entry = Entry(
            self._name, "d.xz", "x86_64", self._size, format="raw", sha512=files["d.xz"].sha512,
            compressed_size=files["d.xz"].compressed_size, zstd=files["d.zst"], blocks=files["d.blocklist"],
        )  # fmt: skip
        first, *mirrors = (f"{url}/index" for url in urls)
        return Selection(Source("s", first, mirrors=tuple(mirrors)), entry, f"{urls[0]}/d.xz")

    def reply(self, head: bytes) -> bytes:
        """Answer a request as a good server does, and note it."""
        found = re.match(rb"GET /(\S+) HTTP", head)
        part = re.search(rb"^Range: bytes=(\S+)\r$", head, re.MULTILINE)
        assert found is not None
        name = found[1].decode()
        self.requests.append((name, "" if part is None else part[1].decode()))
        if name not in self.files:
            return answer(b"", status="404 Not Found")
        make: Reply = honest(self.files[name])
        return make(head)

    @property
    def asked(self) -> list[str]:
        """Names of the files that were requested, whole or in part."""
        return [name for name, _part in self.requests]

    @property
    def frame_bytes(self) -> int:
        """Bytes of the parts that were requested."""
        ends = (part.split("-") for _name, part in self.requests if part)
        return sum(int(last) - int(first) + 1 for first, last in ends)


@functools.cache
def _xz(content: bytes) -> bytes:
    return lzma.compress(content, preset=0)


@functools.cache
def _sha512(data: bytes) -> str:
    return hashlib.sha512(data).hexdigest()

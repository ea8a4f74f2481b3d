"""Costs of an update by blocks: bytes, time, hashing, the list, and memory.

    make bench                                     among the other benchmarks
    python -m tests.bench.updates --template FILE  with a different first revision

A package of this machine is added to the template, on the host, and published for a client that has the
first revision. The server is on loopback. What takes time is compared with plain tools, in turn; only ratios
mean anything. Results go to bench-results/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import unittest.mock
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from imgbuilder.disk.blocks import compare
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.events import ignore
from imgbuilder.host.fileserver import FileServer
from imgbuilder.host.hashing import Fingerprint
from imgbuilder.host.sparse import copy_sparse, data_ranges
from imgindex.blocklist import MOST_BLOCKS, BlockList, parse_blocklist
from imgrepo.images.blocks import compress_blocks
from imgrepo.images.scan import SourceImage
from imgrepo.sharing.serve import PublishedFolderServer
from tests.bench.cachework import ROOT, Case, shell, timed
from tests.bench.measure import BIN, USAGE, default_template

PACKAGE = "e2fsprogs"
"""About as large as nginx, and installed everywhere."""

_CLIENT = """
import sys
from pathlib import Path
from imgbuilder.cache.elsewhere import Elsewhere
from imgbuilder.cache.store import TemplateCache
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.fetch.router import SourceFetcher
from imgindex.model import Entry, FurtherFile
root, url, size, seed, zstd, zstd_size, blocks, blocks_size = sys.argv[1:]
entry = Entry(
    "x", "d.xz", "x86_64", int(size), sha512="0" * 128, format="raw", compressed_size=1 << 40,
    zstd=FurtherFile("d.zst", zstd, int(zstd_size)),
    blocks=FurtherFile("d.blocklist", blocks, int(blocks_size)),
)
with TemplateCache(Path(root), limit=1 << 50, elsewhere=Elsewhere(files=(Path(seed),))) as cache:
    cache.open()
    cache.get_disk(Selection(Source("s", url), entry, url), SourceFetcher())
"""


class Goal(NamedTuple):
    """A figure and the most that it should be."""

    name: str
    figure: float
    most: float

    def __str__(self) -> str:
        reached = "reached" if self.figure <= self.most else "NOT reached"
        return f"{self.name:<50} {self.figure:9.3f}   to reach: {self.most:<5} {reached}"


class Published:
    """A revision of a template, packed in blocks and served on loopback; ``sent`` counts bytes."""

    def __init__(self, folder: Path, image: Path, level: int) -> None:
        folder.mkdir()
        packed = folder / "d.zst"
        source = SourceImage(image, "x", DiskFormat.RAW, Fingerprint.of(image.stat()))
        made, self.blocks = compress_blocks(source, packed, level, ignore, content=image)  # not hashed
        data = self.blocks.to_bytes()
        (folder / "d.blocklist").write_bytes(data)
        (folder / "index.asc").touch()
        self.size = image.stat().st_size
        self.packed = made.size
        self.words = [made.sha512, made.size, hashlib.sha512(data).hexdigest(), len(data)]
        self.sent = 0
        self.server: FileServer = PublishedFolderServer(folder, ("127.0.0.1", 0), self._count)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _count(self, line: str) -> None:
        self.sent += int(line.split('" ')[1].split()[1])

    def update(self, root: Path, seed: Path) -> int:
        """Make the disk in a new cache, with blocks of a seed; return the memory at its peak, in MB."""
        shutil.rmtree(root, ignore_errors=True)
        folders = os.pathsep.join(str(ROOT / name) for name in ("builder", "index"))
        words = [root, f"{self.server.url}/index.asc", self.size, seed, *self.words]
        result = root.with_name("usage")
        command = [sys.executable, "-I", "-S", "-c", USAGE, result, sys.executable, "-c", _CLIENT, *words]
        environ = {**os.environ, "PYTHONPATH": folders, "no_proxy": "*"}
        subprocess.run(list(map(str, command)), check=True, env=environ)
        return int(result.read_text().split()[1]) // 1000


def second_revision(first: Path, folder: Path) -> Path:
    """Return a copy of a template with the files of a package added, on the host."""
    second = folder / "second.img"
    copy_sparse(first, second)
    listed = subprocess.run(["dpkg", "-L", PACKAGE], capture_output=True, text=True, check=True).stdout
    files = [name for name in listed.splitlines() if Path(name).is_file()]
    place = folder / "package"
    for name in files:
        target = place / name[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, target)
    words = ["-q", "--hostside", "always", "-a", str(second), "--copy-in", f"{place}:/opt"]
    subprocess.run([str(BIN / "pybuilder-customize"), *words], check=True)
    return second


def longest_list(folder: Path) -> int:
    """Update a disk of 100 GB with as many blocks as a list may have; return the memory at its peak, in MB.

    The blocks have 4 KiB, which is allowed; the publisher would choose 64 KiB, and 16 GiB of data.
    """
    size, piece = 4096, 4 << 20
    first, second = folder / "large.img", folder / "large2.img"
    with first.open("wb") as file:
        for number in range(MOST_BLOCKS * size // piece):
            file.seek(number * (100 * 10**9 // 256) // size * size)
            file.write(os.urandom(piece))
        file.truncate(100 * 10**9)
    copy_sparse(first, second)
    with second.open("r+b") as file:
        for start, end in list(data_ranges(file.fileno(), 100 * 10**9))[::2]:
            for place in range(start, end, piece // 8):
                os.pwrite(file.fileno(), os.urandom(size), place)
    with unittest.mock.patch("imgrepo.images.blocks.block_size_for", return_value=size):
        published = Published(folder / "large", second, 1)
    assert len(published.blocks) == MOST_BLOCKS
    used = published.update(folder / "cache", first)
    first.unlink()
    second.unlink()
    return used


def data_of(image: Path) -> Iterator[bytes]:
    """Yield the bytes of an image without its holes."""
    with image.open("rb") as file:
        for start, end in data_ranges(file.fileno(), image.stat().st_size):
            file.seek(start)
            yield file.read(end - start)


def hash_blocks(image: Path, blocks: BlockList) -> None:
    """Compare an image with its list."""
    with image.open("rb") as file:
        assert not compare(file.fileno(), blocks).missing


def main() -> None:
    """Run all cases and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--template", type=Path, help="the first revision")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="updates-", dir="/var/tmp") as name:
        folder = Path(name)
        first = folder / "first.img"
        copy_sparse(chosen.template or default_template(), first)
        second = second_revision(first, folder)
        published = Published(folder / "site", second, 19)
        (folder / "data").write_bytes(b"".join(data_of(second)))
        copy = Case("update, a package added | cp --sparse, sync", 1.5)
        hashing = Case("hash all blocks | sha256sum of the same bytes", 1.2)
        memory = []
        for _ in range(chosen.rounds):
            published.sent = 0
            copy.ours.append(timed(lambda: memory.append(published.update(folder / "cache", first))))
            target = folder / "copy.img"
            copy.theirs.append(timed(partial(shell, f"cp --sparse=always {first} {target}; sync {target}")))
            target.unlink()
            hashing.ours.append(timed(partial(hash_blocks, second, published.blocks)))
            hashing.theirs.append(timed(partial(shell, f"sha256sum {folder / 'data'}")))
        shell(f"xz -6 -T0 --block-size=16MiB -c {second} >{folder / 'd.xz'}")
        xz, data = (folder / "d.xz").stat().st_size, published.blocks.to_bytes()
        size, packed = published.size, published.blocks.packed
        parsing = [
            timed(partial(parse_blocklist, data, size=size, packed=packed, where="x")) for _ in range(9)
        ]
        longest = longest_list(folder)
    goals = [
        Goal("bytes of the update, of the xz file's", published.sent / xz, 0.02),
        Goal("bytes of a first download by blocks, likewise", published.packed / xz, 1.4),
        Goal("update, a package added, of cp --sparse and sync", copy.ratio, 1.5),
        Goal("hash all blocks, of sha256sum", hashing.ratio, 1.2),
        Goal(f"list of {len(published.blocks)} blocks parsed, in ms", statistics.median(parsing) * 1000, 10),
        Goal("memory of the update, in MB", max(memory), 60),
        Goal("memory with the longest list, in MB", longest, 60),
    ]
    print("\n".join([copy.row(), hashing.row(), *map(str, goals)]))
    results = ROOT / "bench-results"
    results.mkdir(exist_ok=True)
    cases = [{**vars(case), "ratio": case.ratio} for case in (copy, hashing)]
    measured = [*cases, *(goal._asdict() for goal in goals), {"bytes of the update": published.sent}]
    (results / "updates.json").write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Costs of the cache, compared with plain tools that do the same: fetch and hash, unpack, copy.

    make bench                                 among the other benchmarks
    python -m tests.bench.cachework --size 256 with smaller files

Both sides run in turn, in one run, each in a process of its own; only their ratio
means anything. Results go to bench-results/.
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
MIB = 1 << 20

_OURS = """
import sys
from pathlib import Path
from imgbuilder.cache.store import TemplateCache
from imgbuilder.cache.unpack import unpack
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.host.sparse import copy_sparse
from imgbuilder.fetch.router import SourceFetcher
from imgindex.model import Entry
what, root, url, sha, packed, size, output = sys.argv[1:]
entry = Entry("x", "x", "x86_64", int(size), sha512=sha, format="raw", compressed_size=int(packed))
with TemplateCache(Path(root), limit=1 << 50) as cache:
    cache.open()
    chosen = Selection(Source("s", url), entry, url)
    if what == "fetch":
        cache.get_template(chosen, SourceFetcher())
    elif what == "unpack":
        with open(url, "rb", buffering=0) as file:
            unpack(file, Path(output), entry, where="x")
    else:
        copy_sparse(cache.get_disk(chosen, SourceFetcher()), Path(output))
"""


@dataclass
class Case:
    """One comparison.

    Attributes:
        name: What is measured.
        goal: The ratio that it should not exceed; None when there is none.
        ours: Seconds of each of our runs.
        theirs: Seconds of each of theirs.
    """

    name: str
    goal: float | None
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.theirs)

    def row(self) -> str:
        goal = "" if self.goal is None else f"   to reach: {self.goal}"
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        return f"{self.name:<46} {ours:7.2f} s {theirs:7.2f} s   ratio {self.ratio:.2f}{goal}"


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def shell(command: str) -> None:
    subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], check=True, stdout=subprocess.DEVNULL)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class Place:
    """A folder for everything, and our side of each comparison."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache, self.output = folder / "cache", folder / "output"

    def ours(self, what: str, url: str, packed: Path, size: int, sha: str) -> None:
        folders = os.pathsep.join(str(ROOT / name) for name in ("builder", "index"))
        words = [what, self.cache, url, sha, packed.stat().st_size, size, self.output]
        environ = {**os.environ, "PYTHONPATH": folders, "no_proxy": "*"}
        subprocess.run([sys.executable, "-c", _OURS, *map(str, words)], check=True, env=environ)

    def empty(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)
        self.output.unlink(missing_ok=True)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def fetch(place: Place, megabytes: int, rounds: int) -> Case:
    """Fetch from loopback into the cache, against curl with tee and sha512sum in one pipe."""
    case = Case(f"fetch {megabytes} MiB | curl, tee, sha512sum", 1.3)
    file = place.folder / "served"
    shell(f"head -c {megabytes}M /dev/urandom >{file}")
    sha = digest(file)
    handler = partial(Quiet, directory=str(place.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/served"
        for _ in range(rounds):
            place.empty()
            case.ours.append(timed(partial(place.ours, "fetch", url, file, megabytes * MIB, sha)))
            place.empty()
            curl = f"curl --silent --noproxy '*' {url} | tee {place.output} | sha512sum"
            case.theirs.append(timed(partial(shell, f"{curl}; sync {place.output}")))
        server.shutdown()
    file.unlink()
    return case


def make_disk(path: Path, used: int, size: int) -> None:
    """Write a disk of some data that packs like that of a system, in pieces with holes between."""
    source = subprocess.run(
        ["find", "/usr/lib", "-type", "f", "-size", "+64k"], capture_output=True, text=True
    )
    done, gap = 0, (size - used) // 16 * MIB
    with path.open("wb") as disk:
        for name in source.stdout.splitlines():
            data = Path(name).read_bytes()
            disk.write(data)
            if done // (used * MIB // 16) != (done + len(data)) // (used * MIB // 16):
                disk.seek(gap // MIB * MIB, os.SEEK_CUR)
            done += len(data)
            if done >= used * MIB:
                break
        disk.truncate(size * MIB)


def unpack(place: Place, used: int, rounds: int) -> list[Case]:
    """Unpack xz, against ``xz -dc -T0`` into a sparse file; and a warm build's copy, against cp."""
    unpacking = Case(f"unpack xz, {used} MiB of data | xz -dc -T0, sparse", 1.1)
    warm = Case(f"warm: find, check, copy {used} MiB | cp --sparse", None)
    disk, packed, size = place.folder / "disk", place.folder / "disk.xz", 4 * used
    make_disk(disk, used, size)
    shell(f"xz -1 -T0 --block-size=16MiB -c {disk} >{packed}")
    disk.unlink()
    sha = digest(packed)
    for _ in range(rounds):
        place.empty()
        unpacking.ours.append(timed(partial(place.ours, "unpack", str(packed), packed, size * MIB, sha)))
        place.empty()
        sparse = f"dd of={place.output} conv=sparse bs=64K iflag=fullblock status=none"
        unpacking.theirs.append(timed(partial(shell, f"xz -dc -T0 {packed} | {sparse}")))
    place.empty()
    place.ours("copy", str(packed), packed, size * MIB, sha)
    image = next((place.cache / "disks").glob("*.raw"))
    for _ in range(rounds):
        place.output.unlink()
        warm.ours.append(timed(partial(place.ours, "copy", str(packed), packed, size * MIB, sha)))
        place.output.unlink()
        copy = f"cp --sparse=auto --reflink=auto {image} {place.output}"
        warm.theirs.append(timed(partial(shell, copy)))
    return [unpacking, warm]


def main() -> None:
    """Run all cases and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="MiB to fetch")
    parser.add_argument("--used", type=int, default=500, help="MiB of data in a disk")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cachework-", dir="/var/tmp") as folder:
        place = Place(Path(folder))
        cases = [fetch(place, chosen.size, chosen.rounds), *unpack(place, chosen.used, chosen.rounds)]
    results = ROOT / "bench-results"
    results.mkdir(exist_ok=True)
    lines = [case.row() for case in cases]
    print("\n".join(lines))
    found = [{**vars(case), "ratio": case.ratio} for case in cases]
    (results / "cachework.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

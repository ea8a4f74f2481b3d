"""A year of updates by blocks: bytes, requests, a server's processor time, and when clients are up to date.

    make bench                                        1,000 clients, among the other benchmarks
    python -m tests.bench.scale --clients 100000      a hundred times as many

Measured: what a request and a megabyte cost nginx, by some clients that run the client's own code against it
on loopback, a part of them with a mirror that sends wrong bytes; all disks are compared, and the bytes and
requests in nginx's log with those that are computed. Computed: the year, by the client's own code that
divides frames among requests, on lists as large as those of a Debian template. The results are in
``docs/scale.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from imgbuilder.cache.assemble import Update, fetch_list
from imgbuilder.cache.supply import spans_of
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.events import ignore
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.host.hashing import Fingerprint
from imgindex.blocklist import Block, BlockList
from imgindex.model import Entry, FurtherFile
from imgrepo.images.blocks import compress_blocks
from imgrepo.images.scan import SourceImage

ROOT = Path(__file__).parents[2]
BLOCK = 1 << 16
DAY = 86400


class Kind(NamedTuple):
    """An update of a template, as measured with Debian 12: changed blocks, runs of them, bytes of a frame."""

    name: str
    blocks: int
    runs: int
    frame: int


KINDS = (
    Kind("one package", 57, 22, 14431), Kind("base libraries", 1324, 231, 19957),
    Kind("kernel", 2165, 30, 28960),
)  # fmt: skip
TEMPLATE_BLOCKS = 7584
WHOLE = 152_712_654
"""Bytes of the zstd file."""
XZ = 111_372_600
INDEX = 5000
"""Bytes of an index, and of the headers around it; each client asks for it once a day."""
MIRRORS, ADDRESSES, CORRUPT = 20, 4, 0.05
OFFLINE = 0.1
"""Share of clients that miss a month."""
NEW = 0.03
"""Share of clients that a month replaces by new ones, with empty caches."""
LINE, SERVER = 100e6 / 8, 1e9 / 8
"""Bytes per second of a client, and of all servers together."""


class Cost(NamedTuple):
    """Requests and bytes of an update, without list and index."""

    requests: int
    size: int


class Template:
    """Revisions of a template: the version of each block in each of them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.revisions: list[list[int]] = [[0] * TEMPLATE_BLOCKS]
        self._frames = [20115]

    def add(self, kind: Kind) -> None:
        """Make a revision, in which some runs of blocks are new."""
        versions, number = list(self.revisions[-1]), len(self.revisions)
        left = kind.blocks
        for run in range(kind.runs, 0, -1):
            length = left if run == 1 else min(left - run + 1, self._random.randint(1, 2 * left // run))
            start = self._random.randrange(TEMPLATE_BLOCKS - length)
            versions[start : start + length] = [number] * length
            left -= length
        self.revisions.append(versions)
        self._frames.append(kind.frame)

    @functools.cache  # noqa: B019 - one object, for the whole run
    def cost(self, held: int, newest: int) -> Cost:
        """Return what a client fetches that holds an older revision, divided as the client does it."""
        blocks, end = [], 0
        for number, version in enumerate(self.revisions[newest]):
            length = 2000 + hash((number, version)) % (2 * (self._frames[version] - 2000))
            if version != self.revisions[held][number]:
                blocks.append(Block(number, length, end, b"", b""))
            end += length
        spans = [*spans_of(blocks)]
        size = sum(span.end - span.start for span in spans)
        return Cost(1, WHOLE) if size > 0.6 * XZ else Cost(len(spans), size)


@dataclass
class Month:
    """The clients' work of one month."""

    kind: str
    requests: int = 0
    size: int = 0
    whole: int = 0
    fresh: list[float] = field(default_factory=list)
    busiest: int = 0
    """Most requests of clients that come in the same second."""


def simulate(clients: int, months: int, seed: int, window: float) -> list[Month]:
    """Compute a year; clients look for updates once in ``window`` seconds, each at a moment of its own."""
    rng, template = random.Random(seed), Template(seed)
    held: list[int | None] = [0] * clients
    found = []
    for number in range(1, months + 1):
        kind = KINDS[number % len(KINDS)]
        template.add(kind)
        month = Month(kind.name)
        arrivals: list[tuple[float, Cost]] = []
        for client in range(clients):
            if rng.random() < NEW:
                held[client] = None
            if rng.random() < OFFLINE:
                continue
            old = held[client]
            cost = Cost(1, WHOLE) if old is None else template.cost(old, number)
            month.whole += cost.size == WHOLE
            if cost.size != WHOLE:
                # One of its four connections asks the corrupt mirror, once, and another one again.
                if any(rng.random() < CORRUPT for _ in range(ADDRESSES)):
                    cost = Cost(cost.requests + 1, cost.size + cost.size // cost.requests)
                cost = Cost(cost.requests + 1, cost.size + 192 + 64 * TEMPLATE_BLOCKS)
            arrivals.append((rng.random() * window, cost))
            held[client] = number
        _serve(month, sorted(arrivals))
        found.append(month)
    return found


def _serve(month: Month, arrivals: Sequence[tuple[float, Cost]]) -> None:
    """Serve the clients in the order of their coming, by servers of limited speed."""
    free, seconds = 0.0, Counter[int]()
    for moment, cost in arrivals:
        start = max(moment, free)
        free = start + cost.size / SERVER
        month.fresh.append(max(free, start + cost.size / LINE))
        month.requests += cost.requests
        month.size += cost.size
        seconds[int(moment)] += cost.requests
    month.busiest = max(seconds.values(), default=0)


class Measured(NamedTuple):
    """Processor seconds of nginx for a request and for a megabyte, and of a client for an update."""

    request: float
    megabyte: float
    client: float


def measure(nginx: str, folder: Path, clients: int) -> Measured:
    """Let real clients update from nginx; stop with an error if a disk is wrong, or a figure differs."""
    old, new, site = folder / "old.raw", folder / "new.raw", folder / "site"
    _make_disks(old, new)
    site.mkdir()
    blocks, entry = _publish(new, site)
    have = {hashlib.sha256(piece).digest() for piece in _pieces(old)}
    spans = [*spans_of(block for block in blocks if block.digest not in have)]
    whole = site / "a" / entry.file
    for name in "bcd":
        (site / name).symlink_to("a")
    (site / "bad").mkdir()
    shutil.copy(site / "a" / "new.blocklist", site / "bad")
    (site / "bad" / entry.file).write_bytes(bytes(byte ^ 1 for byte in whole.read_bytes()))
    used = []
    with _running(nginx, folder, site) as (url, server, log):
        for addresses in (["a", "b", "c", "d"], ["bad", "b", "c", "d"]):
            log.write_bytes(b"")
            before = sum(server.cpu_times()[:2])
            work = (url, addresses, entry, old, hashlib.sha512(new.read_bytes()).hexdigest())
            with ProcessPoolExecutor(2) as pool:
                seconds = list(pool.map(_client, [work] * clients))
            lines = [line.split() for line in log.read_text().splitlines()]
            parts = [int(size) for status, size, _path in lines if status == "206"]
            expected = clients * sum(span.end - span.start for span in spans)
            print(
                f"{clients} clients, first address {addresses[0]}: {len(parts)} requests, "
                f"{sum(parts) / 1e6:.1f} MB; computed {clients * len(spans)}, {expected / 1e6:.1f} MB"
            )
            if addresses[0] == "a":
                assert (len(parts), sum(parts)) == (clients * len(spans), expected)
                used.append((len(lines), sum(parts), sum(server.cpu_times()[:2]) - before))
            else:
                most = clients * max(span.end - span.start for span in spans)
                assert expected < sum(parts) <= expected + most
        many, large = used[0], _load(url, entry, log, server)
    # Two equations: many requests of few bytes, and few requests of many bytes.
    (count, size, cpu), (other_count, other_size, other_cpu) = many, large
    scale = count / other_count
    megabyte = max(0.0, (other_cpu * scale - cpu) / ((other_size * scale - size) / 1e6))
    return Measured(max(0.0, cpu - megabyte * size / 1e6) / count, megabyte, statistics.mean(seconds))


def _load(url: str, entry: Entry, log: Path, server: psutil.Process) -> tuple[int, int, float]:
    """Fetch the whole file some times."""
    log.write_bytes(b"")
    before = sum(server.cpu_times()[:2])
    for _ in range(20):
        subprocess.run(
            ["curl", "-s", "--noproxy", "*", "-o", os.devnull, f"{url}/a/{entry.file}"], check=True
        )
    sizes = [int(line.split()[1]) for line in log.read_text().splitlines()]
    return len(sizes), sum(sizes), sum(server.cpu_times()[:2]) - before


def _client(work: tuple[str, Sequence[str], Entry, Path, str]) -> float:
    """Update a disk as a client does, from the block list on; return the processor seconds."""
    url, addresses, entry, old, digest = work
    os.environ["no_proxy"] = "*"
    first, *mirrors = (f"{url}/{name}/index" for name in addresses)
    selection = Selection(Source("s", first, mirrors=tuple(mirrors)), entry, f"{url}/a/{entry.file}")
    fetcher, started = SourceFetcher(), time.process_time()
    with (
        tempfile.TemporaryFile(dir="/var/tmp") as target,
        tempfile.TemporaryFile(dir="/var/tmp") as place,
        old.open("rb") as seed,
    ):
        blocks = fetch_list(selection, fetcher, place, ignore)
        assert blocks is not None
        update = Update(selection, blocks, blocks.packed, fetcher, ignore)
        assert update.fill(target.fileno(), [seed.fileno()])
        assert hashlib.file_digest(target, "sha512").hexdigest() == digest, "a wrong disk"
    return time.process_time() - started


def _make_disks(old: Path, new: Path) -> None:
    """Write two disks of 64 MiB, of which 60 blocks in 20 places differ."""
    rng = random.Random(1)
    pieces = [rng.randbytes(BLOCK) for _ in range(1024)]
    old.write_bytes(b"".join(pieces))
    for place in range(20):
        pieces[50 * place : 50 * place + 3] = [rng.randbytes(BLOCK) for _ in range(3)]
    new.write_bytes(b"".join(pieces))


def _pieces(disk: Path) -> Iterator[bytes]:
    with disk.open("rb") as file:
        while piece := file.read(BLOCK):
            yield piece


def _publish(disk: Path, site: Path) -> tuple[BlockList, Entry]:
    folder = site / "a"
    folder.mkdir()
    image = SourceImage(disk, disk.stem, DiskFormat.RAW, Fingerprint.of(disk.stat()))
    made, blocks = compress_blocks(image, folder / "new.zst", 1, ignore)
    listed = blocks.to_bytes()
    (folder / "new.blocklist").write_bytes(listed)
    entry = Entry(
        "new", "new.zst", "x86_64", disk.stat().st_size, format="raw", sha512=made.sha512,
        compressed_size=made.size,
        blocks=FurtherFile("new.blocklist", hashlib.sha512(listed).hexdigest(), len(listed)),
    )  # fmt: skip
    return blocks, entry


@contextlib.contextmanager
def _running(nginx: str, folder: Path, site: Path) -> Iterator[tuple[str, psutil.Process, Path]]:
    """Run nginx with one worker; yield its address, the worker, and its log: status, bytes, path."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log, config = folder / "access.log", folder / "nginx.conf"
    log.touch()
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}\n"
        "events { worker_connections 1000; }\n"
        f"http {{ {places} log_format short '$status $body_bytes_sent $uri'; access_log {log} short;\n"
        f"sendfile on; server {{ listen 127.0.0.1:{port}; root {site}; }} }}\n"
    )
    words: list[str | Path] = [nginx, "-e", f"{folder}/error.log", "-p", folder, "-c", config]
    with subprocess.Popen(words) as running:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                if running.poll() is not None:
                    raise SystemExit(f"nginx does not start: {(folder / 'error.log').read_text()}")
            yield f"http://127.0.0.1:{port}", psutil.Process(running.pid).children()[0], log
        finally:
            running.terminate()


def main() -> None:
    """Measure, compute and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--sample", type=int, default=20, help="real clients that are measured")
    parser.add_argument(
        "--window", type=float, default=DAY, help="seconds in which all look for updates once"
    )
    parser.add_argument("--nginx", default=shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    measured = None
    if options.nginx is not None and shutil.which(options.nginx) is None:
        parser.error(f"--nginx {options.nginx}: this program is not there, or cannot be run")
    if options.nginx is None:
        print("nginx is not installed, so its processor time is not measured: apt-get install nginx-light")
    else:
        with tempfile.TemporaryDirectory(prefix="pbs-", dir="/var/tmp") as folder:
            measured = measure(options.nginx, Path(folder), options.sample)
        print(
            f"measured: nginx needs {measured.request * 1e6:.0f} us of processor time for a request and "
            f"{measured.megabyte * 1e6:.0f} us for a MB, a client {measured.client:.2f} s for an update"
        )
    found = simulate(options.clients, options.months, options.seed, options.window)
    _report(found, options.clients, measured)
    results = ROOT / "bench-results"
    results.mkdir(exist_ok=True)
    rows = [{**asdict(month), "fresh": _quantiles(month.fresh)} for month in found]
    text = json.dumps({"measured": measured and measured._asdict(), "months": rows}, indent=1)
    (results / "scale.json").write_text(f"{text}\n")


def _quantiles(moments: Sequence[float]) -> tuple[float, float]:
    """Return the median, and the moment at which 99 of 100 are done."""
    ordered = sorted(moments)
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]


def _report(found: Sequence[Month], clients: int, measured: Measured | None) -> None:
    print(
        f"{'month':22} {'GB':>9} {'of .xz':>7} {'whole':>7} {'requests':>10} {'busiest/s':>9} {'half':>8} "
        f"{'99 %':>8} {'nginx':>8}"
    )
    cpu_of_year = 0.0
    for number, month in enumerate(found, 1):
        half, most = _quantiles(month.fresh)
        share = month.size / len(month.fresh) / XZ
        cpu = 0.0
        if measured is not None:
            cpu = month.requests * measured.request + month.size / 1e6 * measured.megabyte
        cpu_of_year += cpu
        print(
            f"{number:2} {month.kind:19} {month.size / 1e9:9.1f} {share:7.1%} {month.whole:7} "
            f"{month.requests:10} {month.busiest:9} {half / 3600:6.1f} h {most / 3600:6.1f} h {cpu:6.1f} s"
        )
    size, updates = sum(month.size for month in found), sum(len(month.fresh) for month in found)
    checks = clients * 365
    print(
        f"year: {size / 1e9:.1f} GB, {size / clients / 1e6:.0f} MB for each client,\n"
        f"{size / updates / XZ:.1%} of {updates} whole .xz files ({updates * XZ / 1e9:.0f} GB);\n"
        f"{checks} looks at the index ({checks * INDEX / 1e9:.1f} GB); nginx {cpu_of_year:.0f} s"
    )


if __name__ == "__main__":
    main()

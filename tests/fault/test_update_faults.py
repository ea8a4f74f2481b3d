"""Updates by blocks from servers, neighbours and disks that are all wrong at random: never a wrong disk.

A fault is one changed answer, or one damaged disk. ``PYBUILDER_FAULTS`` sets how many there are. Each run has
others; ``PYBUILDER_SEED`` repeats one as far as threads allow.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbuilder.cache import supply
from imgbuilder.cache.elsewhere import PEER_LIMITS, Elsewhere, Peers
from imgbuilder.cache.store import TemplateCache
from imgbuilder.errors import PybuilderError
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.transfer import Limits
from tests.fakes.blocks import BLOCK, Site, disk
from tests.fakes.faultserver import FaultServer, answer, honest

FAULTS = int(os.environ.get("PYBUILDER_FAULTS", "300"))
SEED = int(os.environ.get("PYBUILDER_SEED", str(time.time_ns() % 10_000)))
OLD, NEW = disk(), disk(changed=8)
LIMITS = Limits(timeout=1, connect=1, backoff=0.001, retries=1, resumes=2, longest_wait=0)

pytestmark = [
    pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed"),
    pytest.mark.timeout(max(120, FAULTS)),
    pytest.mark.row("T9", "X24", "X25", "T25"),
]

Fault = Callable[[random.Random, bytes, bytes], bytes]
"""Changes an answer, given the request."""


def body_of(reply: bytes) -> int:
    return reply.index(b"\r\n\r\n") + 4


def flip(rng: random.Random, _head: bytes, reply: bytes) -> bytes:
    """Change some bits anywhere in the answer."""
    changed = bytearray(reply)
    for _ in range(rng.randint(1, 20)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_body(rng: random.Random, head: bytes, reply: bytes) -> bytes:
    start = body_of(reply)
    return reply[:start] + flip(rng, head, reply[start:]) if len(reply) > start else b""


def cut(rng: random.Random, _head: bytes, reply: bytes) -> bytes:
    return reply[: rng.randrange(len(reply))]


def drop(rng: random.Random, _head: bytes, reply: bytes) -> bytes:
    start = rng.randrange(body_of(reply), len(reply) + 1)
    return reply[:start] + reply[start + rng.randint(1, 5000) :]


def insert(rng: random.Random, _head: bytes, reply: bytes) -> bytes:
    start = rng.randrange(body_of(reply), len(reply) + 1)
    return reply[:start] + rng.randbytes(rng.randint(1, 5000)) + reply[start:]


def repeat(rng: random.Random, _head: bytes, reply: bytes) -> bytes:
    start = rng.randrange(body_of(reply), len(reply) + 1)
    return reply[:start] + reply[body_of(reply) :] + reply[start:]


def zeros(rng: random.Random, _head: bytes, reply: bytes) -> bytes:
    start = rng.randrange(body_of(reply), len(reply) + 1)
    return reply[:start] + bytes(len(reply) - start)


def other_part(rng: random.Random, head: bytes, reply: bytes) -> bytes:
    """Send the bytes of another place, under the right headers or with those of that place."""
    shift = rng.randint(1, 3 * BLOCK)
    moved = re.sub(rb"(?<=[=-])\d+", lambda number: b"%d" % (int(number[0]) + shift), head)
    other = honest(rng.choice((OLD, NEW)))(moved)
    return other if rng.random() < 0.5 else reply[: body_of(reply)] + other[body_of(other) :]


STATUS = ("200 OK", "204 No", "206 Partial Content", "301 Moved", "404 No", "416 No", "500 No", "503 No")


def other_status(rng: random.Random, _head: bytes, reply: bytes) -> bytes:
    return re.sub(rb"^HTTP/1.1 [^\r]*", f"HTTP/1.1 {rng.choice(STATUS)}".encode(), reply)


def other_header(rng: random.Random, _head: bytes, reply: bytes) -> bytes:
    lines = ["Content-Encoding: gzip", "Content-Length: 7", "Transfer-Encoding: chunked", "Location: /d.xz",
             "Content-Range: bytes 0-9/10", "Content-Length: 99999999"]  # fmt: skip
    return reply.replace(b"\r\n", f"\r\n{rng.choice(lines)}\r\n".encode(), 1)


def nothing(_rng: random.Random, _head: bytes, _reply: bytes) -> bytes:
    return b""


def page(rng: random.Random, _head: bytes, _reply: bytes) -> bytes:
    return answer(b"<html>sorry</html>" * rng.randint(1, 9))


KINDS: list[Fault] = [
    flip, flip_body, flip_body, cut, drop, insert, repeat, zeros, other_part, other_status, other_header,
    nothing, page,
]  # fmt: skip


class Liar:
    """Answers like ``good``, but some answers have a fault, each another one."""

    _numbers = itertools.count()

    def __init__(self, good: Callable[[bytes], bytes], counts: Counter[str]) -> None:
        self._good, self._counts = good, counts
        self.share = 0.0

    def __call__(self, head: bytes) -> bytes:
        rng = random.Random(f"{SEED} {next(self._numbers)}")
        reply = self._good(head)
        if rng.random() >= self.share:
            return reply
        fault = rng.choice(KINDS)
        self._counts[fault.__name__] += 1
        return fault(rng, head, reply)


def damage(rng: random.Random, path: Path, content: bytes) -> None:
    """Change a disk that is a seed: bits, places of blocks, or its size."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(data))
        data[place : place + rng.randint(0, BLOCK)] = rng.randbytes(rng.randint(0, BLOCK))
    path.chmod(0o600)
    path.write_bytes(data)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(supply, "_PAUSE", 0.0001)


@pytest.mark.usefixtures("quick")
def test_no_fault_makes_a_wrong_disk(tmp_path: Path) -> None:
    """After an error, an honest answer completes the disk, whatever the faults left behind."""
    site, old, root = Site(tmp_path / "new", NEW), Site(tmp_path / "old", OLD), tmp_path / "cache"
    rng, counts, ends = random.Random(SEED), Counter[str](), Counter[str]()
    with TemplateCache(root) as cache, FaultServer([old.reply]) as server:
        cache.open()
        seed = cache.get_disk(old.at(server.url), SourceFetcher(LIMITS))
    while counts.total() < FAULTS:
        liars = [Liar(site.reply, counts), Liar(site.reply, counts), Liar(honest(NEW), counts)]
        with contextlib.ExitStack() as stack:  # new servers now and then: each remembers all its requests
            one, two, near = (stack.enter_context(FaultServer([liar])) for liar in liars)
            peers = Peers((near.url,), SourceFetcher(PEER_LIMITS._replace(timeout=1)))
            for _ in range(100):
                for liar in liars:
                    liar.share = rng.choice([0.1, 0.5, 1])
                if rng.random() < 0.1:
                    counts["damage"] += 1
                    damage(rng, seed, OLD)
                elsewhere = Elsewhere(peers=peers if rng.random() < 0.3 else None)
                with TemplateCache(root, elsewhere=elsewhere) as cache:
                    cache.open()
                    end = attempt(cache, site, one.url, two.url)
                    ends[end] += 1
                    if end == "error":
                        for liar in liars:
                            liar.share = 0
                        assert attempt(cache, site, one.url, two.url) == "right", f"seed {SEED}"
                for path in (*root.glob("disks/*"), *root.glob("templates/*"), *root.glob("partial/*")):
                    if not path.name.startswith(seed.name):
                        path.unlink()
    print(f"{counts.total()} faults, seed {SEED}: {dict(ends)}, {dict(counts)}")
    assert min(ends["right"], ends["error"]) > 0


def attempt(cache: TemplateCache, site: Site, *urls: str) -> str:
    """Get the disk; it must be right, or the error one of ours."""
    try:
        path = cache.get_disk(site.at(*urls), SourceFetcher(LIMITS))
    except PybuilderError:
        return "error"
    assert path.read_bytes() == NEW, f"a wrong disk, seed {SEED}"
    return "right"

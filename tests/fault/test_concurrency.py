"""One cold template, and many templates in parallel, over many rounds.

A few rounds in the daily run; with ``PYBUILDER_TEST_LONG=1`` the 50 rounds and the ten minutes of a release.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.cacheworkers import DISK, PACKED, WORKERS, Place, kill
from tests.fakes.faultserver import FaultServer, Pause, Reply, honest

LONG = bool(os.environ.get("PYBUILDER_TEST_LONG"))
ROUNDS = 50 if LONG else 3
SECONDS = 600 if LONG else 6
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(shutil.which("xz") is None, reason="the program xz is not installed"),
    pytest.mark.timeout(3600 if LONG else 240),
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / name) for name in ("builder", "index")))


@pytest.mark.row("C7")
def test_thirty_two_processes_over_many_rounds(tmp_path: Path) -> None:
    right = hashlib.sha512(DISK).hexdigest()
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        place = Place(folder)
        with FaultServer([Pause(0.1), honest(PACKED)]) as server:
            place.run(server, 32)
            assert len(server.requests) == 1, f"round {number}"
        assert place.said().count("unpacked") == 1, f"round {number}"
        assert place.said().count(right) == 32, f"round {number}"
        assert place.leftovers() == [], f"round {number}"
        shutil.rmtree(folder)
    print(f"C7: {ROUNDS} rounds")


CLIENT = """
import hashlib, json, random, sys, time
from pathlib import Path
from imgbuilder.cache.store import TemplateCache
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.fetch.web import RequestsFetcher
from imgindex.model import Entry

root, url, seed, seconds, known = sys.argv[1:]
templates = json.loads(Path(known).read_text())
choose, end, rounds = random.Random(int(seed)), time.monotonic() + float(seconds), 0
while time.monotonic() < end:
    name, sha, packed, size, disk = choose.choice(templates)
    entry = Entry(name, f"{name}.xz", "x86_64", size, sha512=sha, format="raw", compressed_size=packed)
    with TemplateCache(Path(root), limit=1 << 20) as cache:  # less than all of them take: they come and go
        cache.open()
        where = f"{url}/{name}.xz"
        found = cache.get_disk(Selection(Source("s", where), entry, where), RequestsFetcher())
        assert hashlib.sha512(found.read_bytes()).hexdigest() == disk, name
    rounds += 1
print(rounds)
"""


@pytest.mark.row("C9")
def test_ten_clients_and_ten_templates(tmp_path: Path) -> None:
    """Side by side, in a cache too small for all of them: every disk that is handed out is right."""
    made: list[tuple[str, str, int, int, str]] = []
    files: dict[bytes, bytes] = {}
    for number in range(10):
        disk = random.Random(number).randbytes(100_000).ljust(1 << 19, b"\0")
        packed = lzma.compress(disk, preset=0)
        sha, content = hashlib.sha512(packed).hexdigest(), hashlib.sha512(disk).hexdigest()
        made.append((f"t{number}", sha, len(packed), len(disk), content))
        files[f"/t{number}.xz".encode()] = packed
    known = tmp_path / "known"
    known.write_text(json.dumps(made))

    def serve(head: bytes) -> bytes:
        reply: Reply = honest(files[head.split()[1]])
        return reply(head)

    with FaultServer([serve]) as server:
        clients = [
            subprocess.Popen(
                [
                    *(sys.executable, "-c", CLIENT, str(tmp_path / "cache"), server.url),
                    *(str(seed), str(SECONDS), str(known)),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for seed in range(10)
        ]
        try:
            ended = [client.communicate(timeout=SECONDS + 120) for client in clients]
        finally:
            for client in clients:
                if client.poll() is None:
                    client.kill()
                    client.wait()
    assert [client.returncode for client in clients] == [0] * 10, [err[-600:] for _out, err in ended]
    disks = sum(int(out) for out, _err in ended)
    print(f"C9: {disks} disks in {SECONDS} seconds, {len(server.requests)} downloads")
    assert len(server.requests) >= 10
    assert list((tmp_path / "cache").rglob(".part-*")) == []


@pytest.mark.row("C9")
def test_a_slow_download_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    """Two templates, the first of a server that never goes on; the second comes all the same."""
    slow, quick = Place(tmp_path), Place(tmp_path)
    slow.log, quick.log = tmp_path / "slow", tmp_path / "quick"
    other = lzma.compress(DISK, preset=1)
    with FaultServer([honest(PACKED, upto=1000), Pause(60)]) as stuck, FaultServer([honest(other)]) as good:
        held = slow.start(stuck)
        try:
            while not stuck.requests:
                assert held.poll() is None
                time.sleep(0.01)
            words = [
                quick.root, f"{good.url}/d.xz", hashlib.sha512(other).hexdigest(),
                len(DISK), len(other), 1, quick.log,
            ]  # fmt: skip
            done = subprocess.run([sys.executable, "-c", WORKERS, *map(str, words)], timeout=50, check=False)
            assert done.returncode == 0
            assert held.poll() is None, "the first one is still at it"
        finally:
            kill(held)
    assert quick.log.read_text().splitlines() == ["unpacked", hashlib.sha512(DISK).hexdigest()]

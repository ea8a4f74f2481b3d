"""Builds without an appliance: against a plain copy, on a filesystem that shares blocks, and many at once."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.measure import FILES, MANY, Bench, Series

_DISKS = 20
_ALWAYS = ("--hostside", "always")


def hostside(bench: Bench, rounds: int) -> list[tuple[Series, Series, str]]:
    """Builds without an appliance, against a copy of the same disk that is synced as well."""
    theirs, copy = Series("virt-builder files"), Series("cp and sync")
    files, grown = Series("pybuilder files, on the host"), Series("the same, growing to 4 GiB")
    linked = Series("pybuilder --linked, on the host")
    many, resumed = Series("pybuilder 20 options, on the host"), Series("the same, resumed")
    (disk,) = (bench.folder / "cache-ours" / "disks").glob("*.raw")
    copied = bench.folder / "copy.img"
    bench.ours(Series("saving the appliance"), "--hostside", "never", *FILES)
    for number in range(5 * rounds):
        copied.unlink(missing_ok=True)
        bench.time(copy, "sh", "-c", 'cp --sparse=always "$0" "$1" && sync "$1"', disk, copied, log="copy")
        bench.ours(files, *_ALWAYS, *FILES)
        bench.ours(grown, *_ALWAYS, "--size", "4G", *FILES)
        bench.ours(many, *_ALWAYS, *MANY)
        bench.ours(linked, *_ALWAYS, "--linked", *FILES)
        if number % 5 == 0:
            bench.ours(resumed, "--hostside", "never", *MANY)
            bench.theirs(theirs, *FILES)
    print(f"a linked image takes {(bench.folder / 'ours.img').stat().st_blocks // 2} KiB on the disk")
    return [
        (files, copy, "2.00"),
        (files, theirs, "0.01"),
        (grown, copy, "2.50"),
        (many, copy, "3.00"),
        (many, resumed, "0.35"),
        (linked, copy, "1.00"),
    ]


def reflink(bench: Bench, rounds: int) -> list[tuple[Series, Series, str]]:
    """The processor time of builds on XFS, where a copy shares the blocks; and the memory of builds."""
    memory = [bench.usage(*bench.command(bench.folder / "ours.img", *_ALWAYS, *FILES))[1]]
    memory.append(bench.usage(*bench.command(bench.folder / "ours.img", *_ALWAYS, "--size", "4G", *MANY))[1])
    print(f"peak memory of the largest process, files only and 20 options: {max(memory):.0f} MB (100)")
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(_xfs(bench.folder))
        except subprocess.CalledProcessError as error:
            print(f"XFS with reflink: skipped, because {error.cmd[0]} failed: {error.stderr.strip()}")
            return []
        image, cache = folder / "ours.img", folder / "cache"
        bench.usage(*bench.command(image, *_ALWAYS, *FILES, cache=cache))  # fills the cache
        used = [
            bench.usage(*bench.command(image, *_ALWAYS, *FILES, cache=cache))[0] for _ in range(5 * rounds)
        ]
        print(f"files only on XFS with reflink: {statistics.median(used):.2f} s of processor time (0.30)")
    return []


@contextlib.contextmanager
def _xfs(folder: Path) -> Iterator[Path]:
    """Mount an XFS filesystem in a file, as only root can."""
    disk, mounted = folder / "xfs.img", folder / "xfs"
    mounted.mkdir(exist_ok=True)
    with disk.open("wb") as file:
        file.truncate(8 << 30)
    _run("mkfs.xfs", "-q", "-m", "reflink=1", disk)
    _run("mount", "-o", "loop", disk, mounted)
    try:
        yield mounted
    finally:
        _run("umount", mounted)
        disk.unlink()


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def fleet(bench: Bench, rounds: int) -> list[tuple[Series, Series, str]]:
    """Twenty unique raw disks, a command line each, two at a time."""
    ours, resumed = Series("20 disks, two at a time, on the host"), Series("the same, resumed")
    bench.ours(Series("saving the appliance"), "--hostside", "never", *FILES)
    for _ in range(rounds):
        _build_fleet(bench, ours, *_ALWAYS)
        _build_fleet(bench, resumed, "--hostside", "never")
    return [(ours, resumed, "0.35")]


def _build_fleet(bench: Bench, series: Series, *words: str) -> None:
    images = [bench.folder / f"fleet-{number}.img" for number in range(_DISKS)]

    def build(image: Path) -> None:
        command = bench.command(image, *words, *FILES, "--hostname", image.stem)
        bench.time(Series("one of many"), *command, log=image.stem)

    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(build, images))
    series.add(time.monotonic() - started)
    for image in images:
        image.unlink()

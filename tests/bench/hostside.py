"""Builds without an appliance: against a plain copy, on a filesystem that shares blocks, and many at once."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import BIN, FILES, MANY, Bench, Series

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


_FLEET = """\
recipe = "fleet-recipe.toml"
[defaults]
template = "debian-12"
output = "fleet-{host}.img"
ssh-keys = ["string:ssh-ed25519 AAAA bench"]
"""
_RECIPE = """\
[[operation]]
root-password = "disabled"
[[operation]]
write = "/etc/motd"
content = "hello"
"""
_LINKED = 'format = "qcow2"\nlinked = true\n'


def fleet(bench: Bench, rounds: int) -> list[tuple[Series, Series, str]]:
    """Twenty unique disks of one template (name, address, key, password, motd)."""
    raw, resumed = Series("a fleet of 20 raw disks, on the host"), Series("the same, resumed")
    linked = Series("the same, on the host, linked")
    bench.ours(Series("saving the appliance"), "--hostside", "never", *FILES)
    for _ in range(rounds):
        _build_fleet(bench, raw, *_ALWAYS)
        _build_fleet(bench, linked, *_ALWAYS, settings=_LINKED)
        _build_fleet(bench, resumed, "--hostside", "never")
    print(f"fleet of {_DISKS}: raw {raw.median:.1f} s (12), linked {linked.median:.1f} s (8)")
    _write_fleet(bench, 1000, "")
    seconds = bench.usage(BIN / "pybuilder", "fleet", "plan", bench.folder / "fleet.toml", "--json")[0]
    print(f"1,000 hosts planned: {seconds:.2f} s of processor time (2.00)")
    return [(raw, resumed, "0.35"), (linked, raw, "0.70")]


def _write_fleet(bench: Bench, hosts: int, settings: str) -> None:
    addresses = "".join(
        f'[[host]]\nname = "m{n}"\naddresses = ["10.0.{n // 250}.{n % 250 + 1}/16"]\n' for n in range(hosts)
    )
    (bench.folder / "fleet.toml").write_text(_FLEET + addresses)
    (bench.folder / "fleet-recipe.toml").write_text(settings + _RECIPE)


def _build_fleet(bench: Bench, series: Series, *words: str, settings: str = "") -> None:
    """Build a new fleet; print how much of the time of two processors its builds left unused."""
    shutil.rmtree(bench.folder / "fleet.state", ignore_errors=True)
    _write_fleet(bench, _DISKS, settings)
    command: list[str | Path] = [
        BIN / "pybuilder",
        "fleet",
        "build",
        bench.folder / "fleet.toml",
        "--jobs",
        "2",
    ]
    cache = f"--cache={bench.folder / 'cache-ours'}"
    bench.time(series, *command, *bench.source(), cache, *words, log="fleet")
    records = [json.loads(path.read_text()) for path in (bench.folder / "fleet.state").glob("*.json")]
    used = sum(record["seconds"] for record in records)
    print(f"{series.name}: {used:.1f} s of builds in {series.seconds[-1]:.1f} s, two at a time")
    for record in records:
        Path(record["output"]).unlink()

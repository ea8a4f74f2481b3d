"""Compare pybuilder with virt-builder: the same template and operations, in turn, in one run.

    make bench              three rounds of each case
    python -m tests.bench.compare --rounds 1 --case grow

Absolute times depend on the machine; only ratios of the same run mean anything.
Both tools run with the same accelerator. Results go to bench-results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.bench.hostside import fleet, hostside, reflink
from tests.bench.measure import BIN, FILES, ROOT, Bench, Series, default_template, prepare

SMALL = (
    "--hostname", "bench.example.org", "--timezone", "Europe/Berlin", "--write", "/etc/motd:hello\n",
    "--mkdir", "/srv/bench", "--append-line", "/etc/motd:world",
    "--run-command", "echo done > /srv/bench/done", "--root-password", "disabled",
)  # fmt: skip

Case = Callable[[Bench, int], list[tuple[Series, Series, str]]]


def grow(bench: Bench, rounds: int) -> list[tuple[Series, Series, str]]:
    """Grow to 4G and six small operations."""
    theirs, bare = Series("virt-builder grow"), Series("bare launch")
    cold, warm = Series("pybuilder grow, not yet unpacked, booted"), Series("pybuilder grow, warm, booted")
    resumed, files = Series("pybuilder grow, warm, resumed"), Series("pybuilder files, warm, resumed")
    spare = Series("saving the appliances")
    bench.ours(spare, "--size", "4G", *SMALL)
    bench.ours(spare, "--hostside", "never", *FILES)
    for _ in range(rounds):
        bench.theirs(theirs, "--size", "4G", *SMALL)
        bench.ours(cold, "--no-instant", "--size", "4G", *SMALL, cold="unpacked")
        bench.ours(warm, "--no-instant", "--size", "4G", *SMALL)
        bench.ours(resumed, "--size", "4G", *SMALL)
        bench.ours(files, "--hostside", "never", *FILES)
        bench.bare(bare)
    (disk,) = (bench.folder / "cache-ours" / "disks").glob("*.raw")
    written, used = ((path.stat().st_blocks * 512) for path in (bench.folder / "ours.img", disk))
    sizes = f"image {written >> 20} MiB, template {used >> 20} MiB"
    print(f"bytes on the disk: {sizes}: {written / used:.2f} (1.10)")
    return [
        (cold, theirs, "0.20"),
        (warm, theirs, "0.15"),
        (warm, bare, "1.35"),
        (resumed, theirs, "0.05"),
        (resumed, bare, "0.45"),
        (files, bare, "0.45"),
    ]


def install(bench: Bench, rounds: int) -> list[tuple[Series, Series, str]]:
    """Install nginx, no growth; also from packages that earlier builds have kept."""
    words = ("--install", "nginx", "--root-password", "disabled")
    kept = (*words, "--package-cache", str(bench.folder / "packages"))
    theirs, ours = Series("virt-builder --install nginx"), Series("pybuilder --install nginx, warm")
    cached = Series("pybuilder --install nginx, packages kept")
    bench.ours(Series("keeping the packages"), *kept)
    for _ in range(rounds):
        bench.theirs(theirs, *words)
        bench.ours(ours, *words)
        bench.ours(cached, *kept)
    return [(ours, theirs, "0.75"), (cached, theirs, "0.50")]


def listing(bench: Bench, rounds: int) -> list[tuple[Series, Series, str]]:
    """List a local signed index."""
    theirs, ours = Series("virt-builder --list"), Series("pybuilder --list")
    for _ in range(max(rounds, 5)):
        bench.time(theirs, "virt-builder", *bench.source(), "--list", log="list")
        bench.time(ours, BIN / "pybuilder", *bench.source(), "--list", log="list")
    return [(ours, theirs, "1.00")]


def ideas(bench: Bench, rounds: int) -> list[tuple[Series, Series, str]]:
    """Ideas for faster booted builds, compared with the way it is (docs/performance.md)."""
    # As libguestfs-make-fixed-appliance(1) does, which Debian does not have.
    built = Path(os.environ.get("LIBGUESTFS_CACHEDIR") or "/var/tmp") / f".guestfs-{os.geteuid()}"
    fixed = shutil.copytree(built / "appliance.d", bench.folder / "fixed")
    (fixed / "README.fixed").touch()
    usual = Series("booted, as it is")
    tried = {
        Series("booted, two processors"): (("--smp", "2"), {}),
        Series("booted, fixed appliance"): ((), {"LIBGUESTFS_PATH": str(fixed)}),
        Series("booted, memory of 1280 MiB"): (("--memsize", "1280"), {}),
        Series("booted, with network"): (("--network",), {}),
    }
    for _ in range(rounds):
        bench.ours(usual, "--no-instant", "--size", "4G", *FILES)
        for series, (words, env) in tried.items():
            bench.ours(series, "--no-instant", "--size", "4G", *words, *FILES, env=env)
    return [(series, usual, "1.00") for series in tried]


CASES: dict[str, Case] = {
    "list": listing,
    "hostside": hostside,
    "reflink": reflink,
    "fleet": fleet,
    "grow": grow,
    "install": install,
    "ideas": ideas,
}
USUAL = ("list", "hostside", "reflink", "fleet", "grow", "install")


def main() -> None:
    """Measure and print a table of ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    parser.add_argument(
        "--template", type=Path, help="a raw debian-12 template [default: made and kept in the cache]"
    )
    options = parser.parse_args()
    if shutil.which("virt-builder") is None:
        sys.exit("virt-builder is not installed; on Debian: apt-get install guestfs-tools")
    template = options.template or default_template()
    with tempfile.TemporaryDirectory(prefix="pybuilder-bench-", dir="/var/tmp") as name:
        bench = prepare(Path(name), template)
        try:
            first = Series("warm-up")
            bench.theirs(first, "--no-network", "--root-password", "disabled")
            bench.ours(first, "--no-network", "--root-password", "disabled")
            rows = [row for case in options.case or USUAL for row in CASES[case](bench, options.rounds)]
        finally:
            gnupg = bench.environment["GNUPGHOME"]
            subprocess.run(["gpgconf", "--homedir", gnupg, "--kill", "all"], check=False, capture_output=True)
            shutil.rmtree(gnupg, ignore_errors=True)
    _report(rows)


def _report(rows: list[tuple[Series, Series, str]]) -> None:
    print(f"\n{'command':<40} {'median':>8} {'against':<30} {'median':>8} {'ratio':>6} {'goal':>5}")
    results = []
    for ours, other, goal in rows:
        ratio = ours.median / other.median
        print(
            f"{ours.name:<40} {ours.median:7.1f}s {other.name:<30} {other.median:7.1f}s"
            f" {ratio:6.2f} {goal:>5}"
        )
        results.append({"ours": asdict(ours), "other": asdict(other), "ratio": ratio, "goal": float(goal)})
    folder = ROOT / "bench-results"
    folder.mkdir(exist_ok=True)
    facts = {"machine": platform.machine(), "processors": os.cpu_count(), "kernel": platform.release()}
    path = folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps({"host": facts, "rows": results}, indent=2) + "\n")
    print(f"\nwritten: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

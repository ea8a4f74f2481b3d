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
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, Attachment, open_appliance
from imgbuilder.appliance.accelerator import kvm_verdict
from imgbuilder.events import ignore
from imgbuilder.host import paths

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SMALL = (
    "--hostname", "bench.example.org", "--timezone", "Europe/Berlin", "--write", "/etc/motd:hello\n",
    "--mkdir", "/srv/bench", "--append-line", "/etc/motd:world",
    "--run-command", "echo done > /srv/bench/done", "--root-password", "disabled",
)  # fmt: skip

FILES = ("--root-password", "disabled", "--write", "/etc/motd:hello\n", "--mkdir", "/srv/bench")
MANY = (
    *FILES, "--hostname", "bench.example.org", "--timezone", "Europe/Berlin",
    "--append-line", "/etc/motd:world", "--upload", "/etc/services:/srv/bench/services",
    "--copy-in", "/usr/share/common-licenses:/srv/bench", "--chmod", "0640:/srv/bench/services",
    "--link", "/etc/motd:/etc/welcome:/srv/bench/motd", "--touch", "/srv/bench/new",
    "--copy", "/etc/motd:/srv/bench/copy", "--move", "/srv/bench/copy:/srv/bench/moved",
    "--delete", "/usr/share/doc/base-files", "--delete", "/etc/issue.net", "--edit", "/etc/motd:s/hello/hi/",
    "--truncate", "/etc/issue", "--ssh-inject", "root:string:ssh-ed25519 AAAA bench",
    "--firstboot-command", "echo one", "--firstboot-command", "echo two",
)  # fmt: skip
"""Twenty options, none of which runs a command of the guest."""


@dataclass(eq=False)
class Series:
    """Measurements of one command.

    Attributes:
        name: What was measured.
        seconds: Wall time of each run.
    """

    name: str
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Bench:
    """One repository, and the environment of both tools."""

    folder: Path
    index: Path
    fingerprint: str
    environment: dict[str, str]

    def source(self) -> list[str]:
        return ["--source", f"file://{self.index}", "--fingerprint", self.fingerprint]

    def time(
        self, series: Series, *command: str | Path, log: str, env: Mapping[str, str] | None = None
    ) -> None:
        """Run a command; its words are kept for the case that it fails."""
        with (self.folder / f"{log}.log").open("w+") as words:
            started = time.monotonic()
            done = subprocess.run(
                [os.fspath(word) for word in command], env={**self.environment, **(env or {})},
                stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT, cwd=self.folder,
                check=False,
            )  # fmt: skip
            series.seconds.append(time.monotonic() - started)
            if done.returncode != 0:
                words.seek(0)
                sys.exit(f"{command} failed with {done.returncode}:\n{words.read()[-3000:]}")

    def ours(self, series: Series, *words: str, cold: str = "", env: Mapping[str, str] | None = None) -> None:
        """Build with pybuilder.

        Args:
            series: Where the time goes.
            words: Options after the template's name.
            cold: ``unpacked`` to forget the unpacked layer first; empty to keep the cache warm.
            env: Further variables.
        """
        image = self.folder / "ours.img"
        image.unlink(missing_ok=True)
        if cold:
            for path in (self.folder / "cache-ours" / "disks").glob("*"):
                path.unlink()
        self.time(
            series, BIN / "pybuilder", *self.source(), "--cache", self.folder / "cache-ours", "debian-12",
            "-o", image, *words, log=series.name, env=env,
        )  # fmt: skip

    def theirs(self, series: Series, *words: str) -> None:
        image = self.folder / "theirs.img"
        image.unlink(missing_ok=True)
        self.time(
            series, "virt-builder", *self.source(), "--cache", self.folder / "cache-theirs", "debian-12",
            "-o", image, *words, log=series.name,
        )  # fmt: skip

    def bare(self, series: Series) -> None:
        """Launch an appliance with a dummy disk and shut it down: the floor for every booted build."""
        disk = self.folder / "bare.img"
        with disk.open("wb") as file:
            file.truncate(1 << 30)
        started = time.monotonic()
        with open_appliance([Attachment(disk, "raw")], ApplianceOptions(instant=False)) as appliance:
            appliance.shutdown()
        series.seconds.append(time.monotonic() - started)


def prepare(folder: Path, template: Path) -> Bench:
    """Publish the template with a throw-away key that virt-builder finds in the user's keyring."""
    gnupg = Path(tempfile.mkdtemp(prefix="pbb-", dir="/tmp"))
    accelerated = kvm_verdict(paths.state_dir(), ignore).usable
    environment = {
        **os.environ, "GNUPGHOME": str(gnupg),
        "XDG_CONFIG_HOME": "/nonexistent", "VIRT_BUILDER_DIRS": "/nonexistent",
        **({} if accelerated else {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}),
    }  # fmt: skip
    # An installed program has its compiled modules; a development tree may be set not to write them.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.update(environment)  # the bare launches of this process use the same accelerator
    gpg = ["gpg", "--batch", "--quiet"]
    subprocess.run([*gpg, "--passphrase", "", "--quick-generate-key", "bench", "ed25519", "sign"], check=True)
    listed = subprocess.run(
        [*gpg, "--with-colons", "--list-keys"], check=True, capture_output=True, text=True
    ).stdout
    fingerprint = next(line.split(":")[9] for line in listed.split("\n") if line.startswith("fpr"))
    images, site = folder / "images", folder / "site"
    images.mkdir()
    site.mkdir()
    subprocess.run(["cp", "--sparse=always", template, images / "debian-12.img"], check=True)
    subprocess.run(
        [BIN / "pybuilder-repo", "publish", images, "--output", site, "--gpg-key", fingerprint], check=True
    )
    return Bench(folder, site / "index.asc", fingerprint, environment)


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


def hostside(bench: Bench, rounds: int) -> list[tuple[Series, Series, str]]:
    """Builds without an appliance, against a copy of the same disk that is synced as well."""
    theirs, copy = Series("virt-builder files"), Series("cp and sync")
    files, grown = Series("pybuilder files, on the host"), Series("the same, growing to 4 GiB")
    linked = Series("pybuilder --linked, on the host")
    many, resumed = Series("pybuilder 20 options, on the host"), Series("the same, resumed")
    (disk,) = (bench.folder / "cache-ours" / "disks").glob("*.raw")
    copied = bench.folder / "copy.img"
    always = ("--hostside", "always")
    bench.ours(Series("saving the appliance"), "--hostside", "never", *FILES)
    for number in range(5 * rounds):
        copied.unlink(missing_ok=True)
        bench.time(copy, "sh", "-c", 'cp --sparse=always "$0" "$1" && sync "$1"', disk, copied, log="copy")
        bench.ours(files, *always, *FILES)
        bench.ours(grown, *always, "--size", "4G", *FILES)
        bench.ours(many, *always, *MANY)
        bench.ours(linked, *always, "--linked", *FILES)
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


def install(bench: Bench, rounds: int) -> list[tuple[Series, Series, str]]:
    """Install nginx, no growth."""
    theirs, ours = Series("virt-builder --install nginx"), Series("pybuilder --install nginx, warm")
    for _ in range(rounds):
        bench.theirs(theirs, "--install", "nginx", "--root-password", "disabled")
        bench.ours(ours, "--install", "nginx", "--root-password", "disabled")
    return [(ours, theirs, "0.75")]


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
    "grow": grow,
    "install": install,
    "ideas": ideas,
}
USUAL = ("list", "hostside", "grow", "install")


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


def default_template() -> Path:
    kept = paths.cache_dir().parent / "pybuilder-tests" / "bench-debian-12.img"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([BIN / "pybuilder-repo", "make-template", "debian-12", kept], check=True)
    return kept


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

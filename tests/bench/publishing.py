"""Publishing one image of 2 GiB: publish compared with virt-builder-repository.

    make bench                                    among the other benchmarks
    python -m tests.bench.publishing --rounds 1   once

Both run in turn, in one run; only ratios mean anything. virt-builder-repository has one way to pack (xz
--best, one thread) and signs nothing here, since with a key it fails in the versions that are common.
"Cores busy" is the time that xz used, by the time that it ran. Results go to bench-results/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from imgbuilder.appliance.accelerator import kvm_verdict
from imgbuilder.events import ignore
from imgbuilder.host import paths
from tests.bench.measure import default_template

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MIB = 1 << 20
_INTERVAL = 0.1
_APPLIANCE = "qemu"


@dataclass
class Run:
    """One run of a program.

    Attributes:
        seconds: Wall time.
        peak: Most memory of the program itself, in bytes.
        peak_with_children: The same with all that it started, the hypervisor apart.
        cores: Cores that xz kept busy while it ran.
        packed: Size of the packed file in bytes.
        blocks: Size of the zstd file with a list of its blocks; 0 if none was made.
    """

    seconds: float = 0.0
    peak: int = 0
    peak_with_children: int = 0
    cores: float = 0.0
    packed: int = 0
    blocks: int = 0


@dataclass
class Series:
    """The runs of one way to publish."""

    name: str
    runs: list[Run] = field(default_factory=list)

    def median(self, what: str) -> float:
        return float(statistics.median(getattr(run, what) for run in self.runs))


def watch(words: list[str | Path], env: dict[str, str]) -> Run:
    """Run a program and look at it and its children until it ends."""
    run, used, alive = Run(), dict[int, float](), dict[int, float]()
    start = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env) as process:
        program = psutil.Process(process.pid)
        while process.poll() is None:
            _look(program, run, used, alive)
            time.sleep(_INTERVAL)
        run.seconds = time.monotonic() - start
        assert process.stderr is not None
        if process.returncode != 0:
            sys.exit(f"{words[0]} failed:\n{process.stderr.read().decode(errors='replace')}")
    if alive:
        run.cores = sum(used.values()) / sum(alive.values())
    return run


def _look(program: psutil.Process, run: Run, used: dict[int, float], alive: dict[int, float]) -> None:
    total = 0
    try:
        own = program.memory_info().rss
        children = program.children(recursive=True)
    except psutil.Error:
        return
    for child in children:
        try:
            name = child.name()
            if name.startswith(_APPLIANCE):
                continue
            total += child.memory_info().rss
            if name == "xz":
                times = child.cpu_times()
                used[child.pid] = times.user + times.system
                alive[child.pid] = max(time.time() - child.create_time(), _INTERVAL)
        except psutil.Error:
            continue
    run.peak = max(run.peak, own)
    run.peak_with_children = max(run.peak_with_children, own + total)


def publish(folder: Path, template: Path, key: str, env: dict[str, str], *options: str) -> Run:
    """Publish the image for the first time."""
    images, web = folder / "images", folder / "web"
    for place in (images, web):
        place.mkdir()
    subprocess.run(["cp", "--sparse=always", template, images / "debian-12.img"], check=True)
    run = watch([BIN / "pybuilder-repo", "publish", images, "-o", web, "-K", key, "-q", *options], env)
    run.packed = sum(path.stat().st_size for path in web.glob("*.xz"))
    run.blocks = sum(path.stat().st_size for path in web.glob("*.zst"))
    return run


def virt_builder_repository(folder: Path, template: Path, env: dict[str, str]) -> Run:
    """Let virt-builder's own tool do the same."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["cp", "--sparse=always", template, folder / "debian-12.img"], check=True)
    (folder / "index").write_text("[debian-12]\nfile=debian-12.img\n")
    run = watch(["virt-builder-repository", "-q", folder], env)
    run.packed = sum(path.stat().st_size for path in folder.glob("*.xz"))
    return run


def main() -> None:
    """Compare and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--template", type=Path, help="a raw image [default: debian-12, made and kept]")
    options = parser.parse_args()
    if shutil.which("virt-builder-repository") is None:
        sys.exit("virt-builder-repository is not installed: apt-get install guestfs-tools")
    template = options.template or default_template()
    theirs, same, ours = Series("virt-builder-repository"), Series("publish -9"), Series("publish")
    blocks = Series("publish --zstd")
    with tempfile.TemporaryDirectory(prefix="pbp-", dir="/var/tmp") as name:
        base = Path(name)
        env = {**os.environ, "GNUPGHOME": str(base / "gnupg")}
        if not kvm_verdict(paths.state_dir(), ignore).usable:  # both use the same accelerator
            env["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
        (base / "gnupg").mkdir(mode=0o700)
        quick = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key"]
        subprocess.run([*quick, "bench@example.org", "ed25519", "sign"], env=env, check=True)
        try:
            for number in range(options.rounds):
                folder = base / str(number)
                folder.mkdir()
                theirs.runs.append(virt_builder_repository(folder / "theirs", template, env))
                for series, words in ((same, ["--xz-preset", "9"]), (ours, []), (blocks, ["--zstd"])):
                    place = folder / series.name.replace(" ", "")
                    place.mkdir()
                    series.runs.append(publish(place, template, "bench@example.org", env, *words))
                shutil.rmtree(folder)
        finally:
            subprocess.run(["gpgconf", "--kill", "all"], env=env, check=False)
    _report([theirs, same, ours, blocks])
    ratio = blocks.median("blocks") / blocks.median("packed")
    print(
        f"first download by blocks: {blocks.median('blocks') / 1e6:.1f} MB, {ratio:.2f} x the .xz file (1.40)"
    )


def _report(rows: list[Series]) -> None:
    base = rows[0].median("seconds")
    print(f"{'':26} {'seconds':>8} {'ratio':>6} {'own MB':>7} {'all MB':>7} {'cores':>6} {'packed MB':>9}")
    for row in rows:
        print(
            f"{row.name:26} {row.median('seconds'):8.1f} {row.median('seconds') / base:6.2f} "
            f"{row.median('peak') / 1e6:7.0f} {row.median('peak_with_children') / 1e6:7.0f} "
            f"{row.median('cores'):6.2f} {row.median('packed') / 1e6:9.1f}"
        )
    results = ROOT / "bench-results"
    results.mkdir(exist_ok=True)
    (results / "publishing.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Measures commands: a repository with one template, and both tools with the same environment."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, Attachment, open_appliance
from imgbuilder.appliance.accelerator import kvm_verdict
from imgbuilder.events import ignore
from imgbuilder.host import paths

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
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


_LIMIT = 1800.0
"""Seconds after which a command counts as hung."""
USAGE = """
import os, sys
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
status, used = os.wait4(child, 0)[1:]
with open(sys.argv[1], "w") as result:
    print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=result)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A small process that starts another: memory counts from the process that a program was started by."""


@dataclass(eq=False)
class Series:
    """Measurements of one command.

    Attributes:
        name: What was measured.
        seconds: Wall time of each run.
    """

    name: str
    seconds: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        """Add one run, and print it: a benchmark takes many minutes."""
        self.seconds.append(seconds)
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {seconds:.2f} s", flush=True)

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
                check=False, timeout=_LIMIT,
            )  # fmt: skip
            series.add(time.monotonic() - started)
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
        self.time(series, *self.command(image, *words), log=series.name, env=env)

    def command(self, image: Path, *words: str, cache: Path | None = None) -> list[str | Path]:
        """Return the command line of a build with pybuilder, by default with the usual cache."""
        folder = cache or self.folder / "cache-ours"
        return [
            BIN / "pybuilder", *self.source(), "--cache", folder, "debian-12", "-o", image, *words,
        ]  # fmt: skip

    def usage(self, *command: str | Path) -> tuple[float, float]:
        """Run a command; return its seconds of processor time, and the MB of its largest process at its peak.

        Programs that it starts are counted as well.
        """
        result = self.folder / "usage"
        words = [sys.executable, "-I", "-S", "-c", USAGE, result, *command]
        self.time(Series("usage"), *words, log="usage")
        seconds, memory = result.read_text().split()
        return float(seconds), int(memory) / 1000

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
        series.add(time.monotonic() - started)


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


def default_template() -> Path:
    kept = paths.cache_dir().parent / "pybuilder-tests" / "bench-debian-12.img"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([BIN / "pybuilder-repo", "make-template", "debian-12", kept], check=True)
    return kept

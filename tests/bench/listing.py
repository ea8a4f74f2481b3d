"""Compare listing a local signed index of 100 templates, and time small answers and the largest index.

    make bench                              also runs this
    python -m tests.bench.listing --rounds 20

Both programs list the same index with the same key, in pairs and in turn, after one run each that fills
the memory of what was accepted; the ratio is the median of the ratios of the pairs, by the clock and by the
processor's time of all processes that the program started. On a machine that does other work, only
the second means much. Each run verifies the signature again. Then two sources are added whose servers' names
do not exist, and pybuilder alone lists, since virt-builder fails there: it should take under a second by the
clock. Reading is timed in this process, and given next to a plain sum over the same bytes, because seconds
alone depend on the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from imgindex.gpg import GpgVerifier
from imgindex.lexer import MAX_TEXT_SIZE
from imgindex.model import Entry, Index, Note
from imgindex.parse import parse_index
from imgindex.write import write_index
from tests.bench.measure import BIN, Series
from tests.fakes.keys import KeyMaker

ENTRIES = 100


def template(number: int) -> Entry:
    """Return an entry like those of the public repository: some 700 bytes."""
    return Entry(
        os_version=f"debian-{number}",
        file=f"debian-{number}.xz",
        arch="x86_64",
        size=6 << 30,
        name=f"Debian {number} (made up)",
        osinfo="debian12",
        sha512=f"{number:0128x}",
        revision=3,
        format="raw",
        compressed_size=280_000_000 + number,
        expand="/dev/sda1",
        notes=(
            Note(
                "", f"Debian {number}.\n\nThis is a minimal installation.\nThe root account has no password."
            ),
        ),
    )


def largest_index() -> str:
    """Return an index that, with its signature, is just below what any client reads."""
    size = len(write_index(Index((template(10_000),))))
    count = (MAX_TEXT_SIZE - 2000) // size
    return write_index(Index(tuple(template(10_000 + number) for number in range(count))))


def timed(command: Sequence[str], env: Mapping[str, str], folder: Path) -> tuple[float, float]:
    """Return the seconds that a command takes, by the clock and of the processor, its own children's too."""
    with (folder / "printed").open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} failed:\n{(folder / 'printed').read_text()}")
    return seconds, usage.ru_utime + usage.ru_stime


def print_comparison(
    case: str, commands: dict[str, list[str]], env: Mapping[str, str], folder: Path, rounds: int
) -> None:
    """Run both commands in turn, who begins changing from pair to pair, and print medians and ratios."""
    names = ("virt-builder", "pybuilder")
    clock = {name: Series(name) for name in names}
    processor = {name: Series(name) for name in names}
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            seconds, busy = timed(commands[name], env, folder)
            clock[name].seconds.append(seconds)
            processor[name].seconds.append(busy)
    for what, series in (("by the clock", clock), ("of the processor", processor)):
        theirs, ours = series["virt-builder"], series["pybuilder"]
        ratios = [one / other for one, other in zip(ours.seconds, theirs.seconds, strict=True)]
        ratio = statistics.median(ratios)
        print(f"{case:<24} {what:<16} {theirs.median:11.3f}s {ours.median:9.3f}s {ratio:6.2f}")


def compare(folder: Path, rounds: int) -> None:
    """List by configuration file and by ``--source``, and print the ratios."""
    with KeyMaker() as keys:
        key = keys.make("bench", "rsa3072")
        index = folder / "index.asc"
        index.write_bytes(keys.sign(write_index(Index(tuple(template(n) for n in range(ENTRIES)))), key))
        (folder / "key.asc").write_bytes(keys.export(key, armor=True))
        configuration = folder / "config" / "virt-builder" / "repos.d"
        configuration.mkdir(parents=True)
        text = f"[bench]\nuri=file://{index}\ngpgkey=file://{folder}/key.asc\n"
        (configuration / "bench.conf").write_text(text)
        common = {
            **os.environ, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"), "VIRT_BUILDER_DIRS": "/nonexistent",
            "GNUPGHOME": str(keys.home),
        }  # fmt: skip
        # An installed program has its compiled modules; a development tree may be set not to write them.
        common.pop("PYTHONDONTWRITEBYTECODE", None)
        cases = {
            "configured source": ([], str(folder / "config")),
            "--source --fingerprint": (["--source", f"file://{index}", "--fingerprint", key], "/nonexistent"),
        }
        print(f"{f'listing {ENTRIES} templates':<41} {'virt-builder':>12} {'pybuilder':>10} {'ratio':>6}")
        for name, (words, config) in cases.items():
            environment = {**common, "XDG_CONFIG_HOME": config}
            commands = {
                "virt-builder": ["virt-builder", "--list", *words],
                "pybuilder": [str(BIN / "pybuilder"), "--list", *words],
            }
            texts = [
                subprocess.run(command, env=environment, check=True, capture_output=True).stdout
                for command in commands.values()
            ]
            if texts[0] != texts[1] or texts[0].count(b"\n") != ENTRIES:
                sys.exit("the two lists differ")
            print_comparison(name, commands, environment, folder, rounds)
        list_with_dead_sources(folder, common, rounds)


def list_with_dead_sources(folder: Path, common: Mapping[str, str], rounds: int) -> None:
    """Time a list of the same local source and two others whose servers' names cannot be resolved."""
    configuration = folder / "dead" / "pybuilder" / "repos.d"
    configuration.mkdir(parents=True)
    for name, uri in (
        ("a", f"file://{folder}/index.asc"), ("b", "http://b.invalid/i"), ("c", "http://c.invalid/i")
    ):  # fmt: skip
        text = f"[{name}]\nuri={uri}\ngpgkey=file://{folder}/key.asc\n"
        (configuration / f"{name}.conf").write_text(text)
    command = [str(BIN / "pybuilder"), "--list"]
    environment = {**common, "XDG_CONFIG_HOME": str(folder / "dead")}
    runs = [timed(command, environment, folder)[0] for _ in range(rounds)]
    if (folder / "printed").read_bytes().count(b"is left out") != 2:
        sys.exit("the dead sources were not left out")
    print(f"{'with two dead sources':<24} {'by the clock':<16} {statistics.median(runs):22.3f}s")


def answer_small_questions(folder: Path, rounds: int) -> None:
    """Time --version and --help of each program in turn with an interpreter that only loads click."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    reference = [str(BIN / "python"), "-c", "import click"]
    print(f"\n{'processor time of small answers':<41} {'import click':>12} {'pybuilder':>10} {'ratio':>6}")
    for program in ("pybuilder", "pybuilder-customize", "pybuilder-repo"):
        for option in ("--version", "--help"):
            pairs = [
                (timed(reference, env, folder)[1], timed([str(BIN / program), option], env, folder)[1])
                for _ in range(rounds)
            ]
            click, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(our / other for other, our in pairs)
            print(f"{program:<24} {option:<16} {click:11.3f}s {ours:9.3f}s {ratio:6.2f}")


def read_largest() -> None:
    """Time the reading of the largest index, signature apart, and all of V2 to V7."""
    text = largest_index()
    with KeyMaker() as keys:
        key = keys.make("bench")
        signed, pin = keys.sign(text, key), keys.pin(key)
    seconds: dict[str, list[float]] = {"loop": [], "parse": [], "all": []}
    for _ in range(5):
        started = time.perf_counter()
        if sum(signed) == 0:  # some work of Python itself over the same bytes
            sys.exit("an empty index")
        looped = time.perf_counter()
        verified = GpgVerifier().verify(signed, pin, where="bench")
        checked = time.process_time()
        index = parse_index(verified, where="bench")
        seconds["parse"].append(time.process_time() - checked)
        seconds["loop"].append(looped - started)
        seconds["all"].append(time.perf_counter() - looped)
    loop, parse, everything = (statistics.median(seconds[name]) for name in ("loop", "parse", "all"))
    print(f"\nan index of {len(text):,} bytes, {len(index.entries):,} templates:")
    print(f"  parsed in {parse:.2f}s of the processor's time")
    print(f"  read with frame and signature in {everything:.2f}s by the clock")
    print(f"  (Python's sum() over its bytes: {loop:.3f}s)")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if shutil.which("virt-builder") is None:
        sys.exit("virt-builder is not installed; on Debian: apt-get install guestfs-tools")
    with tempfile.TemporaryDirectory(prefix="pybuilder-bench-", dir="/var/tmp") as name:
        compare(Path(name), options.rounds)
        answer_small_questions(Path(name), options.rounds)
    read_largest()


if __name__ == "__main__":
    main()

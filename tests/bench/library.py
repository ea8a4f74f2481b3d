"""Large libraries: the processor's time of commands, with 50, 500 and 5,000 templates.

    make bench                                       among the other benchmarks
    python -m tests.bench.library --templates 5000   one size

Signatures, files, records and rsync are real; the images are of a mebibyte, and their guests in memory, so
that only what grows with the number of templates counts. Each command runs once, in this process; its time
and that of the programs that it starts are added up. The row about pages is the time by the clock in which
Chromium loads them and shows the result of a search. Results go to bench-results/.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import lzma
import os
import resource
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from imgbuilder.host.hashing import Fingerprint
from imgindex.model import Entry, Index, Note
from imgrepo.cli.main import run
from imgrepo.sharing.serve import PublishedFolderServer
from imgrepo.webroot.entries import published_name
from imgrepo.webroot.state import Published, write_state
from tests.conformance.browser import open_browser
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.repository import SIZE, Repository

ROOT = Path(__file__).parents[2]
SIZES = (50, 500, 5000)
SSH = '#!/bin/sh\n[ "$1" = -l ] && shift 2\nshift\nexec /bin/sh -c "$*"\n'


def make_library(base: Path, count: int, keys: KeyMaker, key: str) -> Repository:
    """Make a library of so many templates, as if they had been published."""
    repository = Repository(base, keys.home, keys.pin(key), key)
    entries, state = [], {}
    for number in range(count):
        stem = f"t-{number:04}"
        path = repository.add(f"{stem}.img", f"{number:04}".encode())
        source = hashlib.sha512(path.read_bytes()).hexdigest()
        data = lzma.compress(path.read_bytes(), preset=0)
        digest = hashlib.sha512(data).hexdigest()
        file = published_name(stem, digest)
        (repository.web / file).write_bytes(data)
        notes = (Note("", "Some words about this image.\n\nRoot has no password."),)
        entries.append(
            Entry(
                stem, file, "x86_64", SIZE, name=f"Template {number}", sha512=digest, format="raw",
                compressed_size=len(data), revision=1, notes=notes,
            )
        )  # fmt: skip
        state[path.name] = Published(Fingerprint.of(path.stat()), source, file, stem, "x86_64")
    (repository.web / "index.gpg").write_bytes(keys.export(key, armor=True))
    repository.rewrite(Index(tuple(entries)))
    write_state(repository.web, repository.images, state)
    settings = f'webroot = "../web"\nkeys = ["{key}"]\nsteps = []\nxz-preset = "0"\n'
    (repository.images / "library.toml").write_text(settings)
    return repository


def processor_time() -> float:
    """Return the seconds of this process and of the programs that it started."""
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in found)


def measure(repository: Repository, words: list[str], code: int = 0) -> float:
    """Type a command; return its processor time in seconds."""
    said, before = io.StringIO(), processor_time()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        found = run(words, repository.services())
    if found != code:
        sys.exit(f"{' '.join(words[:2])} ended with {found}:\n{said.getvalue()[-2000:]}")
    return processor_time() - before


_SEARCH = """
const [total, done] = arguments;
const count = document.getElementById("count"), search = document.getElementById("filter-text");
const frame = () => new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
(async () => {
  while (count.textContent !== `${total} images`) await frame();
  const ready = performance.now();
  search.value = "template 7";
  search.dispatchEvent(new Event("input", {bubbles: true}));
  await frame();
  const shown = performance.now();
  done(count.textContent.endsWith(` of ${total} images`) ? [ready / 1000, (shown - ready) / 1000] : []);
})();
"""


def search_seconds(folder: Path, count: int) -> float:
    """Load the pages in Chromium and search; the best of three."""
    server = PublishedFolderServer(folder, ("127.0.0.1", 0), lambda _line: None)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        with open_browser() as browser:
            found: list[float] = []
            for _ in range(3):
                browser.driver.get("about:blank")
                browser.driver.get(f"http://127.0.0.1:{server.server_port}/catalogue/index.html")
                ready, search = browser.driver.execute_async_script(_SEARCH, count)
                found.append(ready + search)
            return min(found)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def rows(base: Path, count: int, keys: KeyMaker, key: str) -> dict[str, float]:
    """Measure all commands on a library."""
    repository = make_library(base, count, keys, key)
    there = base / "there"
    there.mkdir()
    library, target = str(repository.images), f"localhost:{there}"
    found = {
        "list": measure(repository, ["list", library]),
        "status": measure(repository, ["status", library]),
        "update, nothing to do": measure(repository, ["update", library], 4),
    }
    repository.add("t-0000.img", b"new")
    found["publish, one change"] = measure(repository, ["publish", library])
    found["catalogue"] = measure(repository, ["catalogue", library])
    found["catalogue, nothing changed"] = measure(repository, ["catalogue", library])
    if shutil.which("chromium") and shutil.which("chromedriver"):
        found["pages: load and search"] = search_seconds(repository.web, count)
    measure(repository, ["upload", library, target])
    found["upload, nothing changed"] = measure(repository, ["upload", library, target])
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--templates", type=int, help="only a library of so many")
    sizes = SIZES if (given := parser.parse_args().templates) is None else (given,)
    results: dict[int, dict[str, float]] = {}
    with KeyMaker() as keys, tempfile.TemporaryDirectory(prefix="pbl-", dir="/var/tmp") as name:
        key = keys.make("Publisher <publisher@example.org>")
        ssh = Path(name, "ssh")
        ssh.write_text(SSH)
        ssh.chmod(0o755)
        os.environ["RSYNC_RSH"] = str(ssh)
        for size in sizes:
            base = Path(name, str(size))
            base.mkdir()
            results[size] = rows(base, size, keys, key)
    print(f"{'processor time in seconds':28}", *(f"{size:>8}" for size in results))
    for row in next(iter(results.values())):
        print(f"{row:28}", *(f"{found[row]:8.2f}" for found in results.values()))
    folder = ROOT / "bench-results"
    folder.mkdir(exist_ok=True)
    (folder / "library.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

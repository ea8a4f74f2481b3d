"""A real template, a real repository and a real ordinary user.

The template and its publication are kept between sessions in a cache folder
(``PYBUILDER_TEST_CACHE``, by default ``pybuilder-tests`` in the user's cache),
named after the code that makes them, so that a change of that code makes new
ones. The processes of one session share them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import http.server
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.fakes.keys import HomeGuard, KeyMaker
from tests.fakes.template import Site
from tests.guest.images import copy
from tests.guest.person import ROOT, Person, install, traces
from tests.guest.smallguest import small_site

LONG = "PYBUILDER_TEST_LONG" in os.environ
long = pytest.mark.skipif(not LONG, reason="minutes under emulation; set PYBUILDER_TEST_LONG")
USER = f"pybuilder-test{os.getpid()}"
"""Of this session alone: its end removes the user and ends all that the user runs."""


_MAKING = 3000
"""Seconds that making the template or its publication may take, or waiting for another process that does."""

_KEEP = 86400
"""Seconds that what other code made stays in the cache after it was last used."""


@pytest.fixture(scope="session")
def person() -> Iterator[Person]:
    """An ordinary user: the one who runs the tests, or one made for the session when that is root."""
    folder = Path(tempfile.mkdtemp(prefix="pybuilder-guest-", dir="/var/tmp"))
    folder.chmod(0o755)
    commands = install(folder)
    home = folder / "home"
    home.mkdir()
    if os.geteuid() != 0:
        yield Person(pwd.getpwuid(os.geteuid()).pw_name, home, commands, ())
        shutil.rmtree(folder, ignore_errors=True)
        return
    subprocess.run(["userdel", USER], check=False, capture_output=True)
    # useradd also gives the user subordinate ids, which mmdebstrap needs without root.
    subprocess.run(["useradd", "--home-dir", home, "--shell", "/bin/sh", USER], check=True)
    try:
        shutil.chown(home, USER, USER)
        # The number may be that of a session that was killed, whose files would count as ours.
        for place in (Path("/tmp"), Path("/var/tmp")):
            for path in traces(place, pwd.getpwnam(USER).pw_uid):
                remove(path)
        prefix = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups")
        yield Person(USER, home, commands, prefix)
    finally:
        subprocess.run(["pkill", "-KILL", "-u", USER], check=False)
        subprocess.run(["userdel", USER], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


ORDER = (
    "wrong_input", "instant", "build_faults", "accelerators", "customize", "main_job", "growth",
    "operations", "running", "boot_check", "entry_check", "hostside", "outputs", "disks",
    "hostside_requests", "contents", "oracle",
)  # fmt: skip
"""The files that begin, nearly by their length: each worker takes one, and then a second one at once.

The first makes the template and its publication, which the next three do not need at first.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that all workers end at the same time.

    The time-out of a test is for the test: who makes the template, and who waits for it, has limits below.
    """
    places = {f"test_{name}": place for place, name in enumerate(ORDER, start=-len(ORDER))}
    items.sort(key=lambda item: places.get(item.path.stem, 0))
    for item in items:
        limit = item.get_closest_marker("timeout")
        if limit is not None and item.get_closest_marker("guest") is not None:
            item.add_marker(pytest.mark.timeout(*limit.args, func_only=True), append=False)


@dataclass(frozen=True)
class Publisher:
    """A published repository and the key that signed it.

    Attributes:
        site: The folder that a web server would serve.
        fingerprint: The publisher's key.
        public_key: The key as an armored file.
        gnupg: The folder of the publisher's keyring.
    """

    site: Path
    fingerprint: str
    public_key: Path
    gnupg: Path

    @property
    def index(self) -> Path:
        return self.site / "index.asc"


def cache_folder() -> Path:
    chosen = os.environ.get("PYBUILDER_TEST_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pybuilder-tests"


def code_digest(*folders: str) -> str:
    """Return a digest of the code in some folders, without comments and docstrings."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_bytes())
            for node in ast.walk(tree):
                for name in ("body", "orelse"):
                    lines = getattr(node, name, None)
                    if isinstance(lines, list):
                        setattr(node, name, [line for line in lines if not _is_docstring(line)])
            digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def kept(kind: str, digest: str, make: Callable[[Path], None]) -> Path:
    """Return what the cache holds under a name; ``make`` writes it if it is missing."""
    path = cache_folder() / f"{kind}-{digest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f"{kind}.lock", timeout=_MAKING):  # the tests run in two processes
        if not path.exists():
            for old in path.parent.glob(f"{kind}-*"):
                if time.time() - old.stat().st_mtime > _KEEP:  # younger ones may be another checkout's
                    remove(old)
            part = path.parent / f"{kind}.part"
            remove(part)
            make(part)
            part.rename(path)
        os.utime(path)
    return path


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def small(person: Person, keys: KeyMaker) -> Site:
    """A signed source of a small guest, whose configuration is its folder ``config``."""
    folder = person.home / "small"
    folder.mkdir()
    site = small_site(folder, keys)
    site.configure(folder / "config")
    subprocess.run(["chmod", "-R", "a+rX,go-w", folder], check=True)
    return site


@pytest.fixture(scope="session")
def template(person: Person) -> Path:
    """A Debian 12 template, made by the ordinary user without root."""

    def make(part: Path) -> None:
        made = person.home / "debian-12.img"
        person.run("pybuilder-repo", "make-template", "debian-12", made, timeout=_MAKING)
        copy(made, part)
        made.unlink()

    return kept("debian-12", code_digest("repo-tools/imgrepo/template"), make)


def gpg(home: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["gpg", "--homedir", home, "--batch", "--quiet", *words], check=True, capture_output=True, text=True
    )


@pytest.fixture(scope="session")
def publisher(person: Person, template: Path) -> Iterator[Publisher]:
    """The template, published by the ordinary user with a key of the tests."""
    gnupg = Path(tempfile.mkdtemp(prefix="pbg-", dir="/tmp"))
    guard = HomeGuard(gnupg)
    site = person.home / "site"
    try:

        def make(part: Path) -> None:
            person.owns(gnupg)
            person.run(
                "gpg", "--homedir", gnupg, "--batch", "--quiet", "--passphrase", "", "--quick-generate-key",
                "Test Publisher <test@example.org>", "ed25519", "sign", "never",
            )  # fmt: skip
            images = person.home / "images"
            for folder in (images, site):
                folder.mkdir()
                person.owns(folder)
            copy(template, images / "debian-12.img")
            (images / "debian-12.img").chmod(0o644)
            person.run(
                "pybuilder-repo", "publish", images, "--output", site, "--gpg-key", "test@example.org",
                "--xz-preset", "0", "--zstd", "--zstd-level", "1", env={"GNUPGHOME": str(gnupg)},
                timeout=_MAKING,
            )  # fmt: skip
            shutil.rmtree(images)
            shutil.copytree(gnupg, part / "gnupg", ignore=shutil.ignore_patterns("S.*", "*lock*"))
            shutil.move(site, part / "site")

        code = code_digest("index/imgindex", "builder/imgbuilder", "repo-tools/imgrepo")
        published = kept("published", f"{template.name}-{code}", make)
        shutil.copytree(published / "site", site)
        shutil.copytree(published / "gnupg", gnupg, dirs_exist_ok=True)
        gnupg.chmod(0o700)
        person.owns(gnupg)
        person.owns(site)
        listed = person.run("gpg", "--homedir", gnupg, "--with-colons", "--list-keys").stdout
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
        public = person.home / "key.asc"
        public.write_text(person.run("gpg", "--homedir", gnupg, "--armor", "--export", fingerprint).stdout)
        yield Publisher(site, fingerprint, public, gnupg)
    finally:
        guard.release()


@dataclass(frozen=True)
class WebServer:
    """A web server on the loopback interface.

    Attributes:
        url: Its address, without a slash at the end.
        requests: The request lines that it saw.
    """

    url: str
    requests: list[str]


@pytest.fixture(scope="session")
def web(publisher: Publisher) -> Iterator[WebServer]:
    """The published repository behind a real HTTP server."""
    seen: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            seen.append(format % args)

    handler = functools.partial(Handler, directory=str(publisher.site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield WebServer(f"http://127.0.0.1:{server.server_port}", seen)
    server.shutdown()


@pytest.fixture(scope="session")
def configured(person: Person, publisher: Publisher, web: WebServer) -> Person:
    """The person, with the published repository in their configuration."""
    folder = person.home / ".config" / "pybuilder" / "repos.d"
    folder.mkdir(parents=True)
    (folder / "test.conf").write_text(
        f"[test]\nuri={web.url}/index.asc\ngpgkey=file://{publisher.public_key}\n"
    )
    person.owns(person.home / ".config")
    return person

"""A real template, a real repository and a real ordinary user, made once per session.

The template is kept between sessions in a cache folder (``PYBUILDER_TEST_CACHE``,
by default ``pybuilder-tests`` in the user's cache), named after the code that
makes it, so that a change of that code makes a new one.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock

from tests.fakes.keys import HomeGuard

ROOT = Path(__file__).parents[2]
USER = f"pybuilder-test{os.getpid()}"
"""Of this session alone: its end removes the user and ends all that the user runs."""


_KEEP = 3 * 86400
"""Seconds that a template of other code stays in the cache after it was last used."""


@dataclass(frozen=True)
class Person:
    """A user who types commands.

    Attributes:
        name: User name.
        home: A home folder of their own, with nothing in it before the session.
        bin: Folder with the commands ``pybuilder`` and ``pybuilder-repo``.
        prefix: What to put before a command so that it runs as this person.
    """

    name: str
    home: Path
    bin: Path
    prefix: tuple[str, ...]

    def command(self, *words: str | Path) -> list[str]:
        return [*self.prefix, *[os.fspath(word) for word in words]]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """A clean environment: nothing of ours leaks in, KVM settings least of all."""
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "VIRT_BUILDER_DIRS": "/nonexistent",  # the system's sources are not ours to test
            **{name: os.environ[name] for name in ("PYBUILDER_INSTANT",) if name in os.environ},
            **(extra or {}),
        }

    def run(
        self,
        *words: str | Path,
        timeout: float = 300,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, errors="replace", timeout=timeout,
            env=self.environment(env), cwd=cwd or self.home, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            pytest.fail(f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, *words: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command in a session of its own, which ignores no signal even if the tests do."""
        normal = ["env", "--default-signal=HUP,INT,QUIT,TERM"]
        return subprocess.Popen(
            [*normal, *self.command(*words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", env=self.environment(env), cwd=self.home, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def runtime_distributions(name: str) -> Iterator[metadata.Distribution]:
    """Walk a distribution's run-time requirements."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current.lower() in seen:
            continue
        seen.add(current.lower())
        found = metadata.distribution(current)
        yield found
        for requirement in found.requires or []:
            if "extra ==" not in requirement and "sys_platform == " not in requirement:
                word = requirement.split(";")[0]
                for stop in "<>=!~[ (":
                    word = word.split(stop)[0]
                if "python_version <" not in requirement and "platform_system" not in requirement:
                    waiting.append(word)


def install(folder: Path) -> Path:
    """Copy the packages and what they need to a place that every user can read; return its bin folder."""
    library, commands = folder / "lib", folder / "bin"
    interpreter = Path(sys.executable).resolve()  # past the virtual environment, which others may not see
    library.mkdir()
    commands.mkdir()
    for package in ("index/imgindex", "builder/imgbuilder", "repo-tools/imgrepo"):
        shutil.copytree(
            ROOT / package, library / Path(package).name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for distribution in runtime_distributions("virt-pybuilder"):
        for file in distribution.files or []:
            if ".." in file.parts or "__pycache__" in file.parts or file.suffix == ".pth":
                continue
            source = Path(str(distribution.locate_file(file)))
            if source.is_file():
                target = library / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    for name, module in (
        ("pybuilder", "imgbuilder"),
        ("pybuilder-customize", "imgbuilder.cli.customize_main"),
        ("pybuilder-repo", "imgrepo"),
    ):
        script = commands / name
        script.write_text(f'#!/bin/sh\nPYTHONPATH={library} exec {interpreter} -m {module} "$@"\n')
        script.chmod(0o755)
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    return commands


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
        prefix = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups")
        yield Person(USER, home, commands, prefix)
    finally:
        subprocess.run(["pkill", "-KILL", "-u", USER], check=False)
        subprocess.run(["userdel", USER], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


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


@functools.cache
def recipe_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted((ROOT / "repo-tools/imgrepo/template").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def template(person: Person) -> Path:
    """A Debian 12 template, made by the ordinary user without root."""
    kept = cache_folder() / f"debian-12-{recipe_digest()}.img"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.parent / "lock"):  # the tests run in two processes
        if not kept.exists():
            made = person.home / "debian-12.img"
            person.run("pybuilder-repo", "make-template", "debian-12", made, timeout=1500)
            for old in kept.parent.glob("debian-12-*"):
                if time.time() - old.stat().st_mtime > _KEEP:  # younger ones may be another checkout's
                    old.unlink()
            subprocess.run(["cp", "--sparse=always", made, kept.with_suffix(".part")], check=True)
            kept.with_suffix(".part").rename(kept)
            made.unlink()
        os.utime(kept)
    return kept


def gpg(home: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["gpg", "--homedir", home, "--batch", "--quiet", *words], check=True, capture_output=True, text=True
    )


@pytest.fixture(scope="session")
def publisher(person: Person, template: Path) -> Iterator[Publisher]:
    """The template, published by the ordinary user with a fresh key."""
    gnupg = Path(tempfile.mkdtemp(prefix="pbg-", dir="/tmp"))
    guard = HomeGuard(gnupg)
    try:
        if person.prefix:
            shutil.chown(gnupg, person.name, person.name)
        person.run(
            "gpg", "--homedir", gnupg, "--batch", "--quiet", "--passphrase", "", "--quick-generate-key",
            "Test Publisher <test@example.org>", "ed25519", "sign", "never",
        )  # fmt: skip
        listed = person.run("gpg", "--homedir", gnupg, "--with-colons", "--list-keys").stdout
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
        images, site = person.home / "images", person.home / "site"
        for folder in (images, site):
            folder.mkdir()
            if person.prefix:
                shutil.chown(folder, person.name, person.name)
        subprocess.run(["cp", "--sparse=always", template, images / "debian-12.img"], check=True)
        (images / "debian-12.img").chmod(0o644)
        env = {"GNUPGHOME": str(gnupg)}
        person.run(
            "pybuilder-repo", "publish", images, "--output", site, "--gpg-key", fingerprint,
            "--xz-preset", "1", env=env, timeout=900,
        )  # fmt: skip
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
    if person.prefix:
        subprocess.run(["chown", "-R", f"{person.name}:{person.name}", person.home / ".config"], check=True)
    return person


def leftovers(person: Person, folders: Sequence[Path]) -> list[str]:
    """Return what a build must not leave behind: processes of the person, temporary files.

    A process that was killed may take some seconds to end on a loaded machine.
    """
    end = time.monotonic() + 10
    while (found := _leftovers(person, folders)) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _leftovers(person: Person, folders: Sequence[Path]) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if entry.stat().st_uid != person_id(person):
                continue
        except OSError:
            continue
        if state != "Z" and (
            "appliance/worker.py" in words or ("qemu-system" in words and "guestfsd.sock" in words)
        ):
            found.append(words[:200])
    for folder in (*folders, Path("/tmp"), Path("/var/tmp")):
        for path in folder.glob("*pybuilder-*"):
            if not path.name.startswith("pybuilder-guest-") and path.stat().st_uid == person_id(person):
                found.append(str(path))
        found += [str(path) for path in folder.glob("libguestfs*") if path.stat().st_uid == person_id(person)]
    return found


def person_id(person: Person) -> int:
    return pwd.getpwnam(person.name).pw_uid

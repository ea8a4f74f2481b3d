"""Installation in minimal roots of Debian 12 and 13: packages, a checkout with its demo, the Containerfile.

Minutes each, and the network: run with PYBUILDER_TEST_LONG=1, as root (for chroot).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgindex import __version__
from tests.fakes.keys import KeyMaker
from tests.fakes.template import make_site
from tests.guest.conftest import Publisher

ROOT = Path(__file__).parents[2]
SOURCE = (
    "builder",
    "debian",
    "docs",
    "index",
    "repo-tools",
    "scripts",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "pyproject.toml",
)
CHECKOUT = (*SOURCE, "examples", "tests", "CONTRIBUTING.md")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# As in a container, /dev/kvm is missing.
ENTER = r"""
mount --rbind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount -t tmpfs -o mode=755 dev dev
for name in full null random tty urandom zero; do
    : >"dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir -m 1777 dev/shm
mkdir dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
cp /etc/resolv.conf etc/resolv.conf
# A user in a mere chroot could make no user namespace.
pivot_root . mnt
umount -l mnt
exec chroot . "$@"
"""

pytestmark = [
    pytest.mark.skipif(
        "PYBUILDER_TEST_LONG" not in os.environ, reason="ten minutes; set PYBUILDER_TEST_LONG"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
    pytest.mark.network,
    pytest.mark.timeout(3600),
]


class System:
    """A minimal Debian in a folder."""

    def __init__(self, folder: Path, suite: str, *packages: str) -> None:
        self.folder = folder
        self.suite = suite
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
        self.environment["DEBIAN_FRONTEND"] = "noninteractive"
        self.environment |= {name: os.environ[name] for name in ("PIP_INDEX_URL",) if name in os.environ}
        command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", suite, str(folder)]
        command += [f"--include={package}" for package in ("mount", *packages)]
        subprocess.run(command, check=True)

    def run(self, script: str, *, user: str = "root") -> str:
        """Run a script of sh and return what it prints."""
        command = ["sh", "-c", script] if user == "root" else ["su", user, "-c", script]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", ENTER, str(self.folder), *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-5000:]}"
        return done.stdout

    def run_until(self, script: str, wanted: str, *, user: str, seconds: int) -> None:
        """Run a script in a terminal until it has printed a text; end it as QEMU's console is ended."""
        ours, theirs = os.openpty()
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER]
        process = subprocess.Popen(
            [*command, str(self.folder), "su", user, "-c", script],
            env={**self.environment, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        printed, end = b"", time.monotonic() + seconds
        try:
            while wanted.encode() not in printed:
                ready, _, _ = select.select([ours], [], [], max(0, end - time.monotonic()))
                try:
                    part = os.read(ours, 65536) if ready else b""
                except OSError:  # the last program with the terminal has ended
                    part = b""
                assert part, printed[-5000:].decode(errors="replace")
                printed += part
            os.write(ours, b"\x01x")
            with contextlib.suppress(OSError):
                while os.read(ours, 65536):
                    pass
            process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
            os.close(ours)

    def copy(self, source: Path, target: str) -> None:
        """Copy a file, or what a folder contains, into the system."""
        place = self.folder / target.lstrip("/")
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, place / source.name)
            shutil.copymode(source, place / source.name)

    def files(self) -> set[str]:
        """Return the files of our programs outside the folders that a test made."""
        found = self.run(
            "find / -xdev -path /proc -prune -o -path /src -prune -o -path /home -prune -o -print"
        )
        return set(re.findall(r".*(?:pybuilder|imgbuilder|imgindex|imgrepo).*", found))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder on a filesystem with space for systems."""
    name = subprocess.run(["mktemp", "-d", "/var/tmp/pybuilder-XXXXXX"], stdout=subprocess.PIPE, check=True)
    path = Path(name.stdout.decode().strip())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def keys() -> Iterator[KeyMaker]:
    with KeyMaker() as maker:
        yield maker


def first_commands() -> list[str]:
    """Return the commands of README that end in a running machine."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [re.sub(r" +#.*", "", line) for block in blocks[:2] for line in block.splitlines()]
    assert [line.partition("./dist")[0].split()[:3] for line in lines[:5]] == [
        ["make", "deb"], ["sudo", "apt", "install"],
        ["pybuilder", "doctor"], ["pybuilder", "list"], ["pybuilder", "run", "debian-12"],
    ]  # fmt: skip
    return lines[:5]


@pytest.mark.parametrize(("suite", "has_publisher"), [("bookworm", False), ("trixie", True)])
def test_debian_packages(
    folder: Path, keys: KeyMaker, publisher: Publisher, suite: str, has_publisher: bool
) -> None:
    builder = System(folder / "builder", suite)
    (builder.folder / "src").mkdir()
    for name in SOURCE:
        builder.copy(ROOT / name, f"/src/{name if (ROOT / name).is_dir() else ''}")
    builder.run("apt-get -q update && apt-get -q -y install --no-install-recommends build-essential lintian")
    make_packages, install, doctor, listing, run = first_commands()
    output = builder.run(f"cd /src && {make_packages}")
    assert ("without virt-pybuilder-repo" in output) != has_publisher
    packages = sorted((builder.folder / "src/dist").iterdir())
    names = ["virt-pybuilder", *(["virt-pybuilder-repo"] if has_publisher else [])]
    assert [package.name for package in packages] == [
        f"{name}_{__version__}_all.deb" for name in reversed(names)
    ]
    findings = builder.run("lintian --allow-root --fail-on error,warning /src/dist/*.deb")
    assert findings == ""

    system = System(folder / "system", suite)
    system.copy(builder.folder / "src/dist", "/root/dist")
    (folder / "site").mkdir()
    site = make_site(folder / "site", keys)
    shutil.copytree(folder / "site", system.folder / "site")
    before = system.files()
    system.run(f"apt-get -q update && cd && {install.removeprefix('sudo ')} -q -y")
    system.run("apt-get -q -y install --no-install-recommends man-db")
    system.run("useradd --create-home person")
    sources = system.folder / "home/person/.config/pybuilder/repos.d"
    sources.mkdir(parents=True)
    (sources / "local.gpg").write_bytes(keys.export(site.key))
    (sources / "local.conf").write_text("[local]\nuri=/site/index.asc\ngpgkey=./local.gpg\n")
    system.run("chown -R person /home/person")
    for program in ("pybuilder", "pybuilder-customize", *(["pybuilder-repo"] if has_publisher else [])):
        assert system.run(f"{program} --version", user="person") == f"{program} {__version__}\n"
        assert system.run(f"man -w {program}", user="person").endswith(f"/{program}.1.gz\n")
        for place in ("bash-completion/completions/", "zsh/vendor-completions/_"):
            assert (system.folder / f"usr/share/{place}{program}").is_file()
        assert (system.folder / f"usr/share/fish/vendor_completions.d/{program}.fish").is_file()
    assert site.entry.os_version in system.run("pybuilder --list", user="person")
    assert site.entry.os_version in system.run("cd && pybuilder plan tiny", user="person")
    assert "PYBUILDER(1)" in system.run("pybuilder help", user="person")
    shutil.copytree(publisher.site, system.folder / "debian")
    shutil.copyfile(publisher.public_key, sources / "debian.gpg")
    (sources / "debian.conf").write_text("[debian]\nuri=/debian/index.asc\ngpgkey=./debian.gpg\n")
    assert "PROBLEM" not in system.run(f"cd && {doctor}", user="person")
    assert "debian-12" in system.run(f"cd && {listing}", user="person")
    system.run_until(f"cd && {run}", "login:", user="person", seconds=1200)
    shutil.rmtree(system.folder / "debian")
    system.run(f"apt-get -q -y purge {' '.join(names)}")
    assert system.files() == before


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_checkout(folder: Path, suite: str) -> None:
    """A user's ``make demo`` and what it ends with; then the quick tests."""
    system = System(folder / "system", suite, "make", "passwd")
    system.run("useradd --create-home person")
    for name in CHECKOUT:
        system.copy(ROOT / name, f"/home/person/checkout/{name if (ROOT / name).is_dir() else ''}")
    system.run("chown -R person /home/person")

    def install(target: str) -> None:
        refused = system.run(f"cd ~/checkout && ! make {target} 2>&1", user="person")
        command = re.search(r"^setup: +sudo (apt-get install .*)$", refused, re.MULTILINE)
        assert command is not None, refused
        assert ("openssh-server" in command[1]) == (target == "setup")
        system.run(f"apt-get -q update && {command[1]} -y")
        shutil.copyfile(CERTIFICATES, system.folder / str(CERTIFICATES).lstrip("/"))

    install("demo")
    lines = system.run("cd ~/checkout && make demo", user="person").splitlines()
    assert len([line for line in lines if line.startswith("setup: ")]) == 1, "a line per step"
    last = [line for line in lines[lines.index("") :] if line.startswith("/home/person/checkout/")]
    boot, listing, build = last[-3:]
    assert "debian-12" in system.run(f"cd / && {listing}", user="person")
    system.run(f"cd / && {build}", user="person")
    system.run_until(boot, "login:", user="person", seconds=1200)

    install("setup")
    system.run(
        "cd ~/checkout && make setup && .venv/bin/pytest -q -n 2 --dist loadfile tests/unit", user="person"
    )


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the instructions of a Containerfile."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    for line in joined.splitlines():
        if line:
            name, _, rest = line.partition(" ")
            yield name, rest


def test_container(folder: Path) -> None:
    """The steps of the Containerfile in roots of the same Debian; then as a user without a name."""
    stages: dict[str, System] = {}
    system: System | None = None
    place, entry = "/", ""
    for name, rest in instructions((ROOT / "Containerfile").read_text()):
        words = shlex.split(rest)
        if name == "FROM":
            suite = re.fullmatch(r"docker\.io/library/debian:(\w+)-slim", words[0])
            assert suite is not None
            label = words[2] if len(words) > 1 else "last"
            system = stages[label] = System(folder / label, suite[1])
            place = "/"
            continue
        assert system is not None
        if name == "ENV":
            variable, _, value = rest.partition("=")
            system.environment[variable] = value
        elif name == "WORKDIR":
            place = rest
            (system.folder / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            base = ROOT
            if words[0].startswith("--from="):
                base = stages[words.pop(0).partition("=")[2]].folder
            for source in words[:-1]:
                target = os.path.normpath(f"{place}/{words[-1]}" if words[-1].startswith(".") else words[-1])
                (system.folder / target.lstrip("/")).mkdir(exist_ok=True)
                system.copy(base / source.lstrip("/"), target)
        elif name == "RUN":
            system.run(f"cd {place} && {rest}")
        else:
            assert name == "ENTRYPOINT"
            (entry,) = json.loads(rest)
    assert system is not None
    system.environment["VIRT_BUILDER_DIRS"] = "/nonexistent"
    system.run(f"chown 4711 {place}")  # a folder of the user is mounted there
    as_user = f"cd {place} && setpriv --reuid=4711 --regid=4711 --clear-groups {entry}"
    assert system.run(f"{as_user} --version") == f"pybuilder {__version__}\n"
    findings = system.run(f"{as_user} doctor")
    assert "PROBLEM" not in findings, findings
    assert "appliance" in findings

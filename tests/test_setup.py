"""scripts/setup: the packages it asks for, distribution by distribution. Nothing is installed here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = "sh awk sed grep cut ls env sha256sum dirname cat wc mkdir tail rm ln touch printf mount"
MOUNT = 'mount --bind "$0" /etc/os-release && exec "$@"'
ENTER = ["/usr/bin/unshare", "--map-root-user", "--mount", "/bin/sh", "-c", MOUNT]


class Host:
    """A checkout on a host whose programs, packages and os-release are a test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.checkout = folder / "checkout"
        self.bin.mkdir()
        for tool in TOOLS.split():
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        shutil.copytree(ROOT / "scripts", self.checkout / "scripts")
        table = self.checkout / "builder/imgbuilder/packages.txt"
        table.parent.mkdir(parents=True)
        shutil.copyfile(ROOT / "builder/imgbuilder/packages.txt", table)
        shutil.copyfile(ROOT / "pyproject.toml", self.checkout / "pyproject.toml")
        self.program("id", "echo 1000")

    def program(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def setup(self, os_release: str, *words: str) -> subprocess.CompletedProcess[str]:
        facts = self.folder / "os-release"
        facts.write_text(os_release)
        command = [*ENTER, str(facts), str(self.bin / "sh"), "scripts/setup", *words]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.checkout,
            env={"PATH": str(self.bin)},
        )


def enters() -> bool:
    done = subprocess.run([*ENTER, "/dev/null", "true"], capture_output=True)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(not enters(), reason="user namespaces are not allowed here")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("os_release", "query", "command", "some"),
    [
        (
            "ID=ubuntu\nID_LIKE=debian",
            "dpkg-query",
            "apt-get install --no-install-recommends",
            "python3-guestfs",
        ),
        ("ID=fedora", "rpm", "dnf install", "python3-libguestfs"),
        ("ID=rocky\nID_LIKE='rhel centos fedora'", "rpm", "dnf install", "qemu-img"),
        ("ID=arch", "pacman", "pacman -S --needed", "libguestfs"),
        (
            "ID=opensuse-leap\nID_LIKE='suse opensuse'",
            "rpm",
            "zypper install --no-recommends",
            "libseccomp2",
        ),
        ("ID=debian", "dpkg-query", "apt-get install --no-install-recommends", "mmdebstrap"),
    ],
    ids=lambda value: value.split()[0] if "ID=" in value else "",
)
def test_the_command_of_each_distribution_is_printed(
    host: Host, os_release: str, query: str, command: str, some: str
) -> None:
    host.program(query, "exit 1")
    done = host.setup(os_release, "run")
    assert done.returncode == 1
    first, line = done.stderr.splitlines()
    assert "Run this" in first
    assert line.startswith(f"setup:     sudo {command} ")
    packages = line.split(command)[1].split()
    assert some in packages
    assert len(packages) == len(set(packages))
    assert "-" not in packages
    assert "openssh-server" not in packages
    assert not (host.checkout / ".venv").exists()


def test_a_demo_needs_none_of_the_packages_of_the_tests(host: Host) -> None:
    host.program("dpkg-query", "exit 1")
    run, test = (host.setup("ID=debian", *words).stderr for words in (["run"], []))
    wanted = {line.split()[0] for line in (ROOT / "scripts/packages.txt").read_text().splitlines()} - {"#"}
    assert not wanted & set(run.split())
    assert {"openssh-server", "guestfs-tools", "strace"} <= wanted & set(test.split())
    assert set(run.split()) < set(test.split())


def test_only_what_is_missing(host: Host) -> None:
    host.program("dpkg-query", "case $* in *zstd | *fdisk) exit 1 ;; *) printf installed ;; esac")
    done = host.setup("ID=debian", "run")
    assert done.stderr.splitlines()[1].split("recommends")[1].split() == ["fdisk", "zstd"]


@pytest.mark.parametrize("os_release", ["ID=plan9", "ID=debian", "NAME=nameless"])
def test_elsewhere_it_says_where_the_names_are(host: Host, os_release: str) -> None:
    done = host.setup(os_release)
    assert done.returncode == 1
    assert "builder/imgbuilder/packages.txt" in done.stderr
    assert "not found" not in done.stderr


def test_a_failed_installation_shows_its_end_and_its_log(host: Host) -> None:
    host.program("dpkg-query", "exit 1")
    host.program("id", "echo 0")
    host.program("apt-get", "[ $1 = update ] || { echo E: no space left; exit 100; }")
    done = host.setup("ID=debian", "run")
    assert done.returncode == 1
    assert done.stdout.startswith("setup: installing ")
    assert len(done.stdout.splitlines()) == 1
    assert "E: no space left" in done.stderr
    assert "build/setup.log" in done.stderr.splitlines()[-1]
    assert "apt-get install --no-install-recommends -y" in (host.checkout / "build/setup.log").read_text()

"""The ordinary user of the guest tests, the commands installed for them, and what builds leave behind."""

from __future__ import annotations

import compileall
import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


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
            **{
                name: os.environ[name]
                for name in ("PYBUILDER_INSTANT", "PYBUILDER_HOSTSIDE")
                if name in os.environ
            },
            **(extra or {}),
        }

    def owns(self, path: Path) -> None:
        """Give a file or a folder to the person."""
        if self.prefix:
            subprocess.run(["chown", "-R", f"{self.name}:{self.name}", path], check=True)

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


def runtime_distributions(requirement: str) -> Iterator[metadata.Distribution]:
    """Walk the run-time requirements of a distribution, such as ``name[extra]``."""
    seen: set[str] = set()
    waiting = [Requirement(requirement)]
    while waiting:
        current = waiting.pop()
        if str(current) in seen:
            continue
        seen.add(str(current))
        found = metadata.distribution(current.name)
        yield found
        extras = [{"extra": extra} for extra in (current.extras or {""})]
        for needed in map(Requirement, found.requires or []):
            if needed.marker is None or any(needed.marker.evaluate(extra) for extra in extras):
                waiting.append(needed)


def install(folder: Path) -> Path:
    """Copy the packages and what they need to a place that every user can read; return its bin folder.

    Modules are compiled there: the user could not write that down, and each command would do it again.
    """
    library, commands = folder / "lib", folder / "bin"
    interpreter = Path(sys.executable).resolve()  # past the virtual environment, which others may not see
    library.mkdir()
    commands.mkdir()
    for package in ("index/imgindex", "builder/imgbuilder", "repo-tools/imgrepo"):
        shutil.copytree(ROOT / package, library / Path(package).name)
        compileall.compile_dir(library / Path(package).name, quiet=1)
    for distribution in runtime_distributions("virt-pybuilder[repo,s3]"):
        for file in distribution.files or []:
            if ".." in file.parts or file.suffix == ".pth":
                continue
            source = Path(str(distribution.locate_file(file)))
            if source.is_file():
                target = library / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
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
        found += [str(path) for path in traces(folder, person_id(person))]
    return found


def traces(folder: Path, owner: int) -> Iterator[Path]:
    """Yield the temporary files and folders of builds by a user."""
    for path in (*folder.glob("*pybuilder-*"), *folder.glob("libguestfs*")):
        with contextlib.suppress(FileNotFoundError):  # it went in this moment
            if not path.name.startswith("pybuilder-guest-") and path.lstat().st_uid == owner:
                yield path


def person_id(person: Person) -> int:
    return pwd.getpwnam(person.name).pw_uid

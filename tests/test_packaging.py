"""Contents of `pip install`: exactly three packages, their commands and manual pages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MEGABYTE = 1024**2


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command: list[str | Path] = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        ROOT,
    ]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(wheel_file)


def needed_by(distribution: metadata.Distribution) -> Iterator[metadata.Distribution]:
    """Yield what a distribution needs without any extra, as it is installed here, and what that needs."""
    for line in distribution.requires or ():
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            found = metadata.distribution(wanted.name)
            yield found
            yield from needed_by(found)


@pytest.fixture(scope="module")
def client(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what its metadata names, as `pip install` makes it.

    The libraries are copied from the environment of the tests: that takes a second, and no network.
    """
    environment = tmp_path_factory.mktemp("client")
    venv.create(environment, symlinks=True)
    libraries = next(environment.glob("lib/python*/site-packages"))
    command: list[str | Path] = ["-m", "pip", "--python", environment / "bin/python", "install", "--quiet"]
    command += ["--no-deps", "--no-index", "--no-compile", wheel_file]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (ours,) = metadata.distributions(name="virt-pybuilder", path=[str(libraries)])
    for distribution in needed_by(ours):
        for file in distribution.files or ():
            target = libraries / file
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)
    return environment


def test_size_of_a_client(client: Path) -> None:
    (libraries,) = client.glob("lib/python*/site-packages")
    names = {found.name for found in metadata.distributions(path=[str(libraries)])}
    assert "virt-pybuilder" in names
    assert len(names) <= 12, names
    size = sum(file.stat().st_size for file in client.rglob("*") if file.is_file() and not file.is_symlink())
    assert size <= 15 * MEGABYTE, size / MEGABYTE


def test_client_runs_without_the_libraries_of_publishers(client: Path) -> None:
    program = """
import importlib, pkgutil, imgbuilder, imgindex
for package in (imgindex, imgbuilder):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith((".worker", ".__main__")):
            importlib.import_module(module.name)
"""
    for command in (["python", "-c", program], ["pybuilder", "--help"], ["pybuilder-customize", "--help"]):
        done = subprocess.run(
            [client / "bin" / command[0], *command[1:]], capture_output=True, text=True, cwd="/", env={}
        )
        assert done.returncode == 0, done.stderr


def test_publisher_names_the_command_that_installs_its_libraries(client: Path) -> None:
    done = subprocess.run(
        [client / "bin/pybuilder-repo", "--help"], capture_output=True, text=True, cwd="/", env={}
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "pydantic" in line
    assert "bin/python -m pip install 'virt-pybuilder[repo] @ file:///" in line


def test_three_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    packages = {name for name in tops if not name.startswith("virt_pybuilder-")}
    assert packages == {"imgindex", "imgbuilder", "imgrepo"}
    for package in packages:
        assert f"{package}/py.typed" in wheel.namelist()


def test_every_module_is_there(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if name.endswith(".py")}
    roots = [ROOT / "index", ROOT / "builder", ROOT / "repo-tools"]
    assert shipped == {str(path.relative_to(root)) for root in roots for path in root.rglob("*.py")}


def test_the_stock_source_and_its_key_are_there(wheel: zipfile.ZipFile) -> None:
    assert {"imgbuilder/stock/libguestfs.conf", "imgbuilder/stock/libguestfs.gpg"} <= set(wheel.namelist())


def test_texts_of_help_and_the_table_of_packages_are_there(wheel: zipfile.ZipFile) -> None:
    texts = {"cli/pybuilder.txt", "cli/pybuilder-customize.txt", "packages.txt"}
    wanted = {f"imgbuilder/{name}" for name in texts} | {"imgrepo/pybuilder-repo.txt"}
    assert wanted <= set(wheel.namelist())


def test_commands_manual_pages_and_licence(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    text = wheel.read(entry_points).decode()
    assert "pybuilder = imgbuilder.cli.entry:main" in text
    assert "pybuilder-customize = imgbuilder.cli.entry:customize" in text
    assert "pybuilder-repo = imgrepo.__main__:main" in text
    assert {"pybuilder.1", "pybuilder-customize.1", "pybuilder-repo.1"} <= {
        name.rpartition("/")[2] for name in names
    }
    for place in ("bash-completion/completions/", "zsh/site-functions/_", "fish/vendor_completions.d/"):
        assert sum(f"share/{place}pybuilder" in name for name in names) == 3, place
    assert any(name.endswith("LICENSE") for name in names)


def test_the_pages_of_the_catalogue_are_there(wheel: zipfile.ZipFile) -> None:
    folder = ROOT / "repo-tools" / "imgrepo" / "catalogue"
    pages = {path for name in ("templates", "static") for path in (folder / name).iterdir()}
    assert len(pages) >= 8
    assert {f"imgrepo/catalogue/{path.relative_to(folder)}" for path in pages} <= set(wheel.namelist())

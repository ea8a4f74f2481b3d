"""Contents of `pip install`: exactly three packages, their commands and manual pages."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command: list[str | Path] = [
        sys.executable,
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
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


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

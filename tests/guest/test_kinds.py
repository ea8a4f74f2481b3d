"""Disks of all kinds of guests that an os-release names, customized by the real command and read back.

No command of a guest runs here, so that the files that identify each kind are enough.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fakes.families import guest_of
from tests.fakes.guest import FakeGuest, Node
from tests.guest.conftest import long
from tests.guest.layouts import place
from tests.guest.person import Person
from tests.guest.smallguest import small_disk
from tests.unit.imgbuilder.customize import matrix

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]


def write_tree(node: Node, path: Path) -> None:
    """Write a tree in memory to a folder of this host."""
    if node.is_dir:
        path.mkdir(exist_ok=True)
        for name, child in node.children.items():
            write_tree(child, path / name)
    elif node.is_link:
        path.symlink_to(node.target)
    else:
        path.write_bytes(node.content)
        path.chmod(node.mode & 0o7777)


def read_tree(folder: Path, guest: FakeGuest, inside: str = "") -> FakeGuest:
    """Read a folder of this host into memory."""
    for path in folder.iterdir():
        name = f"{inside}/{path.name}"
        if path.is_symlink():
            guest.add_link(name, str(path.readlink()))
        elif path.is_dir():
            guest.add_dir(name)
            read_tree(path, guest, name)
        else:
            guest.add(name, path.read_bytes())
    return guest


OFTEN = ("Ubuntu", "Fedora with dnf5", "openSUSE, SLES 12-15", "Arch", "Alpine", "NixOS", "OpenWrt")
"""The kinds that are tried in each run of the tests; the others are among the long tests."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in OFTEN else [long]) for kind in matrix.NAMED]
)
def test_what_works_in_memory_works_on_a_disk(person: Person, kind: str, tmp_path: Path) -> None:
    files = matrix.local_files(tmp_path)
    words: list[str | Path] = []
    looks: dict[str, matrix.Look] = {}
    for column, keyword in matrix.ON_DISK.items():
        trial = matrix.COLUMNS[column][keyword]
        if matrix.outcome(kind, keyword, trial, files)[0] != "refused":
            words += [f"--{keyword}", trial.argument]
            looks[keyword] = trial.look
    write_tree(guest_of(kind).root, tmp_path / "root")
    image = small_disk(person.home / "kind.img", tmp_path / "root")
    person.owns(image)
    command = ("pybuilder-customize", "--hostside", "always", "-a", image)
    if not looks:
        done = person.run(*command, "--write", "/srv/new:text", check=False)
        assert done.returncode == 1
        assert "only guests with Linux or Windows can be customized" in done.stderr
        return
    person.run(*command, *words)
    root = f"{image}?offset={place(image, 2)[0]}"
    (tmp_path / "back").mkdir()
    subprocess.run(
        ["/usr/sbin/debugfs", "-R", f"rdump / {tmp_path / 'back'}", root], check=True, capture_output=True
    )
    guest = read_tree(tmp_path / "back", FakeGuest())
    assert [keyword for keyword, look in looks.items() if not look(guest)] == []
    image.unlink()

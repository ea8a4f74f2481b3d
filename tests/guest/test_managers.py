"""Real package managers of several families in a small guest, with signed repositories on the host."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.keys import KeyMaker
from tests.guest.archives import pacman_repository, rpm_repository, served
from tests.guest.conftest import long
from tests.guest.images import look_into
from tests.guest.layouts import MIB
from tests.guest.managers import managers_root, trust
from tests.guest.person import Person
from tests.guest.smallguest import SMALL_ROOT, small_disk

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def root(keys: KeyMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a guest that has all of them, and trusts repositories that are served."""
    folder = tmp_path_factory.mktemp("managers")
    made = managers_root(folder)
    rpm_repository(folder, keys)
    pacman_repository(folder, keys)
    with served(folder) as address:
        trust(made, keys, address)
        yield made


@pytest.mark.parametrize(
    ("release", "prepare", "first", "publish"),
    [
        pytest.param(
            'ID="rocky"\nID_LIKE="rhel centos"\nVERSION_ID="9.4"\n', "true", "word-1", "true", id="dnf"
        ),
        pytest.param(
            'ID="opensuse-leap"\nID_LIKE="suse"\n',
            "rpm --import /etc/pki/key",
            "word-1",
            "true",
            id="zypper",
            marks=long,
        ),
        pytest.param(
            "ID=arch\n",
            "true",
            "word",
            "sed -i s,/words$,/words/next, /etc/pacman.conf",
            id="pacman",
            marks=long,
        ),
    ],
)
def test_packages_are_installed_updated_and_removed(
    person: Person, root: Path, release: str, prepare: str, first: str, publish: str
) -> None:
    """The os-release decides which manager is used; a package that is not signed ends the command."""
    (root / "etc/os-release").write_text(release)
    image = small_disk(person.home / "managers.img", root, size=320 * MIB)
    person.owns(image)
    done = person.run(
        "pybuilder-customize", "-a", image, "--run-command", prepare, "--install", f"other,{first}",
        "--run-command", f"cp /usr/share/word /srv/installed; {publish}",
        "--update", "--run-command", "cp /usr/share/word /srv/updated", "--uninstall", "word",
        "--install", "forged", check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "--install forged failed in the guest" in done.stderr, done.stderr
    with look_into(image, root=SMALL_ROOT) as guest:
        assert guest.read("/srv/installed") == b"1\n"
        assert guest.read("/srv/updated") == b"2\n"
        assert guest.exists("/usr/share/other")
        assert not guest.exists("/usr/share/word")
        assert not guest.exists("/usr/share/forged")
    subprocess.run(["rm", image], check=True)

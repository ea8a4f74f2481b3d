"""The command that installs what is missing, for each distribution."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from imgbuilder.errors import ToolError
from imgbuilder.host.packages import TABLE, extra_command, install_command, install_hint
from imgbuilder.host.process import require_program


def host(monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], *, root: bool = False) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: facts)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        (
            {"ID": "debian"},
            "sudo apt-get install --no-install-recommends python3-guestfs linux-image-cloud-amd64 qemu-utils",
        ),
        (
            {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"},
            "sudo apt-get install --no-install-recommends python3-guestfs linux-image-virtual qemu-utils",
        ),
        ({"ID": "rhel", "ID_LIKE": "fedora"}, "sudo dnf install python3-libguestfs kernel-core qemu-img"),
        ({"ID": "arch"}, "sudo pacman -S --needed libguestfs linux qemu-img"),
        (
            {"ID": "opensuse-tumbleweed", "ID_LIKE": "opensuse suse"},
            "sudo zypper install --no-recommends python3-libguestfs kernel-default qemu-tools",
        ),
    ],
    ids=lambda value: value["ID"] if isinstance(value, dict) else "",
)
def test_each_distribution(monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], command: str) -> None:
    host(monkeypatch, facts)
    assert install_command("guestfs", "kernel", "qemu-img", "qemu-io") == command
    assert install_hint("xz").startswith(f"run: {' '.join(command.split()[:3])}")


def test_what_a_distribution_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, {"ID": "arch"}, root=True)
    assert install_command("arch-test", "zstd") == "pacman -S --needed zstd"
    assert install_command("arch-test", "mmdebstrap") == ""
    assert install_hint("mmdebstrap") == "this distribution has no package of mmdebstrap"


def test_another_distribution_gets_the_names_of_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, {"ID": "plan9"})
    assert install_command("xz").startswith(
        "apt-get install --no-install-recommends xz-utils  (on Debian; see /"
    )


def test_a_host_without_os_release(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> dict[str, str]:
        raise FileNotFoundError

    monkeypatch.setattr(platform, "freedesktop_os_release", missing)
    assert "on Debian" in install_command("xz")


def test_an_unknown_program_is_taken_for_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, {"ID": "debian"}, root=True)
    with pytest.raises(ToolError) as caught:
        require_program("no-such-program")
    assert caught.value.hint == "run: apt-get install --no-install-recommends no-such-program"


def test_the_table_has_a_cell_for_each_distribution() -> None:
    rows = [re.split(r" *\| *", line) for line in TABLE.read_text().splitlines() if line[0] != "#"]
    assert {len(row) for row in rows} == {7}
    assert all(cell for row in rows for cell in row)
    names = [row[0] for row in rows]
    assert len(names) == len(set(names))


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is not installed")
def test_the_programs_are_in_these_packages_of_debian() -> None:
    rows = [re.split(r" *\| *", line) for line in TABLE.read_text().splitlines() if line[0] != "#"]
    others = {"what", "command", "guestfs", "kernel", "venv", "ca-certificates", "perl"}
    others |= {"xfs", "btrfs", "f2fs", "ntfsprogs", "lvm2"}
    checked = 0
    for name, package in [
        (row[0], row[2]) for row in rows if row[0] not in others and not re.search(r"\.so|^uefi-", row[0])
    ]:
        files = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=False).stdout
        if files and name != "debian-archive-keyring":
            assert re.search(rf"bin/{re.escape(name)}$", files, re.MULTILINE), (name, package)
            checked += 1
    assert checked > 12


def test_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, {"ID": "debian"}, root=True)
    assert install_command("libseccomp.so.2", "libext2fs.so.2").endswith(" libseccomp2 e2fsprogs")


def installed_from(monkeypatch: pytest.MonkeyPatch, record: str | None) -> None:
    class Distribution:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return record

    monkeypatch.setattr(metadata, "distribution", lambda _name: Distribution())


@pytest.mark.parametrize(
    ("file", "begin"),
    [("pipx_metadata.json", "pipx install --force "), ("uv-receipt.toml", "uv tool install --force ")],
)
def test_environment_of_a_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, begin: str
) -> None:
    installed_from(monkeypatch, '{"dir_info": {}, "url": "file:///src/my%20checkout"}')
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / file).touch()
    assert extra_command("repo") == f"{begin}'virt-pybuilder[repo] @ file:///src/my%20checkout'"


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (None, "virt-pybuilder[s3]"),
        (
            '{"url": "https://x.example/a.whl", "archive_info": {}}',
            "virt-pybuilder[s3] @ https://x.example/a.whl",
        ),
        (
            '{"url": "https://x.example/a", "vcs_info": {"vcs": "git", "commit_id": "0"}}',
            "virt-pybuilder[s3] @ git+https://x.example/a",
        ),
    ],
)
def test_other_environment(monkeypatch: pytest.MonkeyPatch, record: str | None, wanted: str) -> None:
    installed_from(monkeypatch, record)
    assert extra_command("s3") == f"{sys.executable} -m pip install '{wanted}'"


def test_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr")
    assert extra_command("repo") == "sudo apt install virt-pybuilder-repo"


def test_publisher_without_libraries() -> None:
    """One line, and no traceback, where one library is missing."""
    code = "import importlib.util as u, sys; old = u.find_spec\n"
    code += "u.find_spec = lambda name: None if name == 'pydantic' else old(name)\n"
    code += "import imgrepo.__main__ as m; m.main()"
    done = subprocess.run([sys.executable, "-c", code, "status"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "pybuilder-repo: error: the libraries of publishers are not installed (pydantic); type: "
    )
    assert "virt-pybuilder[repo]" in line

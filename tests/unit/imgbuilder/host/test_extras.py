"""The command that installs optional libraries."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from imgbuilder.host.extras import install_command


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
    assert install_command("repo") == f"{begin}'virt-pybuilder[repo] @ file:///src/my%20checkout'"


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
    assert install_command("s3") == f"{sys.executable} -m pip install '{wanted}'"


def test_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr")
    assert install_command("repo") == "sudo apt install virt-pybuilder-repo"


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

"""Fleets on a real Dask scheduler and two nodes: lost nodes, stops, foreign certificates, secrets."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.commands import Command
from tests.fakes.dasknodes import dask_nodes
from tests.fakes.keys import KeyMaker
from tests.guest.smallguest import small_site

pytestmark = pytest.mark.timeout(600)
CANARY = "canary-9c1"
PAGES = ("health", "metrics", "info/main/workers.html", "json/counts.json", "status")
FLEET = """\
recipe = "r.toml"
[defaults]
template = "small"
output = "images/{host}.img"
seed = "{host}"
[secrets]
ROOT = "file:secret"
[[host]]
range = "web[1-8]"
"""
RECIPE = """\
[[operation]]
upload = "page.html"
destination = "/srv/page.html"
[[operation]]
root-password = "secret:ROOT"
"""


@pytest.fixture
def fleet(tmp_path: Path, home: Path, publisher_keys: KeyMaker, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet of eight hosts in the current folder, and a signed source with its template."""
    folder = tmp_path / "site"
    folder.mkdir()
    small_site(folder, publisher_keys).configure(home)
    monkeypatch.setenv("PYBUILDER_HOSTSIDE", "always")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    Path("images").mkdir()
    for name, text in (("fleet.toml", FLEET), ("r.toml", RECIPE), ("secret", CANARY), ("page.html", "<p>")):
        Path(name).write_text(text)
    return Path("fleet.toml").absolute()


def start(fleet: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "imgbuilder", "fleet", "build", fleet, *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=fleet.parent,
    )  # fmt: skip


def digests() -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path("images").iterdir()}


@pytest.mark.row("L5", "L6")
def test_a_cluster_makes_the_same_images_though_a_node_is_killed(
    fleet: Path, pybuilder: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pybuilder("fleet", "build", "fleet.toml").good()
    here = digests()
    assert len(set(here.values())) == 8
    shutil.rmtree("fleet.state")
    shutil.rmtree("images")
    Path("images").mkdir()
    # The nodes have the time from the coordinator.
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    with dask_nodes(tmp_path / "dask") as nodes:
        nodes.add("n1", "n2")
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        assert {nodes.answer(name, page) for name in ("scheduler", "n1") for page in PAGES} == {404}
        process = start(fleet, *nodes.options())
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if line.startswith("[2/8]"):
                break
        nodes.kill("n1")
        out, _ = process.communicate(timeout=500)
        out = seen + out
        assert process.returncode == 0, out
        assert "8 built, 0 failed" in out
        assert digests() == here
        # A file that is not the same on all nodes cannot be: here, it changes after the key was made.
        assert "8 as they were" in pybuilder("fleet", "build", "fleet.toml", *nodes.options()).good().out
        Path("page.html").write_text("<p>new")
        lines = pybuilder("fleet", "build", "fleet.toml", "--changed", "--only", "1/4", *nodes.options(),
                          "--json").good().out.splitlines()  # fmt: skip
        assert [(one["host"], one["node"]) for one in map(json.loads, lines)] == [
            ("web1", "n2"),
            ("web5", "n2"),
        ]
        state = fleet.with_suffix(".state")
        logs = [nodes.log(name) for name in ("scheduler", "n1", "n2")]
        texts = [path.read_bytes() for path in [*state.iterdir(), *logs]]
        assert not [text for text in texts if CANARY.encode() in text]
        assert not [path for path in state.iterdir() if path.name.startswith(".pybuilder-")]

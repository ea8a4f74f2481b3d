"""Completion in shells: what is proposed, and by a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from imgbuilder.cli.customize_main import pybuilder_customize
from imgbuilder.cli.main import pybuilder
from imgrepo.cli.main import group as pybuilder_repo
from tests.fakes.commands import Command
from tests.fakes.template import Site

ROOT = Path(__file__).parents[4]


def proposed(words: str, incomplete: str = "", program: click.Command = pybuilder) -> list[str]:
    """Return what is proposed after some words; a kind such as file in angle brackets."""
    shell = ShellComplete(program, {}, str(program.name), "_X")
    found = shell.get_completions(words.split(), incomplete)
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in found]


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ("", "ca", ["cache"]),
        ("-v", "ca", ["cache"]),
        ("cache", "ver", ["verify"]),
        ("-v cache", "ver", ["verify"]),
        ("machine", "", ["script", "libvirt", "virt-install"]),
        ("tiny --format", "v", ["vmdk", "vdi", "vhdx"]),
        ("list --list-format", "f", ["full"]),
        ("machine script --firmware", "u", ["uefi"]),
        ("", "--out", ["--output"]),
        ("cache gc", "--cache-s", ["--cache-size"]),
        ("tiny --on-error", "", ["abort", "keep", "shell"]),
        ("tiny --password-crypto", "y", ["yescrypt"]),
        ("tiny --sysprep", "ssh-h", ["ssh-hostkeys"]),
        ("tiny --sysprep", "logs,mach", ["logs,machine-id"]),
        ("source add", "ubuntu-", ["ubuntu-minimal", "ubuntu-daily"]),
        ("source add ubuntu", "", []),
        ("tiny --upload", "x", ["<file>"]),
        ("tiny --cache", "x", ["<dir>"]),
        ("tiny -o", "x", ["<file>"]),
        ("cache add", "x", ["<file>"]),
        ("machine script", "x", ["<file>"]),
        ("--s", "ca", ["cache"]),
    ],
)
def test_verbs_options_and_values(home: Path, words: str, incomplete: str, expected: list[str]) -> None:
    assert proposed(words, incomplete) == expected


def test_names_of_templates_come_without_network(
    site: Site, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = replace(site.entry, aliases=("stable", "$(touch${IFS}owned)", "*"))
    site.sign(entry, replace(site.entry, os_version="secret", hidden=True))
    monkeypatch.setattr("socket.socket", None)
    for words in (
        "",
        "build",
        "plan --size 1G",
        "list",
        "notes",
        "cache export x.pybundle",
        "recipe write x",
    ):
        assert [name for name in proposed(words) if name not in pybuilder.commands] == ["tiny", "stable"], (
            words
        )
    assert proposed("", "st") == ["stable"]
    assert proposed("tiny", "li") == [], "only the first word is a verb"
    (item,) = ShellComplete(pybuilder, {}, "pybuilder", "_X").get_completions(["build"], "ti")
    assert item.help == "Tiny Linux"
    site.index.write_text("damaged")
    assert proposed("build", "") == []
    assert capfd.readouterr() == ("", "")


def test_the_other_programs(home: Path) -> None:
    assert proposed("", "--work", pybuilder_customize) == ["--work-on-copy"]
    assert proposed("-a", "x", pybuilder_customize) == ["<file>"]
    assert proposed("", "publ", pybuilder_repo) == ["publish"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is missing")
def test_in_bash(site: Site, pybuilder: Command) -> None:
    assert pybuilder("list").code == 0
    script = (
        f"source {ROOT}/docs/completions/bash/pybuilder\n"
        "COMP_WORDS=(pybuilder build ti); COMP_CWORD=2\n"
        "_pybuilder_completion pybuilder\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    assert (done.stdout, done.stderr) == ("tiny\n", "")


def test_descriptions_for_fish_keep_their_commas() -> None:
    for script in (ROOT / "docs/completions/fish").iterdir():
        assert 'string split --max 1 "," $completion' in script.read_text()


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_in_fish(home: Path) -> None:
    script = f"source {ROOT}/docs/completions/fish/pybuilder.fish; complete -C 'pybuilder --commands-f'"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    )
    option, _, description = done.stdout.strip().partition("\t")
    assert option == "--commands-from-file"
    assert description.endswith("one a line: option name without dashes, and argument.")

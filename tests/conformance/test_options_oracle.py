"""virt-builder's family itself, asked for its options: each is here, in every form that it may be written."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import click
import pytest

from imgbuilder.cli.customize_main import pybuilder_customize
from imgbuilder.cli.getopt import GetoptCommand
from imgbuilder.cli.main import pybuilder, run
from imgrepo.cli.publish import publish_command

PROGRAMS = {
    "virt-builder": pybuilder,
    "virt-customize": pybuilder_customize,
    "virt-builder-repository": publish_command,
    "virt-get-kernel": pybuilder.commands["get-kernel"],
}

ELSEWHERE = {
    "virt-get-kernel": {
        "--add", "-a", "--connect", "-c", "--domain", "-d", "--blocksize", "--keys-from-stdin", "--echo-keys",
        "--version", "-V",
    },
}  # fmt: skip
"""Of virt-get-kernel, get-kernel IMAGE takes the image itself, and no domains."""


def asked(program: str, option: str) -> list[str]:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing (package guestfs-tools)")
    done = subprocess.run([program, option], capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split() if name not in ELSEWHERE.get(program, set())]


def meant(command: click.Command, word: str) -> str | None:
    """Return the first name of the option that we take a word for."""
    assert isinstance(command, GetoptCommand)
    context = click.Context(command)
    given = command.normalised(context, [f"{word}=value"])[0].partition("=")[0]
    named = {
        name: param.name
        for param in command.get_params(context)
        if isinstance(param, click.Option)
        for name in [*param.opts, *param.secondary_opts]
    }
    return named.get(given)


def prefixes(names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield what is unambiguous among long names, with the name that is meant."""
    # Each tool has these, and does not show them.
    words = [name.removeprefix("--") for name in [*names, "--short-options", "--long-options"]]
    for word in words:
        for length in range(1, len(word) + 1):
            fits = [other for other in words if other.startswith(word[:length])]
            if fits == [word] or word[:length] == word:
                yield word[:length], word


@pytest.mark.parametrize("program", sorted(PROGRAMS.keys() - ELSEWHERE.keys()))
def test_long_options_with_one_dash_and_two_and_shortened(program: str) -> None:
    command = PROGRAMS[program]
    names = asked(program, "--long-options")
    assert len(names) > 10, "the list was not understood"
    shorts = {name[1] for param in command.params for name in param.opts if len(name) == 2}
    for short, name in prefixes(names):
        full = meant(command, f"--{name}")
        assert full is not None, f"--{name} is unknown"
        assert meant(command, f"--{short}") == full, f"--{short} is not --{name}"
        if short[0] not in shorts:
            assert meant(command, f"-{short}") == full, f"-{short} is not --{name}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_short_options(program: str) -> None:
    command = PROGRAMS[program]
    known = {name for param in command.get_params(click.Context(command)) for name in param.opts}
    assert set(asked(program, "--short-options")) <= known


@pytest.mark.parametrize("option", ["--short-options", "--long-options"])
def test_the_lists_of_options_are_answered_alike(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = asked("virt-builder", option)
    capsys.readouterr()
    assert run([option]) == 0
    ours = capsys.readouterr().out.splitlines()
    assert set(theirs) <= set(ours)
    assert len(ours) == len(set(ours))
    assert {name.startswith("--") for name in ours} == {option == "--long-options"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_values_are_taken_by_the_same_options(program: str) -> None:
    """An option that is a flag there and takes a value here would swallow the next word."""
    command = PROGRAMS[program]
    ours = {
        name: not (param.is_flag or param.count)
        for param in command.get_params(click.Context(command))
        if isinstance(param, click.Option)
        for name in [*param.opts, *param.secondary_opts]
    }
    names = set(asked(program, "--long-options")) - {"--machine-readable"}  # flag and value, here and there
    text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    shown = re.findall(r"^ +(?:-\w, )?((?:--[\w-]+(?:, )?)+)(?: (<))?", text, flags=re.MULTILINE)
    found = {name: bool(value) for group, value in shown for name in group.split(", ") if name in names}
    assert len(found) > len(names) - 8, "the help was not understood"
    assert {name: ours[name] for name in found} == found

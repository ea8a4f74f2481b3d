"""Advice in errors names things that exist: programs, their commands and options, in all hints."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from imgbuilder.cli.customize_main import pybuilder_customize
from imgbuilder.cli.main import pybuilder
from imgrepo.cli.main import group as pybuilder_repo

ROOT = Path(__file__).parents[2]
OURS = {"pybuilder": pybuilder, "pybuilder-customize": pybuilder_customize, "pybuilder-repo": pybuilder_repo}
THEIRS = (
    "qemu-img", "xz", "gzip", "bzip2", "zstd", "lz4", "unzip", "tar", "7z", "gpg", "gpgv", "truncate",
    "mkdir", "dmesg", "chmod", "chown", "sfdisk", "apt-get", "df", "mv", "rm", "ls", "sudo",
    "qemu-io", "openssl",
    "virt-install", "virsh", "lvchange", "umount", "cryptsetup", "modprobe", "usermod", "curl", "blockdev",
)  # fmt: skip
MAY_BE_MISSING = {"7z", "lz4", "unzip", "virsh", "virt-install", "sudo", "lvchange", "cryptsetup", "curl"}
"""Programs that a user of such a file has; a builder does not need them."""


def text_of(node: ast.AST) -> Iterator[str]:
    """Yield the strings of an expression; what is filled in becomes X."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)  # type: ignore[misc]
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from text_of(part.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from text_of(child)


def advice_in(node: ast.AST) -> ast.AST | None:
    """Return the expression of a hint: an argument, a variable, or what a function of advice returns."""
    if isinstance(node, ast.keyword) and node.arg == "hint":
        return node.value
    if (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "hint"
    ):
        return node.value
    if isinstance(node, ast.FunctionDef) and node.name in {"advice", "_advice", "_hint"}:
        return ast.Module([one for one in ast.walk(node) if isinstance(one, ast.Return)], [])
    return None


@functools.cache
def hints() -> list[tuple[str, str]]:
    """Return all advice with its place."""
    found = []
    for folder in ("index", "builder", "repo-tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            constants = {
                target.id: node.value
                for node in tree.body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                given = advice_in(node)
                if given is None:
                    continue
                names = {one.id for one in ast.walk(given) if isinstance(one, ast.Name)}
                for expression in [given, *(constants[name] for name in names & constants.keys())]:
                    found += [
                        (f"{path.name}:{getattr(node, 'lineno', 0)}", text) for text in text_of(expression)
                    ]
    return found


def options(command: click.Command) -> set[str]:
    found = {
        name
        for param in command.get_params(click.Context(command))
        for name in [*param.opts, *param.secondary_opts]
    }
    for sub in command.commands.values() if isinstance(command, click.Group) else ():
        found |= options(sub)
    return found


def clauses() -> Iterator[tuple[str, str]]:
    for where, text in hints():
        for clause in re.split(r"[;,()]| or |: ", text):
            yield where, clause


def test_hints_are_found() -> None:
    assert len(hints()) > 500


@pytest.mark.parametrize("program", OURS)
def test_our_commands_exist_with_their_options(program: str) -> None:
    seen = 0
    for where, clause in clauses():
        for match in re.finditer(rf"(?<![\w/-]){program}((?: +[^ ]+)*)", clause):
            words = match[1].split()
            command: click.Command = OURS[program]
            while isinstance(command, click.Group) and words and re.fullmatch("[a-z][a-z-]+", words[0]):
                assert words[0] in command.commands, f"{where}: {clause!r}"
                command = command.commands[words.pop(0)]
            for word in words:
                name = re.match(r"--[a-z][a-z-]*", word)
                if name is not None:
                    assert name[0] in options(command), f"{where}: {clause!r} has no {name[0]}"
            seen += 1
    assert seen > 1


def test_options_that_are_named_alone_exist() -> None:
    known = {
        "client": options(pybuilder) | options(pybuilder_customize),
        "publisher": options(pybuilder_repo),
    }
    everything = known["client"] | known["publisher"]
    for where, clause in clauses():
        if any(re.search(rf"(?<![\w/-]){program} ", clause) for program in THEIRS):
            continue
        for name in re.findall(r"(?<![\w=-])--[a-z][a-z-]*[a-z]", clause):
            assert name in everything, f"{where}: {clause!r} names {name}"


def test_programs_of_others_are_there() -> None:
    named = {
        program
        for _where, clause in clauses()
        for program in THEIRS
        if re.search(rf"(?<![\w/.-]){program} +[-\w/]", clause)
    }
    assert {"qemu-img", "mkdir"} <= named
    assert {program for program in named - MAY_BE_MISSING if shutil.which(program) is None} == set()


def test_commands_of_qemu_img_exist() -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is missing (package qemu-utils)")
    text = subprocess.run(["qemu-img", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^  (\w+) (?:\[|- )", text, flags=re.MULTILINE))
    asked = {(where, name) for where, text in hints() for name in re.findall(r"qemu-img ([a-z]+)\b", text)}
    assert len(asked) > 3
    assert {item for item in asked if item[1] not in known} == set()

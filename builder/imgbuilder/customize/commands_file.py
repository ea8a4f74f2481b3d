r"""Reads ``--commands-from-file``, in virt-builder's format.

Each line is a customization option without its dashes, and its argument::

    # comments and empty lines are ignored
    write /etc/motd:hello
    install nginx,vim-tiny
    run-command echo one; \
      echo two

The first space separates; blanks at the end belong to the argument. A backslash at the end of a line joins it
with the next one, and the line break stays in the argument. Windows line ends are accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from imgbuilder.customize.registry import Written, all_operations, written_argument
from imgbuilder.customize.values import read_given
from imgbuilder.errors import UsageError

KEYWORD = "commands-from-file"

_LARGEST = 4 * 1024 * 1024
"""Largest commands file in bytes."""


def written_commands(path: Path) -> list[Written]:
    """Read a commands file, without reading the files that it names; errors name file and line."""
    content = read_given(path, f"--{KEYWORD}:", lambda file: file.read(_LARGEST + 1))
    if len(content) > _LARGEST:
        raise UsageError(f"--{KEYWORD}: {path} is larger than {_LARGEST} bytes")
    text = content.decode(errors="surrogateescape")
    return [_parse(path, number, line) for number, line in _logical_lines(text)]


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the joined lines that count, each with the 1-based number of its first line."""
    joined: list[str] = []
    start = 1
    lines = text.split("\n")
    for number, raw in enumerate(lines, start=1):
        line = raw.removesuffix("\r")
        if not joined:
            start = number
        if line.endswith("\\") and number < len(lines):
            joined.append(line[:-1])
            continue
        logical = "\n".join([*joined, line]).lstrip()
        joined = []
        if logical and not logical.startswith("#"):
            yield start, logical


def _parse(path: Path, number: int, line: str) -> Written:
    keyword, _space, argument = line.partition(" ")
    where = f"{path}: line {number}"
    if keyword == KEYWORD:
        raise UsageError(f"{where}: a commands file cannot include another one")
    if keyword not in all_operations():
        hint = "write it without dashes" if keyword.startswith("--") else "use customization options only"
        raise UsageError(f"{where}: command {keyword[:80]!r} not valid", hint=hint)
    return written_argument(keyword, argument, where)

"""Operations from text, as the command line and commands files make them."""

from __future__ import annotations

from pathlib import Path

from imgbuilder.customize.operation import Operation
from imgbuilder.customize.registry import written_argument, written_commands


def parse_operation(keyword: str, text: str = "") -> Operation:
    """Make an operation from an option's name without dashes and its argument."""
    return written_argument(keyword, text).make()


def read_commands_file(path: Path) -> list[Operation]:
    """Read the operations of a commands file."""
    return [written.make() for written in written_commands(path)]

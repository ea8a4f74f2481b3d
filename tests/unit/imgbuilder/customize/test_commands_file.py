"""Commands files: the same operations as the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import UsageError
from tests.fakes.operations import parse_operation, read_commands_file


def _file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "commands"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_lines_become_operations_in_order(tmp_path: Path) -> None:
    text = (
        "# a comment\n\n  write /a:x y \n\t mkdir /d\nupdate and more\nno-logfile\n"
        "run-command echo 'one' \\\n  two\nwrite /c:'q' \"r\""
    )
    assert read_commands_file(_file(tmp_path, text)) == [
        parse_operation("write", "/a:x y "),
        parse_operation("mkdir", "/d"),
        parse_operation("update"),
        parse_operation("no-logfile"),
        parse_operation("run-command", "echo 'one' \n  two"),
        parse_operation("write", "/c:'q' \"r\""),
    ]


def test_a_comment_that_ends_in_a_backslash_swallows_the_next_line(tmp_path: Path) -> None:
    assert read_commands_file(_file(tmp_path, "# off \\\nmkdir /a\nmkdir /b\n")) == [
        parse_operation("mkdir", "/b")
    ]


@pytest.mark.row("Z20")
def test_windows_line_ends_give_the_same_operations(tmp_path: Path) -> None:
    text = "write /a:x\n\nrun-command a \\\n b\nhostname vm\n"
    expected = read_commands_file(_file(tmp_path, text))
    assert read_commands_file(_file(tmp_path, text.replace("\n", "\r\n"))) == expected
    assert len(expected) == 3


@pytest.mark.row("Z20")
def test_ten_thousand_lines(tmp_path: Path) -> None:
    text = "".join(f"mkdir /d{number}\n" for number in range(10_000))
    assert len(read_commands_file(_file(tmp_path, text))) == 10_000


def test_bytes_that_are_not_utf8_reach_the_content(tmp_path: Path) -> None:
    assert read_commands_file(_file(tmp_path, b"write /a:\xff\n")) == [parse_operation("write", "/a:\udcff")]


@pytest.mark.row("Z20")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mkdir /a\n\nfrobnicate x\n", "line 3: command 'frobnicate' not valid"),
        ("size 5G\n", "line 1: command 'size' not valid"),
        ("--mkdir /a\n", "line 1: command '--mkdir' not valid"),
        ("mkdir\t/a\n", "line 1: command 'mkdir\\\\t/a' not valid"),
        ("commands-from-file x\n", "line 1: a commands file cannot include another one"),
        ("mkdir /a\\\n\nhostname\n", "line 1: --mkdir: a line break"),
        ("hostname\n", "line 1: --hostname: '' is not a hostname"),
        ("mkdir /a\nchmod u+x:/a\n", "line 2: --chmod: 'u\\+x' is not an octal file mode"),
        ("mkdir /\0\n", "line 1: --mkdir: a NUL"),
    ],
)
def test_errors_name_the_file_and_the_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        read_commands_file(_file(tmp_path, text))
    assert caught.value.message.startswith(f"{tmp_path}/commands: line ")


def test_secrets_in_a_bad_line_are_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_commands_file(_file(tmp_path, "root-password canary\n"))
    assert "canary" not in f"{caught.value.message}{caught.value.hint}"


def test_a_missing_or_endless_file_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(UsageError, match="--commands-from-file: "):
            read_commands_file(path)


@given(st.binary(max_size=300))
def test_any_file_gives_operations_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "commands"
    path.write_bytes(content)
    try:
        read_commands_file(path)
    except UsageError as error:
        assert error.message  # noqa: PT017

"""The values that operations accept and refuse."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.customize import values
from imgbuilder.customize.ops.files import AppendLine, Write
from imgbuilder.customize.ops.paths import Chmod
from imgbuilder.errors import UsageError
from tests.fakes.operations import parse_operation


@pytest.mark.row("Z1")
@pytest.mark.parametrize(
    "path",
    ["/a b", "/a,b", "/a'b", '/a"b', "/$x", "/`x`", "/-x", "/*", "/é", "/e\u0301", "/" + "x" * 255, "/a:b"],
)
def test_odd_paths_are_kept_as_they_are(path: str) -> None:
    assert Write(path, "x").path == path


@pytest.mark.row("Z1")
@pytest.mark.parametrize(
    "path",
    [
        "", "a", "./a", "~/a", "/a\nb", "/a\rb", "/a\0b", "/\udcff", "/" + "x" * 256, "/x" * 2048,
        "/" + "é" * 128,
    ],
)  # fmt: skip
def test_impossible_paths_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match="--write: "):
        Write(path, "x")


@pytest.mark.row("Z2")
@pytest.mark.parametrize(
    ("keyword", "text", "expected"),
    [
        ("write", "/f:text:more", ("/f", "text:more")),
        ("write", "/f:", ("/f", "")),
        ("append-line", "/f::", ("/f", ":")),
        ("link", "a:/b:/c", ("a", ("/b", "/c"))),
        ("chown", "1:2:/a:b", (1, 2, "/a:b")),
        ("chown", "ann:users:/a", ("ann", "users", "/a")),
        ("write", "/a\\:b:c\\:d", ("/a:b", "c\\:d")),
        ("write", "/a\\b:c", ("/a\\b", "c")),
        ("move", "/a\\:b:/c:d", ("/a:b", "/c:d")),
        ("link", "/a\\:b:/c\\:d:/e", ("/a:b", ("/c:d", "/e"))),
        ("edit", "/f:s/:/;/", ("/f", "s/:/;/")),
        ("install", " a , b", (("a", "b"),)),
    ],
)
def test_where_arguments_are_split(keyword: str, text: str, expected: tuple[object, ...]) -> None:
    parsed = parse_operation(keyword, text)
    assert tuple(vars(parsed).values()) == expected


@pytest.mark.row("Z2")
@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("write", "/f"),
        ("link", "/t"),
        ("chown", "1:2"),
        ("install", "a,,b"),
        ("install", ""),
        ("install", "a,"),
    ],
)
def test_incomplete_arguments_are_refused(keyword: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"--{keyword}: expects "):
        parse_operation(keyword, text)


def test_content_may_be_any_bytes_but_nul() -> None:
    text = os.fsdecode(b"\xff\xfe")
    assert Write("/a", text).content == text
    assert AppendLine("/a", text).line == text
    with pytest.raises(UsageError, match="line break"):
        AppendLine("/a", "x\ny")


@pytest.mark.parametrize("text", ["755", "0755", "0o755"])
def test_modes_are_octal_with_and_without_a_zero(text: str) -> None:
    assert values.octal_mode(text) == 0o755


@pytest.mark.parametrize("text", ["u+x", "a=r", "888", "", "-1", "10000", "0x1ff", " 755", "+755", "7_5"])
def test_other_modes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        values.octal_mode(text)


def test_modes_are_checked_without_the_command_line_too() -> None:
    with pytest.raises(UsageError, match="--chmod: "):
        Chmod(0o10000, "/a")


def package(name: str) -> str:
    (kept,) = values.package_names((name,))
    return kept


Rule = Callable[[str], str]
KEPT: dict[Rule, list[str]] = {
    values.hostname: ["a", "vm-1", "VM.example.org", "x" * 63, "1.2.3", "a" * 60 + ".com"],
    values.timezone: ["UTC", "Europe/Berlin", "Etc/GMT+5", "America/Argentina/Buenos_Aires", "EST5EDT"],
    package: ["vim", "g++", "libc6:i386", "nginx=1.2-3", "@core", "perl(Foo::Bar)", "a/bookworm", "php-*"],
    values.user_name: ["root", "_apt", "www-data", "a.b", "host$", "x" * 32],
}
REFUSED: dict[Rule, list[str]] = {
    values.hostname: [
        "", "a;reboot", "a\n", "ä", "a.", ".a", "a..b", "$(x)", "-a", "a-", "a_b", "x" * 64,
        "a" * 62 + ".com", "a b",
    ],
    values.timezone: [
        "../../etc/passwd", "Europe/Berlin;x", "", "/etc/passwd", "Europe/", "a//b", "zone.tab", "A\n",
        "$(x)",
    ],
    package: ["vim;reboot", "-o Dpkg::x", "-y", "$(x)", "a b", "`x`", "a'b", "", "\n", "a\n", "é"],
    values.user_name: ["root:x", "..", "*", "a/b", "", "Root", "1a", "a b", "a\n", "x" * 33, "é"],
}  # fmt: skip


@pytest.mark.row("Z13", "Z14", "Z15", "Z16")
@pytest.mark.parametrize(("rule", "name"), [(rule, name) for rule, names in KEPT.items() for name in names])
def test_names_that_are_kept(rule: Rule, name: str) -> None:
    assert rule(name) == name


@pytest.mark.row("Z13", "Z14", "Z15", "Z16")
@pytest.mark.parametrize(
    ("rule", "name"), [(rule, name) for rule, names in REFUSED.items() for name in names]
)
def test_names_that_are_refused(rule: Rule, name: str) -> None:
    with pytest.raises(UsageError):
        rule(name)


@pytest.mark.row("Z13")
@given(st.from_regex(r"[a-z0-9.-]{0,70}", fullmatch=True))
def test_accepted_hostnames_obey_the_rfc(name: str) -> None:
    try:
        values.hostname(name)
    except UsageError:
        return
    assert 1 <= len(name) <= 64
    for label in name.split("."):
        assert 1 <= len(label) <= 63
        assert label[0] != "-" != label[-1]


@pytest.mark.parametrize("path", ["/", "//", "/.", "/../..", "/etc/.."])
def test_the_root_directory_is_not_removed(path: str) -> None:
    for keyword, text in (("delete", path), ("move", f"{path}:/x")):
        with pytest.raises(UsageError, match="root directory"):
            parse_operation(keyword, text)


@pytest.mark.row("Z8")
@pytest.mark.parametrize("keyword", ["run", "upload", "copy-in", "firstboot"])
def test_local_files_are_looked_at_when_the_option_is_read(keyword: str, tmp_path: Path) -> None:
    """Reading a pipe or a device could block."""
    missing = tmp_path / "missing"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = ":/x" if keyword in ("upload", "copy-in") else ""
    for path in (missing, pipe, Path("/dev/zero"), tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match=f"--{keyword}: "):
            parse_operation(keyword, f"{path}{end}")
    if keyword != "copy-in":
        with pytest.raises(UsageError, match="is a directory"):
            parse_operation(keyword, f"{tmp_path}{end}")
    with pytest.raises(UsageError, match="empty"):
        parse_operation(keyword, end)


def test_a_local_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.touch()
    # Not by its mode: root can read every file.
    monkeypatch.setattr("imgbuilder.customize.values.os.access", lambda *_: False)
    with pytest.raises(UsageError, match="cannot be read"):
        parse_operation("upload", f"{secret}:/x")


@pytest.mark.row("Z11")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"#!/bin/sh\r\necho\r\n", "CRLF"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
    ],
)
@pytest.mark.parametrize("keyword", ["run", "firstboot"])
def test_scripts_that_cannot_run_are_refused(
    keyword: str, content: bytes, problem: str, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_bytes(content)
    with pytest.raises(UsageError, match=problem):
        parse_operation(keyword, str(script))


@pytest.mark.row("Z11")
@pytest.mark.parametrize("content", [b"", b"echo\n", b"\x7fELF\0\r\n", b"#!/bin/sh", b"#!"])
def test_other_scripts_are_accepted(content: bytes, tmp_path: Path) -> None:
    script = tmp_path / "a script"
    script.write_bytes(content)
    assert parse_operation("run", str(script)).describe() == f"Running: {script}"

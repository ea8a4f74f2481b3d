"""Every operation has the same meaning on the command line, in commands files, in recipes and in Python."""

# ruff: noqa: E501 - tables of texts

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from imgbuilder.cli.main import pybuilder
from imgbuilder.customize.argforms import ArgumentPart, Kind, Raw
from imgbuilder.customize.operation import Operation
from imgbuilder.customize.registry import Written, all_operations
from imgbuilder.errors import UsageError
from imgbuilder.recipe.reader import read_recipe
from imgbuilder.recipe.recipe import Recipe
from imgbuilder.recipe.schema import recipe_schema
from imgbuilder.recipe.writer import recipe_text
from tests.fakes.debianguest import KEY
from tests.fakes.fuzz import examples
from tests.fakes.operations import read_commands_file

ROOT = Path(__file__).parents[4]

# Arguments of the command line, for every operation; {local}, {tar}, {key} and {pw} are files.
ARGUMENTS = {
    "append-line": ["/a:x:y", r"/a\:b:", "/a:\\:'\"${{ x }}$"],
    "chmod": ["755:/a", "04711:/a b"],
    "chown": ["0:www-data:/a", "root:5:/a:b"],
    "cloud-init": ["{local}", "{local}:{local}", "{local}:{local}:{local}"],
    "copy": ["/a:/b:c"],
    "copy-in": ["{local}:/tmp"],
    "delete": ["/a/*"],
    "edit": ["/a:s/x/y:z/"],
    "firstboot": ["{local}"],
    "firstboot-command": ["echo 'a' \"b\"\nexit 1\n"],
    "firstboot-install": ["a, b"],
    "hostname": ["a.example.org"],
    "inject-blnsvr": ["{folder}"],
    "inject-qemu-ga": ["{folder}"],
    "inject-virtio-win": ["{folder}"],
    "install": ["nginx,vim-tiny"],
    "link": ["/a:/b", r"../a\:b:/c:/d"],
    "mirror": ["http://mirror.example.org"],
    "mkdir": ["/a"],
    "move": ["/a:/b"],
    "no-logfile": [""],
    "no-selinux-relabel": [""],
    "package-cache": ["{folder}"],
    "password": ["ann:file:{pw}", "ann:locked:secret:PW"],
    "password-crypto": ["sha256"],
    "root-password": ["random", "locked:file:{pw}", "secret:PW", "disabled"],
    "run": ["{local}"],
    "run-command": ["echo ${{ x }} $${{ y }} ${HOME}", "true\r\nfalse", "a\tb\x7f\x01'''\"\"\""],
    "scrub": ["/a"],
    "secret": ["TOKEN=env:A_SECRET", "TOKEN=file:{pw}"],
    "selinux-relabel": [""],
    "selinux-relabel-exclude": ["/srv"],
    "ssh-inject": ["ann:file:{key}", f"ann:string:{KEY}", "ann"],
    "static-ip": [
        "192.0.2.1/24",
        "192.0.2.1/24,2001:db8::1/64,gateway=192.0.2.9,gateway=fe80::1,dns=192.0.2.53,search=a.b,search=c",
        "192.0.2.1/24,mac=52:54:00:00:00:01",
        "192.0.2.1/24,interface=eth0",
    ],
    "sysprep": ["all", "all,-logs"],
    "tar-in": ["{tar}:/a"],
    "timezone": ["Europe/Berlin"],
    "touch": ["/a"],
    "truncate": ["/a"],
    "truncate-recursive": ["/a"],
    "uninstall": ["a"],
    "update": [""],
    "upload": ["{local}:/a:b"],
    "user": [
        "ann",
        "ann:sudo:groups=adm,video:key=file:{key}:password=file:{pw}",
        "b:password=secret:PW",
        "c:key=",
    ],
    "windows-runner": ["{runner}"],
    "write": ["/a:x\n  y\n", "/a:", "/a:é\u2028\r\n"],
}
CASES = [(keyword, text) for keyword, texts in ARGUMENTS.items() for text in texts]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_x.pub").write_text(KEY + "\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("A_SECRET", "canary")
    monkeypatch.chdir(tmp_path)
    for name, content in (
        ("local", "#!/bin/sh\n"),
        ("pw", "secret\n"),
        ("key", KEY + "\n"),
        ("rhsrvany.exe", "MZ"),
    ):
        (tmp_path / name).write_text(content)
    subprocess.run(["tar", "-cf", "tar", "local"], check=True)
    return {name: name for name in ("local", "pw", "key", "tar")} | {
        "folder": ".",
        "runner": "rhsrvany.exe",
    }


def argument(text: str, files: dict[str, str]) -> str:
    for name, path in files.items():
        text = text.replace(f"{{{name}}}", path)
    return text


def from_command_line(keyword: str, text: str) -> tuple[Operation, ...]:
    """Return the operations that the real options make."""
    from imgbuilder.cli.customizing import given_operations

    words = [f"--{keyword}"] if not all_operations()[keyword].metavar else [f"--{keyword}", text]
    return given_operations(pybuilder.make_context("pybuilder", ["x", *words]))


def written_recipe(keyword: str, text: str, path: Path) -> str:
    """Return the recipe that the real command line writes."""
    from imgbuilder.cli.customizing import written_operations

    words = [f"--{keyword}"] if not all_operations()[keyword].metavar else [f"--{keyword}", text]
    operations = written_operations(pybuilder.make_context("pybuilder", ["x", *words]))
    return recipe_text(Recipe({"template": "x"}, operations), path.parent)


def test_every_operation_has_its_arguments_here() -> None:
    assert set(ARGUMENTS) == set(all_operations())


@pytest.mark.row("Z20")
@pytest.mark.parametrize(
    ("keyword", "text"), CASES, ids=[f"{keyword}-{n}" for n, (keyword, _) in enumerate(CASES)]
)
def test_four_doors_make_equal_operations(
    keyword: str, text: str, files: dict[str, str], tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    text = argument(text, files)
    (operation,) = from_command_line(keyword, text)
    # A backslash in a commands file joins lines and keeps the line break.
    commands = tmp_path / "commands"
    if "\r" not in text:
        commands.write_bytes(f"{keyword} {text}".replace("\n", "\\\n").encode())
        if not text.endswith("\n"):
            assert read_commands_file(commands) == [operation]
    path = tmp_path / "r.toml"
    path.write_bytes(written_recipe(keyword, text, path).encode())
    validator.validate(tomllib.loads(path.read_bytes().decode()))
    assert read_recipe(Path("r.toml")).make_operations() == (operation,)
    # The API: the class, by the names of its fields.
    spec = all_operations()[keyword]
    values = {name: getattr(operation, name) for name in spec.field_names}
    assert spec.cls(**values) == operation


@pytest.mark.parametrize(
    ("keyword", "text"), CASES, ids=[f"{keyword}-{n}" for n, (keyword, _) in enumerate(CASES)]
)
def test_a_recipe_in_another_folder_finds_the_same_files(
    keyword: str, text: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = argument(text, files)
    other = tmp_path / "other"
    other.mkdir()
    there, here = other / "r.toml", tmp_path / "r.toml"
    for path in (there, here):
        path.write_bytes(written_recipe(keyword, text, path).encode())
    expected = read_recipe(here).make_operations()
    monkeypatch.chdir("/")
    assert read_recipe(there).make_operations() == read_recipe(here).make_operations()
    assert str(tmp_path) not in here.read_text()
    assert len(expected) == 1


ODD = [
    '"""',
    "'''",
    "\r\n",
    "\\",
    "${{ a }}",
    "$${{",
    "\x00",
    "\x1f",
    "a\nb\n",
    "file:x",
    "~",
    "~/x",
    "a:file:~x",
]
TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(ODD)


def raw_of(part: ArgumentPart) -> SearchStrategy[Raw]:
    match part.kind:
        case Kind.SWITCH:
            some: SearchStrategy[Raw] = st.booleans()
        case Kind.LIST:
            some = st.lists(TEXT, max_size=3).map(tuple)
        case Kind.PATH:
            some = TEXT.filter(lambda text: "\0" not in text and text not in ("", ".")).map(os.path.normpath)
        case Kind.SELECTOR:
            some = st.sampled_from(
                ["random", "env:X", "file:x/y", "locked:file:a b", "secret:X", "file:~/x", "", "x:y"]
            )
        case _:
            some = TEXT
    return some | st.none() if part.optional else some


@st.composite
def written(draw: st.DrawFn) -> Written:
    spec = all_operations()[draw(st.sampled_from(sorted(all_operations())))]
    return Written(spec, tuple(draw(raw_of(part)) for part in spec.fields.values()))


def known_again(raw: Raw, part: ArgumentPart) -> Raw:
    """Return the value that is read back: with the home directory, and with paths in their shortest form."""
    if isinstance(raw, str) and part.kind is Kind.SELECTOR:
        return raw.replace("~", str(Path.home()))
    return str(Path(raw)) if isinstance(raw, str) and part.kind is Kind.PATH else raw


@given(st.lists(written(), max_size=4))
@settings(max_examples=examples(40), deadline=None)
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    validator: jsonschema.Draft202012Validator,
    operations: list[Written],
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    text = recipe_text(Recipe({}, tuple(operations)), None)
    path.write_bytes(text.encode())
    validator.validate(tomllib.loads(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        found = read_recipe(Path(path.name)).operations
    assert [item.spec.keyword for item in found] == [item.spec.keyword for item in operations]
    assert [item.values for item in found] == [
        tuple(known_again(raw, part) for raw, part in zip(item.values, item.spec.form.parts, strict=True))
        for item in operations
    ]


@pytest.mark.parametrize(
    ("keyword", "text"),
    [("root-password", "password:canary"), ("password", "a:locked:lock:password:canary"),
     ("user", "a:password=password:canary"), ("mirror", "http://u:canary@example.org"), ("write", "/a:\udcff")],
)  # fmt: skip
def test_secrets_are_not_written_to_a_recipe(keyword: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^--{keyword}: ") as caught:
        written_recipe(keyword, text, Path("r.toml"))
    assert "canary" not in f"{caught.value.message}{caught.value.hint}"


def test_the_published_schema_is_the_one_of_the_registry(schema: Any) -> None:
    assert recipe_schema() == schema
    done = subprocess.run([sys.executable, ROOT / "scripts/schemas", "--check"], capture_output=True)
    assert done.returncode == 0, done.stderr
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    "data",
    [{"tempalte": "x"}, {"operation": [{"install": "nginx"}]}, {"operation": [{"write": "/a"}]},
     {"operation": [{"hostname": "a", "install": ["b"]}]}, {"operation": [{"update": False}]}, {"size": 5},
     {"operation": [{"user": "a", "password": "x", "selector": "y"}]}, {"source": [{"url": "x"}]},
     {"variables": {"a b": "x"}}, {"variables": {"a": 1}}, {"format": "qcow"}],
)  # fmt: skip
def test_the_schema_refuses_what_the_reader_refuses(
    data: dict[str, Any], validator: jsonschema.Draft202012Validator
) -> None:
    assert not validator.is_valid(data)


def test_a_table_that_two_operations_could_mean_is_one(validator: jsonschema.Draft202012Validator) -> None:
    assert validator.is_valid(
        {"operation": [{"user": "a", "password": "locked"}, {"password": "a", "selector": "x"}]}
    )


def test_every_operation_has_help_a_manual_section_and_a_guest_test() -> None:
    """It is used as an option, with an argument, in a commands file, or in an example that is run."""
    manual = (ROOT / "docs/man/pybuilder.1").read_text().replace("\\-", "-")
    tests = [path.read_text() for path in (ROOT / "tests/guest").glob("test_*.py")]
    ran = (ROOT / "tests/guest/test_examples.py").read_text()
    tests += [
        path.read_text()
        for path in (ROOT / "examples").glob("*/recipe.toml")
        if f'"{path.parent.name}"' in ran
    ]
    text = "\n".join(tests)
    for keyword, spec in all_operations().items():
        assert len(spec.help) > 10, keyword
        assert f".TP\n\\fB--{keyword}\\fR" in manual, keyword
        form = rf"""["']--{keyword}["'=]|\(["']{keyword}["'], |["']{keyword} |^{keyword} = """
        assert re.search(form, text, re.MULTILINE), f"no guest test of --{keyword}"

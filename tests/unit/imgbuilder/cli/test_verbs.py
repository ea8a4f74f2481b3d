"""The verbs of pybuilder: each does what virt-builder's option does, or what is ours alone."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import click
import jsonschema
import pytest

from imgbuilder.cli import main as cli
from imgbuilder.cli import program
from imgbuilder.cli.getopt import GetoptCommand
from imgbuilder.host.packages import install_hint
from imgindex.model import Note
from tests.fakes.commands import Command
from tests.fakes.template import Site, TinyAppliances

pytestmark = pytest.mark.usefixtures("appliances")


def verbs(command: click.Command = cli.pybuilder, *words: str) -> list[tuple[tuple[str, ...], click.Command]]:
    """Return all verbs, those of groups as well, by their words."""
    if not isinstance(command, click.Group):
        return [(words, command)]
    return [found for name, below in command.commands.items() for found in verbs(below, *words, name)]


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("list", "--list"),
        ("list tiny", "--list tiny"),
        ("list t* --long", "--list t* --long"),
        ("list --list-format json", "--list --list-format json"),
        ("notes tiny", "--notes tiny"),
        ("cache list", "--print-cache"),
        ("plan tiny --size 1G", "tiny --size 1G --dry-run"),
        ("build tiny --size 1G --dry-run", "tiny --size 1G --dry-run"),
    ],
)
def test_verbs_print_what_the_options_do(site: Site, pybuilder: Command, verb: str, option: str) -> None:
    site.sign(replace(site.entry, notes=(Note("", "Hello"),)))
    ran, same = pybuilder(*verb.split()), pybuilder(*option.split())
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == same.out != ""


@pytest.mark.parametrize("words", ["cache -v list", "-v cache list", "cache list -v", "--verbose cache list"])
def test_options_stand_before_or_after_the_verb(site: Site, pybuilder: Command, words: str) -> None:
    ran = pybuilder(*words.split(), "--cache", "list").good()
    assert ran.out.startswith("cache directory: list\n")
    assert pybuilder("--cache", "list", *words.split()).out == ran.out, "a value is not a verb"
    assert pybuilder("-cache=list", *words.split()).out == ran.out


def test_a_template_with_the_name_of_a_verb_is_built_by_build(site: Site, pybuilder: Command) -> None:
    site.sign(site.entry, replace(site.entry, os_version="list"))
    assert pybuilder("list").out.startswith("tiny ")
    pybuilder("build", "list", "--root-password", "disabled", "--hostname", "x").good()
    assert Path("list.img").exists()
    assert "Output file: other.img" in pybuilder("-o", "other.img", "build", "list").out
    assert pybuilder("tiny", "list").code == 2, "only the first word is a verb"
    assert pybuilder("--dry-run", "--", "list").code == 0


def test_the_last_size_counts_and_customizations_keep_their_order(
    site: Site, appliances: TinyAppliances, pybuilder: Command
) -> None:
    words = ["--write", "/etc/a:1", "build", "tiny", "--append-line", "/etc/a:2", "--mkdir", "/etc/d"]
    pybuilder(*words, "--size", "24M", "--write", "/etc/d/b:3", "--size", "16M").good()
    assert appliances.guest.read("/etc/a") == b"1\n2\n"
    assert Path("tiny.img").stat().st_size == 16 << 20


def test_the_cache_is_deleted_by_either(site: Site, home: Path, pybuilder: Command) -> None:
    templates = home / "pybuilder" / "templates"
    for fill, delete in (("cache all", "cache delete"), ("--cache-all-templates", "--delete-cache")):
        assert pybuilder(*fill.split()).code == 0
        assert templates.exists()
        assert pybuilder(*delete.split()).code == 0
        assert not templates.exists()
        assert pybuilder(*delete.split(), "--no-cache").code == 2


def test_the_kernel_is_copied_by_either(site: Site, appliances: TinyAppliances, pybuilder: Command) -> None:
    Path("disk.img").write_bytes(bytes(1 << 20))
    appliances.roots = {"/dev/sda2": {}}
    appliances.guest.add("/boot/vmlinuz-5.1", b"kernel")
    for words in (["get-kernel", "disk.img"], ["--get-kernel", "disk.img"]):
        assert pybuilder(*words).out == "download: /boot/vmlinuz-5.1 -> ./vmlinuz-5.1\n"
        Path("vmlinuz-5.1").unlink()
        assert pybuilder(*words, "more").code == 2


def test_recipes_are_checked(site: Site, pybuilder: Command) -> None:
    Path("good.toml").write_text('[variables]\nname = {}\n[[operation]]\nhostname = "${{ name }}"\n')
    ran = pybuilder("recipe", "check", "good.toml", "--set", "name=web")
    assert (ran.code, ran.out) == (0, "good.toml: good, with 1 operation\n"), ran.err
    Path("bad.toml").write_text('[[operation]]\nhostname = "a;b"\n')
    for words in (["good.toml"], ["bad.toml"], ["nowhere.toml"], [], ["good.toml", "--set", "x"]):
        assert pybuilder("recipe", "check", *words).code == 2, words


def test_the_schema_is_printed(pybuilder: Command) -> None:
    ran = pybuilder("recipe", "schema")
    assert ran.out == (Path(__file__).parents[4] / "docs" / "recipe.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(ran.out))
    assert pybuilder("recipe", "schema", "more").code == 2
    assert json.loads(pybuilder("fleet", "schema").out)["title"] == "A fleet of pybuilder"


def test_alone_it_prints_what_to_type_first(home: Path, pybuilder: Command) -> None:
    ran = pybuilder()
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.splitlines()) <= 10
    for command in re.findall(r"^  pybuilder (.*?)  ", ran.err, re.MULTILINE):
        context = cli.pybuilder.make_context("pybuilder", command.split(), resilient_parsing=True)
        assert context.command is cli.pybuilder
        word = command.split()[0]
        assert word in cli.pybuilder.commands or word in {"debian-12", "--help"}, word


def test_machine_readable_messages_of_a_verb(site: Site, pybuilder: Command) -> None:
    ran = pybuilder("cache", "all", "--machine-readable").good()
    printed = [json.loads(line) for line in ran.out.splitlines() if line.startswith("{")]
    assert any(line["type"] == "message" for line in printed)
    assert "in the cache: 1 template\n" in pybuilder("cache", "all").out


@pytest.mark.parametrize(
    ("words", "command"), verbs(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_help_of_each_verb(pybuilder: Command, words: tuple[str, ...], command: click.Command) -> None:
    ran = pybuilder(*words, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: pybuilder {' '.join(words)} ")
    assert [line for line in ran.out.splitlines() if len(line) > 80] == []


def test_every_mode_is_there() -> None:
    source = Path(str(cli.__file__)).read_text()
    places = set(re.findall(r'"([a-z_]+:\w+)"', source))
    assert len(places) > 20
    for place in places:
        module, _, name = place.partition(":")
        assert callable(getattr(import_module(f"imgbuilder.cli.{module}"), name)), place


def test_options_of_one_name_are_alike_everywhere() -> None:
    """A verb may stand behind its options: whether they have values must not depend on it."""
    context = click.Context(cli.pybuilder)
    kinds: dict[str, set[bool]] = {}
    for command in [cli.pybuilder, *(command for _words, command in verbs())]:
        assert isinstance(command, GetoptCommand)
        for param in command.options(context):
            for name in [*param.opts, *param.secondary_opts]:
                kinds.setdefault(name, set()).add(param.is_flag)
    assert [name for name, found in kinds.items() if len(found) > 1] == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("lsit", "did you mean the verb list? pybuilder list"),
        ("docter", "did you mean the verb doctor? pybuilder doctor"),
        ("hlp", "pybuilder help"),
        ("notess tiny", "did you mean the verb notes? pybuilder notes tiny"),
        ("cach list", "pybuilder cache list"),
        ("-- lsit", "pybuilder list"),
        ("tinyy", "did you mean tiny? All templates: pybuilder list"),
    ],
)
def test_a_misspelled_verb_is_found(site: Site, pybuilder: Command, words: str, hint: str) -> None:
    ran = pybuilder(*words.split())
    assert ran.code == 2
    assert hint in " ".join(ran.err.split())
    assert "verb" not in pybuilder("build", *words.split()).err


def test_a_misspelled_verb_is_found_when_no_source_can_be_used(site: Site, pybuilder: Command) -> None:
    site.index.unlink()
    for words in (["lsit"], ["--offline", "lsit"]):
        pybuilder(*words).failed(
            2, "pybuilder has no verb 'lsit'", "did you mean the verb list?", "pybuilder build lsit"
        )
    assert "did you mean" not in pybuilder("tiny").failed(1, "cannot read").err
    assert "did you mean" not in pybuilder("build", "lsit").failed(1, "cannot read").err


def test_without_a_template_there_is_nothing_to_build(home: Path, pybuilder: Command) -> None:
    for words in ("build", "plan", "--size 1G"):
        assert "name the template to build" in pybuilder(*words.split()).err


@pytest.mark.parametrize(
    ("words", "expected", "absent"),
    [
        ("--doctor", "--doctor is a verb\n  pybuilder doctor\n", "color"),
        ("tiny --cache-gc", "  pybuilder cache gc\n", "mean"),
        ("cache list --list-sources", "  pybuilder source list\n", "mean"),
        ("list --size 20G", "list has no option --size\n  see: pybuilder list --help\n", "quiet"),
        ("list --offlin --ofline", "did you mean --offline? see: pybuilder list --help", "quiet"),
        ("tiny --nonsense", "pybuilder has no option --nonsense\n  see: pybuilder --help\n", "mean"),
    ],
)
def test_options_that_are_missing(
    home: Path, pybuilder: Command, words: str, expected: str, absent: str
) -> None:
    ran = pybuilder(*words.split()).failed(2, expected)
    assert absent not in ran.err


def test_options_named_as_verbs_lead_to_verbs() -> None:
    known = {" ".join(words) for words, _command in verbs()}
    assert set(program._NOW_VERBS.values()) <= known


@pytest.mark.parametrize("words", ["-h", "list -h", "tiny -h"])
def test_the_help_has_a_short_name(home: Path, pybuilder: Command, words: str) -> None:
    ran = pybuilder(*words.split())
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Usage: pybuilder")


@pytest.mark.parametrize("words", ["get-kernel d.img", "firstboot-log d.img", "--get-kernel d.img"])
def test_formats_that_are_only_written(home: Path, pybuilder: Command, words: str) -> None:
    Path("d.img").write_bytes(bytes(512))
    pybuilder(*words.split(), "--format", "vmdk").failed(
        2, "the disk format 'vmdk' is not supported here\n  formats: raw, qcow2\n"
    )


@pytest.mark.parametrize("words", ["plan", "cache", "cache gc"])
def test_help_of_a_verb(pybuilder: Command, words: str) -> None:
    ran = pybuilder("help", *words.split())
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == pybuilder(*words.split(), "--help").out != ""


@pytest.mark.parametrize("words", ["nonsense", "cache nonsense", "plan nonsense", "pybuilder nonsense"])
def test_help_of_what_is_no_verb(pybuilder: Command, words: str) -> None:
    ran = pybuilder("help", *words.split()).failed(2)
    assert len(ran.err.splitlines()) == 2, ran.err


@pytest.mark.parametrize("page", ["", "pybuilder", "pybuilder-customize", "pybuilder-repo"])
def test_manual_page(tmp_path: Path, pybuilder: Command, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    name = page or "pybuilder"
    shown: list[list[str]] = []

    def execute(_program: str, words: list[str]) -> None:
        assert signal.signal(signal.SIGPIPE, before) is signal.SIG_DFL
        shown.append(words)

    before = signal.getsignal(signal.SIGPIPE)
    program = tmp_path / "man"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(os, "execvp", execute)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    pybuilder("help", *page.split())
    assert shown.pop() == ["man", name], "a page of the system"
    folder = tmp_path / "share" / "man" / "man1"
    folder.mkdir(parents=True)
    (folder / f"{name}.1").touch()
    pybuilder("help", *page.split())
    assert shown.pop() == ["man", "-l", f"{folder}/{name}.1"], "a page of a virtual environment"


def test_no_program_for_manual_pages(pybuilder: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    pybuilder("help").failed(1, install_hint("man"), "pybuilder --help")


@pytest.mark.parametrize("columns", [40, 50, 60, 80, 200])
@pytest.mark.parametrize("words", [(), *(words for words, _command in verbs())], ids=" ".join)
def test_help_fits_the_terminal(
    pybuilder: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = pybuilder(*words, "--help").good().out
    assert max(map(len, text.split("\n"))) <= columns

"""The shortcut of lists reads words as the full command line does, or leaves them to it."""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgbuilder.cli import entry, modes
from imgbuilder.cli import main as full
from imgbuilder.cli.entry import TemplateQuery, plain_list
from imgbuilder.services import Services, Settings
from imgbuilder.terminal.reporter import ConsoleReporter

WORDS = st.sampled_from(
    [
        "-l", "--list", "--list", "--list", "--long", "-q", "--quiet", "--no-check-signature",
        "--list-format",
        "--list-format=json", "--list-format=short", "--list-format=", "--list-format=x", "json", "long",
        "--source", "--source=/a", "--source=", "/b", "--fingerprint", "--fingerprint=AB", "AB",
        "--", "-", "", "-v", "--lis", "-list", "search", "debian", "--long=1", "--list=", "--arch", "i686",
        "--check-signature", "--notes", "-lq", "list", "list", "plan", "build", "--no-network",
        "--format", "raw", "-h", "--version",
        "--sourc=/a",
    ]
)  # fmt: skip


def read_in_full(words: list[str], patch: pytest.MonkeyPatch) -> tuple[Settings, TemplateQuery] | None:
    """Reading by the full command line of the words, when it lists."""
    seen: list[tuple[Settings, TemplateQuery]] = []

    def list_templates(services: Services, _on_event: ConsoleReporter, request: TemplateQuery) -> None:
        seen.append((services.settings, request))

    patch.setattr(modes, "list_templates", list_templates)
    full.run(words)
    return seen[0] if seen else None


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, max_size=5))
def test_both_read_the_same(words: list[str]) -> None:
    plain = plain_list(words)
    if plain is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        in_full = read_in_full(words, patch)
    assert in_full is not None, words
    settings, request = in_full
    assert as_lists(settings) == as_lists(plain.settings)
    assert request == plain.request


def as_lists(settings: Settings) -> tuple[Sequence[str], Sequence[str], object]:
    rest = (settings.check_signature, settings.cache, settings.use_cache, settings.cache_size)
    return list(settings.sources), list(settings.fingerprints), rest


@pytest.mark.parametrize(
    "words",
    [
        "--list", "-l", "--long", "--list -q", "list", "-q list --long",
        "--source /a list --fingerprint AB --list-format=json", "--list --long --list-format short",
        "--list --list-format json --list-format=short",
        "--list --list-format=json --source /a --fingerprint AB --source=/b --fingerprint=CD",
        "--list --no-check-signature --source file:///x",
    ],
)  # fmt: skip
def test_what_takes_the_shortcut(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = plain_list(words.split())
    assert plain is not None
    in_full = read_in_full(words.split(), monkeypatch)
    assert in_full is not None
    assert (as_lists(in_full[0]), in_full[1]) == (as_lists(plain.settings), plain.request)
    assert plain.quiet == ("-q" in words.split())


@pytest.mark.parametrize(
    "words",
    [
        "", "debian-12", "--list debian-12", "-v --list", "--lis", "-list", "--list --",
        "--list --list-format",
        "--list --list-format yaml", "--list --source", "--list --source --long", "--list --source=-x",
        "-q", "--source /a", "search x", "list list",
        "list --list", "list -l", "list debian-12",
        "--source list", "list --", "--list --arch i686", "--list=", "--help", "--list --help",
    ],
)  # fmt: skip
def test_what_does_not(words: str) -> None:
    assert plain_list(words.split()) is None


def test_all_else_goes_to_click(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def run(words: list[str]) -> int:
        seen.append(words)
        return 7

    monkeypatch.setattr(full, "run", run)
    assert entry.run(["doctor"]) == 7
    assert seen == [["doctor"]]


def test_the_collector_of_cycles_is_off_for_lists_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, bool] = {}

    def note(kind: str) -> int:
        seen[kind] = gc.isenabled()
        return 3

    monkeypatch.setattr(full, "run", lambda _words: note("other"))
    monkeypatch.setattr(entry, "list_templates", lambda *_given: note("list"))
    try:
        for words in (["doctor"], ["--list", "--no-check-signature"]):
            monkeypatch.setattr(sys, "argv", ["pybuilder", *words])
            with pytest.raises(SystemExit) as ended:
                entry.main()
            assert ended.value.code == 3
    finally:
        gc.enable()
        gc.unfreeze()
    assert seen == {"other": True, "list": False}


@pytest.mark.parametrize("word", ["--list", "list"])
def test_a_list_loads_neither_click_nor_other_heavy_modules(word: str) -> None:
    code = (
        f"import sys; from imgbuilder.cli import entry; entry.run(['{word}', '--source', '/nonexistent', "
        "'--no-check-signature']); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "imgbuilder.catalog.catalog" in loaded
    heavy = {
        "click", "requests", "urllib3", "gnupg", "tqdm", "filelock", "logging", "fractions",
        "importlib.metadata", "platform", "difflib", "imgbuilder.customize", "imgbuilder.host.process",
        "tarfile", "secrets", "hmac", "imgbuilder.catalog.bundles", "imgbuilder.fetch.bundle",
        "imgbuilder.host.workspace", "imgbuilder.customize.failure",
    }  # fmt: skip
    assert loaded & heavy == set()


@pytest.mark.parametrize("module", ["imgbuilder", "imgbuilder.cli.customize_main", "imgrepo"])
def test_ctrl_c_while_modules_are_loaded(module: str, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    script = {
        "imgbuilder": "from imgbuilder.cli.entry import main as program",
        "imgbuilder.cli.customize_main": "from imgbuilder.cli.entry import customize as program",
        "imgrepo": "from imgrepo.__main__ import main as program",
    }[module]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {script}; program()"
    done = subprocess.run([sys.executable, "-c", code, "list", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


PROGRAMS = {
    "pybuilder": ("imgbuilder.cli.entry", "main"),
    "pybuilder-customize": ("imgbuilder.cli.entry", "customize"),
    "pybuilder-repo": ("imgrepo.__main__", "main"),
}


@functools.cache
def run_program(program: str, *words: str, columns: int) -> subprocess.CompletedProcess[str]:
    """Run the program's entry point; what it loaded of click and of ours is the last line of its errors."""
    module, name = PROGRAMS[program]
    code = (
        f"import atexit, sys; from {module} import {name}; sys.argv = {[program, *words]!r}\n"
        "atexit.register(lambda: sys.stderr.write(' '.join(sorted(sys.modules)) + '\\n'))\n"
        f"{name}()"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": str(columns)},
    )


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("word", "columns"), [("--version", 80), ("-V", 80), ("--help", 80), ("--help", 200)]
)
def test_version_and_help_load_neither_click_nor_options(program: str, word: str, columns: int) -> None:
    done = run_program(program, word, columns=columns)
    assert done.returncode == 0
    assert program in done.stdout
    assert not {"click", "pydantic", "imgbuilder.services", "imgbuilder.cli.main"} & set(done.stderr.split())


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("word", ["--version", "--help"])
def test_the_answers_are_those_of_click(program: str, word: str) -> None:
    at_once = run_program(program, word, columns=80)
    by_click = run_program(program, word, word, columns=80)
    assert "click" in by_click.stderr.split()
    assert at_once.stdout == by_click.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_for_a_narrow_terminal_is_written_by_click(program: str) -> None:
    done = run_program(program, "--help", columns=60)
    assert done.returncode == 0
    usual = run_program(program, "--help", columns=80)
    assert len(done.stdout.splitlines()) > len(usual.stdout.splitlines())
    assert "click" in done.stderr.split()

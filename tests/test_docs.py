"""The documents say what the program does: manual pages, --help, README."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from imgbuilder.cli.customize_main import pybuilder_customize
from imgbuilder.cli.main import pybuilder
from imgbuilder.customize.registry import all_operations
from imgrepo.cli.main import group as pybuilder_repo

ROOT = Path(__file__).parents[1]
MAN = ROOT / "docs" / "man"


def options(command: click.Command) -> set[str]:
    """Return every option of a command and its subcommands."""
    context = click.Context(command)
    found = {
        name
        for param in command.get_params(context)
        if isinstance(param, click.Option) and not param.hidden
        for name in [*param.opts, *param.secondary_opts]
    }
    if isinstance(command, click.Group):
        for sub in command.commands.values():
            found |= options(sub)
    return found


def documented(page: str) -> set[str]:
    text = (MAN / page).read_text().replace("\\-", "-")
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*(?:\.\d+)*", re.sub(r"\\f[A-Z]", " ", text)))


@pytest.mark.parametrize(
    ("command", "page"),
    [
        (pybuilder, "pybuilder.1"),
        (pybuilder_customize, "pybuilder-customize.1"),
        (pybuilder_repo, "pybuilder-repo.1"),
    ],
    ids=str,
)
def test_manual_pages_and_help_agree(command: click.Command, page: str) -> None:
    known, printed = options(command), documented(page)
    assert known - printed == set(), "options that are missing in the manual page"
    # The examples also use other programs.
    theirs = {"--quick-generate-key", "--homedir", "--decrypt", "--check"}
    long = {name for name in printed if name.startswith("--")} - theirs
    assert long - known == set(), "options that only the manual page knows"


@pytest.mark.parametrize("script", ["manual", "completions"])
def test_generated_files_are_up_to_date(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("page", sorted(path.name for path in MAN.glob("*.1")))
def test_manual_pages_format_without_warnings(page: str) -> None:
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", MAN / page], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""


def test_every_operation_is_explained() -> None:
    for keyword, spec in all_operations().items():
        assert len(spec.help) > 10, keyword
        assert not spec.help.endswith("."), keyword


def test_readme_links_and_commands_exist() -> None:
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)", text):
        if target != "template":
            assert re.search(rf"^{target}:.*##", makefile, re.MULTILINE), target
    known = options(pybuilder) | options(pybuilder_customize) | options(pybuilder_repo)
    for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"^gpg .*$", "", text, flags=re.MULTILINE)):
        assert name in known, name


def test_commands_of_all_pages_exist_with_their_options() -> None:
    programs = {
        "pybuilder": pybuilder, "pybuilder-customize": pybuilder_customize, "pybuilder-repo": pybuilder_repo,
    }  # fmt: skip
    seen = 0
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]:
        for program, rest in re.findall(
            r"(?<![\w/.-])(pybuilder(?:-customize|-repo)?)((?: +[^\s`|>#;)]+)*)", page.read_text()
        ):
            command: click.Command = programs[program]
            for word in rest.split():
                if isinstance(command, click.Group):
                    command = command.commands.get(word, command)
            known = {name for param in command.get_params(click.Context(command)) for name in param.opts}
            known |= {name for param in command.params for name in param.secondary_opts}
            for option in re.findall(r"(?<= )--?[a-z][a-z-]*", rest):
                assert option in known, f"{page.relative_to(ROOT)}: {program}{rest}"
                seen += 1
    assert seen > 50


def test_links_of_all_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    for page in [*pages, *(ROOT / "tests").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_pages_name_modules_and_files_that_exist() -> None:
    rooms = re.findall(
        r"^\| (`[^|]+/`(?:, `[^|]+/`)*) \| (.*) \|$",
        (ROOT / "docs/architecture.md").read_text(),
        re.MULTILINE,
    )
    assert len(rooms) > 20
    for names, job in rooms:
        folders = [
            folder
            for name in re.findall(r"`([\w/-]+)/`", names)
            for top in (".", "builder/imgbuilder", "repo-tools/imgrepo")
            if (folder := ROOT / top / name).is_dir()
        ]
        for module in re.findall(r"`([a-z_0-9]+)`", job):
            if module not in {"imgindex", "imgbuilder", "imgrepo", "pybuilder"}:
                found = any(
                    (folder / f"{module}.py").exists() or (folder / module).is_dir() for folder in folders
                )
                assert found, f"{names}: {module}"
    for path in re.findall(
        r"`((?:index|builder|repo-tools|tests|docs)/[\w/.-]+)`", (ROOT / "CONTRIBUTING.md").read_text()
    ):
        assert (ROOT / path).exists(), path


def test_decision_records_are_listed() -> None:
    folder = ROOT / "docs/adr"
    listed = set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {path.name for path in folder.glob("[0-9]*.md")}
    for name in listed:
        text = (folder / name).read_text()
        assert "**Decided.**" in text, name
        assert "**Lost.**" in text, name


def described_rows() -> set[str]:
    """Return the IDs in the first column of the threat model's tables, ranges expanded."""
    found: set[str] = set()
    text = (ROOT / "docs/threat-model.md").read_text()
    for cell in re.findall(r"^\| ([A-Z][0-9][^|]*) \|", text, re.MULTILINE):
        for part in cell.split(", "):
            first, _, last = part.partition("-")
            until = int((last or first)[1:])
            found |= {f"{first[0]}{number}" for number in range(int(first[1:]), until + 1)}
    return found


def test_rows_of_the_threat_model_have_tests_and_markers_have_rows() -> None:
    described = described_rows()
    marked: set[str] = set()
    for folder in ("index", "builder", "repo-tools", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            rows = set(re.findall(r"threat-model\.md``?,? ([A-Z][0-9]+)\b", text))
            for arguments in re.findall(r"mark\.row\(([^)]*)\)", text):
                found = re.findall(r'"([^"]*)"', arguments)
                marked.update(found)
                rows.update(found)
            assert rows <= described, f"{path.relative_to(ROOT)}: {rows - described}"
    # T are rules and F are facts: the rows of the tables hold them.
    assert {row for row in described if row[0] not in "TF"} - marked == set(), "rows without a test"


def test_nothing_of_this_machine_is_written_down() -> None:
    """No absolute path of a checkout in anything that git tracks."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file() and str(ROOT) != "/":
            assert str(ROOT).encode() + b"/" not in path.read_bytes(), name

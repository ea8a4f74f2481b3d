"""The command line of ``pybuilder-repo``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.errors import PybuilderError, SigningError
from imgbuilder.events import Reporter, Step
from imgbuilder.guests.ports import Appliance
from imgbuilder.host.interrupts import Interrupted
from imgindex import __version__
from imgrepo.cli import make as make_module
from imgrepo.cli import publish as publish_module
from imgrepo.cli.main import group, run
from imgrepo.publishing.publish import PublishResult
from imgrepo.publishing.request import PublishRequest
from imgrepo.services import Services
from imgrepo.template.bootstrap import Mode
from imgrepo.template.disk import Layout, RootKind
from imgrepo.template.make import TemplateRequest
from imgrepo.template.recipes import DEBIAN, Arch, Kernel, Mirrors
from tests.fakes.appliance import FakeDisk
from tests.unit.imgrepo.repository import Repository


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[TemplateRequest]:
    """Record what make-template is asked for, and do nothing."""
    seen: list[TemplateRequest] = []

    def make(request: TemplateRequest, _services: Services, on_event: Reporter) -> None:
        on_event(Step("Working"))
        seen.append(request)

    monkeypatch.setattr(make_module, "make_template", make)
    return seen


def all_commands(command: click.Command, *words: str) -> Iterator[list[str]]:
    yield list(words)
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from all_commands(sub, *words, name)


@pytest.mark.parametrize("words", list(all_commands(group)), ids=" ".join)
def test_help_fits_a_terminal(words: list[str]) -> None:
    result = CliRunner().invoke(group, [*words, "--help"], prog_name="pybuilder-repo")
    assert result.exit_code == 0
    assert max(len(line) for line in result.output.split("\n")) <= 80


def test_every_command_can_print_json() -> None:
    without = []
    for words in all_commands(group):
        command: click.Command = group
        for word in words:
            assert isinstance(command, click.Group)
            command = command.commands[word]
        is_group = isinstance(command, click.Group) and not command.invoke_without_command
        if not is_group and not any("--json" in one.opts for one in command.params):
            without.append(" ".join(words))
    assert without == []


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str) -> None:
    assert CliRunner().invoke(group, [option]).output == f"pybuilder-repo {__version__}\n"


def test_make_template_has_defaults_that_work(
    requests: list[TemplateRequest], repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["make-template", "debian-12", "out.img"], repository.services()) == 0
    (request,) = requests
    assert (request.output, request.size, request.appliance.memsize) == (Path("out.img"), 2 << 30, None)
    boot = request.bootstrap
    assert (boot.recipe.suite, boot.kernel, boot.mode) == ("bookworm", Kernel.CLOUD, Mode.AUTO)
    assert (boot.build_from, boot.guest_uses, boot.keyring, boot.include) == (DEBIAN, DEBIAN, None, ())
    assert "] Working\n" in capsys.readouterr().out
    assert run(["make-template", "debian-12", "out.img", "--json"], repository.services()) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"version": 1, "image": "out.img", "manifest": "out.json"}


def test_make_template_passes_every_option_on(
    requests: list[TemplateRequest], repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    words = "make-template debian-13 o.img --size 3G --kernel generic --include vim,git --include nginx -q"
    words += " --arch amd64 --root xfs --no-uefi --lvm --locale de_DE.UTF-8 --no-instant --snapshot"
    words += " --mirror http://m/debian/ --security-mirror http://s/x --keep-mirror --suite-keyring k.gpg"
    assert run([*words.split(), "-m", "700", "-v", "--mode", "root"], repository.services()) == 0
    (request,) = requests
    assert (request.size, request.appliance.memsize, request.appliance.verbose) == (3 << 30, 700, True)
    assert not request.appliance.instant
    assert request.bootstrap.layout == Layout(RootKind.XFS, uefi=False, lvm=True)
    assert (request.bootstrap.arch, request.bootstrap.locale) == (Arch.AMD64, "de_DE.UTF-8")
    assert request.bootstrap.epoch == 1700000000
    assert not request.bootstrap.valid_until
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert run(words.split(), repository.services()) == 2
    boot = request.bootstrap
    assert (boot.recipe.suite, boot.kernel, boot.mode) == ("trixie", Kernel.GENERIC, Mode.ROOT)
    assert boot.include == ("vim", "git", "nginx")
    assert boot.build_from == boot.guest_uses == Mirrors("http://m/debian", "http://s/x")
    assert boot.keyring == Path("k.gpg")


def test_a_mirror_for_building_is_not_left_in_the_guest(
    requests: list[TemplateRequest], repository: Repository
) -> None:
    run(["make-template", "debian-12", "o.img", "--mirror", "http://m/debian"], repository.services())
    assert requests[0].bootstrap.build_from.mirror == "http://m/debian"
    assert requests[0].bootstrap.guest_uses == DEBIAN


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("make-template debian-7 o.img", "debian-7"),
        ("make-template debian-12", "OUTPUT"),
        ("make-template debian-12 o.img --size 20", "20"),
        ("make-template debian-12 o.img --size 100M", "too small"),
        ("make-template debian-12 o.img --size 1500.3M", "MiB"),
        ("make-template debian-12 o.img --kernel real-time", "real-time"),
        ("make-template debian-12 o.img --include -y", "-y"),
        ("make-template debian-12 o.img --mirror ftp://x", "ftp://x"),
        ("make-template debian-12 o.img -m 1", "1"),
        ("publish", "DIRECTORY"),
        ("publish .", "gpg-key"),
        ("publish /nonexistent -K k", "/nonexistent"),
        ("publish . -K k --xz-preset 77", "77"),
        ("publish . web -K k", "publish takes one folder of images; web is a second one"),
        ("publish . web -K k", "to publish into it: --output web"),
        ("frobnicate", "frobnicate"),
        ("--frobnicate", "frobnicate"),
    ],
)
def test_wrong_usage_is_reported_on_standard_error_with_exit_code_2(
    repository: Repository, capsys: pytest.CaptureFixture[str], words: str, problem: str
) -> None:
    assert run(words.split(), repository.services()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("pybuilder-repo: error: ")
    assert problem in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code"), [(SigningError("m", hint="h"), 1), (Interrupted(2), 130), (Interrupted(15), 143)]
)
def test_errors_become_words_and_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    repository: Repository,
    capsys: pytest.CaptureFixture[str],
    error: PybuilderError,
    code: int,
) -> None:
    def fail(_request: PublishRequest, _services: Services, _report: Reporter) -> PublishResult:
        raise error

    monkeypatch.setattr(publish_module, "publish", fail)
    assert run(["publish", str(repository.images), "-K", "k"], repository.services()) == code
    words = capsys.readouterr().err
    assert words.startswith(f"pybuilder-repo: error: {error.message}\n")
    assert (error.hint or "") in words
    assert "Traceback" not in words


def test_publish_tells_what_it_did_and_what_it_refused(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.add("a.img")
    words = [
        "publish",
        str(repository.images),
        "-o",
        str(repository.web),
        "-K",
        repository.key,
        "--xz-preset",
        "0",
    ]
    assert run(words, repository.services()) == 0
    assert "pybuilder-repo: published: a\n" in capsys.readouterr().out
    assert run(words, repository.services()) == 0
    assert "nothing new to publish" in capsys.readouterr().out
    repository.add("b.img", b"b", FakeDisk())
    assert run(words, repository.services()) == 1
    assert "b.img was refused" in capsys.readouterr().err
    assert repository.names() == ["a"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_and_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    """A stand-in for mmdebstrap sends the signal, at a moment when everything is under way."""
    for name in ("bin", "space", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "keys.gpg").touch()
    program = tmp_path / "bin" / "mmdebstrap"
    script = ["#!/bin/sh", "trap 'rm -r \"$TMPDIR/x\"; exit 1' TERM", 'mkdir "$TMPDIR/x"']
    script += [f"kill -{number} $PPID", "sleep 60 & wait"]
    program.write_text("\n".join(script) + "\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "TMPDIR": f"{tmp_path}/space"}
    words = ["make-template", "debian-12", "out/a.img", "--mode", "root", "--suite-keyring", "keys.gpg"]
    done = subprocess.run(
        [sys.executable, "-m", "imgrepo.cli.main", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
        # The test runner may have been started with the signal ignored.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr.decode() == f"pybuilder-repo: error: stopped by {number.name}\n"
    assert list((tmp_path / "space").iterdir()) == []
    assert list((tmp_path / "out").iterdir()) == []


def test_help_lists_each_command_in_a_section_with_one_clear_line(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--help"], repository.services()) == 0
    sections = capsys.readouterr().out.split("\n\n")[-5:]
    assert [section.split(":")[0] for section in sections] == ["Make", "Publish", "Keep", "Share", "Show"]
    lines = [line for section in sections for line in section.strip().splitlines()[1:]]
    assert sorted(line.split()[0] for line in lines) == sorted(group.commands)
    assert all(line.endswith(".") and "..." not in line for line in lines)


def test_without_arguments_it_says_what_to_type_first(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([], repository.services()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 10
    for line in lines:
        if line.startswith("  pybuilder-repo"):
            assert line.split()[1] in group.commands
    assert "pybuilder-repo --help" in lines[-1]
    assert run(["entry"], repository.services()) == 2
    assert capsys.readouterr().err.startswith("Usage: pybuilder-repo entry")


@pytest.mark.parametrize("flags", [[], ["--no-instant", "--cache", "/somewhere", "-m", "512"]])
def test_what_shapes_the_appliance_reaches_it(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    repository.add("a.img")
    seen: list[ApplianceOptions | None] = []
    services = repository.services()

    def open_appliance(
        disks: Sequence[Attachment], options: ApplianceOptions | None, on_event: Reporter
    ) -> AbstractContextManager[Appliance]:
        seen.append(options)
        return services.open_appliance(disks, options, on_event)

    words = ["publish", str(repository.images), "-o", str(repository.web), "-K", repository.key, *flags]
    assert run(words, replace(services, open_appliance=open_appliance)) == 0
    wanted = ApplianceOptions(memsize=512, instant=False, cache=Path("/somewhere"))
    assert seen == [wanted if flags else ApplianceOptions()]


def test_wrong_words_are_answered_with_the_help_that_fits(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    services = repository.services()
    assert run(["publish"], services) == 2
    assert "see: pybuilder-repo publish --help" in capsys.readouterr().err
    assert run(["publich"], services) == 2
    assert "see: pybuilder-repo --help" in capsys.readouterr().err
    image = repository.add("a.img")
    assert run(["publish", str(image), "-K", repository.key], services) == 2
    shown = capsys.readouterr().err
    assert "is a file, not a folder" in shown
    assert "mkdir" not in shown


def test_errors_are_wrapped_like_notices(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    folder = repository.base / " ".join(["a folder that is not there"] * 5)
    assert run(["publish", str(folder), "-K", "k", "--wrap"], repository.services()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2
    assert all(len(line) <= 76 for line in lines if "/" not in line), "a path stays whole"

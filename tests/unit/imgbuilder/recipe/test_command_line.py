"""Recipes on the command line: the order of precedence, and ``recipe write``."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.building.request import BuildRequest, NetworkMode
from imgbuilder.cli.main import pybuilder
from imgbuilder.cli.recipes import with_recipe
from imgbuilder.cli.requests import build_request, read_values
from imgbuilder.customize.ops.files import Write
from imgbuilder.customize.ops.system import Hostname
from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.errors import UsageError
from imgbuilder.host.arch import host_arch
from imgbuilder.recipe.reader import read_recipe
from imgbuilder.services import Settings
from tests.fakes.commands import Command
from tests.fakes.template import Site, TinyAppliances

RECIPE = """\
template = "tiny"
arch = "x86_64"
output = "from-recipe.qcow2"
format = "qcow2"
compress = true
size = "${{ size }}"
memsize = 400
smp = 2
network = true
keys = ["all:file:key"]
[[attach]]
file = "cd.iso"
format = "raw"
[variables]
size = "16M"
[[operation]]
hostname = "recipe"
"""


@pytest.fixture(autouse=True)
def recipe(home: Path) -> Path:
    folder = Path("recipes")
    folder.mkdir()
    (folder / "key").write_text("k\n")
    (folder / "cd.iso").write_bytes(bytes(4096))
    (folder / "part.toml").write_text("[[operation]]\nupdate = true\n")
    path = folder / "r.toml"
    path.write_text(RECIPE)
    return path


def request_of(*words: str) -> BuildRequest:
    ctx = pybuilder.make_context("pybuilder", list(words))
    options = with_recipe(ctx, ctx.params)
    return build_request(
        options["names"][0], options["arch_"] or host_arch(), options, read_values(ctx, options)
    )


def test_a_recipe_fills_in_everything(recipe: Path) -> None:
    asked = request_of("--recipe", str(recipe))
    assert (asked.template, asked.arch, asked.output) == ("tiny", "x86_64", Path("from-recipe.qcow2"))
    assert (asked.format, asked.compressed, asked.size) == (OutputFormat.QCOW2, True, 16 << 20)
    assert (asked.appliance.memsize, asked.appliance.smp, asked.network) == (400, 2, NetworkMode.ON)
    assert [key.secret for key in asked.keys] == ["k"]
    assert [(disk.path, str(disk.format)) for disk in asked.attachments] == [(Path("recipes/cd.iso"), "raw")]
    assert asked.operations == (Hostname("recipe"),)


def test_a_program_gets_the_same_request(recipe: Path) -> None:
    read = read_recipe(recipe)
    assert read.request() == request_of("--recipe", str(recipe))
    assert read.sources() == Settings()
    recipe.write_text(f'template = "x"\n[[source]]\nurl = "https://a.example/i"\nfingerprint = "{"A" * 40}"')
    read = read_recipe(recipe)
    assert read.request() == request_of("--recipe", str(recipe))
    assert read.sources(Settings(offline=True)) == Settings(
        ("https://a.example/i",), ("A" * 40,), offline=True
    )
    recipe.write_text("")
    with pytest.raises(UsageError, match="names no template"):
        read_recipe(recipe).request()


def test_commands_without_a_recipe_load_nothing_of_it() -> None:
    code = (
        "import sys; from imgbuilder.cli.main import run; run(['--print-cache']); "
        "sys.exit(any(name.startswith('imgbuilder.recipe') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_options_overrule_settings_wherever_they_stand(recipe: Path) -> None:
    asked = request_of(
        "--size", "32M", "--no-network", "--recipe", str(recipe), "-m", "500", "-o", "mine", "other",
        "--format", "raw", "--attach", "recipes/key", "--arch", "aarch64", "--smp", "1", "--key", "all:key:x",
    )  # fmt: skip
    assert (asked.template, asked.arch, asked.output) == ("other", "aarch64", Path("mine"))
    assert (asked.format, asked.size, asked.appliance.memsize, asked.appliance.smp) == (
        OutputFormat.RAW,
        32 << 20,
        500,
        1,
    )
    assert asked.network is NetworkMode.OFF
    assert [key.secret for key in asked.keys] == ["x"]
    assert [(disk.path, disk.format) for disk in asked.attachments] == [(Path("recipes/key"), None)]


def test_operations_are_added_around_those_of_the_recipe(recipe: Path) -> None:
    asked = request_of("--write", "/a:1", "--recipe", str(recipe), "--write", "/b:2")
    assert asked.operations == (Write("/a", "1"), Hostname("recipe"), Write("/b", "2"))


def test_sources_of_a_recipe(recipe: Path) -> None:
    recipe.write_text(f'[[source]]\nurl = "https://a.example/i"\nfingerprint = "{"A" * 40}"')
    ctx = pybuilder.make_context("pybuilder", ["--recipe", str(recipe)])
    options = with_recipe(ctx, ctx.params)
    assert (options["sources"], options["fingerprints"]) == (("https://a.example/i",), ("A" * 40,))
    words = ["--recipe", str(recipe), "--source", "https://b.example/i", "--fingerprint", "B" * 40]
    ctx = pybuilder.make_context("pybuilder", words)
    options = with_recipe(ctx, ctx.params)
    assert (options["sources"], options["fingerprints"]) == (("https://b.example/i",), ("B" * 40,))


def test_a_build_from_a_recipe(
    site: Site, appliances: TinyAppliances, pybuilder: Command, recipe: Path
) -> None:
    text = RECIPE.replace("keys = ", "#").replace('hostname = "recipe"', 'write = "/etc/a"\ncontent = "1"')
    recipe.write_text(text)
    pybuilder("--recipe", str(recipe), "--set", "size=24M", "--write", "/etc/b:2").good()
    assert appliances.guest.read("/etc/a") == b"1"
    assert appliances.guest.read("/etc/b") == b"2"
    found = subprocess.run(
        ["qemu-img", "info", "from-recipe.qcow2"], capture_output=True, text=True, check=True
    )
    assert "24 MiB" in found.stdout


class TestWriteRecipe:
    def test_the_way_back(self, site: Site, appliances: TinyAppliances, pybuilder: Command) -> None:
        Path("motd").write_text("x")
        words = [
            "tiny", "--size", "16M", "--format", "qcow2", "--compress", "-m", "400", "--no-network",
            "--attach-format", "raw", "--attach", "recipes/cd.iso", "--key", "all:file:recipes/key",
            "--upload", "motd:/etc/motd", "--write", "/a:b\nc", "--hostname", "x.example.org",
        ]  # fmt: skip
        ran = pybuilder("recipe", "write", "new.toml", *words).good()
        assert "Uploading: motd to /etc/motd" in ran.out, "the plan is also shown"
        assert request_of(*words, "--arch", "x86_64") == request_of(
            "--recipe", "new.toml", "--arch", "x86_64"
        )
        assert str(Path.cwd()) not in Path("new.toml").read_text(), "it can be moved with its files"
        sources = [
            "--source",
            "https://a.example/i",
            "--source",
            "https://b.example/i",
            "--fingerprint",
            "A" * 40,
        ]
        with_sources = pybuilder("recipe", "write", "-", "x", *sources).out
        assert [row["url"] for row in tomllib.loads(with_sources)["source"]] == sources[1:4:2]
        again = pybuilder("recipe", "write", "-", "--recipe", "new.toml")
        assert again.out == Path("new.toml").read_text()

    def test_it_needs_a_template(self, site: Site, pybuilder: Command, recipe: Path) -> None:
        recipe.write_text('[[operation]]\nhostname = "x"\n')
        for words in ([], ["new.toml"], ["new.toml", "--recipe", str(recipe)], ["new.toml", "a", "b"]):
            ran = pybuilder("recipe", "write", *words)
            assert (ran.code, "pybuilder recipe write " in ran.err) == (2, True)
            assert not Path("new.toml").exists()

    def test_nothing_is_written_over(self, site: Site, pybuilder: Command, recipe: Path) -> None:
        ran = pybuilder("recipe", "write", str(recipe), "tiny")
        assert ran.code != 0
        assert "is there already" in ran.err
        assert recipe.read_text() == RECIPE
        assert "cannot be written" in pybuilder("recipe", "write", "no/r.toml", "tiny").err

    def test_a_full_disk_keeps_no_part_of_it(
        self, site: Site, pybuilder: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Path.open

        class Full(io.StringIO):
            def flush(self) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def opened(path: Path, mode: str = "r", **more: Any) -> Any:
            file = real(path, mode, **more)
            return Full() if mode == "x" else file

        monkeypatch.setattr(Path, "open", opened)
        ran = pybuilder("recipe", "write", "new.toml", "tiny")
        monkeypatch.undo()
        assert "new.toml cannot be written: No space left" in ran.err
        assert not Path("new.toml").exists()

    def test_a_wrong_or_secret_command_line_is_not_written(self, site: Site, pybuilder: Command) -> None:
        for words in (
            ["--hostname", "a;b"],
            ["--root-password", "password:canary"],
            ["--key", "all:key:canary"],
        ):
            ran = pybuilder("recipe", "write", "new.toml", "tiny", *words)
            assert ran.code == 2
            assert "canary" not in ran.err
            assert not Path("new.toml").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "a=b", "tiny"], "add --recipe"),
        (["--recipe", "recipes/r.toml", "--set", "a"], "--set NAME=VALUE"),
        (["--recipe", "recipes/r.toml", "--set", "=x"], "--set NAME=VALUE"),
        (["--recipe", "recipes/r.toml", "--set", "sise=1G"], "did you mean 'size'?"),
        (["--recipe", "recipes/r.toml", "--recipe", "recipes/r.toml"], "include"),
        (["--recipe", "none.toml"], "'none.toml' cannot be read"),
        (["--recipe", "recipes/r.toml", "--set", "size=5"], "recipes/r.toml: line 6: cannot parse size '5'"),
        (["--recipe", "recipes/part.toml"], "the recipe names no template"),
        (["--get-kernel", "x", "--recipe", "recipes/r.toml"], "--get-kernel"),
    ],
)
def test_wrong_usage(site: Site, pybuilder: Command, words: list[str], says: str) -> None:
    ran = pybuilder(*words).failed(2, says)
    assert "Traceback" not in ran.err

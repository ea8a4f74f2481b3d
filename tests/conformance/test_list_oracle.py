"""virt-builder itself and we, on the same repositories and configuration: lists and notes, byte for byte."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from imgindex.model import Entry, Index, Note
from imgindex.write import write_index
from tests.fakes.keys import KeyMaker
from tests.fakes.streams import ubuntu_tree

pytestmark = [
    pytest.mark.skipif(
        shutil.which("virt-builder") is None, reason="virt-builder is missing (package guestfs-tools)"
    ),
]

SHA = "ab" * 64


def entry(os_version: str, arch: str = "x86_64", size: int = 2**31, **fields: object) -> Entry:
    return Entry(os_version, f"{os_version}.xz", arch, size, sha512=SHA, **fields)  # type: ignore[arg-type]


FIRST = (
    entry(
        "debian-12",
        name="Debian 12 (bookworm)",
        osinfo="debian12",
        compressed_size=111 * 2**20 + 7,
        aliases=("debian", "bookworm"),
        notes=(
            Note("", 'First line.\n\n  indented\n\ttab "quoted" \\back\\slash\n[x]\n# no comment'),
            Note("de", "Auf Deutsch: ä ö ü ß"),
            Note("de_AT", "Oida"),
            Note("pt_BR", "Olá"),
        ),
    ),
    entry("debian-12", "aarch64", name="Debian 12 for ARM", aliases=("debian",)),
    entry("averyveryverylongnameofatemplate", "i686", 1126400, notes=(Note("fr", "seulement"),)),
    entry("no-name", "ppc64le", 512, compressed_size=1),
    entry("hidden-one", name="Hidden", hidden=True, notes=(Note("", "secret"),)),
    entry("unicode", name="Ωμέγα — 日本語 \N{SNOWMAN} e\N{COMBINING ACUTE ACCENT}", osinfo='ünï"\\'),
    entry("x", "s390x", 2**40, name="One TiB", compressed_size=2**33 + 2**29),
    entry("empty-note", name="", notes=(Note("", ""), Note("pt", "x"))),
    entry("a.b_c-1", "armv7l", 1536 * 2**20, aliases=("p",)),
)
SECOND = (
    entry("fedora-41", name="Fedora® 41", size=6 * 2**30, compressed_size=1023, aliases=("fedora",)),
    entry("note-c", notes=(Note("C", "the C one"), Note("en", "English")), hidden=False),
    entry("many", aliases=tuple(f"alias{number}" for number in range(30))),
)


class World(NamedTuple):
    """Repositories, one configuration of them, and locales."""

    home: Path
    environ: dict[str, str]
    keys: KeyMaker
    key: str

    def write(self, name: str, entries: Sequence[Entry], *, sign: bool = True) -> Path:
        folder = self.home / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ("index.asc" if sign else "index")
        text = write_index(Index(tuple(entries)))
        path.write_bytes(self.keys.sign(text, self.key) if sign else text.encode())
        return path

    def configure(self, text: str) -> None:
        place = self.home / "config" / "virt-builder" / "repos.d"
        place.mkdir(parents=True, exist_ok=True)
        (place / "all.conf").write_text(text)

    def theirs(self, *words: str, **more: str) -> str:
        return self._run(["virt-builder", *words], more)

    def ours(self, *words: str, **more: str) -> str:
        return self._run([sys.executable, "-m", "imgbuilder", *words], more)

    def _run(self, command: list[str], more: dict[str, str]) -> str:
        done = subprocess.run(
            command, env=self.environ | more, capture_output=True, text=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def same(self, *words: str, **more: str) -> str:
        """Compare what both print, and return it."""
        theirs = self.theirs(*words, **more)
        assert self.ours(*words, **more) == theirs
        return theirs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, keys: KeyMaker) -> World:
    home = tmp_path_factory.mktemp("world")
    locales = home / "locales"
    locales.mkdir()
    if shutil.which("localedef") and Path("/usr/share/i18n/locales/de_DE").exists():
        for name in ("de_DE", "de_AT", "pt_BR"):
            subprocess.run(["localedef", "-i", name, "-f", "UTF-8", locales / f"{name}.UTF-8"], check=True)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "VIRT_BUILDER_DIRS": "/nonexistent",
        "LOCPATH": str(locales),
        "LANG": "C.UTF-8",
        "GNUPGHOME": str(keys.home),
    }
    made = World(home, environ, keys, keys.make("Publisher of lists"))
    (home / "key.gpg").write_bytes(keys.export(made.key))
    first, second = made.write("first", FIRST), made.write("second", SECOND)
    made.configure(
        f"[one]\nuri=file://{first}\ngpgkey=file://{home}/key.gpg\n\n"
        f"[two]\nuri={second}\ngpgkey={home}/key.gpg\nproxy=no\n"
    )
    return made


@pytest.mark.parametrize("style", ["short", "long", "json"])
def test_all_of_two_sources(world: World, style: str) -> None:
    text = world.same("--list", "--list-format", style)
    assert "fedora-41" in text
    assert ("hidden-one" in text) == (style == "json")
    if style == "json":
        assert len(json.loads(text)["templates"]) == len(FIRST) + len(SECOND)


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("debian-12", "aarch64"),
        ("bookworm", "aarch64"),
        ("averyveryverylongnameofatemplate", "i386"),
        ("hidden-one", "x86_64"),
        ("alias29", "x86_64"),
    ],
)
def test_one_template(world: World, name: str, arch: str) -> None:
    for style in ("long", "json"):
        world.same("--list", name, "--arch", arch, "--list-format", style)
    world.same("--notes", name, "--arch", arch)


@pytest.mark.parametrize(
    "languages",
    [
        {"LANG": "de_DE.UTF-8"},
        {"LANG": "de_DE.UTF-8", "LC_MESSAGES": "pt_BR.UTF-8"},
        {"LANG": "de_DE.UTF-8", "LC_MESSAGES": "pt_BR.UTF-8", "LC_ALL": "de_AT.UTF-8"},
        {"LANG": "pt_BR.UTF-8", "LANGUAGE": "de", "LC_ALL": ""},
        {"LANG": "fr_FR.UTF-8"},  # not there
        {"LANG": "../../etc"},
    ],
    ids=lambda value: "-".join(value.values()),
)
def test_the_language_of_notes(world: World, languages: dict[str, str]) -> None:
    if not any((world.home / "locales").iterdir()):
        pytest.skip("locales cannot be made (package locales)")
    world.same("--list", "--long", **languages)


def test_languages_are_really_told_apart(world: World) -> None:
    """That the comparisons above do not compare the same text ten times."""
    if not any((world.home / "locales").iterdir()):
        pytest.skip("locales cannot be made (package locales)")
    shown = {
        lang: world.ours("--notes", "debian-12", LANG=f"{lang}.UTF-8") for lang in ("de_DE", "de_AT", "pt_BR")
    }
    assert [text.split()[0] for text in shown.values()] == ["Auf", "Oida", "Olá"]


@pytest.mark.parametrize("style", ["short", "long", "json"])
def test_the_command_line_s_sources(world: World, style: str) -> None:
    """Two --source with a fingerprint each, taken from the user's keyring, before the configured ones."""
    words = []
    for number, key in enumerate((world.key, world.keys.make("Another publisher"))):
        folder = world.home / f"given{number}"
        folder.mkdir(exist_ok=True)
        text = write_index(Index((entry(f"given-{number}", name=f"Given {number}"),)))
        (folder / "index.asc").write_bytes(world.keys.sign(text, key))
        words += ["--source", f"file://{folder}/index.asc", "--fingerprint", key]
    text = world.same(*words, "--list", "--list-format", style)
    assert text.index("given-1") < text.index("debian-12")


def test_without_checks(world: World) -> None:
    """Warnings go to standard output in virt-builder, but there are none here; ours go to standard error."""
    words = ("--no-check-signature", "--source", str(world.home / "first" / "index.asc"))
    theirs = world.theirs(*words, "--list", "--list-format", "json")
    assert world.ours(*words, "--list", "--list-format", "json", "-q").endswith(theirs)


def test_nothing_at_all(world: World) -> None:
    empty = world.write("empty", (), sign=False)
    environ = {"XDG_CONFIG_HOME": str(world.home / "other")}
    place = world.home / "other" / "virt-builder" / "repos.d"
    place.mkdir(parents=True)
    (place / "x.conf").write_text(f"[x]\nuri={empty}\nunsigned=yes\n")
    for style in ("short", "long", "json"):
        theirs = world.theirs("--list", "--list-format", style, **environ)
        assert world.ours("--list", "--list-format", style, **environ) == theirs


@pytest.mark.parametrize("signed", [True, False])
def test_simplestreams(world: World, signed: bool) -> None:
    """Of a tree in which virt-builder's faults do not show, both make the same, but for the order."""
    tree = ubuntu_tree(world.home / f"tree{signed}", world.keys, b"x" * 512)
    products = tree.products["com.ubuntu.cloud:released:download"]
    del products["com.ubuntu.cloud:server:24.04:amd64"]["versions"]["20240423.9"]  # as text newer than .10
    tree.publish()
    (world.home / "tree.gpg").write_bytes(world.keys.export(tree.key))
    place = world.home / f"streams{signed}" / "virt-builder" / "repos.d"
    place.mkdir(parents=True)
    key = f"gpgkey=file://{world.home}/tree.gpg" if signed else "unsigned=yes"
    (place / "x.conf").write_text(f"[x]\nuri=file://{tree.folder}/\nformat=simplestreams\n{key}\n")
    environ = {"XDG_CONFIG_HOME": str(world.home / f"streams{signed}")}
    theirs = world.theirs("--list", **environ)
    assert sorted(world.ours("--list", **environ).splitlines()) == sorted(theirs.splitlines())
    assert "20240423.10" in theirs
    name = "ubuntu-noble-24.04-amd64-server-20240423.10"
    shown = json.loads(world.theirs("--list", name, "--list-format", "json", **environ))["templates"][0]
    ours = json.loads(world.ours("--list", name, "--list-format", "json", **environ))["templates"][0]
    assert shown.pop("size") == 512  # that of the download
    assert set(shown.pop("aliases")) <= set(ours.pop("aliases"))
    assert ours.pop("compressed-size") == "512"
    assert ours == shown


@pytest.mark.parametrize("end", ["", "/", "//"])
def test_simplestreams_addresses_are_listed_as_written(world: World, end: str) -> None:
    tree = ubuntu_tree(world.home / f"tree{len(end)}", world.keys, b"x" * 512)
    place = world.home / f"written{len(end)}" / "virt-builder" / "repos.d"
    place.mkdir(parents=True)
    (place / "x.conf").write_text(f"[x]\nuri=file://{tree.folder}{end}\nformat=simplestreams\nunsigned=yes\n")
    environ = {"XDG_CONFIG_HOME": str(world.home / f"written{len(end)}")}
    theirs, ours = (each("--list", "--long", **environ) for each in (world.theirs, world.ours))
    assert ours.split("\n")[:2] == theirs.split("\n")[:2] == [f"Source URI: file://{tree.folder}{end}", ""]
    theirs, ours = (each("--list", "--list-format", "json", **environ) for each in (world.theirs, world.ours))
    assert json.loads(ours)["sources"] == json.loads(theirs)["sources"]


@pytest.mark.row("P17")
def test_aliases_never_beat_a_name(world: World) -> None:
    """P17, where we differ: there the alias wins, whatever else has the name."""
    world.write("alias", (entry("x", name="the alias", aliases=("y",)), entry("y", name="the name")))
    words = ("--source", f"file://{world.home}/alias/index.asc", "--fingerprint", world.key, "--list", "y")
    assert "the alias" in world.theirs(*words)
    assert "the name" in world.ours(*words)


TEXTS = "abc äöü Ω 日本 \\ \" ' / [x] # = ; $HOME %s \u00a0é"


@pytest.mark.parametrize("seed", range(2))
def test_any_repository(world: World, seed: int) -> None:
    """Random entries: sizes around every unit, texts of odd characters, languages, aliases."""
    dice = random.Random(seed)

    def text(most: int) -> str:
        return "".join(dice.choice(TEXTS) for _ in range(dice.randrange(most))).strip(" \u00a0\\")

    def maybe(make: Callable[[], object]) -> object:
        return make() if dice.random() < 0.6 else None

    def size() -> int:
        return max(1, 2 ** dice.randrange(9, 42) + dice.randrange(-3, 4) * 512) // 512 * 512 or 512

    entries = [
        entry(
            f"{dice.choice('abc')}-{number}",
            dice.choice(["x86_64", "i686", "amd64", "ppc64", "arm64"]),
            size(),
            name=maybe(lambda: text(40)),
            osinfo=maybe(lambda: text(10)),
            compressed_size=maybe(lambda: dice.randrange(1, 2 ** dice.randrange(1, 40))),
            hidden=dice.random() < 0.2,
            aliases=tuple(f"al{number}.{other}" for other in range(dice.randrange(3))),
            notes=tuple(
                Note(language, "\n".join(text(30) for _ in range(dice.randrange(1, 5))).strip("\n"))
                for language in dice.sample(["", "de", "fr_FR", "pt", "zh_TW"], dice.randrange(4))
            ),
        )
        for number in range(25)
    ]
    folder = f"random{seed}"
    world.write(folder, entries)
    words = ("--source", f"file://{world.home}/{folder}/index.asc", "--fingerprint", world.key)
    for style in ("short", "long", "json"):
        world.same(
            *words, "--list", "--list-format", style, XDG_CONFIG_HOME="/nonexistent", LANG="de_DE.UTF-8"
        )

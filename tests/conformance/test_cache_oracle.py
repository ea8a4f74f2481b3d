"""virt-builder itself and we, asked to fill, show and delete a cache: the same words on standard output.

Deliberate differences: the default folder has our name; a template that is in the cache already is not
announced as a download; a contradiction on the command line ends with code 2, as every other one does here.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from imgindex.model import Entry, Index
from imgindex.write import write_index
from tests.fakes.keys import KeyMaker
from tests.fakes.webfolder import WebFolder

pytestmark = [
    pytest.mark.skipif(
        shutil.which("virt-builder") is None, reason="virt-builder is missing (package guestfs-tools)"
    ),
    pytest.mark.timeout(240),
]

SIZE = 1 << 20


class Said(NamedTuple):
    """Exit code of a command, and its standard output without the seconds."""

    code: int
    out: str


class World:
    """A signed source on a web server, and two users who know it: theirs and ours."""

    def __init__(self, base: Path, keys: KeyMaker, web: WebFolder) -> None:
        self.base, self.web, self.keys = base, web, keys
        entries = []
        for number, (name, arch, fields) in enumerate(
            [
                ("tiny", "x86_64", {}),
                ("hidden-one", "x86_64", {"hidden": True}),
                ("averyveryverylongnameofatemplate", "aarch64", {"revision": 3}),
            ]
        ):
            packed = lzma.compress(bytes([number]) * SIZE, preset=0)
            (base / "site" / f"{number}.xz").write_bytes(packed)
            entries.append(
                Entry(
                    name,
                    f"{number}.xz",
                    arch,
                    SIZE,
                    sha512=hashlib.sha512(packed).hexdigest(),
                    format="raw",
                    compressed_size=len(packed),
                    **fields,  # type: ignore[arg-type]
                )
            )
        key = keys.make("Publisher of caches")
        signed = keys.sign(write_index(Index(tuple(entries))), key)
        (base / "site" / "index.asc").write_bytes(signed)
        (base / "key.gpg").write_bytes(keys.export(key))
        for who in ("theirs", "ours"):
            folder = base / who / "config" / "virt-builder" / "repos.d"
            folder.mkdir(parents=True)
            text = f"[one]\nuri={web.url}/index.asc\ngpgkey=file://{base}/key.gpg\nproxy=no\n"
            (folder / "one.conf").write_text(text)

    def run(self, who: str, *words: str, **more: str) -> Said:
        home = self.base / who
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "no_proxy": "*",
            "XDG_CONFIG_HOME": str(home / "config"), "VIRT_BUILDER_DIRS": "/nonexistent",
            "GNUPGHOME": str(self.keys.home), **more,
        }  # fmt: skip
        program = ["virt-builder"] if who == "theirs" else [sys.executable, "-m", "imgbuilder"]
        done = subprocess.run([*program, *words], cwd=home, env=environ, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        return Said(done.returncode, re.sub(r"^\[ *[0-9.]+\]", "[T]", done.stdout, flags=re.MULTILINE))

    def same(self, *words: str, **more: str) -> str:
        """Compare what both print, and return it."""
        theirs, ours = self.run("theirs", *words, **more), self.run("ours", *words, **more)
        assert ours == theirs
        assert theirs.code == 0
        return theirs.out


@pytest.fixture
def world(tmp_path: Path, keys: KeyMaker) -> Iterator[World]:
    (tmp_path / "site").mkdir()
    with WebFolder(tmp_path / "site") as web:
        yield World(tmp_path, keys, web)


def test_a_cache_from_empty_to_deleted(world: World) -> None:
    """Hidden templates are fetched, but not shown."""
    cache = ("--cache", "some/cache")
    assert "tiny                     x86_64     no\n" in world.same("--print-cache", *cache)
    filled = world.same("--cache-all-templates", *cache)
    assert filled == "".join(f"[T] Downloading: {world.web.url}/{number}.xz\n" for number in range(3))
    shown = world.same("--print-cache", *cache)
    assert shown.startswith("cache directory: some/cache\ntiny                     x86_64     cached\n")
    assert "hidden-one" not in shown
    asked = len(world.web.asked)
    assert world.run("theirs", "--cache-all-templates", *cache) == (0, filled), "announced, though not done"
    assert world.run("ours", "--cache-all-templates", *cache) == (0, "")
    assert [path for path in world.web.paths[asked:] if path != "/index.asc"] == []
    assert world.same("--delete-cache", *cache) == "[T] Deleting: some/cache\n"
    assert "cached" not in world.same("--print-cache", *cache)
    for who in ("theirs", "ours"):
        assert not (world.base / who / "some" / "cache" / "templates").exists()


def test_the_usual_folder(world: World) -> None:
    """It has our name; all other words are the same."""
    for words in (["--print-cache"], ["--cache-all-templates"], ["--print-cache"], ["--delete-cache"]):
        theirs, ours = world.run("theirs", *words), world.run("ours", *words)
        assert ours.code == theirs.code == 0
        renamed = theirs.out.replace("/theirs/.cache/virt-builder", "/ours/.cache/pybuilder")
        assert ours.out == renamed
    elsewhere = {"XDG_CACHE_HOME": str(world.base / "xdg")}
    theirs, ours = (
        world.run("theirs", "--print-cache", **elsewhere),
        world.run("ours", "--print-cache", **elsewhere),
    )
    assert ours.out == theirs.out.replace("xdg/virt-builder", "xdg/pybuilder")


def test_without_a_cache(world: World) -> None:
    assert world.same("--print-cache", "--no-cache") == "no cache directory\n"
    for words in (["--delete-cache", "--no-cache"], ["--cache-all-templates", "--no-cache"]):
        theirs, ours = world.run("theirs", *words), world.run("ours", *words)
        assert (theirs.code, ours.code) == (1, 2)
        assert ours.out == theirs.out == ""


def test_quiet_and_places_that_are_not_there(world: World) -> None:
    assert world.same("--cache-all-templates", "--quiet", "--cache", "c") == ""
    assert "cached" in world.same("--print-cache", "--quiet", "--cache", "c")
    assert world.same("--delete-cache", "--cache", "/nonexistent/x") == "[T] Deleting: /nonexistent/x\n"


def test_what_programs_are_told(world: World) -> None:
    assert world.same("--machine-readable").startswith("virt-builder\n")
    world.same("--machine-readable", "--print-cache")

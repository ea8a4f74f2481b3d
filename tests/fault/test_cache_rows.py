"""Faults of the cache, through the real command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgbuilder.cache.store import TemplateCache
from imgbuilder.errors import WorkspaceError
from tests.fakes.keys import KeyMaker
from tests.fakes.template import make_site
from tests.fault.test_cache_places import mounted
from tests.fault.test_environment import BUILD, Place

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def place(tmp_path: Path, keys: KeyMaker) -> Place:
    return Place(tmp_path, keys)


def cache_of(place: Place) -> Path:
    return place.base / "home" / ".cache" / "pybuilder"


def template_of(place: Place) -> Path:
    return next(path for path in (cache_of(place) / "templates").iterdir() if len(path.name) == 128)


@pytest.mark.row("C5")
@pytest.mark.parametrize("words", [[], ["--no-cache"]], ids=["output", "output and temporary files"])
def test_no_space_where_the_image_goes(place: Place, words: list[str]) -> None:
    """Said before the work begins; where the template is kept, it is there for the next run."""
    with mounted(place.base / "out", "-t", "tmpfs", "-o", "mode=700,size=200k", "none") as out:
        done = place.run(*BUILD, "--size", "64M", *words, cwd=out)
        assert done.returncode == 1
        assert str(out) in done.stderr
        assert "needed" in done.stderr or "needs" in done.stderr or "no space left" in done.stderr
        assert "choose another" in done.stderr or "another folder" in done.stderr
        assert "Traceback" not in done.stderr
        assert list(out.iterdir()) == []
    assert list((place.base / "tmp").iterdir()) == []
    assert place.run(*BUILD, *words).returncode == 0


@pytest.mark.row("C5")
def test_no_space_for_the_cache_in_a_build(place: Place) -> None:
    cache = place.base / "cache"
    with mounted(cache, "-t", "tmpfs", "-o", "mode=700,size=60k", "none"):
        done = place.run(*BUILD, "--cache", str(cache))
    assert done.returncode == 1
    assert str(cache) in done.stderr
    assert "--cache DIR" in done.stderr
    assert list((place.base / "out").iterdir()) == []


@pytest.mark.row("C14")
@pytest.mark.parametrize("layer", ["templates", "disks"])
def test_a_device_is_not_read(place: Place, layer: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("C14: only root can make a device")
    assert place.run("--cache-all-templates").returncode == 0
    template = template_of(place)
    entry = template if layer == "templates" else cache_of(place) / "disks" / f"{template.name}.raw"
    entry.unlink(missing_ok=True)
    subprocess.run(["mknod", entry, "c", "1", "5"], check=True)  # as /dev/zero, which has no end
    done = place.run(*BUILD)
    assert done.returncode == 1
    assert str(entry) in done.stderr
    assert "Traceback" not in done.stderr
    assert entry.is_char_device()


@pytest.mark.row("C15")
def test_no_place_for_a_cache(place: Place) -> None:
    """Without a home: a warning, and a build that keeps nothing. What was accepted of sources has a place."""
    home = place.environment["HOME"]
    place.environment.update(XDG_CONFIG_HOME=f"{home}/.config", XDG_STATE_HOME=f"{home}/.local/state")
    place.environment["HOME"] = "/dev/null"
    done = place.run(*BUILD)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("/dev/null/.cache/pybuilder") == 1
    place.built()
    assert [path.name for path in Path(home).iterdir() if path.name == ".cache"] == []
    assert list((place.base / "tmp").iterdir()) == []


@pytest.mark.row("C17")
def test_two_deletions_at_once(place: Place) -> None:
    """Both end well, also when the first has removed what the second has just seen."""
    for _round in range(2):
        assert place.run("--cache-all-templates").returncode == 0
        words = [sys.executable, "-m", "imgbuilder", "--delete-cache"]
        both = [
            subprocess.Popen(words, env=place.environment, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        ended = [(process.communicate(timeout=60)[1], process.returncode) for process in both]
        assert [code for _words, code in ended] == [0, 0, 0], ended
        assert not cache_of(place).exists()


@pytest.mark.row("C17")
@pytest.mark.parametrize("where", ["/", "HOME"])
def test_places_that_are_no_cache_are_spared(place: Place, where: str) -> None:
    home = place.base / "home"
    for name in ("templates", "disks", "Documents"):
        (home / name).mkdir(exist_ok=True)
        (home / name / ("f" * 128)).write_text("precious")
    (home / "lock").symlink_to("Documents")
    before = sorted(str(path) for path in home.rglob("*"))
    done = place.run("--delete-cache", "--cache", str(home) if where == "HOME" else where)
    assert "Traceback" not in done.stderr
    assert sorted(str(path) for path in home.rglob("*")) == before


@pytest.mark.row("C17")
def test_a_build_goes_on_while_its_cache_is_to_be_deleted(place: Place) -> None:
    """The deletion waits, and says for whom; the build is unharmed."""
    assert place.run("--cache-all-templates").returncode == 0
    with TemplateCache(cache_of(place)) as building:
        building.open()
        waiting = subprocess.Popen(
            [sys.executable, "-m", "imgbuilder", "--delete-cache"],
            env=place.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert waiting.stdout is not None
        said = waiting.stdout.readline() + waiting.stdout.readline()
        assert f"waiting for pid {os.getpid()}, another pybuilder that uses the cache" in said
        assert template_of(place).exists()
    waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert not cache_of(place).exists()


@pytest.mark.row("C20")
def test_files_of_other_versions(place: Place) -> None:
    """Files of an older or newer pybuilder stay, and their records are verified."""
    assert place.run(*BUILD).returncode == 0
    cache, template = cache_of(place), template_of(place)
    for record in cache.rglob("*.json"):
        fields = json.loads(record.read_text())
        record.write_text(json.dumps({**fields, "version": 99, "mtime_ns": 1}))
    strange = [cache / "disks3" / "x", cache / "templates" / f"{'a' * 64}.v2", cache / "format"]
    for path in strange:
        path.parent.mkdir(exist_ok=True)
        path.write_text("of another version")
    (cache / "disks" / f"{template.name}.raw").chmod(0o600)
    (cache / "disks" / f"{template.name}.raw").write_bytes(b"another layout")
    shutil.rmtree(place.base / "out")
    (place.base / "out").mkdir()
    (place.base / "site" / "tiny.xz").rename(place.base / "site" / "gone.xz")
    done = place.run(*BUILD)
    assert done.returncode == 0, done.stderr
    place.built()
    for words in (["cache", "gc"], ["cache", "verify"], ["--print-cache"]):
        assert place.run(*words).returncode == 0, words
    assert all(path.read_text() == "of another version" for path in strange)
    assert place.run("--delete-cache").returncode == 0
    assert all(path.exists() for path in strange)


@pytest.mark.row("C20")
def test_a_cache_that_became_a_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("another layout")
    with TemplateCache(tmp_path / "cache") as cache, pytest.raises(WorkspaceError, match="cannot be used"):
        cache.open()
    assert (tmp_path / "cache").read_text() == "another layout"


def test_two_sources_with_the_same_template_do_not_collide(place: Place, keys: KeyMaker) -> None:
    """Same name, architecture, revision and file, other bytes: virt-builder's cache mixes them up."""
    (place.base / "other").mkdir()
    sites = {"site": place.base / "site", "other": place.base / "other"}
    second = make_site(sites["other"], keys, mark=b"other")
    second.configure(place.base / "unused")
    disks = {name: (folder / "disk.raw").read_bytes() for name, folder in sites.items()}
    assert disks["site"] != disks["other"]
    repos = place.base / "home" / ".config" / "pybuilder" / "repos.d" / "test.conf"
    texts = {
        "site": repos.read_text(),
        "other": f"[test]\nuri={sites['other']}/index.asc\ngpgkey={sites['other']}/key.gpg\n",
    }
    for round_ in range(2):
        for name in ("site", "other"):
            repos.write_text(texts[name])
            assert ("cached" in place.run("--print-cache").stdout) == (round_ == 1), (
                "each is cached on its own"
            )
            done = place.run("tiny", "-o", "x.img")
            assert done.returncode == 0, done.stderr
            image = place.base / "out" / "x.img"
            assert image.read_bytes()[2 << 20 : 7 << 20] == disks[name][2 << 20 : 7 << 20], "its filesystem"
            image.unlink()
    assert len([path for path in (cache_of(place) / "templates").iterdir() if len(path.name) == 128]) == 2

"""The cache's limit: least recently used first, never what is in use; and looking at all bytes."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from imgbuilder.appliance.instant.store import StateStore, state_folder
from imgbuilder.cache import folder
from imgbuilder.cache.store import TemplateCache
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.errors import FetchError, UsageError, WorkspaceError
from imgbuilder.events import Event, Step
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.host import paths
from imgindex.model import Entry
from tests.fakes.cached import HeldLock

pytestmark = pytest.mark.skipif(shutil.which("xz") is None, reason="the program xz is not installed")
NOISE = 100_000
"""Bytes of a template that cannot be compressed: about what each of its two layers takes."""


def make_template(folder: Path, name: str) -> Selection:
    disk = os.urandom(NOISE).ljust(1 << 20, b"\0")
    packed = lzma.compress(disk, preset=0)
    path = folder / f"{name}.xz"
    path.write_bytes(packed)
    sha = hashlib.sha512(packed).hexdigest()
    entry = Entry(name, path.name, "x86_64", len(disk), sha512=sha, format="raw", compressed_size=len(packed))
    return Selection(Source("s", str(folder / "index")), entry, str(path))


@pytest.fixture
def templates(tmp_path: Path) -> list[Selection]:
    return [make_template(tmp_path, name) for name in ("old", "middle", "new")]


def opened(root: Path, most: int | None = None) -> TemplateCache:
    cache = TemplateCache(root, limit=most)
    cache.open()
    return cache


def save_appliance(root: Path, age: int) -> StateStore:
    """Put a saved appliance of a megabyte next to the templates, used that many seconds ago."""
    store = StateStore(state_folder(root))
    store.open()
    with store.making() as new:
        assert new is not None
        (new / "memory").write_bytes(os.urandom(1 << 20))
        (new / "record.json").write_text("{}")
        store.publish(new, "a" * 40)
    moment = time.time() - age
    os.utime(store.root / ("a" * 40) / "record.json", (moment, moment))
    return store


def test_saved_appliances_count_and_go_in_their_turn(root: Path, templates: list[Selection]) -> None:
    fill(root, templates)
    store = save_appliance(root, age=10**6)
    with opened(root) as cache:
        together = cache.used()
        assert together > 1 << 20
    with opened(root, together - 1) as cache:
        assert [name for name, _size in cache.collect()] == ["a saved appliance"], "used longest ago"
        assert cache.used() <= together - (1 << 20)
    store = save_appliance(root, age=-10)
    with opened(root, store.used_bytes()) as cache:
        assert "a saved appliance" not in [name for name, _size in cache.collect()], "used last"
    assert len(store.states()) == 1


def fill(root: Path, templates: list[Selection]) -> None:
    with opened(root) as cache:
        for number, chosen in enumerate(templates):
            cache.get_disk(chosen, SourceFetcher())
            age(root, chosen, len(templates) - number)


def age(root: Path, chosen: Selection, hours: float) -> None:
    when = time.time() - hours * 3600
    for path in root.glob(f"[dt]*/{chosen.entry.sha512}*.json"):
        os.utime(path, (when, when))


def left(root: Path, templates: list[Selection]) -> list[str]:
    names = {chosen.entry.sha512: chosen.entry.os_version for chosen in templates}
    files = {
        path.name.partition(".")[0] for folder in ("templates", "disks") for path in (root / folder).iterdir()
    }
    return sorted(str(names[name]) for name in files)


def test_the_least_recently_used_goes_first(root: Path, templates: list[Selection]) -> None:
    fill(root, templates)
    with opened(root, 5 * NOISE) as cache:
        removed = cache.collect()
        assert cache.used() <= 5 * NOISE
    assert {name.split()[0] for name, _ in removed} == {"old"}
    assert all(size >= NOISE for _, size in removed)
    assert left(root, templates) == ["middle", "new"]
    assert list((root / "templates").glob(f"{templates[0].entry.sha512}*")) == []
    with opened(root, 0) as cache:
        cache.collect()
        assert cache.used() == 0
    assert left(root, templates) == []


def test_within_the_limit_nothing_goes(root: Path, templates: list[Selection]) -> None:
    fill(root, templates)
    with opened(root, 10 * NOISE) as cache:
        assert cache.collect() == []


def test_a_use_makes_it_young_again_whatever_atime_says(root: Path, templates: list[Selection]) -> None:
    fill(root, templates)
    with opened(root) as cache:
        disk = cache.get_disk(templates[0], SourceFetcher())
        os.utime(disk, (0, disk.stat().st_mtime))
    with opened(root, 3 * NOISE) as cache:
        cache.collect()
    assert "old" in left(root, templates)
    assert "middle" not in left(root, templates)


def test_a_disk_in_use_stays_until_its_build_ends(root: Path, templates: list[Selection]) -> None:
    fill(root, templates)
    with opened(root) as build, opened(root, 0) as cache:
        disk = build.get_disk(templates[0], SourceFetcher())
        cache.collect()
        assert disk.exists()
        assert left(root, templates) == ["old"]
        build.close()
        cache.collect()
        assert not disk.exists()


def test_a_fresh_disk_is_in_use_too(root: Path, templates: list[Selection]) -> None:
    with opened(root) as build, opened(root, 0) as cache:
        disk = build.get_disk(templates[0], SourceFetcher())
        cache.collect()
        assert disk.exists()


def test_an_entry_that_is_being_made_stays(root: Path, templates: list[Selection]) -> None:
    fill(root, templates)
    with HeldLock(root / "locks" / f"{templates[0].entry.sha512}.lock"), opened(root, 0) as cache:
        cache.collect()
    assert left(root, templates) == ["old"]


def test_downloads_keep_the_limit_and_the_entry_in_hand(root: Path, templates: list[Selection]) -> None:
    fill(root, templates[:2])
    with opened(root, 0) as cache:
        assert cache.get_disk(templates[2], SourceFetcher()).exists()
    assert left(root, templates) == ["new"]


def test_nothing_goes_for_what_does_not_fit_anyway(root: Path, templates: list[Selection]) -> None:
    fill(root, templates[:2])
    entry = templates[2].entry
    for size in (1 << 44, shutil.disk_usage(root).total):
        huge = replace(templates[2], entry=replace(entry, sha512="7" * 128, compressed_size=size, size=size))
        with opened(root, 3 * NOISE) as cache, pytest.raises(WorkspaceError, match="template needs"):
            cache.get_template(huge, SourceFetcher())
        assert left(root, templates) == ["middle", "old"]


def test_as_much_goes_as_is_needed_for_what_fits_then(
    root: Path, templates: list[Selection], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, templates[:2])
    usage = shutil.disk_usage(root)
    needed = templates[2].entry.compressed_size or 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=needed - NOISE))
    with opened(root, 1 << 40) as build, opened(root, 1 << 40) as cache:
        build.get_disk(templates[0], SourceFetcher())
        cache.get_template(templates[2], SourceFetcher())
        assert "old" in left(root, templates), "its disk is in use, and its template went"
        assert "new" in left(root, templates)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=0))
        before = sorted(path.name for path in root.rglob("*"))
        again = replace(
            templates[1], entry=replace(templates[1].entry, sha512="7" * 128, compressed_size=10 * NOISE)
        )
        said: list[Event] = []
        with pytest.raises(WorkspaceError, match="template needs"):
            cache.get_template(again, SourceFetcher(), said.append)
        assert not [event for event in said if isinstance(event, Step)], "no download is announced"
        assert [path.name for path in root.rglob("*") if path.name not in before] == ["7" * 128 + ".lock"]
        assert sorted(path.name for path in root.rglob("*") if path.name in before) == before


def test_a_download_that_fails_costs_nothing_else(root: Path, templates: list[Selection]) -> None:
    fill(root, templates[:2])
    missing = replace(templates[2], url=f"{templates[2].url}.gone")
    with opened(root, 0) as cache, pytest.raises(FetchError):
        cache.get_template(missing, SourceFetcher())
    assert left(root, templates) == ["middle", "old"]


def test_a_disk_that_is_removed_while_it_is_opened_is_made_anew(
    root: Path, templates: list[Selection], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, templates)
    disk = root / "disks" / f"{templates[0].entry.sha512}.raw"
    real = folder.open_own

    def too_late(path: Path) -> int | None:
        descriptor = real(path)
        path.unlink(missing_ok=True) if path == disk else None
        return descriptor

    with opened(root) as cache:
        with monkeypatch.context() as patch:
            patch.setattr("imgbuilder.cache.disks.open_own", too_late)
            assert not cache._disks.use(templates[0].entry)
        assert cache.get_disk(templates[0], SourceFetcher()).exists()


def test_partial_downloads_count_and_go(root: Path) -> None:
    with opened(root, 0) as cache:
        (root / "partial" / ("a" * 128)).write_bytes(bytes(range(256)) * 100)
        assert cache.used() > 0
        (removed,) = cache.collect()
        assert "partial download" in removed[0]
        assert cache.used() == 0


def test_files_of_others_stay_and_do_not_count(root: Path) -> None:
    with opened(root, 0) as cache:
        (root / "disks" / "precious.raw").write_bytes(b"x" * 9999)
        (root / "disks" / ("a" * 128 + ".raw")).symlink_to("precious.raw")
        assert cache.collect() == []
        assert cache.used() == 0
    assert (root / "disks" / "precious.raw").exists()


def test_default_is_a_share_of_the_disk(root: Path) -> None:
    with opened(root) as cache:
        assert cache.limit == shutil.disk_usage(root).total // 4


def test_limit_of_the_environment() -> None:
    assert paths.cache_size({}) is None
    assert paths.cache_size({"PYBUILDER_CACHE_SIZE": "10G"}) == 10 << 30
    with pytest.raises(UsageError, match="PYBUILDER_CACHE_SIZE"):
        paths.cache_size({"PYBUILDER_CACHE_SIZE": "10"})


def test_verify_removes_what_is_damaged_and_nothing_else(root: Path, templates: list[Selection]) -> None:
    fill(root, templates)
    bad = root / "templates" / str(templates[0].entry.sha512)
    status = bad.stat()
    bad.chmod(0o600)
    with bad.open("r+b") as file:
        file.seek(500)
        file.write(b"!")
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    disk = root / "disks" / f"{templates[1].entry.sha512}.raw"
    disk.chmod(0o600)
    disk.write_bytes(b"x")
    with opened(root) as cache:
        removed = cache.verify().removed
        assert sorted(name for name, _ in removed) == ["middle (unpacked disk)", "old (template)"]
        assert cache.verify()[0] == []
    assert not bad.exists()
    assert not disk.exists()
    assert (root / "templates" / str(templates[2].entry.sha512)).exists()


DAY = 24 * 3600
OTHER = "a" * 128


@pytest.fixture
def used(tmp_path: Path) -> Path:
    with TemplateCache(tmp_path / "cache") as cache:
        cache.open()
    return tmp_path / "cache"


def make(path: Path, days: float) -> Path:
    path.write_bytes(b"x")
    when = time.time() - days * DAY
    os.utime(path, (when, when))
    return path


def reopen(used: Path) -> None:
    with TemplateCache(used) as cache:
        cache.open()


@pytest.mark.row("C18")
def test_thousands_of_stale_parts_go(used: Path) -> None:
    for number in range(2000):
        make(used / "templates" / f".part-{number}", 8)
    reopen(used)
    assert list((used / "templates").iterdir()) == []


@pytest.mark.row("C18")
def test_only_old_unfinished_files_of_ours_go(used: Path) -> None:
    gone = [
        make(used / "disks" / ".part-a", 8),
        make(used / "partial" / ".part-b", 8),
        make(used / "partial" / OTHER, 8),
        make(used / "partial" / f"{OTHER}.json", 9),
        make(used / "partial" / ("b" * 128 + ".json"), 8),
    ]
    kept = [
        make(used / "disks" / ".part-young", 6),
        make(used / "disks" / ".part-of-tomorrow", -1),
        make(used / "disks" / f"{OTHER}.raw", 99),
        make(used / "templates" / OTHER, 99),
        make(used / "templates" / "README", 99),
        make(used / "partial" / "notes.txt", 99),
        make(used / "partial" / ("c" * 128), 6),
        make(used / "partial" / ("c" * 128 + ".json"), 30),  # written when its download began
    ]
    (used / "partial" / ".part-folder").mkdir()
    os.utime(used / "partial" / ".part-folder", (0, 0))
    reopen(used)
    assert [path for path in gone if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []
    assert (used / "partial" / ".part-folder").is_dir()


@pytest.mark.row("C18")
def test_a_link_goes_and_what_it_names_stays(used: Path, tmp_path: Path) -> None:
    target = make(tmp_path / "target", 9)
    link = used / "disks" / ".part-link"
    link.symlink_to(target)
    os.utime(link, (0, 0), follow_symlinks=False)
    reopen(used)
    assert not link.is_symlink()
    assert target.exists()


@pytest.mark.row("C18")
def test_nothing_goes_while_somebody_else_uses_the_cache(used: Path) -> None:
    with TemplateCache(used) as other:
        other.open()
        live = make(used / "templates" / ".part-live", 8)
        reopen(used)
        assert live.exists()
    reopen(used)
    assert not live.exists()


@pytest.mark.row("C18")
def test_sweeping_leaves_the_cache_to_others(used: Path) -> None:
    """The exclusive lock is given back: two users at once, as ever."""
    make(used / "templates" / ".part-old", 8)
    with TemplateCache(used) as first, TemplateCache(used) as second:
        first.open()
        second.open()

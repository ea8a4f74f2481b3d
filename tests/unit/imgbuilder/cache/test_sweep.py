"""The sweep of unfinished files: those of killed runs are removed, those in use stay."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from imgbuilder.cache.store import TemplateCache

DAY = 24 * 3600
OTHER = "a" * 128


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with TemplateCache(tmp_path / "cache") as cache:
        cache.open()
    return tmp_path / "cache"


def make(path: Path, days: float) -> Path:
    path.write_bytes(b"x")
    when = time.time() - days * DAY
    os.utime(path, (when, when))
    return path


def reopen(root: Path) -> None:
    with TemplateCache(root) as cache:
        cache.open()


@pytest.mark.row("C18")
def test_ten_thousand_stale_parts_go(root: Path) -> None:
    for number in range(10_000):
        make(root / "templates" / f".part-{number}", 8)
    reopen(root)
    assert list((root / "templates").iterdir()) == []


@pytest.mark.row("C18")
def test_only_old_unfinished_files_of_ours_go(root: Path) -> None:
    gone = [
        make(root / "disks" / ".part-a", 8),
        make(root / "partial" / ".part-b", 8),
        make(root / "partial" / OTHER, 8),
        make(root / "partial" / f"{OTHER}.json", 9),
        make(root / "partial" / ("b" * 128 + ".json"), 8),
    ]
    kept = [
        make(root / "disks" / ".part-young", 6),
        make(root / "disks" / ".part-of-tomorrow", -1),
        make(root / "disks" / f"{OTHER}.raw", 99),
        make(root / "templates" / OTHER, 99),
        make(root / "templates" / "README", 99),
        make(root / "partial" / "notes.txt", 99),
        make(root / "partial" / ("c" * 128), 6),
        make(root / "partial" / ("c" * 128 + ".json"), 30),  # written when its download began
    ]
    (root / "partial" / ".part-folder").mkdir()
    os.utime(root / "partial" / ".part-folder", (0, 0))
    reopen(root)
    assert [path for path in gone if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []
    assert (root / "partial" / ".part-folder").is_dir()


@pytest.mark.row("C18")
def test_a_link_goes_and_what_it_names_stays(root: Path, tmp_path: Path) -> None:
    target = make(tmp_path / "target", 9)
    link = root / "disks" / ".part-link"
    link.symlink_to(target)
    os.utime(link, (0, 0), follow_symlinks=False)
    reopen(root)
    assert not link.is_symlink()
    assert target.exists()


@pytest.mark.row("C18")
def test_nothing_goes_while_somebody_else_uses_the_cache(root: Path) -> None:
    with TemplateCache(root) as other:
        other.open()
        live = make(root / "templates" / ".part-live", 8)
        reopen(root)
        assert live.exists()
    reopen(root)
    assert not live.exists()


@pytest.mark.row("C18")
def test_sweeping_leaves_the_cache_to_others(root: Path) -> None:
    """The exclusive lock is given back: two users at once, as ever."""
    make(root / "templates" / ".part-old", 8)
    with TemplateCache(root) as first, TemplateCache(root) as second:
        first.open()
        second.open()

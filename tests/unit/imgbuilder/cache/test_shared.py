"""Caches of others: read, never trusted, never written."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from imgbuilder.cache.elsewhere import Elsewhere
from imgbuilder.cache.store import TemplateCache, open_cache
from imgbuilder.events import Event, Notice, Step
from imgbuilder.host import paths
from tests.fakes.cached import DISK, ENTRY, PACKED, SHA, FakeFetcher, selection

pytestmark = pytest.mark.skipif(shutil.which("xz") is None, reason="the program xz is not installed")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    root = tmp_path / "shared"
    (root / "templates").mkdir(parents=True)
    (root / "templates" / SHA).write_bytes(PACKED)
    return root


def state(root: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in root.rglob("*"))


def test_a_template_is_taken_from_a_shared_cache(events: list[Event], shared: Path, tmp_path: Path) -> None:
    before, fetcher = state(shared), FakeFetcher()
    with TemplateCache(
        tmp_path / "own",
        elsewhere=Elsewhere(
            (
                tmp_path / "missing",
                shared,
            )
        ),
    ) as cache:
        assert cache.is_cached(ENTRY)
        cache.open()
        assert cache.get_disk(selection(), fetcher, events.append).read_bytes() == DISK
    assert fetcher.calls == []
    assert Step(f"Copying: {shared / 'templates' / SHA}") in events
    assert state(shared) == before
    own = tmp_path / "own" / "templates" / SHA
    assert own.read_bytes() == PACKED
    assert not own.samefile(shared / "templates" / SHA)
    shutil.rmtree(shared)
    with TemplateCache(tmp_path / "own", elsewhere=Elsewhere((shared,))) as cache:
        cache.open()
        assert cache.get_template(selection(), fetcher) == own
    assert fetcher.calls == []


def spoil(path: Path, how: str) -> None:
    path.unlink()
    match how:
        case "other bytes":
            path.write_bytes(bytes(len(PACKED)))
        case "longer":
            path.write_bytes(PACKED + b"x")
        case "shorter":
            path.write_bytes(PACKED[:-1])
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "dangling":
            path.symlink_to("nowhere")


@pytest.mark.row("T9")
@pytest.mark.parametrize("how", ["other bytes", "longer", "shorter", "fifo", "folder", "dangling"])
@pytest.mark.parametrize("size", [len(PACKED), None])
def test_what_is_bad_there_is_fetched(shared: Path, tmp_path: Path, how: str, size: int | None) -> None:
    spoil(shared / "templates" / SHA, how)
    fetcher = FakeFetcher()
    events: list[Event] = []
    chosen = selection(replace(ENTRY, compressed_size=size))
    with TemplateCache(tmp_path / "own", elsewhere=Elsewhere((shared,))) as cache:
        cache.open()
        assert cache.get_template(chosen, fetcher, events.append).read_bytes() == PACKED
    assert len(fetcher.calls) == 1
    warned = [event.text for event in events if isinstance(event, Notice)]
    assert len(warned) == (how in ("other bytes", "longer", "shorter"))


def test_the_second_cache_is_asked_when_the_first_is_bad(shared: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(shared, bad)
    spoil(bad / "templates" / SHA, "other bytes")
    fetcher = FakeFetcher()
    with TemplateCache(
        tmp_path / "own",
        elsewhere=Elsewhere(
            (
                bad,
                shared,
            )
        ),
    ) as cache:
        cache.open()
        cache.get_template(selection(), fetcher)
    assert fetcher.calls == []


def test_without_a_cache_of_our_own_too(shared: Path, tmp_path: Path) -> None:
    fetcher = FakeFetcher()
    with open_cache(None, tmp_path, elsewhere=Elsewhere((shared,))) as cache:
        assert cache.get_disk(selection(), fetcher).read_bytes() == DISK
    assert fetcher.calls == []


def test_the_environment_names_them() -> None:
    assert paths.shared_caches({}) == ()
    assert paths.shared_caches({"PYBUILDER_CACHE_PATH": "/a::/b/c:"}) == (Path("/a"), Path("/b/c"))


@pytest.mark.row("C15", "C16")
def test_a_cache_that_cannot_be_written_is_still_read(shared: Path, tmp_path: Path) -> None:
    """Everybody may write to it, so that nothing in it counts before it was verified."""
    shared.chmod(0o777)
    fetcher, events = FakeFetcher(), list[Event]()
    with open_cache(shared, tmp_path, events.append) as cache:
        assert cache.private
        assert cache.get_disk(selection(), fetcher).read_bytes() == DISK
    assert fetcher.calls == []
    assert next(event for event in events if isinstance(event, Notice)).text.startswith("working without")
    (shared / "templates" / SHA).chmod(0o600)
    (shared / "templates" / SHA).write_bytes(bytes(len(PACKED)))
    with open_cache(shared, tmp_path) as cache:
        assert cache.get_disk(selection(), fetcher).read_bytes() == DISK
    assert len(fetcher.calls) == 1

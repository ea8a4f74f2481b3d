"""Images of runs in the cache: made once for a disk, and gone with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgbuilder.cache.folder import CacheFolder
from imgbuilder.cache.links import links_of
from imgbuilder.cache.runs import images_over
from imgbuilder.cache.store import TemplateCache
from imgbuilder.disk import diskimage
from imgbuilder.disk.diskimage import DiskFormat
from tests.fakes.cached import DISK, FakeFetcher, needs_xz, selection

pytestmark = needs_xz
KEY = "b" * 128


class Builder:
    """Makes images over a disk, and counts them."""

    def __init__(self, disk: Path) -> None:
        self.disk, self.count = disk, 0

    def __call__(self, path: Path) -> dict[str, str]:
        self.count += 1
        path.unlink(missing_ok=True)
        diskimage.create_overlay(path, self.disk, DiskFormat.RAW, len(DISK))
        return {"template": "debian-12", "password": "secret"}


@pytest.fixture
def disk(cache: TemplateCache) -> Path:
    return cache.get_disk(selection(), FakeFetcher())


@pytest.fixture
def builder(disk: Path) -> Builder:
    return Builder(disk)


def test_an_image_is_made_once(root: Path, cache: TemplateCache, builder: Builder) -> None:
    made = cache.get_run_image(KEY, builder.disk, builder)
    again = cache.get_run_image(KEY, builder.disk, builder)
    assert builder.count == 1
    assert made.path == again.path == root / "runs" / f"{KEY}.qcow2"
    assert made.facts["password"] == again.facts["password"] == "secret"
    assert made.path.stat().st_mode & 0o777 == 0o400
    record = made.path.with_name(f"{made.path.name}.json")
    assert record.stat().st_mode & 0o777 == 0o600, "it holds a password"


@pytest.mark.row("Q3")
@pytest.mark.parametrize("change", ["image", "record", "disk"])
def test_an_image_that_changed_is_made_again(cache: TemplateCache, builder: Builder, change: str) -> None:
    path = cache.get_run_image(KEY, builder.disk, builder).path
    match change:
        case "image":
            path.chmod(0o600)
            path.write_bytes(path.read_bytes() + b"more")
        case "record":
            path.with_name(f"{path.name}.json").write_text("{")
        case "disk":  # the template has another one now
            builder.disk = builder.disk.rename(builder.disk.with_name(f"{'c' * 128}.raw"))
    cache.get_run_image(KEY, builder.disk, builder)
    assert builder.count == 2


@pytest.mark.row("Q4")
def test_an_image_in_use_stays_with_its_disk(root: Path, cache: TemplateCache, builder: Builder) -> None:
    image = cache.get_run_image(KEY, builder.disk, builder).path
    with TemplateCache(root, limit=0) as other:
        other.open()
        other.collect()
        assert other.get_run_image(KEY, builder.disk, builder).path == image
    assert builder.count == 1
    assert image.exists()
    assert builder.disk.exists()


def test_the_limit_removes_an_image_before_its_disk(
    root: Path, cache: TemplateCache, builder: Builder
) -> None:
    image = cache.get_run_image(KEY, builder.disk, builder).path
    cache.close()
    with TemplateCache(root) as other:
        other.open()
        (template,) = (root / "templates").glob("?" * 128)
        other._limit = other.used() - template.stat().st_blocks * 512 - 1
        names = [name for name, _size in other.collect()]
        assert names == ["debian-12 (template)", "debian-12 (image of a run)"]
        assert not image.exists()
        assert builder.disk.exists()


def test_a_disk_takes_its_images_with_it(root: Path, cache: TemplateCache, builder: Builder) -> None:
    image = cache.get_run_image(KEY, builder.disk, builder).path
    folder = CacheFolder(root)
    assert images_over(folder, builder.disk) == [image]
    cache.close()
    with TemplateCache(root, limit=0) as other:
        other.open()
        other.collect()
        assert not builder.disk.exists()
        assert list(folder.runs.iterdir()) == []


def test_an_image_of_the_cache_is_no_link_and_does_not_keep_the_cache(
    root: Path, cache: TemplateCache, builder: Builder
) -> None:
    image = cache.get_run_image(KEY, builder.disk, builder).path
    cache.add_link(builder.disk, image.resolve())
    assert links_of(builder.disk) == []
    (root / "runs/.pybuilder-x.part").touch()  # a killed build left it
    (root / "runs/.pybuilder-run-x").mkdir()
    cache.close()
    assert cache.delete()
    assert not root.exists()


def test_what_a_killed_run_left_is_removed_by_the_next(
    root: Path, cache: TemplateCache, builder: Builder
) -> None:
    left = root / f"runs/.part-{KEY}abc"
    left.touch()
    cache.get_run_image(KEY, builder.disk, builder)
    assert not left.exists()


def test_damage_is_found_by_looking_at_all_bytes(cache: TemplateCache, builder: Builder) -> None:
    image = cache.get_run_image(KEY, builder.disk, builder).path
    assert cache.verify().removed == []
    image.chmod(0o600)
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    assert [name for name, _size in cache.verify().removed] == ["debian-12 (image of a run)"]
    assert not image.exists()

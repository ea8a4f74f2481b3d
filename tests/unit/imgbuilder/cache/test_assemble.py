"""Disks that are made from blocks of older ones, whatever servers and disks do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.cache import assemble, supply
from imgbuilder.cache.elsewhere import Elsewhere
from imgbuilder.cache.store import TemplateCache
from imgbuilder.cache.supply import GAP, LARGEST, spans_of
from imgbuilder.catalog.catalog import Selection
from imgbuilder.errors import FetchError, OfflineError, ProgramKilledError
from imgbuilder.events import Event, Notice, Severity
from imgbuilder.fetch.router import OfflineFetcher, SourceFetcher
from imgbuilder.fetch.transfer import Limits
from imgbuilder.host.sparse import copy_descriptor
from imgindex.blocklist import Block, BlockList, pack_blocks
from tests.fakes.blocks import BLOCK, Site, disk
from tests.fakes.faultserver import FaultServer, Reset, answer

OLD, NEW = disk(), disk(changed=5)

pytestmark = pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")


class Had(NamedTuple):
    """The result of a build from a template: the warnings and debug lines that were shown."""

    warnings: list[str]
    lines: list[str]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(supply, "_PAUSE", 0.01)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TemplateCache]:
    with TemplateCache(tmp_path / "cache") as opened:
        opened.open()
        yield opened


@pytest.fixture
def old(tmp_path: Path, cache: TemplateCache) -> Path:
    """The first revision, which the cache has."""
    site = Site(tmp_path / "old", OLD)
    with FaultServer([site.reply]) as server:
        path = cache.get_disk(site.at(server.url), fetcher())
    assert "d.blocklist" not in site.asked, "there was nothing to compare with"
    return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "new", NEW)


def fetcher() -> SourceFetcher:
    return SourceFetcher(Limits(timeout=2, backoff=0.01, retries=0))


def take(cache: TemplateCache, selection: Selection, expected: bytes = NEW) -> Had:
    """Get the disk, and check it and what is left of the work."""
    events: list[Event] = []
    path = cache.get_disk(selection, fetcher(), events.append)
    assert path.read_bytes() == expected
    assert list((cache.root / "partial").iterdir()) == []
    notices = [event for event in events if isinstance(event, Notice)]
    warnings = [event.text for event in notices if event.severity is Severity.WARNING]
    return Had(warnings, [event.text for event in notices])


def test_an_update_fetches_what_changed(cache: TemplateCache, old: Path, site: Site) -> None:
    with FaultServer([site.reply]) as server:
        had = take(cache, site.at(server.url))
    assert had.warnings == []
    assert set(site.asked) == {"d.blocklist", "d.zst"}
    assert "" not in [part for name, part in site.requests if name == "d.zst"]
    assert site.frame_bytes < 6 * BLOCK + 1024
    assert old.read_bytes() == OLD
    site.requests.clear()
    take(cache, site.at("http://nowhere.invalid"))
    assert site.requests == []


def test_each_thread_keeps_its_connection(cache: TemplateCache, old: Path, site: Site) -> None:
    with FaultServer([site.reply], keep=True) as server:
        take(cache, site.at(server.url))
        spans = [part for _name, part in site.requests if part]
        assert len(spans) == 5
        assert 2 <= server.connections <= 1 + min(supply.CONNECTIONS, len(spans))


@pytest.mark.row("D1", "D5")
@pytest.mark.parametrize("end", [b"", b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nwrong"])
def test_a_kept_connection_that_is_not_at_its_end(
    cache: TemplateCache, old: Path, site: Site, end: bytes
) -> None:
    """The server closes it without a word, or sends more than it announced."""
    replies = lambda head: site.reply(head).replace(b"Connection: close\r\n", b"") + end  # noqa: E731
    with FaultServer([replies], keep=bool(end)) as server:
        assert take(cache, site.at(server.url)).warnings == []
    assert ("d.zst", "") not in site.requests


def test_holes_stay_holes(cache: TemplateCache, old: Path, site: Site) -> None:
    with FaultServer([site.reply]) as server:
        path = cache.get_disk(site.at(server.url), fetcher())
    assert path.stat().st_blocks * 512 <= len(NEW) - 6 * BLOCK
    assert path.stat().st_mode & 0o777 == 0o400


def test_without_an_older_disk_the_file_is_fetched(cache: TemplateCache, site: Site) -> None:
    with FaultServer([site.reply]) as server:
        take(cache, site.at(server.url))
    assert site.asked == ["d.zst"]


def test_a_disk_of_another_template_is_not_looked_at(cache: TemplateCache, old: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "other", NEW, name="other")
    with FaultServer([site.reply]) as server:
        take(cache, site.at(server.url))
    assert site.asked == ["d.zst"]


def test_when_too_much_changed_the_file_is_fetched(cache: TemplateCache, old: Path, tmp_path: Path) -> None:
    content = disk(seed=1)
    site = Site(tmp_path / "new", content)
    with FaultServer([site.reply]) as server:
        take(cache, site.at(server.url), content)
    assert site.requests == [("d.blocklist", ""), ("d.zst", "")]


def test_a_damaged_disk_is_repaired(cache: TemplateCache, site: Site) -> None:
    with FaultServer([site.reply]) as server:
        selection = site.at(server.url)
        path = cache.get_disk(selection, fetcher())
        (cache.root / "templates" / path.stem).unlink()
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.seek(10 * BLOCK)
            file.write(b"damage")
            file.seek(3 * BLOCK)
            file.write(b"not zero")
        site.requests.clear()
        take(cache, selection)
    assert site.frame_bytes < BLOCK + 1024


def test_damage_that_no_time_shows_is_repaired(cache: TemplateCache, site: Site) -> None:
    with FaultServer([site.reply]) as server:
        selection = site.at(server.url)
        path = cache.get_disk(selection, fetcher())
        (cache.root / "templates" / path.stem).unlink()
        before = path.stat()
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(b"damage")
        path.chmod(0o400)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        now = path.stat()
        record = path.with_name(f"{path.name}.json")
        record.write_text(record.read_text().replace(str(before.st_ctime_ns), str(now.st_ctime_ns)))
        assert cache.get_disk(selection, fetcher()).read_bytes() != NEW, "it looks unchanged"
        cache.close()
        cache.open()
        assert list(cache.verify(repairable=[path.stem]).kept) == [path.stem]
        site.requests.clear()
        take(cache, selection)
    assert site.frame_bytes < BLOCK + 1024


def test_a_shared_cache_gives_its_blocks(tmp_path: Path, old: Path, site: Site) -> None:
    shared = Elsewhere((old.parents[1],))
    with TemplateCache(tmp_path / "own", elsewhere=shared) as own, FaultServer([site.reply]) as server:
        own.open()
        take(own, site.at(server.url))
    assert "" not in [part for name, part in site.requests if name == "d.zst"]


def built_image(folder: Path, kind: str) -> Path:
    """Return an image that was built from the first revision, and grown."""
    image = folder / f"built.{kind}"
    raw = folder / "built"
    raw.write_bytes(b"boot".ljust(512, b"\0") + OLD[512:] + os.urandom(3 * BLOCK))
    subprocess.run(["qemu-img", "convert", "-O", kind, "-f", "raw", raw, image], check=True)
    return image


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_an_image_that_the_user_names_gives_its_blocks(tmp_path: Path, site: Site, kind: str) -> None:
    """The clusters of a qcow2 file are blocks as well."""
    named = Elsewhere(files=(built_image(tmp_path, kind),))
    with TemplateCache(tmp_path / "own", elsewhere=named) as own, FaultServer([site.reply]) as server:
        own.open()
        selection = site.at(server.url)
        foreseen = own.foresee_update(selection, fetcher())
        take(own, selection)
        assert own.foresee_update(selection, fetcher()) is None
    assert "" not in [part for name, part in site.requests if name == "d.zst"]
    assert foreseen is not None
    assert foreseen.blocks is not None
    assert foreseen.whole == min(len(site.files["d.xz"]), len(site.files["d.zst"]))
    assert foreseen.blocks <= site.frame_bytes < 8 * BLOCK


@pytest.mark.row("X25")
def test_a_file_that_changes_while_its_blocks_are_read(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No block of it is written that was not hashed as it was read."""
    image = built_image(tmp_path, "raw")

    def changing(descriptor: int, buffers: list[memoryview], place: int) -> int:
        count = real(descriptor, buffers, place)
        image.write_bytes(os.urandom(len(OLD) // 2))
        return count

    real = os.preadv
    named = Elsewhere(files=(image,))
    with TemplateCache(tmp_path / "own", elsewhere=named) as own, FaultServer([site.reply]) as server:
        own.open()
        monkeypatch.setattr(os, "preadv", changing)
        take(own, site.at(server.url))


@pytest.mark.row("X25")
@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "empty", "device"])
def test_a_file_that_cannot_be_reused(tmp_path: Path, site: Site, kind: str) -> None:
    path = tmp_path / "named"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    elif kind == "device":
        path = Path("/dev/zero")
    named = Elsewhere(files=(path,))
    with TemplateCache(tmp_path / "own", elsewhere=named) as own, FaultServer([site.reply]) as server:
        own.open()
        warnings = take(own, site.at(server.url)).warnings
    assert len(warnings) == (kind != "empty")
    assert all(f"no blocks of {path} are reused" in warning for warning in warnings)


def test_an_older_disk_that_cannot_be_read(cache: TemplateCache, old: Path, site: Site) -> None:
    old.unlink()
    old.mkdir()
    with FaultServer([site.reply]) as server:
        take(cache, site.at(server.url))
    assert "d.blocklist" not in site.asked


LISTS: dict[str, Callable[[bytes], bytes]] = {
    "of a later version": lambda data: data.replace(b"blocklist 1", b"blocklist 2"),
    "of another size": lambda data: data + bytes(64),
    "cut off": lambda data: data[:-64],
    "out of order": lambda data: data[:192] + data[256:320] + data[192:256] + data[320:],
    "of another disk": lambda data: data.replace(b"size=2097664", b"size=2097152"),
    "something else": lambda data: b"<html>".ljust(len(data)),
}


@pytest.mark.row("X23")
@pytest.mark.parametrize("kind", LISTS)
def test_a_list_that_cannot_be_used(cache: TemplateCache, old: Path, site: Site, kind: str) -> None:
    """A signed list that we cannot read may be of a later version: the file is fetched as before."""
    site.files["d.blocklist"] = LISTS[kind](site.files["d.blocklist"])
    with FaultServer([site.reply]) as server:
        had = take(cache, site.at(server.url))
    assert had.warnings == []
    assert any("block list cannot be used" in line for line in had.lines)
    assert ("d.zst", "") in site.requests


def test_a_list_that_is_not_the_one_that_was_signed(cache: TemplateCache, old: Path, site: Site) -> None:
    with FaultServer([site.reply]) as server:
        selection = site.at(server.url)
        site.files["d.blocklist"] = site.files["d.blocklist"][:-1] + b"\0"
        had = take(cache, selection)
        assert len(had.warnings) == 1
        assert f"{server.url}/d.blocklist" in had.warnings[0]
    assert ("d.zst", "") in site.requests


def test_a_list_that_is_missing(cache: TemplateCache, old: Path, site: Site) -> None:
    with FaultServer([site.reply]) as server:
        selection = site.at(server.url)
        del site.files["d.blocklist"]
        assert take(cache, selection).warnings == []
    assert ("d.zst", "") in site.requests


@pytest.mark.row("X23")
def test_blocks_that_contradict_the_list(cache: TemplateCache, old: Path, site: Site) -> None:
    """The publisher's fault: frames are those of the list, but blocks are not."""
    wrong = [block._replace(digest=bytes(32)) if block.number == 14 else block for block in site.blocks]
    blocks = BlockList(BLOCK, len(NEW), site.blocks.packed, pack_blocks(wrong))
    site.files["d.blocklist"] = blocks.to_bytes()
    with FaultServer([site.reply]) as server:
        had = take(cache, site.at(server.url))
    assert len(had.warnings) == 1
    assert "block 14" in had.warnings[0]
    assert ("d.zst", "") in site.requests


def only_whole_files(site: Site, head: bytes) -> bytes:
    return site.reply(head.replace(b"Range: ", b"X-Range: "))


def other_part(site: Site, head: bytes) -> bytes:
    return site.reply(head).replace(b"Content-Range: bytes ", b"Content-Range: bytes 1")


def other_file(site: Site, head: bytes) -> bytes:
    return site.reply(head).replace(f"/{len(site.files['d.zst'])}".encode(), b"/7")


def encoded(site: Site, head: bytes) -> bytes:
    return site.reply(head).replace(b"ETag: ", b"Content-Encoding: gzip\r\nETag: ")


def beyond(site: Site, head: bytes) -> bytes:
    site.reply(head)
    return answer(b"", f"Content-Range: bytes */{len(site.files['d.zst'])}", status="416 No")


def wrong_bytes(site: Site, head: bytes) -> bytes:
    reply = site.reply(head)
    return reply[:-100] + bytes(100)


BAD = [only_whole_files, other_part, other_file, encoded, beyond, wrong_bytes]


def with_fault(site: Site, fault: Callable[[Site, bytes], bytes]) -> Callable[[bytes], bytes]:
    """Answer requests for parts of the zstd file by a fault."""
    return lambda head: fault(site, head) if b"\r\nRange: " in head else site.reply(head)


@pytest.mark.row("X24")
@pytest.mark.parametrize("fault", BAD)
def test_a_mirror_that_is_no_good_is_named_and_dropped(
    cache: TemplateCache, old: Path, site: Site, tmp_path: Path, fault: Callable[[Site, bytes], bytes]
) -> None:
    bad = Site(tmp_path / "bad", NEW)
    with FaultServer([with_fault(bad, fault)]) as first, FaultServer([site.reply]) as second:
        had = take(cache, site.at(first.url, second.url))
        if fault is not only_whole_files:  # it serves what it can
            assert len(had.warnings) == 1
            assert first.url in had.warnings[0]
    assert ("d.zst", "") not in [*site.requests, *(bad.requests if fault is not only_whole_files else [])]


@pytest.mark.row("X24")
@pytest.mark.parametrize("fault", BAD)
def test_without_a_good_address_the_file_is_fetched(
    cache: TemplateCache, old: Path, site: Site, fault: Callable[[Site, bytes], bytes]
) -> None:
    with FaultServer([with_fault(site, fault)]) as server:
        had = take(cache, site.at(server.url))
    assert len(had.warnings) == (fault is not only_whole_files)
    assert ("d.zst", "") in site.requests


def test_answers_that_break_off_are_asked_for_again(cache: TemplateCache, old: Path, site: Site) -> None:
    count = 0

    def sometimes(head: bytes) -> bytes:
        nonlocal count
        count += 1
        reply = site.reply(head)
        return reply[:-5] if b"\r\nRange: " in head and count % 2 else reply

    with FaultServer([sometimes]) as server:
        assert take(cache, site.at(server.url)).warnings == []
    assert ("d.zst", "") not in site.requests


def test_what_was_fetched_is_not_fetched_again(cache: TemplateCache, old: Path, site: Site) -> None:
    spans = [*spans_of(block for block in site.blocks if block.number in (0, 7, 14, 21, 28))]
    given: list[bytes] = []

    def dying(head: bytes) -> bytes:
        if b"\r\nRange: " in head:
            given.append(head)
            if len(given) > 2:
                return b""
        return site.reply(head)

    with FaultServer([dying]) as server, pytest.raises(FetchError):
        cache.get_disk(site.at(server.url), fetcher())
    assert [path.suffix for path in (cache.root / "partial").iterdir()] == [".raw"]
    first = site.frame_bytes
    site.requests.clear()
    with FaultServer([site.reply]) as server:
        take(cache, site.at(server.url))
    assert len([part for _name, part in site.requests if part]) == len(spans) - 2
    assert first + site.frame_bytes < 6 * BLOCK + 1024


def test_an_update_removes_the_whole_file_that_was_begun(cache: TemplateCache, old: Path, site: Site) -> None:
    with FaultServer([site.reply]) as server:
        selection = site.at(server.url)
        assert selection.entry.zstd is not None
        begun = cache.root / "partial" / selection.entry.zstd.sha512
        begun.write_bytes(b"begun")
        begun.with_name(f"{begun.name}.json").write_text("{}")
        take(cache, selection)


def test_a_decompressor_that_is_killed_is_not_the_publishers_fault(
    cache: TemplateCache, old: Path, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "zstd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    with FaultServer([site.reply]) as server:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
            with pytest.raises(ProgramKilledError):
                cache.get_disk(site.at(server.url), fetcher())
        take(cache, site.at(server.url))
    assert ("d.zst", "") not in site.requests


def test_a_reset_is_no_end(cache: TemplateCache, old: Path, site: Site) -> None:
    with FaultServer([site.reply], [Reset()], [site.reply]) as server:
        assert take(cache, site.at(server.url)).warnings == []


def test_offline_nothing_is_asked(cache: TemplateCache, old: Path, site: Site) -> None:
    with pytest.raises(OfflineError):
        cache.get_disk(site.at("http://nowhere.invalid"), OfflineFetcher(fetcher()))


def shared_copy(source: int, destination: int) -> bool:
    """Do what a filesystem with shared extents does."""
    copy_descriptor(source, destination)
    return True


def test_a_clone_of_an_older_disk_is_proved(
    cache: TemplateCache, old: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that have zeros in the new disk become holes, whatever the clone holds."""
    old.chmod(0o600)
    with old.open("r+b") as file:
        file.seek(3 * BLOCK)
        file.write(os.urandom(2 * BLOCK))
        file.seek(0, os.SEEK_END)
        file.write(os.urandom(BLOCK))
    monkeypatch.setattr(assemble, "clone", shared_copy)
    monkeypatch.delattr(assemble, "hashed_blocks")  # the cloned disk is not read again
    with FaultServer([site.reply]) as server:
        take(cache, site.at(server.url))
        path = cache.unpacked_disk(site.at(server.url).entry)
    assert site.frame_bytes < 7 * BLOCK + 1024
    assert path is not None
    assert path.stat().st_blocks * 512 <= len(NEW) - 6 * BLOCK


def test_a_clone_whose_blocks_have_all_moved(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "moved"
    image.write_bytes(os.urandom(BLOCK) + NEW)
    monkeypatch.setattr(assemble, "clone", shared_copy)
    named = Elsewhere(files=(image,))
    with TemplateCache(tmp_path / "own", elsewhere=named) as own, FaultServer([site.reply]) as server:
        own.open()
        take(own, site.at(server.url))
    assert site.asked == ["d.blocklist"]


def why_whole(cache: TemplateCache, selection: Selection) -> str:
    foreseen = cache.foresee_update(selection, fetcher())
    assert foreseen is not None
    assert foreseen.blocks is None
    return foreseen.reason


def test_a_plan_says_why_the_whole_file_is_fetched(
    cache: TemplateCache, old: Path, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Site(tmp_path / "other", disk(seed=1))
    with FaultServer([with_fault(site, only_whole_files)]) as server, FaultServer([other.reply]) as second:
        selection = site.at(server.url)
        entry = selection.entry
        assert "parts" in why_whole(cache, selection)
        assert why_whole(cache, replace(selection, entry=replace(entry, format="qcow2"))).startswith(
            "only raw"
        )
        assert why_whole(cache, other.at(second.url)).startswith("no disk here has")
        site.files["d.blocklist"] = b"x"
        assert why_whole(cache, site.at(server.url)).startswith("the list of its blocks")
        no_list = replace(selection, entry=replace(entry, blocks=None))
        assert why_whole(cache, no_list) == "its source offers no list of its blocks"
        unknown = replace(selection, entry=replace(entry, os_version="other"))
        assert cache.foresee_update(unknown, fetcher()) is None
        monkeypatch.setenv("PATH", "/nonexistent")
        assert why_whole(cache, selection) == "zstd is not installed"


def test_a_partial_file_of_something_else_is_started_again(
    cache: TemplateCache, old: Path, site: Site
) -> None:
    with FaultServer([site.reply]) as server:
        selection = site.at(server.url)
        assert selection.entry.zstd is not None
        part = cache.root / "partial" / f"{selection.entry.zstd.sha512}.raw"
        part.write_bytes(os.urandom(len(NEW) + 12345))
        take(cache, selection)


BLOCKS = st.lists(st.tuples(st.integers(1, BLOCK + 1024), st.integers(0, 40_000)), max_size=60).map(
    lambda pairs: [
        Block(number, length, sum(a + b for a, b in pairs[:number]) + gap, b"", b"")
        for number, (length, gap) in enumerate(pairs)
    ]
)


@given(BLOCKS)
def test_requests_have_all_blocks_and_small_gaps(blocks: list[Block]) -> None:
    spans = [*spans_of(blocks)]
    assert [block for span in spans for block in span.blocks] == blocks
    for span in spans:
        assert span.end - span.start <= max(LARGEST, span.blocks[0].length)
        for one, other in zip(span.blocks, span.blocks[1:], strict=False):
            assert 0 <= other.offset - one.end <= GAP

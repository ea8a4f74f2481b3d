"""A mirror that has the former revision fetches only the frames that are new, over real HTTP."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import FetchError
from imgbuilder.events import Severity
from imgbuilder.host.fileserver import Part
from imgindex.blocklist import Block, BlockList, pack_blocks
from imgrepo.sharing import serve as module
from imgrepo.sharing.frames import parts_of, stretches
from imgrepo.sharing.mirror import MirrorRequest, MirrorResult, mirror
from imgrepo.webroot.entries import downloads_of
from tests.fakes.blocks import BLOCK, disk
from tests.unit.imgrepo.conftest import MakeTwin
from tests.unit.imgrepo.repository import Repository, debian
from tests.unit.imgrepo.sharing.conftest import Site


def first(repository: Repository) -> None:
    publish(repository, disk(1))


def second(repository: Repository) -> None:
    """Publish a revision of which three blocks are new."""
    first(repository)
    publish(repository, disk(1, changed=3))


def publish(repository: Repository, content: bytes) -> None:
    (repository.images / "a.img").write_bytes(content)
    repository.appliances.disks["a.img"] = debian()
    repository.publish(zstd_level=1)


class Copy:
    """A mirror of a site, and the parts of the zstd file that it requested."""

    def __init__(self, site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._site, self.folder = site, folder
        self.parts: list[Part] = []
        self.breaks_after: int | None = None
        folder.mkdir()
        real = module._Handler._send

        def send(handler: module._Handler, file: object, part: Part) -> None:
            if handler.path.endswith(".zst"):
                if len(self.parts) == self.breaks_after:
                    handler.close_connection = True
                    return
                self.parts.append(part)
            real(handler, file, part)  # type: ignore[arg-type]

        monkeypatch.setattr(module._Handler, "_send", send)

    def update(self, **changes: object) -> MirrorResult:
        self.parts.clear()
        repository = self._site.repository
        request = MirrorRequest(self._site.url, self.folder, repository.web / "index.gpg")
        request = dataclasses.replace(request, **changes)  # type: ignore[arg-type]
        return mirror(request, repository.services(), repository.events.append)

    @property
    def fetched(self) -> int:
        """Bytes of the zstd file that were sent."""
        return sum(part.end - part.start for part in self.parts)

    @property
    def is_right(self) -> bool:
        names = [file.name for file in downloads_of(self._site.repository.entry("a"))]
        web = self._site.repository.web
        return all((self.folder / name).read_bytes() == (web / name).read_bytes() for name in names)

    def zstd(self) -> Path:
        zstd = self._site.repository.entry("a").zstd
        assert zstd is not None
        return self.folder / zstd.file


@pytest.fixture
def site(twin: MakeTwin) -> Iterator[Site]:
    site = Site(twin(first))
    yield site
    site.close()


@pytest.fixture
def copy(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    copy = Copy(site, tmp_path / "copy", monkeypatch)
    copy.update()
    assert copy.fetched == copy.zstd().stat().st_size, "the first revision is fetched whole"
    return copy


def test_only_the_new_frames_are_fetched(site: Site, copy: Copy, twin: MakeTwin) -> None:
    twin(second)
    copy.update()
    assert 3 * BLOCK < copy.fetched < 4 * BLOCK
    assert copy.is_right
    assert not (copy.folder / ".pybuilder-mirror").exists()
    site.repository.later = timedelta(days=8)
    copy.update(prune=True)
    assert len(list(copy.folder.glob("a-*.zst"))) == 1


def test_a_disk_of_which_most_is_new_is_fetched_whole(site: Site, copy: Copy) -> None:
    publish(site.repository, disk(2))
    copy.update()
    assert copy.parts == [Part(0, copy.zstd().stat().st_size)]
    assert copy.is_right


def test_a_damaged_old_file_costs_only_its_frames(site: Site, copy: Copy, twin: MakeTwin) -> None:
    old = copy.zstd()
    data = bytearray(old.read_bytes())
    data[len(data) // 2] ^= 1
    twin(second)
    old.write_bytes(data)
    copy.update()
    assert 4 * BLOCK < copy.fetched < 5 * BLOCK
    assert copy.is_right


@pytest.mark.parametrize("name", ["a-*.blocklist", "a-*.zst"])
def test_without_the_old_files_the_whole_file_is_fetched(
    site: Site, copy: Copy, twin: MakeTwin, name: str
) -> None:
    (old,) = copy.folder.glob(name)
    old.unlink()
    twin(second)
    copy.update()
    assert copy.parts == [Part(0, copy.zstd().stat().st_size)]
    assert copy.is_right


def test_a_file_that_was_damaged_is_repaired(site: Site, copy: Copy) -> None:
    data = bytearray(copy.zstd().read_bytes())
    data[len(data) // 2] ^= 1
    copy.zstd().write_bytes(data)
    copy.update()
    assert BLOCK < copy.fetched < 2 * BLOCK
    assert copy.is_right


def test_a_broken_connection_is_continued_by_the_next_run(site: Site, copy: Copy) -> None:
    publish(site.repository, disk(1, changed=9))
    copy.breaks_after = 2
    with pytest.raises(FetchError):
        copy.update()
    assert not copy.zstd().exists()
    before, copy.breaks_after = copy.fetched, None
    copy.update()
    assert copy.is_right
    assert 9 * BLOCK < before + copy.fetched < 10 * BLOCK


def test_wrong_frames_from_the_server_never_get_the_name(
    site: Site, copy: Copy, twin: MakeTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin(second)
    real, lied = module._Handler._send, list[str]()

    def send(handler: module._Handler, file: object, part: Part) -> None:
        if handler.path.endswith(".zst") and not lied:
            lied.append(handler.path)
            handler.wfile.write(bytes(part.end - part.start))
            return
        real(handler, file, part)  # type: ignore[arg-type]

    monkeypatch.setattr(module._Handler, "_send", send)
    copy.update()
    assert lied
    assert "do not make the file that the index names" in site.repository.notices(Severity.WARNING)
    assert copy.is_right


def test_a_server_without_ranges_sends_the_whole_file(
    site: Site, copy: Copy, twin: MakeTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin(second)
    monkeypatch.setattr(module._Handler, "_range_counts", lambda *_facts: False)
    copy.update()
    assert copy.is_right


def blocks_of(numbers: set[int], seed: int) -> BlockList:
    """Make a list of blocks whose content depends on number and seed, with zeros between them."""
    rng, blocks, end, after = random.Random(seed), list[Block](), 0, 0
    for number in sorted(numbers):
        end += 20 if number > after else 0  # the frame of zeros
        version = rng.randrange(2)
        blocks.append(Block(number, 100 + version, end, b"d" * 32, f"{number:014} {version}".encode()))
        end, after = end + 100 + version, number + 1
    return BlockList(4096, 4096 * 50, end + 500, pack_blocks(blocks))


_NUMBERS = st.sets(st.integers(0, 40))


@given(st.builds(blocks_of, _NUMBERS, st.integers()), st.builds(blocks_of, _NUMBERS, st.integers()))
def test_stretches_cover_the_file_and_lie_in_the_old_one(new: BlockList, old: BlockList) -> None:
    parts = list(parts_of(new))
    assert [part.offset for part in parts] + [new.packed] == [0, *(part.end for part in parts)]
    found = stretches(new, old)
    assert [stretch.start for stretch in found] + [new.packed] == [0, *(stretch.end for stretch in found)]
    assert found[-1].old is None, "the seek table is always another one"
    there = {(block.offset, block.length, block.packed_digest) for block in old}
    for block in new:
        (stretch,) = [one for one in found if one.start <= block.offset < one.end]
        if stretch.old is not None:
            assert (stretch.old + block.offset - stretch.start, block.length, block.packed_digest) in there
        else:
            assert block.packed_digest not in {digest for _place, _length, digest in there}

"""A template that is offered twice, as xz and as zstd; and the digest of what a disk holds."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.cache import templates
from imgbuilder.cache.store import TemplateCache
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.errors import DigestMismatchError, FetchError, FileMissingError
from imgbuilder.events import Event, Notice, Step
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.host.hashing import PIECE, ContentDigest, content_digest
from imgbuilder.host.sparse import BLOCK
from imgindex.model import Entry, FurtherFile

DISK = (b"boot" + os.urandom(50_000)).ljust(3 << 20, b"\0") + b"end".ljust(512, b"\0")

pytestmark = pytest.mark.skipif(
    shutil.which("zstd") is None or shutil.which("xz") is None, reason="xz or zstd is not installed"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "d.xz").write_bytes(lzma.compress(DISK, preset=0))
    (folder / "d.zst").write_bytes(subprocess.run(["zstd", "-qc"], input=DISK, capture_output=True).stdout)
    return folder


@pytest.fixture
def offered(source: Path) -> Selection:
    def sha(name: str) -> str:
        return hashlib.sha512((source / name).read_bytes()).hexdigest()

    def size(name: str) -> int:
        return (source / name).stat().st_size

    second = FurtherFile("d.zst", sha("d.zst"), size("d.zst"))
    entry = Entry(
        "tiny", "d.xz", "x86_64", len(DISK), format="raw",
        sha512=sha("d.xz"), compressed_size=size("d.xz"), zstd=second,
    )  # fmt: skip
    index = str(source / "index")
    return Selection(Source("s", index), entry, str(source / "d.xz"))


def taken(cache: TemplateCache, offered: Selection) -> tuple[list[str], list[str]]:
    """Get the disk; return the addresses that were asked, and the notices."""
    events: list[Event] = []
    assert cache.get_disk(offered, SourceFetcher(), events.append).read_bytes() == DISK
    steps = [event.text for event in events if isinstance(event, Step)]
    asked = [text.rpartition("/")[2] for text in steps if text.startswith("Downloading")]
    return asked, [event.text for event in events if isinstance(event, Notice)]


def test_zstd_is_preferred(cache: TemplateCache, offered: Selection) -> None:
    assert cache.preferred(offered).url.endswith("/d.zst")
    assert taken(cache, offered) == (["d.zst"], [])
    assert cache.is_cached(offered.entry)
    assert cache.unpacked_disk(offered.entry) is not None
    assert taken(cache, offered) == ([], [])
    assert cache.get_template(offered, SourceFetcher()).name == offered.entry.zstd.sha512  # type: ignore[union-attr]


def test_what_is_there_is_used_first(cache: TemplateCache, offered: Selection) -> None:
    """Nothing is downloaded for the sake of quicker unpacking, unpacked twice, or kept twice."""
    plain = replace(offered, entry=replace(offered.entry, zstd=None))
    cache.get_template(plain, SourceFetcher())
    assert cache.preferred(offered).url.endswith("/d.xz")
    assert taken(cache, offered) == ([], [])
    assert [path.name for path in cache.root.glob("disks/*.raw")] == [f"{offered.entry.sha512}.raw"]


def test_without_the_program_xz_is_used(
    cache: TemplateCache, offered: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "find_program", lambda _name: None)
    assert cache.preferred(offered).url.endswith("/d.xz")
    assert taken(cache, offered) == (["d.xz"], [])


def test_an_unpacked_disk_needs_no_program(
    cache: TemplateCache, offered: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(cache, offered)
    monkeypatch.setattr(templates, "find_program", lambda _name: None)
    assert taken(cache, offered) == ([], [])


def test_a_file_that_the_source_lacks_is_replaced_by_the_other(
    cache: TemplateCache, offered: Selection, source: Path
) -> None:
    (source / "d.zst").unlink()
    asked, notices = taken(cache, offered)
    assert asked == ["d.zst", "d.xz"]
    assert len(notices) == 1
    assert "d.xz is used instead" in notices[0]
    (source / "d.xz").unlink()
    cache.delete()
    cache.open()
    with pytest.raises(FileMissingError):
        cache.get_disk(offered, SourceFetcher())


@pytest.mark.row("T9")
def test_wrong_bytes_are_no_missing_file(cache: TemplateCache, offered: Selection, source: Path) -> None:
    """Breaking one of the files must not decide which one is used."""
    file = source / "d.zst"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(DigestMismatchError):
        cache.get_disk(offered, SourceFetcher())
    file.write_bytes(b"short")
    with pytest.raises(FetchError):
        cache.get_disk(offered, SourceFetcher())


def digest_of(folder: Path, data: bytes) -> str:
    path = folder / "disk"
    with path.open("w+b") as file:
        for at in range(0, len(data), 4096):
            if any(data[at : at + 4096]):
                file.seek(at)
                file.write(data[at : at + 4096])
        file.truncate(len(data))
        return content_digest(file.fileno())


WRITES = st.lists(st.tuples(st.integers(0, 4 * PIECE), st.binary(min_size=1, max_size=50)), max_size=6)


@settings(deadline=None, max_examples=12)
@given(WRITES, st.data())
def test_the_digest_sees_bytes_and_places_and_not_holes(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    image = bytearray(4 * PIECE + 100)
    for at, piece in writes:
        image[at : at + len(piece)] = piece
    image = image[: 4 * PIECE + 100]
    listed = ContentDigest()
    for at in range(0, len(image), BLOCK):
        block = image[at : at + BLOCK]
        listed.add(at, len(block), hashlib.sha256(block).digest())
    digest = listed.finish(len(image))
    folder = tmp_path_factory.mktemp("content")
    assert digest_of(folder, bytes(image)) == digest
    image[data.draw(st.integers(0, len(image) - 1))] ^= 1
    assert digest_of(folder, bytes(image)) != digest
    assert digest_of(folder, bytes(image) + b"\0") != digest_of(folder, bytes(image))


def test_a_disk_that_was_only_touched_is_kept(cache: TemplateCache, offered: Selection) -> None:
    path = cache.get_disk(offered, SourceFetcher())
    record = json.loads(path.with_name(f"{path.name}.json").read_text())
    inode = path.stat().st_ino
    os.utime(path, ns=(1, 1))
    assert taken(cache, offered)[0] == []
    assert path.stat().st_ino == inode, "it is not unpacked again"
    again = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert again["mtime_ns"] == 1
    assert again["content"] == record["content"]


def test_a_disk_whose_bytes_changed_is_unpacked_again(cache: TemplateCache, offered: Selection) -> None:
    """Also when its times are put back."""
    path = cache.get_disk(offered, SourceFetcher())
    status = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"!")
    path.chmod(0o400)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert taken(cache, offered)[0] == []
    assert path.read_bytes() == DISK


def test_verify_looks_at_the_bytes_of_disks(cache: TemplateCache, offered: Selection) -> None:
    """Bytes that changed below the filesystem, so that no time changes."""
    path = cache.get_disk(offered, SourceFetcher())
    assert cache.verify() == ([], [], 2, {})
    record = path.with_name(f"{path.name}.json")
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(5)
        file.write(b"!")
    status = path.stat()
    fields = json.loads(record.read_text()) | {
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }
    record.write_text(json.dumps(fields))
    assert [name for name, _size in cache.verify()[0]] == ["tiny (unpacked disk)"]
    assert not path.exists()
    assert taken(cache, offered)[0] == []

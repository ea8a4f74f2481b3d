from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from imgbuilder.cache import templates as templates_module
from imgbuilder.cache.store import TemplateCache, open_cache
from imgbuilder.cli import main as cli
from imgbuilder.errors import (
    DigestMismatchError,
    DiskError,
    FetchError,
    RepositoryError,
    UnfitError,
    WorkspaceError,
)
from imgbuilder.events import Event, Notice, Severity, Step
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.urls import Address
from imgbuilder.host.locks import holders
from imgbuilder.host.sparse import disk_usage
from tests.fakes.cached import DISK, ENTRY, PACKED, SHA, URL, FakeFetcher, HeldLock, needs_xz, selection


def files(root: Path) -> set[str]:
    """Return what is in the cache, locks apart."""
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("lock")}


def test_template_is_downloaded_once(events: list[Event], cache: TemplateCache, root: Path) -> None:
    fetcher = FakeFetcher()
    path = cache.get_template(selection(), fetcher, events.append)
    assert path == root / "templates" / SHA
    assert path.read_bytes() == PACKED
    assert path.stat().st_mode & 0o777 == 0o400
    assert cache.get_template(selection(), fetcher, events.append) == path
    (call,) = fetcher.calls
    assert Address(call.url).reveal() == URL
    assert call.limit == call.expected == len(PACKED)
    assert call.proxy == "http://p"
    assert call.digest_known
    assert [event for event in events if isinstance(event, Step)] == [Step("Downloading: https://h/d.xz")]


def test_folder_is_ours_alone(cache: TemplateCache, root: Path) -> None:
    cache.get_template(selection(), FakeFetcher())
    for folder in (root, root / "templates", root / "disks", root / "locks"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_record_is_for_people_too_and_has_no_password(cache: TemplateCache, root: Path) -> None:
    cache.get_template(selection(), FakeFetcher())
    text = (root / "templates" / f"{SHA}.json").read_text()
    record = json.loads(text)
    assert (record["template"], record["source"]) == ("debian-12", "https://h/index")
    assert record["size"] == len(PACKED)
    assert "canary" not in text


@pytest.mark.row("T9")
def test_wrong_bytes_are_never_stored(cache: TemplateCache, root: Path) -> None:
    other = bytes(len(PACKED))
    with pytest.raises(DigestMismatchError) as caught:
        cache.get_template(selection(), FakeFetcher(other))
    assert "canary" not in caught.value.message
    assert files(root) == set()


def test_failed_downloads_leave_nothing(cache: TemplateCache, root: Path) -> None:
    with pytest.raises(FetchError):
        cache.get_template(selection(), FakeFetcher(FetchError("gone")))
    with pytest.raises(WorkspaceError, match="no space left") as caught:
        cache.get_template(selection(), FakeFetcher(OSError(28, "No space left on device")))
    assert str(root) in caught.value.message
    assert files(root) == set()


@pytest.mark.row("C5")
def test_space_is_checked_before_the_download(cache: TemplateCache) -> None:
    fetcher = FakeFetcher()
    with pytest.raises(WorkspaceError, match="free"):
        cache.get_template(selection(replace(ENTRY, compressed_size=1 << 60)), fetcher)
    assert fetcher.calls == []


@pytest.mark.row("P4")
def test_unknown_size_is_bounded_by_the_disk_s(cache: TemplateCache) -> None:
    fetcher = FakeFetcher()
    cache.get_template(selection(replace(ENTRY, compressed_size=None)), fetcher)
    assert fetcher.calls[0].expected is None
    assert fetcher.calls[0].limit == len(DISK) + len(DISK) // 100 + (1 << 20)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how.startswith("flip"):
        position = {"flip-start": 0, "flip-middle": len(data) // 2, "flip-end": len(data) - 1}[how]
        data[position] ^= 1
    elif how == "truncated":
        del data[-1]
    elif how == "extended":
        data += b"x"
    elif how == "empty":
        data.clear()
    path.chmod(0o600)
    if how == "replaced":
        path.unlink()
    path.write_bytes(data if how != "replaced" else bytes(len(data)))
    if how == "hole":
        os.truncate(path, len(data) // 2)
        os.truncate(path, len(data))
    path.chmod(0o400)


DAMAGES = ["flip-start", "flip-middle", "flip-end", "truncated", "extended", "empty", "replaced", "hole"]


@pytest.mark.row("C12", "T17")
@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_template_is_fetched_again(events: list[Event], cache: TemplateCache, how: str) -> None:
    fetcher = FakeFetcher()
    path = cache.get_template(selection(), fetcher)
    damage(path, how)
    cache.get_template(selection(), fetcher, events.append)
    assert path.read_bytes() == PACKED
    assert len(fetcher.calls) == 2
    assert any(isinstance(event, Notice) and event.severity is Severity.WARNING for event in events)
    cache.get_template(selection(), fetcher)
    assert len(fetcher.calls) == 2


@pytest.mark.row("C12")
def test_damage_with_the_old_time_put_back(cache: TemplateCache) -> None:
    fetcher = FakeFetcher()
    path = cache.get_template(selection(), fetcher)
    before = path.stat()
    damage(path, "flip-middle")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    cache.get_template(selection(), fetcher)
    assert path.read_bytes() == PACKED


@pytest.mark.row("C12")
def test_fetched_again_once_and_no_more(cache: TemplateCache, root: Path) -> None:
    fetcher = FakeFetcher(PACKED, b"bad")
    damage(cache.get_template(selection(), fetcher), "flip-start")
    with pytest.raises(DigestMismatchError):
        cache.get_template(selection(), fetcher)
    assert len(fetcher.calls) == 2
    assert files(root) == set()


def test_a_touched_but_good_template_is_kept(cache: TemplateCache) -> None:
    fetcher = FakeFetcher()
    path = cache.get_template(selection(), fetcher)
    os.utime(path, ns=(1, 1))
    for record in ("", "{", "[]", '{"version": 2}', "null", "[" * 100_000, '{"version": 1, "size": true}'):
        path.with_name(f"{SHA}.json").write_text(record)  # C20
        cache.get_template(selection(), fetcher)
    assert len(fetcher.calls) == 1


def test_an_unchanged_template_is_not_hashed_again(
    cache: TemplateCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.get_template(selection(), FakeFetcher())

    def hashed(_file: BinaryIO) -> str:
        raise AssertionError("it was hashed")

    monkeypatch.setattr(templates_module, "hash_stream", hashed)
    cache.get_template(selection(), FakeFetcher())


STRANGE: dict[str, Callable[[Path, Path], None]] = {
    "link": lambda path, target: path.symlink_to(target),
    "hard link": lambda path, target: path.hardlink_to(target),
    "fifo": lambda path, _target: os.mkfifo(path),
    "folder": lambda path, _target: path.mkdir(),
}


@pytest.mark.row("C14")
@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("layer", ["templates", "disks"])
def test_strange_entries_are_refused(
    cache: TemplateCache, root: Path, tmp_path: Path, make: Any, layer: str
) -> None:
    target = tmp_path / "target"
    target.write_bytes(PACKED if layer == "templates" else DISK)
    name = SHA if layer == "templates" else f"{SHA}.raw"
    make(root / layer / name, target)
    fetcher = FakeFetcher()
    with pytest.raises(WorkspaceError) as caught:
        cache.get_disk(selection(), fetcher)
    assert name in caught.value.message
    assert target.exists()
    assert fetcher.calls == []


@pytest.mark.row("C14")
def test_a_record_that_is_a_link_is_not_read(cache: TemplateCache, tmp_path: Path) -> None:
    path = cache.get_template(selection(), FakeFetcher())
    record = path.with_name(f"{SHA}.json")
    moved = tmp_path / "record"
    damage(path, "flip-start")
    status = path.stat()
    fields = json.loads(record.read_text()) | {
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }
    moved.write_text(json.dumps(fields))
    record.unlink()
    record.symlink_to(moved)
    cache.get_template(selection(), FakeFetcher())
    assert path.read_bytes() == PACKED


@needs_xz
def test_disk_is_unpacked_once(events: list[Event], cache: TemplateCache, root: Path) -> None:
    fetcher = FakeFetcher()
    path = cache.get_disk(selection(), fetcher, events.append)
    assert path == root / "disks" / f"{SHA}.raw"
    assert path.read_bytes() == DISK
    assert disk_usage(path) < len(DISK)
    assert path.stat().st_mode & 0o777 == 0o400
    inode = path.stat().st_ino
    assert cache.get_disk(selection(), fetcher, events.append).stat().st_ino == inode
    steps = [event.text for event in events if isinstance(event, Step)]
    assert steps == ["Downloading: https://h/d.xz", "Uncompressing: debian-12"]


def test_a_check_of_a_disk_is_remembered_until_the_disk_changes(cache: TemplateCache) -> None:
    checked: list[bytes] = []

    def check(image: int) -> None:
        checked.append(os.pread(image, len(DISK), 0))

    path = cache.get_disk(selection(), FakeFetcher())
    for _ in range(2):
        cache.check_once(path, "a", check)
    assert checked == [DISK]
    cache.check_once(path, "b", check)
    cache.check_once(path, "b", check)
    assert len(checked) == 2
    os.utime(path, ns=(1, 1))
    cache.check_once(path, "b", check)  # its content may be another
    assert len(checked) == 3
    assert cache.get_disk(selection(), FakeFetcher()) == path  # it is not
    cache.check_once(path, "b", check)
    assert len(checked) == 3


def test_a_failed_check_of_a_disk_is_not_remembered(cache: TemplateCache) -> None:
    def fail(_image: int) -> None:
        raise UnfitError("no")

    path = cache.get_disk(selection(), FakeFetcher())
    for _ in range(2):
        with pytest.raises(UnfitError):
            cache.check_once(path, "a", fail)
    with pytest.raises(FileNotFoundError):
        cache.check_once(path.with_name("none"), "a", fail)


@needs_xz
def test_disk_needs_no_template_once_it_is_there(cache: TemplateCache) -> None:
    fetcher = FakeFetcher()
    cache.get_disk(selection(), fetcher)
    cache.get_template(selection(), fetcher).unlink()
    cache.get_disk(selection(), fetcher)
    assert len(fetcher.calls) == 1


@pytest.mark.row("C12")
@needs_xz
@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_disk_is_unpacked_again(cache: TemplateCache, how: str) -> None:
    fetcher = FakeFetcher()
    path = cache.get_disk(selection(), fetcher)
    damage(path, how)
    cache.get_disk(selection(), fetcher)
    assert path.read_bytes() == DISK
    assert len(fetcher.calls) == 1


@needs_xz
def test_the_same_digest_with_another_size_is_no_other_disk(cache: TemplateCache) -> None:
    """A second source cannot make our disk pass for its own of another size."""
    cache.get_disk(selection(), FakeFetcher())
    with pytest.raises(DiskError):
        cache.get_disk(selection(replace(ENTRY, size=len(DISK) + 512)), FakeFetcher())


@needs_xz
def test_template_that_breaks_its_promise_leaves_no_disk(cache: TemplateCache, root: Path) -> None:
    with pytest.raises(RepositoryError):
        cache.get_disk(selection(replace(ENTRY, size=512)), FakeFetcher())
    assert files(root) == {f"templates/{SHA}", f"templates/{SHA}.json"}


@pytest.mark.row("C13")
def test_what_is_unpacked_is_what_was_verified(cache: TemplateCache, root: Path) -> None:
    """The file's name is given to another one between the check and the use."""
    seen = []

    def swap_then_read(source: BinaryIO, destination: Path, *_arguments: object, **_options: object) -> str:
        evil = root / "templates" / "evil"
        evil.write_bytes(bytes(len(PACKED)))
        evil.replace(root / "templates" / SHA)
        source.seek(0)
        seen.append(source.read())
        destination.write_bytes(DISK)
        return "x"

    cache.get_disk(selection(), FakeFetcher(), unpack=swap_then_read)
    assert seen == [PACKED]


@needs_xz
def test_entry_without_digest_is_fetched_each_time(cache: TemplateCache) -> None:
    bare = selection(replace(ENTRY, sha512=None))
    fetcher = FakeFetcher()
    assert cache.get_disk(bare, fetcher).read_bytes() == DISK
    assert cache.get_disk(bare, fetcher).read_bytes() == DISK
    assert len(fetcher.calls) == 2
    assert not fetcher.calls[0].digest_known  # T12
    assert not cache.is_cached(bare.entry)


@needs_xz
def test_is_cached(root: Path) -> None:
    with TemplateCache(root) as cache:
        assert not cache.is_cached(ENTRY)
        assert not root.exists()  # asking makes nothing
        cache.open()
        template = cache.get_template(selection(), FakeFetcher())
        assert cache.is_cached(ENTRY)
        damage(template, "truncated")
        assert not cache.is_cached(ENTRY)
        cache.get_disk(selection(), FakeFetcher())
        template.unlink()
        assert cache.is_cached(ENTRY)


@pytest.mark.row("B3")
@needs_xz
def test_a_private_cache_of_a_killed_run_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".pybuilder-run-dead0000"
    (left / "disks").mkdir(parents=True)
    with open_cache(None, tmp_path) as living, open_cache(None, tmp_path) as other:
        assert living.root != other.root
        assert living.root.is_dir()
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_no_cache_uses_a_private_folder_and_removes_it(tmp_path: Path) -> None:
    with open_cache(None, tmp_path) as cache:
        assert cache.root.parent == tmp_path
        assert cache.root.stat().st_mode & 0o777 == 0o700
        assert cache.get_disk(selection(), FakeFetcher()).read_bytes() == DISK
        assert files(cache.root) == {f"disks/{SHA}.raw", f"disks/{SHA}.raw.json"}  # the template is gone
    assert list(tmp_path.iterdir()) == []


def spoil(root: Path, how: str) -> None:
    match how:
        case "a file":
            root.write_bytes(b"")
            return
        case "below a file":
            root.symlink_to("/dev/null/x")
            return
    root.mkdir()
    match how:
        case "world-writable":
            root.chmod(0o777)
        case "someone else's":
            os.chown(root, 12345, 12345)
        case "a subfolder is a link":
            (root / "disks").symlink_to(root.parent)
        case "the lock is a link":
            (root / "lock").symlink_to(root.parent / "elsewhere")


@pytest.mark.row("C15", "C16")
@pytest.mark.parametrize(
    "how",
    [
        "a file", "below a file", "world-writable", "someone else's", "a subfolder is a link",
        "the lock is a link",
    ],
)  # fmt: skip
def test_unusable_cache_means_a_warning_and_none(events: list[Event], tmp_path: Path, how: str) -> None:
    if how == "someone else's" and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    root, scratch = tmp_path / "cache", tmp_path / "scratch"
    scratch.mkdir()
    spoil(root, how)
    with open_cache(root, scratch, events.append) as cache:
        assert cache.private
        assert cache.root.parent == scratch
    (event,) = events
    assert isinstance(event, Notice)
    assert "without a cache" in event.text
    assert not (tmp_path / "elsewhere").exists()


def test_no_scratch_either(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError):
        open_cache(None, tmp_path / "missing")


@pytest.mark.row("C17")
@needs_xz
def test_delete_removes_only_our_files(root: Path) -> None:
    with TemplateCache(root) as cache:
        cache.open()
        cache.get_disk(selection(), FakeFetcher())
    outside = root.parent / "precious"
    outside.write_text("x")
    (root / "templates" / ".part-abc123_x").touch()
    (root / "templates" / "notes.txt").touch()
    (root / "templates" / ("f" * 128)).symlink_to(outside)
    (root / "disks" / ("e" * 128 + ".raw")).mkdir()
    (root / "mine").touch()
    TemplateCache(root).delete()
    left = {str(path.relative_to(root)) for path in root.rglob("*")}
    strange = {"templates", "templates/notes.txt", "disks", "disks/" + "e" * 128 + ".raw"}
    assert left == {"mine", "lock", *strange}, "the lock says that templates and disks are folders of a cache"
    assert outside.read_text() == "x"
    with TemplateCache(root) as cache:
        cache.open()


@pytest.mark.row("C17")
def test_delete_removes_the_folder_when_it_is_all_ours(root: Path) -> None:
    with TemplateCache(root) as cache:
        cache.open()
        cache.get_template(selection(), FakeFetcher())
    TemplateCache(root).delete()
    assert not root.exists()
    TemplateCache(root).delete()  # nothing to do: not an error


@pytest.mark.row("C17")
@pytest.mark.parametrize("lock", [None, b"", b"mine"])
@pytest.mark.parametrize("instant", [b"", b"mine"])
def test_delete_spares_folders_that_are_no_cache(
    tmp_path: Path, lock: bytes | None, instant: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / ("f" * 128)).touch()
    (tmp_path / "disks").mkdir()
    (tmp_path / "instant").mkdir()
    (tmp_path / "instant" / "lock").write_bytes(instant)
    (tmp_path / "instant" / "notes").touch()
    if lock is not None:
        (tmp_path / "lock").write_bytes(lock)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert cli.run(["--cache", str(tmp_path), "--delete-cache"]) == 0
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
    said = capsys.readouterr().err
    assert ("nothing was deleted" in said) is (lock is not None)


@pytest.mark.parametrize("files", [{"lock": b"mine"}, {"templates/notes": b""}, {"disks": b""}])
def test_files_of_others_are_not_taken_for_a_cache(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WorkspaceError, match="is not a cache of pybuilder") as caught:
        TemplateCache(tmp_path).open()
    assert "--cache DIR" in str(caught.value.hint)
    TemplateCache(tmp_path).delete()
    for name, content in files.items():
        assert (tmp_path / name).read_bytes() == content


def test_other_files_beside_a_cache_stay(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with TemplateCache(tmp_path) as cache:
        cache.open()
    TemplateCache(tmp_path).delete()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@needs_xz
def test_a_cache_of_an_earlier_version_is_known(root: Path) -> None:
    with TemplateCache(root) as cache:
        cache.open()
        cache.get_disk(selection(), FakeFetcher())
    os.truncate(root / "lock", 0)  # what it was
    with TemplateCache(root) as cache:
        cache.open()
        assert cache.is_cached(selection().entry)
    os.truncate(root / "lock", 0)
    TemplateCache(root).delete()
    assert not root.exists()


@pytest.mark.row("C17")
def test_delete_follows_no_link(root: Path, tmp_path: Path) -> None:
    with TemplateCache(root) as cache:
        cache.open()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / SHA).touch()
    (root / "templates").rmdir()
    (root / "templates").symlink_to(elsewhere)
    TemplateCache(root).delete()
    assert (elsewhere / SHA).exists()


@pytest.mark.row("C17")
def test_delete_waits_for_builds(events: list[Event], cache: TemplateCache, root: Path) -> None:
    path = cache.get_template(selection(), FakeFetcher())
    with pytest.raises(WorkspaceError, match="in use"):
        TemplateCache(root).delete(events.append, limit=0)
    assert any(isinstance(event, Notice) and "waiting" in event.text for event in events)
    assert path.read_bytes() == PACKED
    cache.close()
    TemplateCache(root).delete(limit=0)
    assert not root.exists()


@pytest.mark.row("C9")
@needs_xz
def test_another_entry_s_lock_is_not_waited_for(cache: TemplateCache, root: Path) -> None:
    with HeldLock(root / "locks" / ("0" * 128 + ".lock")):
        events: list[Event] = []
        cache.get_disk(selection(), FakeFetcher(), events.append)
    assert not any(isinstance(event, Notice) for event in events)


@pytest.mark.row("C11")
def test_deleting_names_who_uses_the_cache(cache: TemplateCache, root: Path) -> None:
    cache.close()
    with subprocess.Popen(["flock", "--no-fork", "--shared", root / "lock", "sleep", "60"]) as holder:
        try:
            while holder.pid not in holders((root / "lock").stat()):
                assert holder.poll() is None
                time.sleep(0.01)
            events: list[Event] = []
            with pytest.raises(WorkspaceError, match=f"in use by another pybuilder, pid {holder.pid}"):
                TemplateCache(root).delete(events.append, limit=0)
            assert f"waiting for pid {holder.pid}, another pybuilder that uses the cache" in str(events)
        finally:
            holder.kill()
        holder.wait()
        assert holders((root / "lock").stat()) == []


@pytest.mark.row("C8", "C10")
@needs_xz
def test_the_lock_of_a_dead_process_is_free(cache: TemplateCache, root: Path) -> None:
    """The content of the lock file has no effect."""
    (root / "locks" / f"{SHA}.lock").write_text("12345\n")
    assert cache.get_disk(selection(), FakeFetcher()).read_bytes() == DISK


@needs_xz
def test_local_source_end_to_end(cache: TemplateCache, tmp_path: Path) -> None:
    (tmp_path / "d.xz").write_bytes(PACKED)
    chosen = selection(url=str(tmp_path / "d.xz"))
    assert cache.get_disk(chosen, SourceFetcher()).read_bytes() == DISK

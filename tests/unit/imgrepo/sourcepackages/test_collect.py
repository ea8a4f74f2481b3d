"""Sources from an archive: used, refused, or reported as missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from imgrepo.sourcepackages.tarball import LIST_NAME, OFFER_NAME
from tests.fakes.appliance import FakeAppliances
from tests.fakes.debarchive import DebArchive, sha256
from tests.fakes.keys import KeyMaker
from tests.fakes.webfolder import WebFolder
from tests.unit.imgrepo.contents.guests import STATUS, debian_guest, disk_of
from tests.unit.imgrepo.repository import image
from tests.unit.imgrepo.sourcepackages.conftest import COVERED, Bench, members


def test_exactly_what_the_licences_ask_for(bench: Bench) -> None:
    assert bench.run() == 0
    record = bench.record()
    assert record["covered"] == COVERED
    assert record["gaps"] == []
    found = members(bench.folder / "demo-sources.tar")
    texts = [OFFER_NAME, LIST_NAME]
    names = [name for name in found if name not in texts]
    assert names == sorted(names)
    assert list(found)[:2] == texts
    assert len(names) == 3 * len(COVERED)
    assert found["busybox_1%3a1.35.0-4/busybox_1.35.0.orig.tar.xz"].startswith(b"original busybox")
    listed = [line.split("\t") for line in found[LIST_NAME].decode().splitlines()[1:]]
    assert len(listed) == len(names)
    for _source, _version, file, size, digest, proof in listed:
        (data,) = [data for name, data in found.items() if name.endswith(f"/{file}")]
        assert (len(data), sha256(data)) == (int(size), digest)
        assert bench.archive.key in proof
    assert (bench.folder / OFFER_NAME).read_bytes() == found[OFFER_NAME]
    assert sorted(path.name for path in bench.folder.iterdir()) == [
        OFFER_NAME,
        "demo-sources.tar",
        "sources.json",
    ]


def test_the_same_packages_give_the_same_bytes(bench: Bench, tmp_path: Path) -> None:
    assert bench.run("--output", tmp_path / "1") == 0
    assert bench.run("--output", tmp_path / "2") == 0
    first, second = (tmp_path / number / "demo/sources/demo-sources.tar" for number in "12")
    assert first.read_bytes() == second.read_bytes()


def test_an_entry_says_whom_to_ask(bench: Bench) -> None:
    folder = bench.repository.images / "demo"
    folder.mkdir()
    bench.image.rename(folder / "demo.img")
    (folder / "entry.toml").write_text('source-offer = "sources@example.org"\n')
    assert bench.run(target=folder) == 0
    assert "ask: sources@example.org" in (folder / "sources" / OFFER_NAME).read_text()
    assert (folder / "contents/contents.json").is_file()


def test_a_second_run_asks_nobody(bench: Bench) -> None:
    assert bench.run() == 0
    before = (bench.folder / "demo-sources.tar").stat().st_mtime_ns
    asked = len(bench.web.asked)
    assert bench.run() == 0
    assert len(bench.web.asked) == asked
    assert (bench.folder / "demo-sources.tar").stat().st_mtime_ns == before


def test_a_damaged_archive_is_made_anew_from_what_is_right_in_it(bench: Bench) -> None:
    assert bench.run() == 0
    path = bench.folder / "demo-sources.tar"
    whole = path.read_bytes()
    place = whole.index(b"packaging bash")
    path.write_bytes(whole[:place] + b"P" + whole[place + 1 :])
    asked = len(bench.web.asked)
    assert bench.run() == 0
    assert path.read_bytes() == whole
    fetched = [one for _method, one in bench.web.asked[asked:] if "/pool/" in one]
    assert len(fetched) == 1
    assert "bash_5.2.15-2.debian.tar.xz" in fetched[0]


def test_gaps_are_told_by_name_and_reason(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    packages = bench.archive.suites["bookworm"]
    bench.archive.suites["bookworm"] = [one for one in packages if one[0] not in ("bash", "glibc")]
    bench.archive.add("bookworm", "bash", "5.2.15-3")
    bench.archive.write()
    assert bench.run() == 1
    said = capsys.readouterr().err
    assert "missing: bash 5.2.15-2: " in said
    assert "no longer in bookworm, bookworm-updates, bookworm-security, which have 5.2.15-3" in said
    assert "missing: glibc 2.36-9: " in said
    assert "have no source package of this name" in said
    record = bench.record()
    assert [(gap["source"], gap["version"]) for gap in record["gaps"]] == [
        ("bash", "5.2.15-2"),
        ("glibc", "2.36-9"),
    ]
    assert len(record["covered"]) == 3
    assert "bash 5.2.15-2" in (bench.folder / OFFER_NAME).read_text()


def test_a_snapshot_has_what_the_archive_no_longer_has(bench: Bench, tmp_path: Path, keys: KeyMaker) -> None:
    (tmp_path / "then").mkdir()
    old = DebArchive(tmp_path / "then", keys, bench.archive.key)
    old.add("bookworm", "bash", "5.2.15-2")
    old.write()
    packages = bench.archive.suites["bookworm"]
    bench.archive.suites["bookworm"] = [one for one in packages if one[0] != "bash"]
    bench.archive.write()
    with WebFolder(old.root) as then:
        assert bench.run("--snapshot", then.url) == 0
    assert bench.record()["covered"] == COVERED


def test_a_snapshot_gives_files_that_the_mirror_has_lost(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their digest, from the mirror's own signed list, whatever the snapshot's lists say."""
    shutil.copytree(bench.archive.root, tmp_path / "then")
    shutil.rmtree(tmp_path / "then/dists")
    (bench.archive.root / "pool/main/b/bash/bash_5.2.15.orig.tar.xz").unlink()
    assert bench.run() == 1
    assert capsys.readouterr().err.count("HTTP status code 404") == 1
    with WebFolder(tmp_path / "then") as then:
        assert bench.run("--snapshot", then.url) == 0
    assert bench.record()["covered"] == COVERED


@pytest.mark.parametrize("cut", [-5, None])
def test_a_file_of_another_size_is_a_gap_that_a_snapshot_closes(
    bench: Bench, tmp_path: Path, cut: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bench.archive.root, tmp_path / "then")
    shutil.rmtree(tmp_path / "then/dists")
    victim = bench.archive.root / "pool/main/g/glibc/glibc_2.36.orig.tar.xz"
    victim.write_bytes(victim.read_bytes()[:cut] if cut else victim.read_bytes() + b"more")
    assert bench.run() == 1
    assert "missing: glibc 2.36-9: " in capsys.readouterr().err
    record = bench.record()
    assert [(gap["source"], gap["version"]) for gap in record["gaps"]] == [("glibc", "2.36-9")]
    assert "glibc_2.36.orig.tar.xz: the server announces" in record["gaps"][0]["reason"]
    assert len(record["covered"]) == 4
    assert "glibc 2.36-9" in (bench.folder / OFFER_NAME).read_text()
    with WebFolder(tmp_path / "then") as then:
        assert bench.run("--snapshot", then.url) == 0
    assert bench.record()["covered"] == COVERED


def test_an_archive_of_another_image_is_not_taken_for_this_ones(bench: Bench) -> None:
    assert bench.run() == 0
    before = bench.record()
    image(bench.image, b"another one")
    assert bench.run() == 0
    after = bench.record()
    assert after["image"]["sha512"] != before["image"]["sha512"]
    assert after["sha512"] == before["sha512"], "the packages are the same"


def test_a_record_of_other_packages_is_made_anew(bench: Bench) -> None:
    assert bench.run() == 0
    record = bench.record()
    (bench.folder / "sources.json").write_text(json.dumps(record | {"covered": record["covered"][1:]}))
    assert bench.run() == 0
    assert bench.record() == record


def test_only_and_dry_run(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("--dry-run", "--json") == 0
    said = json.loads(capsys.readouterr().out)["images"][0]
    assert (said["wanted"], said["files"], said["archive"]) == (5, 15, None)
    assert said["bytes"] == said["bytes-to-fetch"] > 1000
    assert not bench.folder.exists()
    assert not [path for path in bench.web.paths if "/pool/" in path]
    assert bench.run("--only", "busybox-static") == 0
    record = bench.record()
    assert [name for name, _version in record["covered"]] == ["busybox", "glibc", "libxcrypt"]
    assert {(gap["source"], gap["reason"]) for gap in record["gaps"]} == {
        ("bash", "left out by --only"),
        ("libz", "left out by --only"),
    }
    assert bench.run("--only", "missing") == 2


def test_what_was_fetched_stays_for_the_next_run(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """D8-like: a server that fails in the middle leaves no archive, and costs only the rest."""
    bench.web.refused.add("/pool/main/g/glibc/glibc_2.36.orig.tar.xz")
    assert bench.run() == 1
    assert "403" in capsys.readouterr().err
    assert not (bench.folder / "demo-sources.tar").exists()
    assert not (bench.folder / "sources.json").exists()
    bench.web.refused.clear()
    asked = len(bench.web.asked)
    assert bench.run() == 0
    fetched = [path.rpartition("/")[2] for path in bench.web.paths[asked:] if "/pool/" in path]
    assert not [name for name in fetched if name.startswith(("bash", "busybox"))]
    assert [name for name in fetched if name.startswith("glibc")]


def test_a_file_that_was_changed_here_is_fetched_anew(bench: Bench) -> None:
    victim = bench.archive.root / "pool/main/libz/libz/libz_1.0-1.dsc"
    whole = victim.read_bytes()
    victim.unlink()
    work = bench.folder / ".pybuilder-sources/files"
    work.mkdir(parents=True)
    name = sha256(whole)
    (work / name).write_bytes(b"x" * len(whole))
    assert bench.run() == 1
    assert not (bench.folder / "demo-sources.tar").exists()
    victim.write_bytes(whole)
    assert bench.run() == 0


def test_a_full_disk_is_seen_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from imgbuilder.errors import WorkspaceError

    def full(folder: Path, needed: int, what: str) -> None:
        raise WorkspaceError(f"not enough space in {folder} for {what}: {needed}")

    monkeypatch.setattr("imgrepo.sourcepackages.collect.check_space", full)
    assert bench.run() == 1
    assert "not enough space" in capsys.readouterr().err
    assert not [path for path in bench.web.paths if "/pool/" in path]


def test_a_guest_without_copyleft_needs_nothing(bench: Bench) -> None:
    status = STATUS[STATUS.index("Package: libssl3") : STATUS.index("Package: libz")]
    bench.repository.appliances = FakeAppliances({"demo.img": disk_of(debian_guest(status))})
    assert bench.run() == 0
    assert bench.record()["archive"] == ""
    assert bench.web.asked == []


def test_other_suites_by_name(bench: Bench) -> None:
    guest = debian_guest()
    guest.add("/usr/lib/os-release", 'ID=ubuntu\nVERSION_ID="24.04"\n')
    bench.repository.appliances = FakeAppliances({"demo.img": disk_of(guest)})
    assert bench.run() == 2
    assert (
        bench.run("--suite", "bookworm", "--suite", "bookworm-updates", "--suite", "bookworm-security") == 0
    )
    assert bench.record()["covered"] == COVERED

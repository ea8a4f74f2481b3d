"""The command ``update``: what is due is done, once, and what fails stops nothing else."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbuilder.host.sparse import copy_sparse
from imgbuilder.host.workspace import explain
from imgrepo.cli.main import run
from imgrepo.webroot.transaction import UPDATE_LOCK_NAME, locked
from tests.fakes.debarchive import DebArchive
from tests.unit.imgrepo.bootcheck import consoles
from tests.unit.imgrepo.repository import SIZE, debian
from tests.unit.imgrepo.updating.libraries import Library

ALL = ["debian-12", "nova", "web"]


def report(library: Library, capsys: pytest.CaptureFixture[str], code: int, *words: str) -> dict[str, object]:
    """Type the command with --json, and return what it printed."""
    capsys.readouterr()
    assert library.update("--json", *words) == code, capsys.readouterr()
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def renewed(found: dict[str, object]) -> dict[str, str]:
    rows = found["templates"]
    assert isinstance(rows, list)
    return {row["name"]: row["renewed"] for row in rows if row["renewed"]}


def test_from_nothing_through_three_weeks(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    library.settle()
    before = library.state()
    assert renewed(report(library, capsys, 0, "--dry-run")) == {
        "debian-12": "it is missing",
        "nova": "it is missing",
        "web": "its base debian-12 is renewed",
    }
    assert library.state() == before
    assert library.update() == 0
    out = capsys.readouterr().out
    assert "web        new: it is missing  boots       1 package  -        new" in out
    assert "\ndone\n" in out
    assert sorted(library.repository.names()) == ALL
    shared = [[disk.path.name for disk in launch] for launch in library.repository.appliances.launches]
    assert [one for one in shared if len(one) == 3] == [["debian-12.img", "nova.qcow2", "web.img"]] * 2, (
        "one for the packages of all, and one for what the index says of them"
    )
    assert (library.there / "index.asc").read_bytes() == (library.repository.web / "index.asc").read_bytes()
    assert (library.there / "catalogue" / "index.html").is_file()
    guest = library.repository.appliances.disks["web.img"].filesystems[2].guest
    assert guest.read("/etc/motd") == b"hello"

    after, launches = library.state(), len(library.repository.appliances.launches)
    assert report(library, capsys, 4)["outcome"] == "nothing"
    assert library.state() == after
    assert len(library.repository.appliances.launches) == launches

    library.wait(7)  # the same packages: nothing new, and no new revision
    assert renewed(report(library, capsys, 4)) == {}
    assert library.made == ["debian-12"] * 2
    assert renewed(report(library, capsys, 4)) == {}
    assert library.made == ["debian-12"] * 2, "it is not tried again the same day"

    library.wait(7)
    library.contents, library.packages = b"2", {"dash": "2"}
    library.offer(2)
    assert renewed(report(library, capsys, 0)) == {
        "debian-12": "it is 7 days old",
        "nova": "a newer one is offered",
        "web": "its base changed",
    }
    assert {name: library.repository.entry(name).revision for name in ALL} == dict.fromkeys(ALL, 2)
    assert report(library, capsys, 4)["templates"] == [
        {"name": name, "renewed": None, "steps": {}, "published": False, "problem": None} for name in ALL
    ]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda library: (library.folder / "page.html").write_text("two"), ["web"]),
        (lambda library: (library.folder / "web.toml").write_text('[[operation]]\ntouch = "/x"\n'), ["web"]),
        (lambda library: (library.folder / "web.img").unlink(), ["web"]),
        (lambda library: library.edit('"vim"', '"nano"'), ["debian-12", "web"]),
        (lambda library: library.edit('include = ["vim"]', 'include = ["vim"]\nevery = 30'), []),
        (lambda library: library.edit("[built.web]", "[built.web]\nevery = 1"), []),
    ],
    ids=["an uploaded file", "the recipe", "the image", "an option", "only the days", "days of another"],
)
def test_what_an_origin_names_decides(
    library: Library,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Library], object],
    names: list[str],
) -> None:
    assert library.update() == 0
    library.contents, library.packages = b"2", {"dash": "2"}
    change(library)
    assert list(renewed(report(library, capsys, 0 if names else 4))) == names


def test_the_facts_about_an_import_are_renewed_and_the_words_of_people_stay(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    def offer(number: int) -> None:
        disk = debian(release=f'ID=debian\nVERSION_ID="{number}"\nPRETTY_NAME="Nova {number}"\n')
        library.repository.appliances.disks["nova.qcow2"] = disk
        library.offer(number, number * SIZE)
        assert library.update() == 0, capsys.readouterr()

    def found() -> tuple[str | None, str | None, int]:
        entry = library.repository.entry("nova")
        return entry.name, entry.osinfo, entry.size

    offer(2)
    assert found() == ("Nova 2", "debian2", 2 * SIZE)
    library.repository.forget()  # another publisher, who has no record of the folder
    assert library.update() == 4
    offer(3)
    assert found() == ("Nova 3", "debian3", 3 * SIZE)
    words = ["edit", str(library.folder), "nova", "--set", "name=Our cloud", "--set", "notes=Ours"]
    assert run(words, library.repository.services()) == 0
    offer(4)
    assert found() == ("Our cloud", "debian4", 4 * SIZE)
    assert library.repository.entry("nova").notes[0].text == "Ours"


def test_an_import_is_described_as_an_entry_is(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    library.settle()
    assert library.update() == 0
    page = library.repository.web / "catalogue/templates/nova/x86_64.html"
    for shown in ('<strong class="good">Booted</strong>', "1 package"):
        assert shown in page.read_text(), "records lie next to an image without an entry"
    home, image = library.folder / "nova", library.folder / "nova.qcow2"
    words = ["entry", "new", "nova", "--library", str(library.folder), "--image", str(image), "--move"]
    more = ["--title", "Our cloud", "--licence", "MIT"]
    assert run([*words, *more], library.repository.services()) == 0, capsys.readouterr()
    assert "nova" not in renewed(report(library, capsys, 0)), "it is the same image"
    library.offer(2)
    assert library.update() == 0, capsys.readouterr()
    assert [one.name for one in home.iterdir() if one.suffix == ".qcow2"] == ["nova.qcow2"]
    assert all(one in page.read_text() for one in ("Our cloud", "MIT", "Booted"))
    assert library.repository.entry("nova").name == "Our cloud"
    assert library.repository.entry("nova").revision == 2


SOURCES = """
steps = ["sbom", "sources"]
mirror = "{server}"
security-mirror = "{server}"
suite-keyring = "distribution.gpg"
"""


def test_packages_are_listed_and_their_sources_collected_once_for_each_image(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = DebArchive(library.cloud, library.keys, library.distribution_key)
    archive.suites = {"bookworm-updates": [], "bookworm-security": []}
    files = archive.add("bookworm", "dash", "0.5.12-2")
    archive.write()
    library.edit("[imported.nova]", SOURCES.format(server=library.server) + "[imported.nova]")

    def steps(found: dict[str, object]) -> dict[str, str]:
        rows = found["templates"]
        assert isinstance(rows, list)
        (row,) = (one for one in rows if one["name"] == "debian-12")
        done: dict[str, str] = row["steps"]
        return done

    assert steps(report(library, capsys, 0, "--dry-run")) == {}, "there is no image to do it for"
    assert steps(report(library, capsys, 0)) == {"sbom": "1 package", "sources": "1 source"}
    with tarfile.open(library.folder / "debian-12.sources/debian-12-sources.tar") as tar:
        assert set(files) <= {Path(name).name for name in tar.getnames()}
    assert json.loads((library.folder / "debian-12.contents/contents.cdx.json").read_text())["components"]
    assert steps(report(library, capsys, 4)) == {}

    library.wait(7)
    library.contents, library.packages = b"2", {"dash": "2"}
    release = library.cloud / "dists/bookworm/InRelease"
    signed = release.read_bytes()
    release.write_bytes(signed.replace(b"main/source", b"main/SOURCE"))
    found = report(library, capsys, 5)
    assert steps(found) == {"sbom": "1 package", "sources": "failed"}
    assert "InRelease" in str(found["templates"])
    assert library.repository.entry("debian-12").revision == 2, "users get the new image all the same"
    release.write_bytes(signed)
    assert steps(report(library, capsys, 0)) == {"sources": "1 source"}, "only what failed is done again"
    for folder in (library.cloud / "pool", library.folder / "debian-12.sources"):
        shutil.rmtree(folder)  # what is in neither is missing
    library.wait(7)
    library.contents, library.packages = b"3", {"dash": "3"}
    assert steps(report(library, capsys, 0))["sources"] == "0 sources, 1 missing"


def test_one_failure_leaves_the_others_going(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert library.update() == 0
    library.wait(7)
    library.offer(2)
    library.fails["debian-12"] = "mmdebstrap failed"
    found = report(library, capsys, 5)
    assert found["outcome"] == "partly"
    assert renewed(found) == {"nova": "a newer one is offered"}
    assert library.repository.entry("nova").revision == 2
    assert library.repository.entry("debian-12").revision == 1
    assert not list((library.folder / ".pybuilder-update").glob("*/*")), "no half of an image is left"
    (library.cloud / "SHA512SUMS").write_text("")
    found = report(library, capsys, 5)
    assert [row["name"] for row in found["templates"] if row["problem"]] == ["debian-12", "nova"]  # type: ignore[attr-defined]


def test_what_is_built_on_an_image_that_failed_says_so(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    library.fails["debian-12"] = "mmdebstrap failed"
    rows = {row["name"]: row["problem"] for row in report(library, capsys, 5)["templates"]}  # type: ignore[attr-defined]
    assert rows["debian-12"] == "mmdebstrap failed"
    assert rows["web"].startswith("debian-12, the base of web, is missing in ")
    assert rows["web"].endswith("(library.toml says how it is made: see why debian-12 failed)")


def test_an_image_that_does_not_boot_is_not_published(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    library.settle()
    assert library.update() == 0
    library.offer(2)
    library.stub.set(consoles.PANIC)
    for _again in range(2):  # by its record, not by another boot
        found = report(library, capsys, 5)
        assert "nova.qcow2 does not boot" in str(found["templates"])
        assert library.repository.entry("nova").revision == 1
        library.stub.set(b"", "die")
    library.stub.set(consoles.DEBIAN)
    library.offer(3)
    report(library, capsys, 0)
    assert library.repository.entry("nova").revision == 2


def test_all_fail_and_the_old_library_stays(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert library.update() == 0
    index = (library.repository.web / "index.asc").read_bytes()
    for name in ("debian-12.json", "nova.json", "web.json"):
        (library.folder / ".pybuilder-update" / name).unlink()
    library.fails["debian-12"] = "mmdebstrap failed"
    (library.cloud / "SHA512SUMS").unlink()
    (library.folder / "web.toml").write_text("x")
    assert report(library, capsys, 1)["outcome"] == "failed"
    assert (library.repository.web / "index.asc").read_bytes() == index


def test_a_target_that_refuses_and_an_address_that_is_behind(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    library.settle()
    assert library.update() == 0
    library.offer(2)
    library.edit(str(library.there), f"{library.there}/none/none")
    found = report(library, capsys, 5)
    target, address = found["problems"]  # type: ignore[misc]
    assert "rsync ended with status" in target  # type: ignore[has-type]
    assert "serves a different index" in address  # type: ignore[has-type]
    library.edit(f"{library.there}/none/none", str(library.there))
    assert report(library, capsys, 0)["problems"] == []


def test_what_is_missing_is_found_before_all_work(
    library: Library, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library.settle()
    path = os.environ["PATH"]
    (library.stub.folder / "qemu-system-x86_64").rename(library.stub.folder / "gone")
    monkeypatch.setenv("PATH", f"{library.stub.folder.parent / 'bin'}:{library.tools('qemu-system-x86_64')}")
    assert library.update() == 1
    assert "qemu-system-x86_64 is not installed" in capsys.readouterr().err
    monkeypatch.setenv("PATH", path)
    (library.stub.folder / "gone").rename(library.stub.folder / "qemu-system-x86_64")
    library.edit(f'keys = ["{library.repository.key}"]', 'keys = ["missing@example.org"]')
    assert library.update() == 1
    library.edit('keys = ["missing@example.org"]', f'keys = ["{library.repository.key}"]')
    library.edit("localhost:/", "ftp://x/")
    assert library.update() == 2
    (library.folder / "library.toml").unlink()
    assert library.update() == 2
    assert "has no library.toml" in capsys.readouterr().err
    assert library.made == []


def test_two_updates_wait_for_each_other_and_an_urgent_change_for_none(
    library: Library, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert library.update() == 0
    with locked(library.repository.web, UPDATE_LOCK_NAME):
        assert library.update() == 1
        assert "another update is at work" in capsys.readouterr().err
        assert library.update("--dry-run") == 4
    (library.folder / "web.img").unlink()

    def copy(*arguments: object, **options: object) -> None:
        words = ["withdraw", str(library.folder), "nova"]
        assert run(words, library.repository.services()) == 0
        copy_sparse(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("imgrepo.updating.images.copy_sparse", copy)
    assert library.update() == 0
    assert sorted(library.repository.names()) == ["debian-12", "web"]


def test_a_full_disk_costs_what_did_not_fit(
    library: Library, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(*_arguments: object, **_options: object) -> None:
        raise explain(OSError(errno.ENOSPC, "No space left on device"), library.folder)

    monkeypatch.setattr("imgrepo.updating.images.copy_sparse", copy)
    found = report(library, capsys, 5)
    assert "No space left" in str(found["templates"])
    assert sorted(library.repository.names()) == ["debian-12", "nova"]


_EVERY = 9
"""A library is changed in over a hundred steps; the run is killed before each ninth."""
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}


def _update_and_die(library: Library, at: int) -> bool:
    """Update in a child that dies before its change number ``at`` of the library; tell whether it died."""
    child = os.fork()
    if child == 0:
        left = [at]
        folders = (str(library.folder), str(library.repository.web))

        def watch(event: str, details: tuple[object, ...]) -> None:
            writes = (
                event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if (event in _CHANGES or writes) and any(str(one).startswith(folders) for one in details[:2]):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 99
        try:
            sys.addaudithook(watch)
            code = library.update("--quiet")
        finally:
            os._exit(code)
    _pid, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) in (0, 4)
    return False


@pytest.mark.timeout(300)
def test_killed_at_any_change_the_next_run_goes_on(library: Library, tmp_path: Path) -> None:
    """The library stays valid, nothing that was made is made again, and the result is the same."""
    assert library.update() == 0
    library.wait(7)
    library.contents, library.packages = b"2", {"dash": "2"}
    library.offer(2)
    start = tmp_path / "start"
    for name in ("images", "web"):
        shutil.copytree(tmp_path / name, start / name)
    log = tmp_path / "made"
    library.log = log
    work = library.folder / ".pybuilder-update"
    complete = 0
    for at in itertools.count(1, _EVERY):
        log.write_text("")
        if not _update_and_die(library, at):
            break
        library.repository.read()
        if at % 2 == 0:
            image = (library.folder / "debian-12.img").read_bytes()[0]
            once = (work / "debian-12" / "done.json").exists() or image == ord("2")
            assert library.update("--quiet") in (0, 4)
            assert {library.repository.entry(name).revision for name in ALL} == {2}
            assert not [path for path in work.iterdir() if path.is_dir()]
            if once:
                complete += 1
                assert log.read_text() == "debian-12\n", f"made twice after a kill before change {at}"
        for name in ("images", "web"):
            shutil.rmtree(tmp_path / name)
            shutil.copytree(start / name, tmp_path / name)
    assert at > 50
    assert complete > 0

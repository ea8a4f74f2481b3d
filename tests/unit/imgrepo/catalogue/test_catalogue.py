"""The catalogue of a published library, as a publisher makes it: real signatures, real files."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgbuilder.errors import RepositoryError, TrustError, UsageError, WorkspaceError
from imgbuilder.events import Severity, ignore
from imgrepo.catalogue import make as make_module
from imgrepo.catalogue.memory import Shown, compare, files_named, next_shown, versions_of
from imgrepo.catalogue.model import Change
from imgrepo.cli.main import run
from imgrepo.images.pictures import png_size
from imgrepo.library.approval import approve
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import Package
from tests.fakes.catalogues import (
    PACKAGES,
    downloads,
    make_library,
    make_site,
    png,
    write_entry,
    write_records,
)
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.catalogue.pages import inside, pages_of
from tests.unit.imgrepo.conftest import MakeTwin
from tests.unit.imgrepo.repository import Repository

WEB = "templates/debian-web/x86_64.html"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def library(twin: MakeTwin) -> Repository:
    return twin(make_library)


@pytest.fixture
def own_library(repository: Repository) -> Repository:
    """A library whose images the publisher remembers."""
    make_library(repository)
    return repository


def site_files(library: Repository) -> dict[str, bytes]:
    return files_of(library.web / "catalogue")


def words_of(library: Repository, path: str) -> str:
    return " ".join(pages_of(site_files(library))[path].words.split())


def test_a_page_tells_all_there_is(own_library: Repository) -> None:
    result = make_site(
        own_library, base_url="http://images.example.org/", statistics=downloads(own_library, {3: 2, 5: 1})
    )
    assert (result.templates, result.changed) == (3, True)
    entry, words = own_library.entry("debian-web"), words_of(own_library, WEB)
    assert entry.sha512
    for expected in (
        "A web server of Debian 12", "serves a page that says hello", "port 8080", entry.sha512,
        own_library.key,
        "1.0 MiB", f"{entry.compressed_size} bytes", "Revision 1,", "GPL-2.0-or-later", "Grace Example",
        "Booted in 42 seconds with QEMU 7.2.11 (emulated)", "ata1: link is slow", "4 packages",
        "libc6 2.36-9 amd64", "Source packages: 1,", "sources@example.org", "1 source package is missing",
        "the archive does not have it", "3 downloads by 2 clients", "Downloads of debian-web (x86_64)",
        f"--source http://images.example.org/index.asc \\ --fingerprint {own_library.key}",
        "pybuilder debian-web --arch x86_64 \\ --source", "Build an image pybuilder debian-web Copy",
        "booted",
    ):  # fmt: skip
        assert expected in words, expected
    assert "Reviewed by" not in words
    snake = words_of(own_library, "templates/ascii-snake/x86_64.html")
    assert own_library.entry("ascii-snake").notes
    assert snake.count("It starts by itself.") == snake.count("The keys are h, j, k and l.") == 1
    (archive,) = [name for name in site_files(own_library) if name.startswith("sources/")]
    assert site_files(own_library)[archive] == b"sources of debian-web"
    plain = words_of(own_library, "templates/plain/x86_64.html")
    assert "Boot check" not in plain
    assert "Packages" not in plain
    assert "0 downloads" in plain


def test_every_link_leads_to_a_file(library: Repository) -> None:
    make_site(library, calendar=True)
    files = site_files(library)
    served = {path.name for path in library.web.iterdir()}
    for path, page in pages_of(files).items():
        assert page.problems == [], path
        for _tag, address in page.addresses():
            if address.startswith(("https://example.org/", "#")):
                continue
            target = inside(path, address.partition("#")[0])
            if target == "..":
                assert address.rpartition("/")[2] in served
            else:
                assert target in files, f"{path}: {address}"


def test_the_same_again_writes_nothing(library: Repository) -> None:
    make_site(library, calendar=True)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in library.web.rglob("*")}
    assert not make_site(library, calendar=True).changed
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in library.web.rglob("*")} == before


def test_signing_again_changes_one_small_page(own_library: Repository) -> None:
    make_site(own_library, calendar=True)
    before = site_files(own_library)
    own_library.publish(signing=own_library.signing(valid_for=timedelta(days=30)))
    make_site(own_library, calendar=True)
    after = site_files(own_library)
    assert {name for name in after if after[name] != before.get(name)} == {"signature.html"}
    assert len(after["signature.html"]) < 4096


def test_what_a_card_shows_can_be_searched_for(library: Repository) -> None:
    make_site(library)
    text = site_files(library)["index.html"].decode()
    searched = " ".join(re.findall(r'data-text="([^"]*)"', text))
    shown = re.findall(r"<p>([^<]{3,})</p>", text.partition('id="list"')[2].partition("</ul>\n<p")[0])
    assert shown
    for words in shown:
        assert words.lower() in searched


def test_the_list_leads_to_a_first_image(own_library: Repository) -> None:
    make_site(own_library, base_url="http://images.example.org/")
    words = words_of(own_library, "index.html")
    url = "http://images.example.org/index"
    add = f"curl -O {url}.gpg pybuilder source add images-example-org {url}.asc --gpgkey index.gpg"
    for expected in (add, own_library.key, "booted", "Sort by"):
        assert expected in words, expected
    packages = json.loads(site_files(own_library)["packages.json"])
    rows = re.findall(r'data-name="([^"]*)"', site_files(own_library)["index.html"].decode())
    first, count = packages["libc6"]["2.36-9"]
    assert rows[first : first + count] == ["a web server of debian 12"]


def test_a_deprecated_template_links_to_what_replaces_it(own_library: Repository) -> None:
    words = ["plain", "--use", "debian-web", "-K", own_library.key]
    assert run(["deprecate", str(own_library.web), *words], own_library.services()) == 0
    make_site(own_library)
    for page in ("index.html", "templates/plain/x86_64.html"):
        (notice,) = re.findall(r'<p class="notice">.*?</p>', site_files(own_library)[page].decode())
        assert "templates/debian-web/x86_64.html" in notice


def test_the_top_of_the_folder_leads_to_the_pages(own_library: Repository) -> None:
    start = own_library.web / "index.html"
    make_site(own_library)
    assert 'url=catalogue/"' in start.read_text()
    assert start.stat().st_mode & 0o777 == 0o644
    before = start.stat().st_mtime_ns
    make_site(own_library)
    assert start.stat().st_mtime_ns == before
    start.write_text("<p>our own page</p>")
    make_site(own_library)
    assert start.read_text() == "<p>our own page</p>"


def test_what_did_not_change_keeps_its_time_and_what_is_not_needed_goes(library: Repository) -> None:
    make_site(library, calendar=True)
    site = library.web / "catalogue"
    style = (site / "style.css").stat()
    assert make_site(library, title="Another").changed
    assert not (site / "calendar").exists()
    assert (site / "style.css").stat().st_mtime_ns == style.st_mtime_ns
    assert {path.stat().st_mode & 0o777 for path in site.rglob("*")} == {0o644, 0o755}
    assert not [path for path in library.web.iterdir() if path.name.startswith(".pybuilder-run")]
    assert sorted(json.loads((site / "catalogue.json").read_text())["files"]) == sorted(site_files(library))


def test_only_what_the_index_shows(library: Repository) -> None:
    index = library.read()
    kept = [
        dataclasses.replace(entry, hidden=entry.os_version == "plain")
        for entry in index.entries
        if entry.os_version != "debian-web"
    ]
    library.rewrite(dataclasses.replace(index, entries=tuple(kept)))
    make_site(library)
    assert [path for path in site_files(library) if path.startswith("templates/")] == [
        "templates/ascii-snake/x86_64.html", "templates/ascii-snake/x86_64.png",
    ]  # fmt: skip
    everything = b"".join(site_files(library).values())
    assert b"debian-web" not in everything
    assert b"web server" not in everything


def test_a_held_back_entry_is_a_closed_door_and_nothing_else(library: Repository) -> None:
    # Published by mistake, or by another tool: the pages hold it back all the same.
    write_entry(library, "plain", day="2099-12-24", title="A surprise")
    make_site(library, calendar=True)
    files = site_files(library)
    assert not [path for path in files if "plain" in path or "later" in path]
    assert b"surprise" not in b"".join(files.values())
    assert b"plain" not in b"".join(
        files[path] for path in files if path.endswith((".html", ".xml", ".json"))
    )
    assert "24 December, closed" in words_of(library, "calendar/2099.html")
    assert "Calendar 2026" in words_of(library, "calendar/index.html")
    page = pages_of(files)["calendar/2026.html"]
    assert [values.get("class") for tag, values in page.tags if tag == "details"] == ["door", "door"]
    library.later = datetime(2100, 1, 1, tzinfo=UTC) - datetime.now(UTC)
    make_site(library, calendar=True)
    assert "A surprise" in words_of(library, "calendar/2099.html")
    assert "templates/plain/x86_64.html" in site_files(library)


def test_revisions_tell_what_changed(own_library: Repository) -> None:
    make_site(own_library)
    first = json.loads(site_files(own_library)["catalogue.json"])
    assert "Revisions" not in words_of(own_library, WEB)
    own_library.add("debian-web.img", b"new")
    own_library.publish()
    newer = [*PACKAGES[1:], ("bash", "5.3-1"), ("nginx", "1.22")]
    write_records(own_library, "debian-web", newer[1:], booted=False)
    make_site(own_library)
    words = words_of(own_library, WEB)
    assert "Packages since revision 1: 1 updated, 1 added, 1 removed" in words
    for row in ("bash 5.2.15-2 5.3-1", "dash 0.5.12-2 gone", "nginx not there 1.22"):
        assert row in words
    assert "Did not boot: no login prompt in 120 seconds" in words
    own_library.publish()
    own_library.rewrite(own_library.read())  # signed again: no new revision
    make_site(own_library)
    assert "1 updated, 1 added, 1 removed" in words_of(own_library, WEB)
    shown = {one["name"]: one for one in json.loads(site_files(own_library)["catalogue.json"])["templates"]}
    before = {one["name"]: one for one in first["templates"]}
    assert shown["plain"]["published"] == before["plain"]["published"]
    assert shown["debian-web"]["published"] > before["debian-web"]["published"]
    # A revision that the pages never showed is known by the journal, and what is older by the memory.
    for number in (3, 4):
        own_library.later = timedelta(minutes=number)
        own_library.add("debian-web.img", b"%d" % number)
        own_library.publish()
    make_site(own_library)
    page = pages_of(site_files(own_library))[WEB]
    words = " ".join(page.words.partition("Revisions")[2].split())
    assert re.findall(r"Revision (\d) 20\d\d-[^·]* UTC · \d+ bytes · disk of 1.0 MiB", words) == [
        "4",
        "3",
        "2",
        "1",
    ]
    assert words.count("1 updated, 1 added, 1 removed") == 1
    assert "new" not in words_of(own_library, "index.html").partition("A web server")[2].partition("plain")[0]


def test_the_memory_of_revisions_is_bounded() -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    shown = next_shown(None, 1, "1", day, ())
    for number in range(2, 60):
        packages = tuple((f"p{one}", str(number)) for one in range(200))
        shown = next_shown(shown, number, str(number), day, packages)
    assert [one.revision for one in shown.former] == list(range(58, 38, -1))
    assert [one.changes is not None for one in shown.former] == [True] * 5 + [False] * 15


def test_an_image_without_an_entry_has_its_records_next_to_it(own_library: Repository) -> None:
    """As made, imported and built images have them; a description is added by a folder of its name."""
    write_records(own_library, "debian-web")
    inside = own_library.images / "debian-web"
    for kind in ("boot", "contents", "sources"):
        (inside / kind).rename(own_library.images / f"debian-web.{kind}")
    for described in (True, False):
        make_site(own_library)
        words = words_of(own_library, WEB)
        for expected in ("Booted in 42 seconds", "4 packages", "Source packages: 1,"):
            assert expected in words, expected
        assert ("Grace Example" in words) is described
        assert "templates/debian-web/x86_64.png" in site_files(own_library)
        (inside / "entry.toml").unlink(missing_ok=True)


def test_records_of_another_image_are_not_shown(library: Repository) -> None:
    library.add("debian-web.img", b"another")
    library.publish()
    library.events.clear()
    make_site(library)
    words = words_of(library, WEB)
    assert "Boot check" not in words
    assert "4 packages" not in words
    warned = library.notices(Severity.WARNING).splitlines()
    assert len(warned) == 3
    assert all("a different image" in text for text in warned)
    # Packages of the published image are not forgotten when the next one is examined.
    assert "debian-web/x86_64.png" not in "".join(site_files(library))


def test_a_broken_entry_keeps_no_other(library: Repository) -> None:
    """Its template is shown as in the index, without its folder."""
    make_site(library)
    assert any(
        name.startswith("templates/ascii-snake/") and name.endswith(".png") for name in site_files(library)
    )
    (library.images / "ascii-snake" / "entry.toml").write_text("titel = 1\n")
    (library.images / "later" / "entry.toml").write_text("not-before = 'x'\n")
    make_site(library, calendar=True)
    warned = library.notices()
    assert "the entry ascii-snake is left out: " in warned
    assert "unknown key" in warned
    assert "the entry later is left out: " in warned
    assert "Snake in the terminal" in words_of(library, "templates/ascii-snake/x86_64.html")
    assert "Ada Example" not in words_of(library, "templates/ascii-snake/x86_64.html")
    assert "A web server of Debian 12" in words_of(library, WEB)
    assert not [name for name in site_files(library) if "ascii-snake" in name and name.endswith(".png")]


def test_a_replaced_archive_of_sources_is_refused(own_library: Repository) -> None:
    (archive,) = (own_library.images / "debian-web/sources").glob("*.tar")
    archive.write_bytes(b"SOURCES of debian-web")
    with pytest.raises(RepositoryError, match="not the file that its record names"):
        make_site(own_library)
    assert not (own_library.web / "catalogue").exists()
    archive.write_bytes(b"longer than it was")
    make_site(own_library)
    assert not [name for name in site_files(own_library) if name.startswith("sources/")]


@pytest.mark.parametrize("name", ["../debian-web/entry.toml", "/etc/passwd", "no-such.tar", ".hidden"])
def test_a_record_cannot_lead_elsewhere(library: Repository, name: str) -> None:
    path = library.images / "debian-web/sources/sources.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"archive": name}))
    make_site(library)
    assert not [path for path in site_files(library) if path.startswith("sources/")]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (png(5, 7), (5, 7)),
        (b"", "it is not a PNG file"),
        (b"<svg onload='alert(1)'>" + b" " * 50, "it is not a PNG file"),
        (png(5, 7)[:20], "it is not a PNG file"),
        (png(9000, 1), "it has 9000 x 1 pixels"),
        (png(5, 7) + bytes(9 << 20), "it is larger than 8 MiB"),
    ],
    ids=["good", "empty", "svg", "short", "wide", "large"],
)
def test_pictures_are_looked_at(tmp_path: Path, content: bytes, shown: object) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    assert png_size(path) == shown
    link = tmp_path / "link.png"
    link.symlink_to(path)
    assert isinstance(png_size(link), str)
    os.mkfifo(tmp_path / "pipe.png")
    assert png_size(tmp_path / "pipe.png") == "it is not a regular file"
    assert png_size(tmp_path / "none.png") is None


def test_a_folder_with_something_else_is_not_replaced(library: Repository) -> None:
    precious = library.web / "catalogue" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(UsageError, match="is not a catalogue"):
        make_site(library)
    assert precious.read_text() == "years of work"
    with pytest.raises(UsageError, match="does not exist"):
        make_site(library, output=library.base / "no" / "such")
    link = library.base / "link"
    link.symlink_to(library.web)
    with pytest.raises(UsageError, match="is not a folder"):
        make_site(library, output=link)


def test_files_that_others_put_into_the_site_stay(library: Repository) -> None:
    make_site(library, calendar=True)
    site = library.web / "catalogue"
    others = {site / "CNAME": "images.example.org", site / "calendar" / "notes" / "mine": "mine"}
    for path, text in others.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert not make_site(library, calendar=True).changed
    assert make_site(library, title="Another").changed
    assert {path: path.read_text() for path in others} == others
    assert [path.name for path in (site / "calendar").iterdir()] == ["notes"], "the catalogue's own are gone"
    assert "CNAME" not in json.loads((site / "catalogue.json").read_text())["files"]


def test_a_damaged_memory_is_reported(library: Repository) -> None:
    make_site(library)
    (library.web / "catalogue/catalogue.json").write_text('{"version": 1, "templates": 7}')
    with pytest.raises(RepositoryError, match="cannot be read"):
        make_site(library)


def test_an_index_by_another_key_is_not_shown(library: Repository) -> None:
    index = library.web / "index.asc"
    index.write_bytes(index.read_bytes().replace(b"debian-web", b"debian-wed"))
    with pytest.raises(TrustError):
        make_site(library)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_reader_never_sees_half_a_site(
    library: Repository, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr("imgrepo.catalogue.make.ctypes.CDLL", lambda *_words, **_more: object())
    make_site(library, title="one")
    start, seen, looking = library.web / "catalogue/index.html", set(), True

    def look(event: str, _details: object) -> None:
        nonlocal looking
        if looking and event in {"open", "os.rename", "os.remove", "os.rmdir"}:
            looking = False  # it opens the page itself
            seen.add(start.read_bytes().partition(b"<h1>")[2][:3] if start.exists() else b"---")
            looking = True

    sys.addaudithook(look)
    make_site(library, title="two")
    looking = False
    assert seen - {b"---"} == {b"one", b"two"}
    assert not can_exchange or b"---" not in seen


def test_a_failure_leaves_the_old_site(library: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    make_site(library, title="old")
    before = site_files(library)

    def fail(_folder: Path, *, shared: bool) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(make_module, "_open_to_readers", fail)
    with pytest.raises(WorkspaceError, match="No space left"):
        make_site(library, title="new")
    assert site_files(library) == before


def test_the_command_as_it_is_typed(library: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    services, folders = library.services(), [str(library.images), str(library.web)]
    log = library.base / "access.log"
    entry = library.entry("plain")
    log.write_text(
        f'192.0.2.1 - - [01/Nov/2026:10:00:00 +0000] "GET /{entry.file} HTTP/1.1" 200 '
        f'{entry.compressed_size} "-" "x"\n'
    )
    more = ["--calendar", "--title", "Gifts", "--base-url", "https://example.org/i", "--log", str(log)]
    assert run(["catalogue", *folders, *more], services) == 0
    assert "3 templates, written" in capsys.readouterr().out
    assert "1 download by 1 client" in words_of(library, "templates/plain/x86_64.html")
    assert "--source https://example.org/i/index.asc" in words_of(library, WEB)
    assert b'href="https://example.org/i/catalogue/atom.xml"' in site_files(library)["atom.xml"]
    assert run(["catalogue", *folders, *more], services) == 0
    assert "nothing changed" in capsys.readouterr().out
    elsewhere = library.base / "elsewhere"
    assert run(["catalogue", *folders, "--output", str(elsewhere), "-q"], services) == 0
    assert b"../../../" not in (elsewhere / WEB).read_bytes(), "from there, files cannot be linked"
    for bad in ("ftp://x/", "javascript:alert(1)", "https://x/?a=b"):
        assert run(["catalogue", *folders, "--base-url", bad], services) == 2
    log.write_text("nonsense\n")
    assert run(["catalogue", *folders, "--log", str(log)], services) == 2


def test_publishing_and_pruning_leave_it_alone(library: Repository) -> None:
    make_site(library)
    before = site_files(library)
    library.add("plain.img", b"other")
    library.later = timedelta(days=30)
    library.publish()
    assert run(["prune", str(library.web), "--grace", "0"], library.services()) == 0
    assert site_files(library) == before
    assert {entry.os_version for entry in library.read().entries} == {"ascii-snake", "debian-web", "plain"}
    # Also where the library itself is served.
    make_site(library, output=library.images / "catalogue")
    library.publish()
    assert len(library.read().entries) == 3


def package(name: str, version: str, arch: str = "amd64") -> Package:
    return Package(name, version, arch, name, version)


def test_packages_are_compared_by_name() -> None:
    before = versions_of([package("a", "1"), package("k", "1"), package("k", "2"), package("l", "1")])
    after = versions_of([package("a", "1"), package("k", "2"), package("k", "3"), package("m", "1")])
    assert compare(before, after) == (
        Change("k", "1, 2", "2, 3"), Change("l", "1", ""), Change("m", "", "1"),
    )  # fmt: skip
    several = versions_of([package("l", "1", "i386"), package("l", "1")])
    assert several == (("l:amd64", "1"), ("l:i386", "1"))


def test_dates_are_those_of_the_first_time() -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    first = next_shown(None, 1, "a", day, (("p", "1"),))
    again = next_shown(first, 1, "a", day + timedelta(days=9), None)
    assert again == first
    later = next_shown(again, 2, "b", day + timedelta(days=10), (("p", "2"),))
    assert later.published == day + timedelta(days=10)
    assert later.changes is not None
    assert later.changes.packages == (Change("p", "1", "2"),)
    assert next_shown(Shown(1, "a", day), 2, "b", day, (("p", "2"),)).changes is None


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b'{"files": ["index.html", "a/b.png"]}', ("index.html", "a/b.png")),
        (b'{"files": ["../index.asc", "/etc/passwd", ".x", "a//b", "a/../b", "a b", "x\\u0000"]}', ()),
        (b"nonsense", ()),
        (b"[]", ()),
        (b'{"files": 7}', ()),
    ],
)
def test_names_that_a_catalogue_elsewhere_gives(data: bytes, names: tuple[str, ...]) -> None:
    assert files_named(data) == names


def test_reviewers_are_shown_as_long_as_their_word_holds(
    own_library: Repository, keys: KeyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = keys.make("Alice <alice@example.org>")
    reviewers = tmp_path / "reviewers.asc"
    reviewers.write_bytes(keys.export(alice))
    folder = EntryFolder(own_library.images / "debian-web")
    (own_library.images / "debian-web.img").rename(folder.path / "debian-web.img")
    approve(folder, own_library.signing(alice), "read <b>all</b> of it", own_library.services(), ignore)
    # What was published is remembered: no image is read for this.
    monkeypatch.setattr("imgrepo.library.approval.hash_image", lambda *_: pytest.fail("an image is read"))
    make_site(own_library, reviewers=reviewers)
    words = words_of(own_library, WEB)
    assert f"Reviewed by {alice}" in words
    assert ": read <b>all</b> of it" in words
    assert b"<b>all" not in site_files(own_library)[WEB]
    alone = "is shown without its folder, only as in the index"
    assert f"ascii-snake {alone}: ascii-snake is not approved" in own_library.notices()
    approved = folder.description.read_text()
    folder.description.write_text(approved.replace("Grace Example", "Mallory"))
    make_site(own_library, reviewers=reviewers)
    words = words_of(own_library, WEB)
    assert "Reviewed by" not in words
    assert [one for one in ("Mallory", "Booted in", "4 packages") if one in words] == []
    assert f"debian-web {alone}: the approval" in own_library.notices()

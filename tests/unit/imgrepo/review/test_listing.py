"""``entry list``: states of real entries with a real signed index."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any

import pytest

from imgbuilder.errors import PybuilderError, RepositoryError
from imgbuilder.events import Event, Progress, Reporter, ignore
from imgrepo.cli.main import run
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import Verdict
from imgrepo.review.check import unmet
from imgrepo.review.listing import EntryListRequest, Row, State, list_entries
from imgrepo.review.results import Requirement
from tests.unit.imgrepo.library.entries import TEXT, add, boot
from tests.unit.imgrepo.repository import Repository, image


class Listing:
    """Lists the entries of a repository, as a function and as a command."""

    def __init__(self, repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
        self._repository, self._capsys = repository, capsys
        self.events: list[Event] = []

    def row(self, name: str = "demo", *, required: frozenset[Requirement] = frozenset()) -> Row:
        request = EntryListRequest(self._repository.images, (name,), self._repository.web, required)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("imgrepo.review.listing.unmet", unmet_with_title)
            (row,) = list_entries(request, self._repository.services(), self.events.append)
        return row

    def state(self, name: str = "demo") -> State:
        judgement = self.row(name).judgement
        assert judgement is not None
        return judgement.state

    def remarks(self, name: str = "demo") -> str:
        judgement = self.row(name).judgement
        assert judgement is not None
        return "\n".join(judgement.remarks)

    def type(self, *words: str, code: int = 0) -> str:
        command = ["entry", "list", "--library", str(self._repository.images), *words]
        self._capsys.readouterr()
        got = run(command, self._repository.services())
        said = self._capsys.readouterr()
        assert got == code, said.err
        return said.out + said.err

    def json(self, *words: str, code: int = 0) -> Any:
        data = json.loads(self.type("--json", *words, code=code))
        assert data["version"] == 1
        return {entry["name"]: entry for entry in data["entries"]}

    def read(self) -> int:
        """Return how often an image was read to its end since the last call."""
        done = [event for event in self.events if isinstance(event, Progress) and event.done == event.total]
        self.events.clear()
        return len(done)


def unmet_with_title(
    requirements: tuple[Requirement, ...], folder: EntryFolder, on_event: Reporter, **more: Any
) -> PybuilderError | None:
    """Look at requirements, but let an entry with a title be checked."""
    if requirements != (Requirement.CHECKED,):
        return unmet(requirements, folder, on_event, **more)
    if folder.read().title:
        return None
    return RepositoryError(f"{folder.name} has no title", hint="give it one")


@pytest.fixture
def listing(repository: Repository, capsys: pytest.CaptureFixture[str]) -> Listing:
    return Listing(repository, capsys)


def test_an_entry_on_its_way(repository: Repository, listing: Listing) -> None:
    folder = add(repository, text="")
    assert listing.state() is State.DRAFT
    assert listing.row().hint == "give it one"
    folder.description.write_text(TEXT)
    assert listing.state() is State.CHECKED
    assert f"pybuilder-repo boot-check {folder.path}" in str(listing.row().hint)
    boot(folder, Verdict.FAILED)
    assert listing.state() is State.CHECKED
    assert "demo did not boot: panic" in listing.remarks()
    boot(folder)
    assert listing.state() is State.BOOTED
    assert f"publish {repository.images} -o {repository.web} -K KEY" in str(listing.row().hint)
    repository.publish()
    assert listing.state() is State.LIVE
    assert listing.row().hint is None


def test_a_new_image_of_a_live_entry(repository: Repository, listing: Listing) -> None:
    boot(add(repository))
    repository.publish()
    add(repository, fill=b"new")
    assert listing.state() is State.CHECKED
    assert "an earlier revision is live" in listing.remarks()
    assert "the image of demo changed since it was booted" in listing.remarks()
    repository.publish()
    assert listing.state() is State.LIVE


def test_a_scheduled_entry(repository: Repository, listing: Listing) -> None:
    folder = add(repository, text=f"{TEXT}not-before = 2999-12-01T18:00:00Z\n")
    add(repository, "other", fill=b"y")
    assert listing.state() is State.SCHEDULED, "before anything is published"
    repository.publish()
    assert listing.state() is State.SCHEDULED
    required = listing.row(required=frozenset({Requirement.BOOTED})).judgement
    assert required is not None
    assert required.state is State.CHECKED
    boot(folder)
    required = listing.row(required=frozenset({Requirement.BOOTED})).judgement
    assert required is not None
    assert required.state is State.SCHEDULED
    assert "publish it, on 2999-12-01 18:00 UTC or later: " in str(listing.row().hint)


def test_a_live_entry_stays_live_with_a_new_description(repository: Repository, listing: Listing) -> None:
    folder = add(repository)
    repository.publish()
    folder.description.write_text('title = "Better"\n')
    assert listing.state() is State.LIVE
    assert listing.remarks() == "the current entry.toml is not published"
    assert "pybuilder-repo publish" in str(listing.row().hint)
    repository.publish()
    assert listing.remarks() == ""


def test_a_withdrawn_entry(repository: Repository, listing: Listing) -> None:
    add(repository)
    add(repository, "other", fill=b"y")
    repository.publish()
    withdraw = ["withdraw", str(repository.web), "demo", "-K", repository.key]
    assert run(withdraw, repository.services()) == 0
    assert listing.state() is State.WITHDRAWN
    assert listing.row().hint == (f"undo that: pybuilder-repo withdraw --undo {repository.web} demo -K KEY")
    repository.record.unlink()
    assert listing.state() is State.WITHDRAWN, "also where nothing is remembered of the image"
    assert listing.state("other") is State.CHECKED
    assert "its image is not recorded here" in listing.remarks("other")
    assert run([*withdraw, "--undo"], repository.services()) == 0
    assert listing.state() is State.CHECKED


def test_a_template_of_another_publisher_is_not_this_image(repository: Repository, listing: Listing) -> None:
    """The record of this folder says that the image was published, and the index names another file."""
    add(repository)
    repository.publish()
    kept = repository.record.read_bytes()
    add(repository, fill=b"new")
    repository.publish()
    add(repository)
    repository.record.write_bytes(kept)
    assert listing.state() is State.CHECKED
    assert "its image is not recorded here" in listing.remarks()


def test_images_that_were_removed_after_publishing(repository: Repository, listing: Listing) -> None:
    add(repository)
    repository.publish(remove_images=True)
    assert listing.state() is State.LIVE
    assert listing.remarks() == "its image is not in its folder any more"
    empty = repository.images / "empty"
    empty.mkdir()
    (empty / "entry.toml").write_text("")
    assert listing.state("empty") is State.DRAFT
    assert f"put its image there: {empty}/empty.qcow2" in str(listing.row("empty").hint)


def test_images_are_read_once_and_only_when_they_were_touched(
    repository: Repository, listing: Listing
) -> None:
    folder = add(repository)
    boot(folder)
    repository.publish()
    assert listing.state() is State.LIVE
    assert listing.read() == 0
    time.sleep(0.02)
    os.utime(folder.image().path, (1, 1))
    assert listing.state() is State.LIVE
    assert listing.read() == 1


def test_broken_entries_do_not_hide_others(repository: Repository, listing: Listing) -> None:
    add(repository)
    add(repository, "text", text="titel = 1\n", fill=b"y")
    add(repository, "two", fill=b"z")
    image(repository.images / "two" / "more.img", b"w")
    add(repository, "twice", fill=b"v")
    shutil.copy(repository.images / "twice" / "twice.img", repository.images)
    (repository.images / "my demo").mkdir()
    (repository.images / "my demo" / "entry.toml").write_text("")
    add(repository, "record", fill=b"u").boot.mkdir()
    (repository.images / "record" / "boot" / "boot.json").write_text("{")
    shown = listing.json(code=1)
    assert list(shown) == ["demo", "my demo", "record", "text", "twice", "two"]
    problems = {name: entry["problem"] for name, entry in shown.items() if entry["state"] == "broken"}
    assert list(problems) == ["my demo", "text", "twice", "two"]
    assert "has a name that an entry cannot have" in problems["my demo"]
    assert "unknown key" in problems["text"]
    assert "in the library's folder as well" in problems["twice"]
    assert "more than one image" in problems["two"]
    assert "boot.json cannot be read" in "\n".join(shown["record"]["remarks"])
    text = listing.type(code=1)
    assert len(text.splitlines()) == 6
    assert "text     broken  -  " in text


def test_a_damaged_record_of_the_publisher(repository: Repository, listing: Listing) -> None:
    add(repository)
    repository.publish()
    repository.record.write_text("[")
    assert "its image is not recorded here" in listing.remarks()
    (repository.web / ".pybuilder-repo-withdrawn.json").write_text("[")
    assert "cannot be read" in listing.type("--webroot", str(repository.web), code=1)


class TestCommand:
    def test_a_line_for_each(self, repository: Repository, listing: Listing) -> None:
        add(repository, text=f"{TEXT}not-before = 2999-12-01\n")
        boot(add(repository, "second-one", text=f"{TEXT}not-before = 2999-12-02T18:00:00Z\n", fill=b"y"))
        add(repository, "third", text='title = "the third"\n', fill=b"z")
        lines = listing.type().splitlines()
        assert lines == [
            "demo        draft   2999-12-01        A demo",
            "second-one  booted  2999-12-02 18:00  A demo",
            "third       draft   -                 the third",
        ]
        lines = listing.type("--long", "demo").splitlines()
        assert lines[1] == "    held back until 2999-12-01 00:00 UTC"
        assert "    demo was not booted" in lines
        assert listing.json("second-one") == {
            "second-one": {
                "name": "second-one",
                "state": "booted",
                "title": "A demo",
                "not_before": "2999-12-02T18:00:00+00:00",
                "remarks": listing.json()["second-one"]["remarks"],
                "next": listing.json()["second-one"]["next"],
                "problem": None,
            }
        }

    def test_with_a_web_root(self, repository: Repository, listing: Listing) -> None:
        add(repository)
        web = str(repository.web)
        assert "draft" in listing.type("--webroot", web), "nothing is published yet"
        repository.publish()
        assert "draft" in listing.type()
        assert "live" in listing.type("--webroot", web, "--require", "booted")

    def test_wrong_arguments(self, repository: Repository, listing: Listing) -> None:
        assert "no entries in" in listing.type()
        assert listing.json() == {}
        add(repository)
        assert "the entry demos does not exist in" in listing.type("demos", code=2)
        assert "there are: demo" in listing.type("demos", code=2)
        assert "does not exist" in listing.type("--webroot", str(repository.base / "wep"), code=2)
        assert "cannot read the folder" in listing.type("--library", str(repository.base / "x"), code=2)
        assert "liked" in listing.type("--require", "liked", code=2)

    def test_an_index_by_another_key(self, repository: Repository, listing: Listing) -> None:
        add(repository)
        repository.publish()
        data = (repository.web / "index.asc").read_bytes()
        (repository.web / "index.asc").write_bytes(data.replace(b"revision=1", b"revision=2"))
        assert "index.asc" in listing.type("--webroot", str(repository.web), code=3)


def test_listing_writes_nothing(repository: Repository, listing: Listing) -> None:
    boot(add(repository))
    repository.publish()
    before = {path: path.stat().st_mtime_ns for path in repository.base.rglob("*")}
    listing.type("--webroot", str(repository.web), "--long")
    assert {path: path.stat().st_mtime_ns for path in repository.base.rglob("*")} == before


def test_by_default_requirements_are_checked_as_by_publish(repository: Repository) -> None:
    boot(add(repository))
    request = EntryListRequest(repository.images)
    (row,) = list_entries(request, repository.services(), ignore)
    assert row.judgement is not None
    assert row.judgement.state is State.BOOTED


def test_an_entry_behind_a_link_is_listed_when_it_is_named(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = repository.base / "elsewhere"
    add(repository).path.rename(elsewhere)
    (repository.images / "demo").symlink_to(elsewhere)
    for command in (["list"], ["check", "--quick"]):
        run(["entry", *command, "demo/", "--library", str(repository.images)], repository.services())
        assert capsys.readouterr().out.startswith("demo")

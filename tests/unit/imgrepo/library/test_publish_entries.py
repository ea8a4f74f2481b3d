"""``publish`` of entries: their images, what their contributors say, their days, what is required."""

from __future__ import annotations

import dataclasses
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.events import ignore
from imgindex.model import Entry, Index, Note
from imgindex.write import write_index
from imgrepo.cli.main import run
from imgrepo.library import records
from imgrepo.library.description import Description
from imgrepo.library.folder import EntryFolder, described, find_images
from imgrepo.publishing.status import status_of
from imgrepo.review.results import Requirement
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.library.entries import TEXT, add, boot, reasons
from tests.unit.imgrepo.repository import Repository, image


def changes(repository: Repository) -> str:
    """Return the changes that ``status`` reports, one a line."""
    services, images = repository.services(), repository.images
    status = status_of(repository.web, services, ignore, images=images, within=timedelta(1))
    return "\n".join(status.changes)


def test_an_entry_is_published_with_its_description(repository: Repository) -> None:
    folder = add(repository)
    repository.add("loose.img", b"y")
    repository.publish()
    entry = repository.entry("demo")
    assert entry.name == "A demo"
    assert entry.notes == (Note("", "It serves.\n\nA page.\n\nlog in as root"),)
    assert repository.unpack(entry) == folder.image().path.read_bytes()
    assert repository.entry("loose").name == "Debian GNU/Linux 12 (bookworm)"
    before = repository.snapshot()
    assert not repository.publish().changed
    assert repository.snapshot() == before


def test_a_later_description_is_published_without_a_new_revision(repository: Repository) -> None:
    folder = add(repository)
    repository.publish()
    first = repository.entry("demo")
    folder.description.write_text('title = "Better"\n')
    assert repository.publish().changed == ("demo",)
    second = repository.entry("demo")
    assert second == dataclasses.replace(first, name="Better")
    assert len(repository.appliances.launches) == 1


def test_other_fields_of_the_index_are_kept(repository: Repository) -> None:
    add(repository)
    repository.publish()
    entry = dataclasses.replace(
        repository.entry("demo"), aliases=("d",), notes=(Note("", "x"), Note("de", "deutsch")), osinfo="own"
    )
    repository.rewrite(Index(entries=(entry,)))
    repository.publish()
    after = repository.entry("demo")
    assert (after.aliases, after.osinfo, after.revision) == (("d",), "own", 1)
    assert after.notes == (Note("", "It serves.\n\nA page.\n\nlog in as root"), Note("de", "deutsch"))


def test_an_entry_waits_for_its_day(repository: Repository) -> None:
    day = datetime.now(UTC) + timedelta(days=3)
    add(repository, text=f"{TEXT}not-before = {day:%Y-%m-%dT%H:%M:%SZ}\n")
    add(repository, "other", fill=b"y")
    result = repository.publish()
    assert repository.names() == ["other"]
    assert not result.refused
    assert f"demo.img is held back until {day:%Y-%m-%d %H:%M} UTC" in repository.notices()
    assert not list(repository.web.glob("*demo*"))
    assert "[demo]" not in repository.entry_texts()
    assert "demo.img is held back until" in changes(repository)
    repository.later = timedelta(days=4)
    repository.publish()
    assert repository.names() == ["other", "demo"]


class TestBeforeTheFirstDay:
    """A daily timer runs ``publish`` before there is anything to publish."""

    def test_nothing_fails_and_nothing_is_written(
        self, repository: Repository, capsys: pytest.CaptureFixture[str]
    ) -> None:
        add(repository, text=f"{TEXT}not-before = 2999-12-01\n")
        elsewhere = repository.base / "elsewhere"
        command = ["publish", str(repository.images), "-o", str(repository.web), "-K", repository.key]
        command += ["--to", f"host:{elsewhere}"]
        for more in ([], ["--dry-run"], []):
            assert run([*command, *more], repository.services()) == 0
            said = capsys.readouterr().out
            assert "demo.img is held back until 2999-12-01 00:00 UTC" in said
            assert f"{repository.web} stays without an index" in said
        assert not list(repository.web.glob("[!.]*"))
        assert sorted(path.name for path in repository.images.iterdir()) == ["demo"]
        add(repository, text=TEXT)
        assert repository.publish().has_index
        assert repository.names() == ["demo"]

    def test_what_is_refused_still_fails(self, repository: Repository) -> None:
        add(repository, text="not-before = 2999-12-01\n")
        add(repository, "other", text="titel = 1\n")
        with pytest.raises(RepositoryError, match=r"unknown key; demo\.img is held back"):
            repository.publish()
        assert not list(repository.web.glob("[!.]*"))

    def test_an_empty_index_is_one(self, repository: Repository, keys: KeyMaker) -> None:
        """The published index stays signed, although it is empty."""
        repository.rewrite(Index())
        (repository.web / "index.gpg").write_bytes(keys.export(repository.key, armor=True))
        add(repository, text="not-before = 2999-12-01\n")
        before = repository.snapshot()
        assert repository.publish().has_index
        assert repository.snapshot()["index.asc"] == before["index.asc"]


def test_a_live_template_stays_as_it_is_while_its_next_one_waits(repository: Repository) -> None:
    add(repository)
    repository.publish()
    first = repository.entry("demo")
    add(repository, text='title = "The next"\nnot-before = 2999-12-01\n', fill=b"y")
    assert not repository.publish(prune=True, grace=timedelta()).changed
    assert repository.entry("demo") == first
    add(repository, text='title = "The next"\n', fill=b"y")
    repository.publish()
    assert (repository.entry("demo").name, repository.entry("demo").revision) == ("The next", 2)


def test_a_dry_run_publishes_nothing_and_reports_everything(repository: Repository) -> None:
    add(repository)
    add(repository, "later", text="not-before = 2999-01-01", fill=b"y")
    result = repository.publish(dry_run=True)
    assert [entry.name for entry in result.index.entries] == ["A demo"]
    assert "later.img is held back until 2999-01-01 00:00 UTC" in repository.notices()
    assert not list(repository.web.glob("[!.]*"))


def test_images_of_entries_are_removed_and_not_missed(repository: Repository) -> None:
    folder = add(repository)
    repository.publish(remove_images=True)
    assert sorted(path.name for path in folder.path.iterdir()) == ["entry.toml"]
    repository.events.clear()
    repository.publish(prune=True, grace=timedelta())
    assert repository.names() == ["demo"]
    assert "gone" not in repository.notices()


def test_a_removed_image_is_missed_like_a_loose_one(repository: Repository) -> None:
    folder = add(repository)
    repository.publish()
    folder.image().path.unlink()
    repository.publish()
    assert "the image demo.img of the template demo is gone" in repository.notices()
    assert repository.names() == ["demo"]


def test_a_broken_entry_stops_no_other_and_its_template_stays(repository: Repository) -> None:
    folder = add(repository)
    repository.publish()
    folder.description.write_text("titel = 1\n")
    add(repository, "other", fill=b"y")
    add(repository, "second", fill=b"z")
    image(repository.images / "second" / "more.img", b"w")
    result = repository.publish(prune=True, grace=timedelta())
    assert repository.names() == ["demo", "other"]
    assert "unknown key" in reasons(result)
    assert "more than one image" in reasons(result)
    assert "gone" not in repository.notices()
    assert "the entry demo cannot be published" in changes(repository)


@pytest.mark.parametrize("name", ["my demo", "x" * 81, "a\nb\x1b[2J", os.fsdecode(b"demo\xff")])
@pytest.mark.row("T24")
def test_a_folder_of_an_odd_name_stops_no_other_entry(
    repository: Repository, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = repository.images / name
    odd.mkdir()
    (odd / "entry.toml").write_text(TEXT)
    image(odd / "demo.img")
    add(repository, "other", fill=b"y")
    command = ["publish", str(repository.images), "-o", str(repository.web), "-K", repository.key, "-q"]
    assert run(command, repository.services()) == 1
    assert repository.names() == ["other"]
    said = capsys.readouterr().err
    assert "has a name that an entry cannot have" in said
    assert "\x1b" not in said
    assert "has a name that an entry cannot have" in changes(repository)


def test_a_folder_without_an_image_is_reported(repository: Repository) -> None:
    add(repository)
    (repository.images / "empty").mkdir()
    (repository.images / "empty" / "entry.toml").write_text("")
    assert not repository.publish().refused
    assert "empty is not published: its folder has no image yet" in repository.notices()


def test_a_withdrawn_entry_stays_away(repository: Repository) -> None:
    add(repository)
    add(repository, "other", fill=b"y")
    repository.publish()
    services = repository.services()
    assert run(["withdraw", str(repository.web), "demo", "-K", repository.key], services) == 0
    repository.publish()
    assert repository.names() == ["other"]


def test_two_images_of_one_name(repository: Repository) -> None:
    add(repository)
    add(repository, "other", fill=b"y")
    repository.publish()
    before = repository.entry("demo")
    loose = repository.add("demo.img", b"z")
    result = repository.publish(prune=True, grace=timedelta())
    assert "as well as in the entry demo" in reasons(result)
    assert sorted(repository.names()) == ["demo", "other"]
    assert repository.entry("demo") == before, "what is published stays, and is not taken for gone"
    loose.unlink()
    assert not repository.publish().refused


def test_entries_are_not_served(repository: Repository) -> None:
    add(repository)
    with pytest.raises(UsageError, match="would be served"):
        repository.publish(output=repository.images)


class TestRequire:
    def test_what_did_not_boot_is_refused(self, repository: Repository) -> None:
        folder = add(repository)
        repository.add("loose.img", b"y")
        add(repository, "good", fill=b"z")
        boot(EntryFolder(repository.images / "good"))
        result = repository.publish(require=(Requirement.BOOTED,))
        assert repository.names() == ["good"]
        assert "demo was not booted" in reasons(result)
        assert f"pybuilder-repo boot-check {folder.path}" in reasons(result)
        assert "loose.img is not known to be booted: it is not in an entry" in reasons(result)
        boot(folder, records.Verdict.FAILED)
        assert "demo did not boot: panic" in reasons(repository.publish(require=(Requirement.BOOTED,)))
        boot(folder)
        repository.publish(require=(Requirement.BOOTED,))
        assert repository.names() == ["good", "demo"]

    def test_an_image_that_changed_since_it_was_booted(self, repository: Repository) -> None:
        folder = add(repository)
        boot(folder)
        repository.publish(require=(Requirement.BOOTED,))
        first = repository.entry("demo")
        add(repository, fill=b"new")
        result = repository.publish(require=(Requirement.BOOTED,))
        assert "changed since it was booted" in reasons(result)
        assert repository.entry("demo") == first
        assert not repository.publish().refused
        assert repository.entry("demo").revision == 2

    def test_by_the_command(self, repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
        add(repository)
        command = ["publish", str(repository.images), "-o", str(repository.web), "-K", repository.key]
        services = repository.services()
        assert run([*command, "--require", "booted"], services) != 0
        assert "demo was not booted" in capsys.readouterr().err
        assert run([*command, "--require", "liked"], services) == 2


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
    | st.sampled_from(["x" * 9000, "[a]", "a\n\n[b]\nfile=x", " \n", "a \n b\t\n", "ä" * 5000 + " y" * 3000]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
)
def test_any_description_can_be_written(description: str, title: str) -> None:
    try:
        fields = {"title": title, "description": description, "hints": description}
        contributed = Description.model_validate(fields)
    except ValueError:
        return
    entry = Entry(os_version="a", file="a.xz", arch="x86_64", size=512, sha512="a" * 128)
    new = described(entry, contributed)
    write_index(Index(entries=(new,)))
    assert described(new, contributed) is new


def test_links_to_folders_are_not_entries(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "demo").mkdir(parents=True)
    (tmp_path / "elsewhere" / "demo" / "entry.toml").write_text("")
    library = tmp_path / "library"
    library.mkdir()
    (library / "demo").symlink_to(tmp_path / "elsewhere" / "demo")
    assert find_images(library).entries == {}
    shutil.rmtree(library)

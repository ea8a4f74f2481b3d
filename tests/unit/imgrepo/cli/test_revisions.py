"""Revisions of templates, typed as a publisher types: rollback, channels, protection, and the journal."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from imgindex.gpg import trusted_keys_from_file
from imgrepo.webroot.journal import JOURNAL_NAME, read_journal
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.cli.test_maintain import Operator
from tests.unit.imgrepo.conftest import MakeTwin
from tests.unit.imgrepo.repository import Repository

EIGHT_DAYS = timedelta(days=8)


def two_revisions(repository: Repository) -> None:
    for name, fill in (("a.img", b"a"), ("b.img", b"b")):
        repository.add(name, fill)
    repository.publish()
    repository.add("a.img", b"new")
    repository.publish()


@pytest.fixture
def operator(twin: MakeTwin, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Return an operator whose template ``a`` has two revisions; ``b`` has one."""
    return Operator(twin(two_revisions), capsys)


@pytest.fixture
def publisher(repository: Repository, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Return an operator of the same, whose record knows the images."""
    two_revisions(repository)
    return Operator(repository, capsys)


def test_a_rollback_brings_the_former_image_back_and_publish_leaves_it_there(publisher: Operator) -> None:
    repository = publisher.repository
    second, old_image = repository.entry("a"), b"a" * 4096
    publisher.type("alias WEB a stable -K KEY")
    assert "revision: '2' -> '3'" in publisher.type("rollback WEB a -K KEY")
    third = repository.entry("a")
    assert (third.revision, third.aliases) == (3, ("stable",))
    assert repository.unpack(third).startswith(old_image)
    repository.publish()  # the image that was taken away is still in the folder
    assert repository.entry("a") == third
    assert "a.img is not published" in repository.notices()
    for forget in (repository.record.unlink, repository.forget):  # as on another machine
        forget()
        repository.publish()
        assert repository.entry("a") == third
    (repository.images / "a.img").touch()
    repository.publish()
    assert repository.entry("a") == third

    publisher.type("rollback WEB a -K KEY")  # forward again
    fourth = repository.entry("a")
    assert (fourth.revision, fourth.sha512) == (4, second.sha512)
    repository.publish()
    assert repository.entry("a") == fourth
    publisher.type("rollback WEB a --to 1 -K KEY")
    assert repository.entry("a").sha512 == third.sha512
    repository.add("a.img", b"newest")
    repository.publish()
    assert repository.entry("a").revision == 6
    assert repository.unpack(repository.entry("a")).startswith(b"newest")


def test_a_rollback_that_cannot_be_says_why(operator: Operator) -> None:
    repository = operator.repository
    before = repository.snapshot()
    for command, words in (
        ("rollback WEB b -K KEY", "the journal knows no former revision of b"),
        ("rollback WEB a --to 7 -K KEY", "known are: 1"),
        ("rollback WEB c -K KEY", "no template c is published"),
    ):
        operator.type(command, 2)
        assert words in operator.err
    assert repository.snapshot() == before
    repository.later = EIGHT_DAYS
    operator.type("prune WEB")
    operator.type("rollback WEB a -K KEY", 2)
    assert "was deleted by prune" in operator.err
    assert repository.entry("a").revision == 2


def test_a_channel_gives_an_image_to_another_template(operator: Operator) -> None:
    repository = operator.repository
    operator.type("alias WEB b stable -K KEY")
    operator.type("channel WEB a b -K KEY")
    source, target = repository.entry("a"), repository.entry("b")
    assert (target.revision, target.aliases, target.file) == (2, ("stable",), source.file)
    repository.publish()  # the folder still has b.img
    assert repository.entry("b") == target
    assert "nothing to change" in operator.type("channel WEB a b -K KEY")
    operator.type("channel WEB a new -K KEY")
    assert repository.entry("new") == replace(source, os_version="new", revision=1)
    repository.add("a.img", b"newer")
    repository.publish()
    assert [repository.entry(name).revision for name in ("a", "b", "new")] == [3, 2, 1]
    operator.type("withdraw WEB a --now -K KEY")
    repository.add("a.img", b"leak")
    operator.type("withdraw WEB new --now -K KEY")
    assert f"{target.file} stays, because the template b has the same file" in operator.err
    assert repository.read().entries == (target,)
    history = operator.type("history WEB b")
    assert "channel" in history
    assert "b (x86_64): revision 1, now 2" in history
    operator.type("rollback WEB b -K KEY")
    assert repository.unpack(repository.entry("b")).startswith(b"b")
    for command, words in (
        ("channel WEB b b -K KEY", "the same template"),
        ("channel WEB b stable -K KEY", "stable is an alias of b"),
        ("channel WEB b a -K KEY", "a was withdrawn"),
        ("channel WEB x b -K KEY", "no template x"),
    ):
        operator.type(command, 2)
        assert words in operator.err


def test_a_protected_template_keeps_its_image(publisher: Operator) -> None:
    repository = publisher.repository
    before = repository.entry("a")
    assert "protected: a (x86_64)" in publisher.type("protect WEB a")
    assert "listed, protected" in publisher.type("list WEB")
    for command in ("withdraw WEB a -K KEY", "rollback WEB a -K KEY", "channel WEB b a -K KEY"):
        publisher.type(command, 2)
        assert "the template a is protected" in publisher.err
        assert "protect --undo" in publisher.err
    repository.add("a.img", b"newest")
    repository.add("b.img", b"newest")
    refused = repository.publish().refused
    assert list(refused) == ["a.img"]
    assert repository.entry("b").revision == 2
    (repository.images / "a.img").unlink()
    repository.publish(prune=True)
    repository.later = EIGHT_DAYS
    repository.publish(prune=True)
    assert repository.entry("a") == before
    publisher.type("edit WEB a --set name=Mine -K KEY")
    assert repository.entry("a").name == "Mine"
    publisher.type("protect WEB c", 2)
    publisher.type("protect --undo WEB b", 2)
    assert "no template is protected" in publisher.type("protect --undo WEB a")
    repository.publish(prune=True)
    assert repository.names() == ["b"]


def test_the_journal_names_what_happened_and_vouches_for_it(operator: Operator, keys: KeyMaker) -> None:
    repository = operator.repository
    operator.type("refresh WEB -K KEY")
    operator.type("withdraw WEB b -K KEY")
    second = keys.make("Second <second@example.org>")
    operator.type(f"rotate-key WEB --from KEY --to {second}")
    operator.type(f"rotate-key WEB --from KEY --to {second} --finish")
    found = json.loads(operator.type("history WEB --json"))
    assert found["problem"] is None
    actions = [line["action"] for line in found["lines"]]
    assert actions == ["publish", "publish", "refresh", "withdraw", "rotate-key", "rotate-key"]
    assert [line["signer"] for line in found["lines"]] == [repository.key] * 5 + [second]
    named = [
        [(one["name"], one["before"], one["after"]) for one in line["changed"]] for line in found["lines"]
    ]
    assert named[:4] == [[("a", None, 1), ("b", None, 1)], [("a", 1, 2)], [], [("b", 1, None)]]
    assert "b (x86_64): revision 1, now gone" in operator.type("history WEB b")
    assert "nothing is recorded" in operator.type("history WEB c")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: [lines[0].replace(b"publish", b"refresh", 1), *lines[1:]], "line 1 was changed"),
        (lambda lines: [lines[0], *lines[2:]], "line 1 was changed, or lines after it were removed"),
        (lambda lines: lines[1:], "lines at the beginning were removed"),
        (lambda lines: lines[:-1], "the index was not put there by the command of the last line"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b"hide", b"edit", 1)], "is not signed by a key"),
        (lambda lines: [*lines[:-1], lines[-1][:-9]], "is not signed by a key"),
        (lambda lines: [b"\xff\x00"], "is not signed by a key"),
    ],
    ids=["changed", "one gone", "first gone", "last gone", "last changed", "cut off", "bytes"],
)
def test_a_journal_that_was_changed_is_found(operator: Operator, damage, words: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    operator.type("hide WEB b -K KEY")
    journal = operator.repository.web / JOURNAL_NAME
    journal.write_bytes(b"".join(line + b"\n" for line in damage(journal.read_bytes().splitlines())))
    operator.type("history WEB", 1)
    assert words in operator.err
    operator.type("rollback WEB a -K KEY", 1)
    assert "the former revisions are not known for certain" in operator.err
    operator.type("hide WEB b --show -K KEY")  # it stops no work


def test_another_key_cannot_vouch_for_a_journal(operator: Operator, keys: KeyMaker, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.gpg"
    stranger.write_bytes(keys.export(keys.make("Journalist <journalist@example.org>")))
    repository = operator.repository
    services = repository.services()
    trusted = trusted_keys_from_file(stranger, where="a test")
    text = (repository.web / "index").read_text()
    found = read_journal(repository.web, services.verifier, trusted, text)
    assert found.lines == ()
    assert found.problem is not None

"""Commands that keep a published folder, typed as a publisher types them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgbuilder.errors import SigningError, TrustError, WorkspaceError
from imgindex.fields import Deprecation, deprecation
from imgindex.gpg import GpgVerifier, trusted_keys_from_file
from imgrepo.cli.main import run
from imgrepo.webroot import edit
from imgrepo.webroot.transaction import LOCK_NAME, locked, open_session
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.conftest import MakeTwin
from tests.unit.imgrepo.repository import Repository


class Operator:
    """Types commands; ``out`` and ``err`` are what the last one printed."""

    def __init__(self, repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
        self.repository, self._capsys = repository, capsys
        self.out = self.err = ""

    def type(self, command: str, code: int = 0) -> str:
        """Type a command; WEB and KEY are put in."""
        self._capsys.readouterr()
        words = [
            {"WEB": str(self.repository.web), "KEY": self.repository.key}.get(w, w) for w in command.split()
        ]
        got = run(words, self.repository.services())
        self.out, self.err = self._capsys.readouterr()
        assert got == code, f"{command}: {got}: {self.err}"
        return self.out

    def signature(self) -> tuple[datetime, datetime | None]:
        data = (self.repository.web / "index.asc").read_bytes()
        signed = GpgVerifier().verify(data, self.repository.pin, where="web")
        return signed.signed_at, signed.expires_at


def publish_two(repository: Repository) -> None:
    repository.add("a.img", b"a")
    repository.add("b.img", b"b")
    repository.publish()


@pytest.fixture
def operator(twin: MakeTwin, capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(twin(publish_two), capsys)


def test_refresh_signs_again_and_keeps_its_period(operator: Operator) -> None:
    before = operator.repository.read()
    operator.type("refresh WEB -K KEY --expire 30")
    first = operator.signature()
    assert first[1] == first[0] + timedelta(days=30)
    operator.type("refresh WEB -K KEY")
    second = operator.signature()
    assert second[0] > first[0]
    assert second[1] == second[0] + timedelta(days=30)
    operator.type("refresh WEB -K KEY --expire 0")
    assert operator.signature()[1] is None
    assert operator.repository.read() == before
    assert "does not expire; nothing to renew" in operator.type("refresh WEB -K KEY --within 10")


def test_refresh_for_a_timer_waits_until_the_end_is_near(operator: Operator) -> None:
    operator.type("refresh WEB -K KEY --expire 30")
    before = operator.repository.snapshot()
    assert "not renewed yet" in operator.type("refresh WEB -K KEY --within 10")
    assert operator.repository.snapshot() == before
    operator.repository.later = timedelta(days=21)
    operator.type("refresh WEB -K KEY --within 10")
    assert operator.repository.snapshot() != before


def test_publish_keeps_the_period_as_well(operator: Operator) -> None:
    operator.type("refresh WEB -K KEY --expire 30")
    operator.repository.add("a.img", b"new")
    operator.repository.publish()
    signed_at, expires_at = operator.signature()
    assert expires_at == signed_at + timedelta(days=30)


@pytest.mark.row("R19")
def test_refresh_refuses_a_clock_that_was_set_back(operator: Operator, keys: KeyMaker) -> None:
    later = f"{datetime.now(UTC) + timedelta(hours=2):%Y%m%dT%H%M%S}"
    text = (operator.repository.web / "index").read_bytes()
    (operator.repository.web / "index.asc").write_bytes(keys.sign(text, operator.repository.key, at=later))
    before = operator.repository.snapshot()
    operator.type("refresh WEB -K KEY", 1)
    assert operator.repository.snapshot() == before


def test_an_index_of_the_future_that_no_client_accepts_is_signed_again(
    operator: Operator, keys: KeyMaker
) -> None:
    index = operator.repository.web / "index.asc"
    key = operator.repository.key

    def sign_in_the_future() -> None:
        later = f"{datetime.now(UTC) + timedelta(days=40):%Y%m%dT%H%M%S}"
        index.write_bytes(keys.sign((index.parent / "index").read_bytes(), key, at=later))

    commands = ("refresh WEB -K KEY", "refresh WEB -K KEY --within 10")
    for command in commands:
        sign_in_the_future()
        operator.type("status WEB", 1)
        operator.type(command)
        assert "signing it again" in operator.err
        assert operator.signature()[0] <= datetime.now(UTC)
    sign_in_the_future()
    operator.repository.publish()
    assert operator.signature()[0] <= datetime.now(UTC)
    # A file that was written in the future as well shows that our clock may be behind.
    sign_in_the_future()
    os.utime(index, times=(time.time() + 40 * 86400,) * 2)
    operator.type("refresh WEB -K KEY", 1)
    assert f"touch {index}" in operator.err


def test_a_key_of_the_future_is_a_matter_of_the_clock(operator: Operator, keys: KeyMaker) -> None:
    future = keys.make(
        "Future <future@example.org>", at=f"{datetime.now(UTC) + timedelta(days=2):%Y%m%dT%H%M%S}"
    )
    operator.type(f"refresh WEB -K {future}", 1)
    assert "this machine's clock has not reached" in operator.err
    assert "set the clock" in operator.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_publishers_of_one_group_share_a_folder(operator: Operator, tmp_path: Path) -> None:
    web = operator.repository.web
    web.chmod(0o2775)
    for path in web.iterdir():
        os.chown(path, 60001, 60009)
    with locked(web):
        assert stat.S_IMODE((web / LOCK_NAME).stat().st_mode) & 0o060 == 0o060
    operator.type("hide WEB a -K KEY")
    os.chown(web / "index.gpg", 60001, 60009)
    operator.type("status WEB")
    operator.type("list WEB")
    operator.type("prune WEB")
    (web / "index.gpg").chmod(0o666)
    operator.type("status WEB", 2)


def test_a_lost_key_file_is_put_back(operator: Operator) -> None:
    key_file = operator.repository.web / "index.gpg"
    before = key_file.read_bytes()
    key_file.unlink()
    operator.type("status WEB", 2)
    assert "pybuilder-repo refresh" in operator.err
    operator.repository.publish()
    assert key_file.read_bytes() == before


def test_hints_for_an_index_that_is_not_ours_name_what_helps(operator: Operator, keys: KeyMaker) -> None:
    stranger = keys.make("Stranger <stranger@example.org>")
    operator.type(f"refresh WEB -K {stranger}", 3)
    assert "rotate-key" in operator.err
    assert "--force" not in operator.err
    index = operator.repository.web / "index.asc"
    index.write_bytes(index.read_bytes()[:400])
    operator.type("refresh WEB -K KEY", 3)
    assert "move it away" in operator.err
    index.unlink()
    operator.repository.publish()
    assert operator.repository.names() == ["a", "b"]


def test_withdrawn_templates_are_gone_and_stay_gone_until_it_is_undone(operator: Operator) -> None:
    assert "- a (x86_64)" in operator.type("withdraw WEB a -K KEY")
    assert operator.repository.names() == ["b"]
    assert "withdrawn:   a (x86_64)" in operator.type("status WEB")
    assert json.loads(operator.type("status WEB --json"))["withdrawn"] == [{"name": "a", "arch": "x86_64"}]
    operator.repository.add("a.img", b"new")
    operator.repository.publish()
    assert operator.repository.names() == ["b"]
    operator.type("withdraw WEB a -K KEY", 2)
    assert "a is withdrawn already" in operator.err
    assert "the index, which is empty now" in operator.type("withdraw WEB b -K KEY")
    out = operator.type("status WEB")
    assert "the index is empty" in out
    assert "all is well" not in out
    operator.type("withdraw --undo WEB b -K KEY")
    operator.repository.publish()
    operator.type("withdraw --undo WEB b -K KEY", 2)
    operator.type("withdraw --undo WEB a -K KEY")
    operator.repository.publish()
    assert operator.repository.names() == ["b", "a"]


def test_a_withdrawal_that_is_undone_leaves_no_trace(operator: Operator) -> None:
    repository = operator.repository
    repository.add("a.img", b"new")
    repository.publish()
    operator.type("alias WEB a stable default -K KEY")
    entry, launches = repository.entry("a"), len(repository.appliances.launches)
    assert entry.revision == 2
    operator.type("withdraw WEB a -K KEY")
    repository.publish()  # an unchanged image that is withdrawn is not examined again
    operator.type("alias WEB b default -K KEY")
    assert "+ a (x86_64)" in operator.type("withdraw WEB a --undo -K KEY")
    assert repository.entry("a") == replace(entry, aliases=("stable",))
    repository.publish()
    assert repository.entry("a") == replace(entry, aliases=("stable",))
    assert len(repository.appliances.launches) == launches
    assert "withdrawn" not in operator.type("status WEB")


@pytest.mark.parametrize("command", ["withdraw WEB a -K KEY", "prune"])
def test_the_revision_of_a_template_that_comes_back_goes_on(operator: Operator, command: str) -> None:
    repository = operator.repository
    repository.add("a.img", b"new")
    repository.publish()
    operator.type("alias WEB a stable -K KEY")
    if command == "prune":
        (repository.images / "a.img").unlink()
        repository.publish(prune=True)
        repository.later += timedelta(days=8)
        repository.publish(prune=True)
    else:
        operator.type(command)
        for path in repository.web.glob("a-*"):
            path.unlink()
        assert "the next run of publish publishes a again" in operator.type("withdraw WEB a --undo -K KEY")
    assert repository.names() == ["b"]
    repository.add("a.img", b"newer")
    repository.publish()
    assert (repository.entry("a").revision, repository.entry("a").aliases) == (3, ("stable",))


def test_edit_changes_what_people_write(operator: Operator, tmp_path: Path) -> None:
    repository = operator.repository
    notes = tmp_path / "notes"
    notes.write_text("First line  \n\nLast line\n\n")
    out = operator.type(
        f"edit WEB a --set name=Ours --set notes[de]=Hallo --set owner=us --notes-file {notes} -K KEY"
    )
    assert "notes: " in out
    entry = repository.entry("a")
    assert entry.name == "Ours"
    assert entry.notes == (("de", "Hallo"), ("", "First line\n\nLast line"))
    assert entry.extra == (("owner", None, "us"),)
    operator.type("edit WEB a --set notes[de]= --set owner= -K KEY")
    assert repository.entry("a").notes == (("", "First line\n\nLast line"),)
    assert repository.entry("a").extra == ()
    before = repository.snapshot()
    for wrong in ("--set revision=9", "--set file=b.xz", "--set =x", "--set name", "--set hidden=true"):
        operator.type(f"edit WEB a {wrong} -K KEY", 2)
    operator.type("edit WEB c --set name=x -K KEY", 2)
    operator.type(f"edit WEB a --notes-file {tmp_path}/none -K KEY", 2)
    assert repository.snapshot() == before


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("s/^name=.*/name=By hand/", 0, "name: "),
        ("s/^revision=.*/revision=9/", 2, "a fact about its image changed"),
        ("s/^\\[a\\]/[c]/", 2, "no longer the template a"),
        ("s/^size=.*/size=x/", 1, "the edited text"),
        ("", 0, "nothing to change"),
    ],
)
def test_edit_opens_the_editor(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, script: str, code: int, words: str
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"sed -i '{script}'" if script else "true")
    before = operator.repository.snapshot()
    out = operator.type("edit WEB a -K KEY", code)
    assert words in out + operator.err
    if code or not script:
        assert operator.repository.snapshot() == before
    else:
        assert operator.repository.entry("a").name == "By hand"


def test_an_alias_is_not_taken_for_a_template(operator: Operator) -> None:
    operator.type("alias WEB a stable -K KEY")
    operator.type("hide WEB stable -K KEY", 2)
    assert "stable is an alias of a" in operator.err


def test_a_deprecated_template_says_so(operator: Operator) -> None:
    out = operator.type("deprecate WEB a --until 2027-01-31 --use b -K KEY")
    assert "~ a (x86_64)" in out
    assert "deprecated_until: '2027-01-31' (new)" in out
    entry = operator.repository.entry("a")
    end = deprecation(entry)
    assert end == Deprecation(datetime(2027, 1, 31, tzinfo=UTC).date(), "b")
    operator.repository.add("a.img", b"new")
    operator.repository.publish()
    assert deprecation(operator.repository.entry("a")) == end
    operator.type("deprecate WEB a --undo -K KEY")
    assert deprecation(operator.repository.entry("a")) is None
    for wrong in ("a --use nothing", "a --use a", "c", "a --until soon", "a --arch ppc64"):
        operator.type(f"deprecate WEB {wrong} -K KEY", 2)
    operator.type("deprecate WEB a --until soon -K KEY", 2)
    assert "'soon' is not a day: write it as 2027-01-31" in operator.err
    operator.type("prune WEB --keep many", 2)
    assert "'many' is not a valid integer." in operator.err


def test_an_alias_moves_to_the_template_that_gets_it(operator: Operator) -> None:
    operator.type("alias WEB a stable default -K KEY")
    assert operator.repository.entry("a").aliases == ("stable", "default")
    operator.type("alias WEB b stable -K KEY")
    assert operator.repository.entry("a").aliases == ("default",)
    assert operator.repository.entry("b").aliases == ("stable",)
    operator.type("alias WEB b stable --remove -K KEY")
    assert operator.repository.entry("b").aliases == ()
    operator.type("alias WEB b stable --remove -K KEY", 2)
    operator.type("alias WEB a b -K KEY", 2)
    operator.type("alias WEB a -K KEY", 2)


def test_hidden_templates_can_be_shown_again(operator: Operator) -> None:
    operator.type("hide WEB a -K KEY")
    assert operator.repository.entry("a").hidden
    before = operator.repository.snapshot()
    assert "nothing to change" in operator.type("hide WEB a -K KEY")
    assert operator.repository.snapshot() == before
    operator.type("hide WEB a --show -K KEY")
    assert not operator.repository.entry("a").hidden


def test_prune_shows_and_keeps_as_the_options_say(operator: Operator) -> None:
    repository = operator.repository
    old = []
    for fill in (b"1", b"2", b"3"):
        old.append(repository.entry("a").file)
        repository.add("a.img", fill)
        repository.publish()
        repository.later += timedelta(hours=1)
    before = repository.snapshot()
    out = operator.type("prune WEB --grace 0 --dry-run")
    assert all(name in out for name in old)
    assert "3 old files" in out
    assert "would be deleted" in out
    assert repository.snapshot() == before
    assert "kept: 3" in operator.type("prune WEB")
    assert operator.type("prune WEB --grace 0 --keep 1").startswith(f"{min(old[:2])}  ")
    assert [(repository.web / name).exists() for name in old] == [False, False, True]
    operator.type("prune WEB --grace 0")
    assert not (repository.web / old[2]).exists()
    repository.read()


def test_a_key_is_rotated_without_a_client_noticing(operator: Operator, keys: KeyMaker) -> None:
    repository, new = operator.repository, keys.make("Next <next@example.org>")
    verifier, index = GpgVerifier(), repository.web / "index.asc"
    first_key_file = trusted_keys_from_file(repository.web / "index.gpg", where="web")
    operator.type(f"rotate-key WEB --from KEY --to {new}")
    between = trusted_keys_from_file(repository.web / "index.gpg", where="web")
    for pin in (replace(first_key_file, extra_signatures=True), between):
        verifier.verify(index.read_bytes(), pin, where="web")
    # One key alone would lock out the clients that know only the other.
    before = repository.snapshot()
    for one in ("KEY", new):
        operator.type(f"refresh WEB -K {one}", 1)
        assert "signed by more keys" in operator.err
        assert "rotate-key --finish" in operator.err
    with pytest.raises(SigningError, match="more keys"):
        repository.publish()
    assert repository.snapshot() == before
    operator.type(f"hide WEB a -K KEY -K {new}")
    assert operator.err == ""
    operator.type(f"rotate-key WEB --from KEY --to {new} --finish")
    assert operator.err == ""
    for pin in (between, keys.pin(new)):
        verifier.verify(index.read_bytes(), pin, where="web")
    with pytest.raises(TrustError):
        verifier.verify(index.read_bytes(), first_key_file, where="web")
    operator.type("rotate-key WEB --from KEY --to KEY", 2)


def test_status_of_a_healthy_folder(operator: Operator) -> None:
    out = operator.type(f"status WEB --verify --images {operator.repository.images}")
    assert "all is well" in out
    assert "templates:   2," in out
    assert operator.repository.key in out
    data = json.loads(operator.type("status WEB --json"))
    assert (data["templates"], data["problems"], data["expires_at"]) == (2, [], None)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "is missing"),
        ("short", "has 3 bytes"),
        ("flipped", "is damaged"),
        ("unreadable", "cannot be read by a web server"),
        ("expiry", "the signature expires at"),
        ("future", "the index is signed in the future, at"),
        ("expired", "the signature has expired at"),
        ("deprecated", "was deprecated until 2020-01-01"),
        ("unsigned", "holds 2 keys, but the index has only 1 signature"),
    ],
)
def test_status_finds_what_is_wrong(operator: Operator, keys: KeyMaker, damage: str, words: str) -> None:
    path = operator.repository.web / operator.repository.entry("a").file
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(b"abc")
    elif damage == "flipped":
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)
    elif damage == "unreadable":
        path.chmod(0o600)
    elif damage == "unsigned":
        other = keys.make("Forgotten <forgotten@example.org>")
        with (operator.repository.web / "index.gpg").open("ab") as file:
            file.write(keys.export(other, armor=True))
    elif damage == "deprecated":
        operator.type("deprecate WEB a --until 2020-01-01 -K KEY")
    else:
        operator.type("refresh WEB -K KEY --expire 30")
        days = {"future": -2, "expiry": 20, "expired": 31}
        operator.repository.later = timedelta(days=days[damage])
    out = operator.type("status WEB --verify", 1)
    assert re.search(rf"^PROBLEM: .*{words}", out, re.MULTILINE), out


def test_status_warns_of_a_key_that_expires(operator: Operator, keys: KeyMaker) -> None:
    short = keys.make("Short <short@example.org>", expire="10d")
    operator.type(f"rotate-key WEB --from KEY --to {short}")
    out = operator.type("status WEB", 1)
    assert f"PROBLEM:     the key {short} expires at" in out


def test_status_tells_what_changed_among_the_images(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_two(repository)
    operator = Operator(repository, capsys)
    repository.add("a.img", b"new")
    repository.add("c.img", b"c")
    (repository.images / "b.img").unlink()
    out = operator.type(f"status WEB --images {repository.images}")
    assert "changed:     a.img was written to since it was published" in out
    assert "changed:     c.img is not published" in out
    assert "changed:     b.img is gone; its template is b" in out


@pytest.mark.parametrize(
    "command",
    ["refresh NO -K KEY", "status NO", "prune NO", "hide NO a -K KEY", "withdraw NO a -K KEY",
     "status IMAGES", "hide IMAGES a -K KEY", "refresh IMAGES -K KEY", "withdraw IMAGES a -K KEY"],
)  # fmt: skip
def test_a_folder_where_nothing_is_published_is_wrong_usage(operator: Operator, command: str) -> None:
    images = str(operator.repository.images)
    operator.type(command.replace("NO", f"{images}/none").replace("IMAGES", images), 2)


@pytest.mark.parametrize(
    "command", ["hide WEB a -K missing@example.org", "refresh WEB -K missing@example.org"]
)
def test_a_key_that_is_not_there_changes_nothing(operator: Operator, command: str) -> None:
    before = operator.repository.snapshot()
    operator.type(command, 1)
    assert operator.repository.snapshot() == before


def test_an_index_of_another_key_is_not_signed_again(operator: Operator, keys: KeyMaker) -> None:
    other = keys.make("Other <o@example.org>")
    operator.type(f"refresh WEB -K {other}", 3)


def test_a_change_waits_a_moment_for_another_one(operator: Operator) -> None:
    with contextlib.ExitStack() as other:
        other.enter_context(locked(operator.repository.web))
        timer = threading.Timer(1.5, other.pop_all().close)
        timer.start()
        operator.type("hide WEB a -K KEY")
        timer.join()
    assert operator.repository.entry("a").hidden


def test_nothing_is_withdrawn_or_brought_back_while_another_publisher_works(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit, "_PATIENCE", 0.0)
    repository.add("a.img")
    repository.add("b.img", b"b")
    repository.publish()
    services, signing = repository.services(), repository.signing()
    edit.withdraw(repository.web, signing, services, ["a"], None, repository.events.append)
    before = repository.snapshot()
    with open_session(repository.web):
        for change, name in ((edit.undo_withdrawal, "a"), (edit.withdraw, "b")):
            with pytest.raises(WorkspaceError, match="another publisher"):
                change(repository.web, signing, services, [name], None, repository.events.append)
    assert repository.snapshot() == before


def test_stats_of_real_logs(operator: Operator, tmp_path: Path) -> None:
    entry = operator.repository.entry("a")
    log = tmp_path / "access.log"
    answer = f'"GET /x/{entry.file} HTTP/1.1" 200 {entry.compressed_size}'
    lines = [f"h{number} - - [2{number}/Nov/2026:10:00:00 +0000] {answer}" for number in range(3)]
    log.write_text("\n".join([*lines, "nonsense"]))
    out = operator.type(f"stats WEB {log} --by-day --svg {tmp_path}/bars")
    assert "a (x86_64)          3        0        3" in out
    assert "2026-11-22       1" in out
    assert "1 of 4 lines" in operator.err
    assert sorted(path.name for path in (tmp_path / "bars").iterdir()) == ["a-x86_64.svg", "all.svg"]
    data = json.loads(operator.type(f"stats WEB {log} --json"))
    assert (data["downloads"], data["clients"], data["lines-not-understood"]) == (3, 3, 1)
    log.write_text("nonsense")
    operator.type(f"stats WEB {log}", 2)
    assert "no line of the logs was understood" in operator.err
    operator.type(f"stats WEB {tmp_path}/none", 2)
    assert "none" in operator.err
    operator.type(f"stats {tmp_path}/bars {log}", 2)
    assert "nothing is published" in operator.err

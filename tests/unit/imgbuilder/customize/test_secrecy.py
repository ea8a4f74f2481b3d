"""Secrets: their sources, and that they are hidden."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.customize.run import customize, mask
from imgbuilder.customize.secrecy import Mask, proxy_passwords
from imgbuilder.errors import OperationError, UsageError
from imgbuilder.events import Event, Notice, Step, info
from imgbuilder.guests.ports import CommandResult
from imgbuilder.host import process
from tests.fakes.debianguest import context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation


def test_values_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "value")
    (tmp_path / "f").write_text("line 1\nline 2\n")
    assert vars(parse_operation("secret", "A=env:MINE"))["value"] == "value"
    assert vars(parse_operation("secret", f"A=file:{tmp_path}/f"))["value"] == "line 1\nline 2"


@pytest.mark.row("Z18")
def test_programs_that_we_start_do_not_get_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE_ALONE", "canary-3")
    assert b"canary-3" in process.run(["env"]).stdout
    parse_operation("secret", "A=env:MINE_ALONE")
    assert b"canary-3" not in process.run(["env"]).stdout


@pytest.mark.parametrize(
    "text",
    ["", "A", "A=", "A=value", "A=env:NOT_SET_AT_ALL", "A=file:/nonexistent", "=env:HOME", "1A=env:HOME",
     "A-B=env:HOME", "PATH=env:HOME", "LD_PRELOAD=env:HOME", "A=file:/dev/null"],
)  # fmt: skip
def test_an_invalid_secret_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--secret: "):
        parse_operation("secret", text)


def test_an_error_never_quotes_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "x" * 70000)
    with pytest.raises(UsageError) as caught:
        parse_operation("secret", "A=env:MINE")
    assert "xxx" not in f"{caught.value.message}{caught.value.hint}"


def test_two_secrets_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "value")
    operations = [parse_operation("secret", "A=env:MINE")] * 2
    with pytest.raises(UsageError, match="twice"):
        customize(debian_guest(), operations, context_of(debian_guest()))


@pytest.mark.row("Z18")
@given(st.lists(st.text(min_size=4, max_size=12), min_size=1, max_size=4), st.text(max_size=30))
def test_no_secret_survives_the_mask(secrets: list[str], around: str) -> None:
    hider = Mask(secrets)
    for secret in secrets:
        if len(secret.strip()) >= 4:
            shown = hider.text(f"{around}{secret}{around}")
            assert secret.strip() not in shown.replace("***", "") or secret.strip() in around + around


def test_the_longest_secret_is_hidden_first_and_short_lines_are_left() -> None:
    hider = Mask(["abcd", "abcdefgh\n}\n"])
    assert hider.text("abcdefgh } abcd") == "*** } ***"
    assert hider.content(b"\xffabcdefgh") == b"\xff***"
    assert not Mask([])


@pytest.mark.row("Z18")
def test_events_and_errors_are_masked(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "canary-1")
    operations = [
        parse_operation("secret", "A=env:MINE"),
        parse_operation("run-command", "curl -H canary-1"),
    ]
    guest.on_sh("curl", CommandResult(7, "bad token canary-1"))
    events: list[Event] = []
    with pytest.raises(OperationError) as caught:
        customize(guest, operations, context_of(guest), events.append)
    said = "".join(event.text for event in events if isinstance(event, Step | Notice))
    assert "curl -H ***" in said
    assert "canary" not in said + caught.value.message + caught.value.log_tail
    assert caught.value.__cause__ is None
    seen: list[Event] = []
    info(mask(operations, {}).reporter(seen.append), "console says canary-1")
    assert [event.text for event in seen if isinstance(event, Notice)] == ["console says ***"]


def test_passwords_of_proxies() -> None:
    proxies = {
        "http_proxy": "http://u:p%40ss@h:1/",
        "https_proxy": "http://h",
        "no_proxy": "[",
        "ftp_proxy": "x",
    }
    assert proxy_passwords(proxies) == ("p%40ss", "p@ss")

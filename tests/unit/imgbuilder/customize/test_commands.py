"""Commands in the guest, run by a real shell."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.customize.buildnetwork import host_proxies
from imgbuilder.customize.commands import (
    NO_NETWORK_HINT,
    choose_log_file,
    memory_folder,
    run_in_guest,
)
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.ops.scripts import Run, RunCommand
from imgbuilder.errors import GuestCallError, OperationError
from imgbuilder.guests.ports import CommandResult
from tests.fakes.debianguest import apply, context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.hostguest import HostGuest
from tests.fakes.operations import parse_operation


@pytest.fixture
def guest(tmp_path: Path) -> HostGuest:
    return HostGuest(tmp_path)


def _context(tmp_path: Path, **changes: Any) -> GuestContext:
    return context_of(debian_guest(), log_file=f"{tmp_path}/the log", **changes)


def _script(tmp_path: Path, content: bytes, name: str = "script") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_output_is_added_to_the_log(guest: HostGuest, tmp_path: Path) -> None:
    (tmp_path / "the log").write_text("before\n")
    RunCommand("echo out; echo err >&2; cat").apply(guest, _context(tmp_path))
    assert (tmp_path / "the log").read_text() == "before\nout\nerr\n"


def test_a_failure_names_the_command_and_quotes_only_its_own_last_lines(
    guest: HostGuest, tmp_path: Path
) -> None:
    (tmp_path / "the log").write_text("of an earlier command\n")
    with pytest.raises(OperationError) as caught:
        RunCommand("seq 1 100; printf 'a\\033[2Jb\\r\\nc'; exit 7").apply(guest, _context(tmp_path))
    assert caught.value.message.startswith("--run-command 'seq 1 100; ")
    assert caught.value.message.endswith(" failed in the guest: exit status 7")
    lines = caught.value.log_tail.split("\n")
    assert lines[-3:] == ["100", "a?[2Jb", "c"]
    assert len(lines) == 40


def test_a_failure_without_output_has_an_empty_tail(guest: HostGuest, tmp_path: Path) -> None:
    (tmp_path / "the log").write_text("of an earlier command\n")
    with pytest.raises(OperationError) as caught:
        RunCommand("false").apply(guest, _context(tmp_path))
    assert caught.value.log_tail == ""


def test_a_log_that_cannot_be_written_is_reported(guest: HostGuest, tmp_path: Path) -> None:
    with pytest.raises(OperationError) as caught:
        run_in_guest(guest, _context(tmp_path / "missing"), "true", display="--x")
    assert "missing" in caught.value.log_tail


def test_the_environment_of_a_command(guest: HostGuest, tmp_path: Path) -> None:
    proxies = host_proxies(
        {"HTTP_PROXY": "http://u:p'w@h:1/", "https_proxy": "b", "HTTPS_PROXY": "c", "no_proxy": ""}
    )
    assert proxies == {"http_proxy": "http://u:p'w@h:1/", "https_proxy": "b"}
    command = f"echo $http_proxy $HTTP_PROXY $https_proxy $HTTPS_PROXY $LC_ALL $HOME $TERM >{tmp_path}/seen"
    with memory_folder(guest, _context(tmp_path, proxies=proxies)) as context:
        RunCommand(command).apply(guest, context)
    assert (tmp_path / "seen").read_text() == "http://u:p'w@h:1/ http://u:p'w@h:1/ b b C /root dumb\n"
    assert "p'w" not in "".join(guest.scripts), "not in the text that libguestfs may trace"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seen", "the log"]


CANARY = "canary-4711/[x]"


@pytest.mark.row("Z18")
def test_a_secret_reaches_commands_and_nothing_else(guest: HostGuest, tmp_path: Path) -> None:
    secrets = {"TOKEN": CANARY, "CERT": "first-line\nsecond-line"}
    with memory_folder(guest, _context(tmp_path, secrets=secrets)) as context:
        RunCommand(f'test "$TOKEN" = "{CANARY[:4]}""{CANARY[4:]}"; echo "<$TOKEN>"; echo "$CERT"').apply(
            guest, context
        )
        with pytest.raises(OperationError) as caught:
            RunCommand("set -x; echo before $TOKEN; exit 3").apply(guest, context)
        assert "before ***" in caught.value.log_tail
    log = (tmp_path / "the log").read_text()
    assert log.startswith("<***>\n***\n+ ")
    assert log.count("before ***") == 2
    everything = log + "".join(guest.scripts) + f"{caught.value.message}{caught.value.log_tail}{context!r}"
    for text in (CANARY, "first-line", "second-line"):
        assert text not in everything.replace(f'{CANARY[:4]}""', "")


def test_the_memory_folder_goes_whatever_happens(guest: HostGuest, tmp_path: Path) -> None:
    with (
        pytest.raises(OperationError),
        memory_folder(guest, _context(tmp_path, secrets={"A": "secret"})) as context,
    ):
        assert (Path(context.memory) / "environment").read_text() == "export A=secret\n"
        RunCommand("false").apply(guest, context)
    assert [path.name for path in tmp_path.iterdir()] == ["the log"]


def test_a_signal_is_named(guest: HostGuest, tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=r"exit status 137 \(SIGKILL; .*--memsize\)"):
        RunCommand("sh -c 'kill -9 $$'").apply(guest, _context(tmp_path))


@pytest.mark.row("Z18")
def test_proxy_credentials_are_not_in_the_log_of_a_failing_command(guest: HostGuest, tmp_path: Path) -> None:
    context = _context(tmp_path, proxies={"http_proxy": "http://u:canary@h/"})
    with pytest.raises(OperationError) as caught:
        RunCommand("nonsense-command").apply(guest, context)
    assert "canary" not in (tmp_path / "the log").read_text()
    assert "canary" not in f"{caught.value.message}{caught.value.log_tail}{caught.value.hint}"


def test_a_failing_command_without_network_gets_a_hint(guest: HostGuest, tmp_path: Path) -> None:
    with pytest.raises(OperationError) as caught:
        RunCommand("false").apply(guest, _context(tmp_path, network=False))
    assert caught.value.hint is not None
    assert NO_NETWORK_HINT in caught.value.hint


@pytest.mark.row("Z11")
@pytest.mark.parametrize(
    ("content", "output"),
    [
        (b"#!/bin/sh\necho \"$0\" | sed 's,.*/,,'\n", "script\n"),
        (b"echo no shebang\n", "no shebang\n"),
        (b"", ""),
        (b"#!/usr/bin/perl\nprint 'perl', ' runs'", "perl runs"),
        (b"#!/usr/bin/env perl\nprint 'env'", "env"),
        (Path("/bin/true").read_bytes(), ""),
        (b"echo " + b"x" * 200_000, "x" * 200_000 + "\n"),
    ],
)
def test_scripts_run_as_programs(content: bytes, output: str, guest: HostGuest, tmp_path: Path) -> None:
    Run(_script(tmp_path, content)).apply(guest, _context(tmp_path))
    assert (tmp_path / "the log").read_text() == output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script", "the log"]


@pytest.mark.row("Z11")
def test_a_name_with_blanks(guest: HostGuest, tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="exit status 3"):
        Run(_script(tmp_path, b"#!/bin/sh\nexit 3\n", "a $(b) 'c")).apply(guest, _context(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a $(b) 'c", "the log"]


def test_the_scripts_folder_is_private(guest: HostGuest, tmp_path: Path) -> None:
    script = b'#!/bin/sh\ncd "${0%/*}" && ls -ld . && ls -l\n'
    Run(_script(tmp_path, script)).apply(guest, _context(tmp_path))
    lines = (tmp_path / "the log").read_text().split("\n")
    assert lines[0].startswith("drwx------")
    assert lines[2].startswith("-rwxr-xr-x")


@pytest.mark.row("Z11")
def test_a_missing_interpreter_is_named_before_anything_runs(tmp_path: Path) -> None:
    guest = debian_guest()
    script = _script(tmp_path, b"#! /usr/bin/python9 -u\n")
    with pytest.raises(OperationError, match="its interpreter /usr/bin/python9 is not in the guest"):
        apply(guest, "run", str(script))
    assert guest.scripts == []


@pytest.mark.parametrize("answer", ["", "/tmp/a\n/tmp/b\n", "relative", "/tmp/$(x)", "/tmp/../etc"])
def test_the_output_of_the_guests_mktemp_is_checked(answer: str, tmp_path: Path) -> None:
    guest = debian_guest()
    guest.on_sh("mktemp", CommandResult(0, answer))
    with pytest.raises(OperationError, match="no temporary directory"):
        apply(guest, "run", str(_script(tmp_path, b"")))
    assert guest.calls == []


def test_a_failed_removal_does_not_hide_the_failure(tmp_path: Path) -> None:
    class ReadOnly(FakeGuest):
        def remove(self, path: str) -> None:
            raise GuestCallError(f"{path}: read-only")

    guest = ReadOnly()
    guest.add_dir("/tmp")
    guest.on_sh("^exec", CommandResult(5, ""))
    with pytest.raises(OperationError, match="exit status 5"):
        apply(guest, "run", str(_script(tmp_path, b"")))


def test_log_file_in_tmp_or_in_the_root() -> None:
    assert choose_log_file(debian_guest()) == "/tmp/builder.log"
    assert choose_log_file(FakeGuest()) == "/builder.log"
    guest = debian_guest()
    guest.add("/tmp/builder.log", "of the template")
    assert choose_log_file(guest) == "/tmp/builder.log"


@pytest.mark.row("Z23")
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "directory"])
def test_a_planted_log_file_is_not_used(kind: str) -> None:
    guest = debian_guest()
    if kind == "link":
        guest.add_link("/tmp/builder.log", "/etc/passwd")
    elif kind == "dangling":
        guest.add_link("/tmp/builder.log", "/nowhere")
    elif kind == "fifo":
        guest.add_fifo("/tmp/builder.log")
    else:
        guest.add_dir("/tmp/builder.log")
    chosen = choose_log_file(guest)
    assert chosen != choose_log_file(guest)
    assert chosen.startswith("/tmp/builder-")
    assert not guest.exists(chosen)


def test_the_temporary_folder_is_private() -> None:
    guest = debian_guest()
    guest.sh("mktemp -d")
    assert stat.S_IMODE(guest.stat("/tmp/pybuilder.0000000001").mode) == 0o700


def test_several_lines_stop_at_the_first_that_fails_and_one_line_does_not(
    guest: HostGuest, tmp_path: Path
) -> None:
    with pytest.raises(OperationError, match="exit status 1"):
        RunCommand(f"false\ntouch {tmp_path}/reached").apply(guest, _context(tmp_path))
    assert not (tmp_path / "reached").exists()
    RunCommand(f"false; touch {tmp_path}/reached").apply(guest, _context(tmp_path))
    assert (tmp_path / "reached").exists()


@pytest.mark.row("B8")
def test_a_command_that_takes_too_long_is_named_as_such() -> None:
    guest = debian_guest()
    guest.on_sh("sleep 600", CommandResult(124, ""))
    context = context_of(guest, command_limit=0.0)
    with pytest.raises(OperationError, match="did not end within 0 seconds and was stopped") as caught:
        RunCommand("sleep 600").apply(guest, context)
    assert "--command-timeout" in str(caught.value.hint)
    with pytest.raises(OperationError, match="exit status 124"):
        RunCommand("sleep 600").apply(guest, context_of(guest, command_limit=60.0))


@pytest.mark.parametrize("keyword", ["run-command", "firstboot-command"])
def test_the_progress_of_a_command_shows_its_first_line(keyword: str) -> None:
    shown = parse_operation(keyword, "\n  cd /srv\nmake\n").describe()
    assert shown.endswith(": cd /srv ...")
    assert parse_operation(keyword, "echo  a \n").describe().endswith(": echo  a ")


def test_of_output_without_end_the_last_part_is_cleaned_of_secrets() -> None:
    guest = debian_guest()
    context = context_of(guest, secrets={"A": "canary-3"}, memory="/memory")
    content = b"canary-3" * (2 << 20) + b"\nlast canary-3\n"
    guest.add("/memory/output", content)
    guest.on_sh("^exec", CommandResult(3, ""))
    with pytest.raises(OperationError, match="exit status 3") as caught:
        run_in_guest(guest, context, "true", display="it")
    log = guest.text("/tmp/builder.log")
    assert "anary" not in log
    assert log == f"[... {len(content) - 14} bytes are left out here ...]\nlast ***\n"
    assert "last ***" in caught.value.log_tail
    guest.add_sparse("/memory/output", 8 << 30)
    with pytest.raises(OperationError, match="exit status 3"):
        run_in_guest(guest, context, "true", display="it")
    assert len(guest.text("/tmp/builder.log")) < 9 << 20


def test_a_log_without_end_is_read_from_its_end() -> None:
    guest = debian_guest()
    context = context_of(guest)

    def fill(_script: str) -> CommandResult:
        guest.add_sparse("/tmp/builder.log", 16 << 40)
        return CommandResult(1, "")

    guest.on_sh("^exec", fill)
    with pytest.raises(OperationError) as caught:
        run_in_guest(guest, context, "true", display="it")
    assert len(caught.value.log_tail) <= 64 << 10
    assert not any("tail" in script for script in guest.scripts)

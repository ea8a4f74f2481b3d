"""--on-error: what becomes of the disk and the log when a customization fails."""

from __future__ import annotations

import io
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.building.build import build
from imgbuilder.cli.customizing import shell_with
from imgbuilder.customize.failure import OnError, keep_log
from imgbuilder.errors import OperationError
from imgbuilder.guests.ports import CommandResult, FilesystemUse
from imgbuilder.services import Services
from imgbuilder.terminal.reporter import ConsoleReporter
from tests.fakes.debianguest import context_of, debian_guest
from tests.fakes.hostguest import HostGuest
from tests.fakes.operations import parse_operation
from tests.fakes.template import TinyAppliances
from tests.fakes.template import tiny_request as request


def fail(
    services: Services, appliances: TinyAppliances, *, said: str = "no rule", **fields: Any
) -> OperationError:
    appliances.answers["make me"] = CommandResult(4, said)
    operations = (parse_operation("write", "/etc/a:1"), parse_operation("run-command", "make me"))
    with pytest.raises(OperationError) as caught:
        build(request(operations=operations, **fields), services, lambda _event: None)
    return caught.value


def test_abort_leaves_nothing(services: Services, appliances: TinyAppliances, tmp_path: Path) -> None:
    error = fail(services, appliances)
    assert "exit status 4" in error.message
    assert list((tmp_path / "out").iterdir()) == []
    assert ("shutdown", "") not in appliances.appliances[0].log


def test_keep_leaves_a_cleanly_unmounted_image(
    services: Services, appliances: TinyAppliances, tmp_path: Path
) -> None:
    fail(services, appliances, on_error=OnError.KEEP)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.img"]
    assert appliances.appliances[0].log[-2:] == [("unmount_all", ""), ("shutdown", "")]


@pytest.mark.parametrize("keep", [True, False])
def test_the_shell_decides(
    keep: bool, services: Services, appliances: TinyAppliances, tmp_path: Path
) -> None:
    seen: list[object] = []

    def shell(*arguments: object) -> bool:
        seen.append(arguments[2])
        return keep

    object.__setattr__(services, "guest_shell", shell)
    error = fail(services, appliances, on_error=OnError.SHELL)
    assert [str(item) for item in seen] == [error.message]
    assert [path.name for path in (tmp_path / "out").iterdir()] == (["tiny.img"] if keep else [])


def test_the_log_is_kept_on_the_host(services: Services, appliances: TinyAppliances, tmp_path: Path) -> None:
    appliances.answers["make me"] = CommandResult(4, "")
    appliances.guest.add("/tmp/builder.log", "all of it\n")
    with pytest.raises(OperationError) as caught:
        build(request(operations=(parse_operation("run-command", "make me"),)), services, lambda _event: None)
    (kept,) = (tmp_path / "home").rglob("logs/*.log")
    assert kept.read_text() == "all of it\n"
    assert str(kept) in (caught.value.hint or "")
    assert kept.name.startswith("tiny-")
    assert kept.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.row("B9")
def test_a_full_guest_is_named(services: Services, appliances: TinyAppliances) -> None:
    assert "free" not in (fail(services, appliances).hint or "")
    said = "cp: /x: No space left on device"
    assert "/ has 512.0M of 1.0G free" in (fail(services, appliances, said=said).hint or "")
    appliances.uses = [FilesystemUse(1 << 30, 1 << 29), FilesystemUse(380 << 20, 4096, "/var")]
    hint = fail(services, appliances).hint or ""
    assert "in the guest, /var has 4.0K of 380.0M free" in hint
    assert "--size" in hint


def test_a_hostile_name_does_not_become_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    guest = debian_guest()
    guest.add("/log", "x")
    kept = keep_log(guest, "/log", "../../etc/x")
    assert kept is not None
    assert kept.name.startswith("..-..-etc-x-")
    assert kept.parent.name == "logs"


def test_logs_are_kept_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    guest = debian_guest()
    guest.add_sparse("/log", 16 << 40, b"the beginning")
    folder = tmp_path / "pybuilder" / "logs"
    folder.mkdir(parents=True)
    for number in range(30):
        old = folder / f"old-{number}.log"
        old.touch()
        os.utime(old, (number, number))
    kept = keep_log(guest, "/log", "big")
    assert kept is not None
    assert kept.stat().st_size == 4 << 20
    assert {path.name for path in folder.iterdir()} == {kept.name, *(f"old-{n}.log" for n in range(11, 30))}
    guest.add_fifo("/pipe")
    assert keep_log(guest, "/pipe", "none") is None
    assert not list(folder.glob("none*"))
    # An old log that cannot be removed does not hide the new one.
    stuck = folder / "stuck.log"
    stuck.mkdir()
    os.utime(stuck, (0, 0))
    kept = keep_log(guest, "/log", "next")
    assert kept is not None
    assert kept.exists()


def test_a_shell_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = HostGuest(tmp_path)
    context = context_of(debian_guest(), secrets={"A": "canary-2"})
    error = OperationError("it failed", log_tail="last \x1b line")
    typed = (
        f"cd {shlex.quote(str(tmp_path))}\npwd\n\necho canary-2 '\x1b[1m'; (exit 5)\ncd /nowhere\nexit 3\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(typed + "keep\n"))
    assert shell_with(ConsoleReporter("pybuilder"))(guest, context, error)
    shown = capsys.readouterr()
    assert shown.out.split("\n")[0] == str(tmp_path)
    assert "*** \\x1b[1m" in shown.out
    assert "canary" not in shown.out
    assert "exit status 5" in shown.err
    assert "exit status 3" in shown.err
    assert f"guest:{tmp_path}# " in shown.err
    assert "\x1b" not in shown.out + shown.err
    for typed in ("", "exit\n", "pwd\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert not shell_with(ConsoleReporter("pybuilder"))(guest, context, error)

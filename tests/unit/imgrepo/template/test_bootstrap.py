"""Running mmdebstrap, with a stand-in for it."""

from __future__ import annotations

import functools
import os
import pwd
import re
import shlex
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from imgbuilder.errors import ToolError, UsageError
from imgbuilder.events import Event, Notice
from imgbuilder.host import process
from imgbuilder.host.interrupts import Interrupted, interruptible
from imgbuilder.host.packages import install_hint
from imgrepo.template import bootstrap as module
from imgrepo.template.bootstrap import BootstrapRequest, Mode, bootstrap, bootstrap_arguments, check_bootstrap
from imgrepo.template.recipes import Arch, Mirrors, recipe_named
from tests.unit.imgrepo.repository import stand_in

StandIn = Callable[[str], None]


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "keys.gpg"
    path.write_bytes(b"keys")
    return path


@pytest.fixture
def request_(keyring: Path) -> BootstrapRequest:
    return BootstrapRequest(recipe_named("debian-12"), keyring=keyring, mode=Mode.ROOT)


@pytest.fixture(autouse=True)
def little_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHROOT_SPACE", 0)


@pytest.fixture
def mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Return a function that puts a shell script in the place of mmdebstrap."""
    return functools.partial(stand_in, tmp_path, monkeypatch)


def arguments(request: BootstrapRequest, overlay: str = "/x/overlay.tar") -> list[str]:
    return list(bootstrap_arguments(request, mode=Mode.UNSHARE, overlay=Path(overlay)))


def test_the_command_line_names_mode_suite_and_packages(request_: BootstrapRequest) -> None:
    words = arguments(request_)
    assert words[0] == "mmdebstrap"
    assert "--mode=unshare" in words
    assert words[words.index("-") - 1] == "bookworm"
    (include,) = [word for word in words if word.startswith("--include=")]
    assert "linux-image-cloud-amd64" in include.split("=", 1)[1].split(",")


def test_sources_of_packages_are_read_from_standard_input_and_are_no_arguments(
    tmp_path: Path,
    space: Path,
    mmdebstrap: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    request_: BootstrapRequest,
) -> None:
    mmdebstrap('echo "arguments: $*"; cat; printenv https_proxy')
    monkeypatch.setenv("https_proxy", "http://me:sekret1@proxy.example")
    mirror = "http://me:sekret2@mirror.example/debian"
    request = replace(request_, build_from=Mirrors(mirror))
    bootstrap(request, tmp_path / "out", tmp_path, lambda _event: None)
    arguments_line, *rest = (tmp_path / "out").read_text().splitlines()
    assert "sekret" not in arguments_line
    assert (
        len([line for line in rest if re.fullmatch(rf"deb \[signed-by=/\S+\] {mirror} \S+ main", line)]) == 2
    )
    assert rest[-1] == "http://me:sekret1@proxy.example"
    assert list(space.iterdir()) == []


def test_a_path_with_blanks_stays_one_word_of_the_hook(request_: BootstrapRequest) -> None:
    (hook,) = [word for word in arguments(request_, "/a b/o.tar") if "tar-in" in word]
    assert shlex.split(hook.split("=", 1)[1]) == ["tar-in", "/a b/o.tar", "/"]


def test_standard_output_becomes_the_archive_and_messages_are_reported(
    tmp_path: Path, space: Path, mmdebstrap: StandIn, request_: BootstrapRequest
) -> None:
    mmdebstrap('touch "$TMPDIR/left"; echo I: working >&2; printf tar')
    events: list[Event] = []
    bootstrap(request_, tmp_path / "out.tar", tmp_path, events.append)
    assert (tmp_path / "out.tar").read_bytes() == b"tar"
    assert any(isinstance(event, Notice) and event.text == "mmdebstrap: I: working" for event in events)
    assert list(space.iterdir()) == []


def test_failure_quotes_the_last_words_and_leaves_nothing(
    tmp_path: Path, space: Path, mmdebstrap: StandIn, request_: BootstrapRequest
) -> None:
    mmdebstrap('mkdir "$TMPDIR/chroot"; seq 100 >&2; echo E: no such suite >&2; exit 25')
    with pytest.raises(ToolError, match=r"status 25[\s\S]*E: no such suite") as failed:
        bootstrap(request_, tmp_path / "out.tar", tmp_path, lambda _event: None)
    assert "\n50\n" not in failed.value.message
    assert list(space.iterdir()) == []


def test_a_signal_ends_mmdebstrap_and_lets_it_clean_up_first(
    tmp_path: Path, space: Path, mmdebstrap: StandIn, request_: BootstrapRequest
) -> None:
    mmdebstrap(
        f"trap 'echo tidy >{tmp_path}/tidy; exit 1' TERM; kill -TERM {os.getpid()}\n"
        "while :; do sleep 0.01; done"
    )
    with pytest.raises(Interrupted), interruptible():
        bootstrap(request_, tmp_path / "out.tar", tmp_path, lambda _event: None)
    assert (tmp_path / "tidy").read_text() == "tidy\n"
    assert list(space.iterdir()) == []


def test_the_folder_for_mmdebstrap_can_be_passed_by_other_users_but_not_listed(
    tmp_path: Path, space: Path, mmdebstrap: StandIn, request_: BootstrapRequest
) -> None:
    mmdebstrap(f'stat -c %a "$TMPDIR" >{tmp_path}/mode')
    bootstrap(request_, tmp_path / "out.tar", tmp_path, lambda _event: None)
    assert (tmp_path / "mode").read_text() == "711\n"


def test_what_a_namespace_left_is_removed_from_a_namespace(
    tmp_path: Path, space: Path, mmdebstrap: StandIn, monkeypatch: pytest.MonkeyPatch, keyring: Path
) -> None:
    log = tmp_path / "log"
    mmdebstrap(
        f'echo "$1 $2" >>{log}; [ "$1" = --unshare-helper ] && shift && exec "$@"; mkdir -p "$TMPDIR/a/b"'
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    bootstrap(
        BootstrapRequest(recipe_named("debian-12"), keyring=keyring, mode=Mode.UNSHARE),
        tmp_path / "out.tar",
        tmp_path,
        lambda _event: None,
    )
    assert "--unshare-helper find" in log.read_text()
    assert list(space.iterdir()) == []


def test_a_missing_keyring_is_refused_before_anything_runs(tmp_path: Path) -> None:
    request = BootstrapRequest(recipe_named("debian-12"), keyring=tmp_path / "none.gpg", mode=Mode.ROOT)
    with pytest.raises(UsageError, match="keys are missing"):
        check_bootstrap(request)


def test_a_keyring_that_apt_would_misread_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my keys.gpg"
    path.write_bytes(b"keys")
    with pytest.raises(UsageError, match="cannot use a keyring"):
        check_bootstrap(BootstrapRequest(recipe_named("debian-12"), keyring=path, mode=Mode.ROOT))


@pytest.mark.parametrize(
    ("programs", "table", "problem"),
    [
        ({"mmdebstrap": "/m"}, "me:100000:65536\n", "newuidmap"),
        ({"mmdebstrap": "/m", "newuidmap": "/n"}, "you:100000:65536\n", "range of user numbers for me"),
        ({"mmdebstrap": "/m", "newuidmap": "/n"}, "me:100000:10\n", "range of user numbers for me"),
        ({"mmdebstrap": "/m", "newuidmap": "/n"}, "garbage\nme:1:x\n", "range of user numbers for me"),
        ({"mmdebstrap": "/m", "newuidmap": "/n"}, None, "range of user numbers for me"),
    ],
)
def test_an_ordinary_user_is_told_what_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keyring: Path,
    programs: dict[str, str],
    table: str | None,
    problem: str,
) -> None:
    ordinary_user(tmp_path, monkeypatch, programs, table)
    with pytest.raises(ToolError, match=problem) as refused:
        check_bootstrap(BootstrapRequest(recipe_named("debian-12"), keyring=keyring))
    without = "newuidmap" not in programs
    assert refused.value.hint is not None
    assert (install_hint("newuidmap") if without else "usermod --add-subuids") in refused.value.hint


@pytest.mark.parametrize("table", ["me:100000:65536\n", "a:1:2\n1234:5:65537\n"])
def test_an_ordinary_user_with_a_range_uses_a_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyring: Path, table: str
) -> None:
    ordinary_user(tmp_path, monkeypatch, {"mmdebstrap": "/m", "newuidmap": "/n"}, table)
    monkeypatch.delenv("TMPDIR", raising=False)
    mode, used = check_bootstrap(BootstrapRequest(recipe_named("debian-12"), keyring=keyring))
    assert (mode, used) == (Mode.UNSHARE, keyring)


def test_a_folder_for_temporary_files_that_others_cannot_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyring: Path
) -> None:
    ordinary_user(tmp_path, monkeypatch, {"mmdebstrap": "/m", "newuidmap": "/n"}, "me:100000:65536\n")
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    home.chmod(0o700)
    monkeypatch.setenv("TMPDIR", str(home / "tmp"))
    with pytest.raises(ToolError, match=f"other users may not enter {home}$") as refused:
        check_bootstrap(BootstrapRequest(recipe_named("debian-12"), keyring=keyring))
    assert "TMPDIR" in (refused.value.hint or "")


def ordinary_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: dict[str, str], table: str | None
) -> None:
    ranges = tmp_path / "subuid"
    if table is not None:
        ranges.write_text(table)
    monkeypatch.setattr(module, "_RANGES", (ranges, ranges))
    monkeypatch.setattr(process, "find_program", programs.get)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(pwd, "getpwuid", {1234: SimpleNamespace(pw_name="me")}.__getitem__)


def test_a_user_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyring: Path) -> None:
    """As containers start programs; variables may say anything."""
    ordinary_user(tmp_path, monkeypatch, {"mmdebstrap": "/m", "newuidmap": "/n"}, "me:100000:65536\n")
    monkeypatch.setattr(os, "getuid", lambda: 5678)
    monkeypatch.setenv("LOGNAME", "me")
    with pytest.raises(ToolError, match=r"number 5678 is not in /etc/passwd"):
        check_bootstrap(BootstrapRequest(recipe_named("debian-12"), keyring=keyring))


def test_without_mmdebstrap_its_package_is_named(
    monkeypatch: pytest.MonkeyPatch, request_: BootstrapRequest
) -> None:
    monkeypatch.setattr(process, "find_program", lambda _name: None)
    with pytest.raises(ToolError, match="mmdebstrap") as refused:
        check_bootstrap(request_)
    assert refused.value.hint is not None
    assert refused.value.hint == install_hint("mmdebstrap")


def test_the_publishers_script_runs_before_the_system_is_finished(
    tmp_path: Path, request_: BootstrapRequest
) -> None:
    script = tmp_path / "a script"
    script.write_text("#!/bin/sh\n")
    words = arguments(replace(request_, script=script, arch=Arch.I386, locale="de_DE.UTF-8"))
    hooks = [word.split("=", 1)[1] for word in words if word.startswith("--customize-hook=")]
    assert shlex.split(hooks[0]) == ["upload", str(script), "/var/tmp/pybuilder-script"]
    assert "rm -f /var/tmp/pybuilder-script" in hooks[1]
    assert hooks[2].startswith("tar-in")
    assert "--architectures=i386" in words
    (include,) = [word for word in words if word.startswith("--include=")]
    assert "locales" in include.split("=", 1)[1].split(",")
    with pytest.raises(UsageError, match="does not exist"):
        replace(request_, script=tmp_path / "none")


def test_the_time_of_a_reproducible_build_reaches_mmdebstrap_and_our_files(
    tmp_path: Path, space: Path, mmdebstrap: StandIn, request_: BootstrapRequest
) -> None:
    mmdebstrap('printf %s "$SOURCE_DATE_EPOCH"')
    for number in range(2):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        bootstrap(replace(request_, epoch=1700000000), scratch / "out.tar", scratch, lambda _event: None)
        assert (scratch / "out.tar").read_bytes() == b"1700000000"
    assert (tmp_path / "0/overlay.tar").read_bytes() == (tmp_path / "1/overlay.tar").read_bytes()
    with tarfile.open(tmp_path / "0/overlay.tar") as tar:
        assert {member.mtime for member in tar} == {1700000000}


def test_another_architecture_needs_the_program_that_tries_it(
    monkeypatch: pytest.MonkeyPatch, request_: BootstrapRequest
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(process, "require_program", asked.append)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64"))
    check_bootstrap(request_)
    assert asked == ["mmdebstrap"]
    check_bootstrap(replace(request_, arch=Arch.I386))
    assert asked == ["mmdebstrap", "mmdebstrap", "arch-test"]


def test_expired_lists_are_taken_only_on_request(request_: BootstrapRequest) -> None:
    assert not any("Valid-Until" in word for word in arguments(request_))
    words = arguments(replace(request_, valid_until=False))
    assert '--aptopt=Acquire::Check-Valid-Until "false"' in words

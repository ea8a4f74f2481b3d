"""A whole customization: order, static checks, the root password, seeds."""

from __future__ import annotations

from typing import Any

import pytest
from passlib.hash import sha256_crypt, sha512_crypt

from imgbuilder.customize.operation import Operation
from imgbuilder.customize.packagemanagers import NOTED
from imgbuilder.customize.registry import all_operations
from imgbuilder.customize.run import CustomizeResult, customize, needs_commands, validate
from imgbuilder.errors import OperationError, ToolError, UsageError
from imgbuilder.events import Event, Notice, Severity, Step
from imgbuilder.guests.ports import CommandResult
from tests.fakes.debianguest import KEY, context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation
from tests.fakes.windows import fill_windows


def _operations(*lines: str) -> list[Operation]:
    return [parse_operation(*line.split(" ", 1)) for line in lines]


def _customize(guest: FakeGuest, *lines: str, **changes: Any) -> tuple[CustomizeResult, list[Event]]:
    events: list[Event] = []
    result = customize(guest, _operations(*lines), context_of(guest, **changes), events.append)
    return result, events


def _steps(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Step)]


@pytest.mark.row("Z21")
def test_the_order_is_the_users_with_passwords_late_and_the_log_last(guest: FakeGuest) -> None:
    guest.add("/etc/selinux/config")
    guest.add("/usr/sbin/load_policy")
    guest.add("/tmp/builder.log")
    _result, events = _customize(
        guest, "no-logfile", "root-password password:x", "write /a:1", "mkdir /d", "write /b:2",
        "password ann:password:y", "run-command true", "hostname vm", "install nginx",
        f"ssh-inject root:string:{KEY}", "password-crypto sha256", "firstboot-command x",
    )  # fmt: skip
    assert _steps(events) == [
        "Setting a random seed", "Setting the machine ID in /etc/machine-id", "Writing: /a",
        "Making directory: /d", "Writing: /b", "Running: true", "Setting the hostname: vm",
        "Installing packages: nginx", "SSH key inject: root", "Installing firstboot command: x",
        "Setting passwords", "SELinux relabelling", "Scrubbing the log file",
    ]  # fmt: skip
    changed = [
        path for _call, path in guest.calls if path in ("/a", "/b", "/d", "/etc/hostname", "/etc/shadow")
    ]
    assert changed == ["/a", "/d", "/b", "/etc/hostname", "/etc/shadow", "/etc/shadow"]
    assert guest.calls[-2:] == [("touch", "/.autorelabel"), ("remove", "/tmp/builder.log")]
    hashes = [line.split(":")[1] for line in guest.text("/etc/shadow").split("\n") if line]
    assert sha256_crypt.verify("x", hashes[0])
    assert sha256_crypt.verify("y", hashes[2])


def test_each_operation_is_reported_before_it_is_applied(events: list[Event], guest: FakeGuest) -> None:
    def answer(_script: str) -> CommandResult:
        assert events[-1] == Step("Running: two")
        return CommandResult(0, "")

    guest.on_sh("\ntwo\n", answer)
    customize(guest, _operations("run-command one", "run-command two"), context_of(guest), events.append)
    assert len(guest.scripts) == 2


def test_a_failed_operation_ends_the_customization(guest: FakeGuest) -> None:
    guest.on_sh("\nbad\n", CommandResult(9, "words"))
    with pytest.raises(OperationError, match="exit status 9") as caught:
        _customize(guest, "write /a:1", "run-command bad", "write /b:2", "root-password password:x")
    assert caught.value.log_tail == "words"
    assert guest.exists("/a")
    assert not guest.exists("/b")
    assert guest.text("/etc/shadow").startswith("root:*:")


def test_a_failed_request_names_the_operation(guest: FakeGuest) -> None:
    with pytest.raises(
        OperationError, match=r"--mkdir failed: (mkdir_p: )?/etc/passwd(/x)?: Not a directory"
    ):
        _customize(guest, "mkdir /etc/passwd/x")


@pytest.mark.parametrize(
    "lines",
    [
        ["root-password random", "root-password random"],
        ["root-password disabled", "password root:password:x"],
        ["password ann:random", "mkdir /a", "password ann:locked"],
        ["selinux-relabel", "no-selinux-relabel"],
    ],
)
def test_contradictions_are_found_before_any_work(guest: FakeGuest, lines: list[str]) -> None:
    with pytest.raises(UsageError):
        validate(_operations(*lines))
    with pytest.raises(UsageError):
        _customize(guest, *lines)
    assert guest.calls == []


def test_different_users_may_have_passwords() -> None:
    validate(_operations("root-password random", "password ann:random", "selinux-relabel"))


def test_edit_without_perl_is_found_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgbuilder.host.process.find_program", lambda _name: None)
    with pytest.raises(ToolError, match="perl is not installed"):
        validate(_operations("mkdir /a", "edit /a:s/x/y/"))


def test_which_operations_need_the_network_and_which_run_commands() -> None:
    network = {keyword for keyword, spec in all_operations().items() if spec.network}
    assert network == {"install", "update"}
    assert not needs_commands(_operations("write /a:x", "firstboot-command x", "edit /a:x"))
    assert needs_commands(_operations("write /a:x", "run-command x"))


def test_root_gets_a_random_password_that_is_reported_once(guest: FakeGuest) -> None:
    result, events = _customize(guest, "write /a:x", implicit_root_password=True)
    password = result.root_password
    assert password is not None
    assert len(password) >= 21
    assert [event for event in events if password in str(event)] == [
        Notice(Severity.INFO, f"Setting random password of root to {password}")
    ]
    assert sha512_crypt.verify(password, guest.text("/etc/shadow").split(":")[1])
    assert password not in repr(result)


@pytest.mark.parametrize(
    "line",
    [
        "root-password password:x",
        "password root:password:x",
        "root-password locked",
        "password root:disabled",
    ],
)
def test_root_gets_no_random_password_when_an_operation_decides(line: str) -> None:
    result, events = _customize(debian_guest(), line, implicit_root_password=True)
    assert result.root_password is None
    assert not [event for event in events if isinstance(event, Notice)]


def test_a_random_password_is_only_made_if_wanted(guest: FakeGuest) -> None:
    result, _events = _customize(guest, "password ann:password:x")
    assert result.root_password is None
    assert guest.text("/etc/shadow").startswith("root:*:")


@pytest.mark.row("Z22")
def test_seeds_and_machine_ids_differ_in_100_builds() -> None:
    seeds, ids = set(), set()
    for _ in range(100):
        guest = debian_guest()
        _customize(guest)
        seeds.add(guest.read("/var/lib/systemd/random-seed"))
        ids.add(guest.text("/etc/machine-id"))
        assert guest.permissions("/var/lib/systemd/random-seed") == ("0600", 0, 0)
        assert guest.permissions("/etc/machine-id")[0] == "0444"
    assert len(seeds) == len(ids) == 100
    assert {len(seed) for seed in seeds} == {512}
    assert all(len(text) == 33 and text[32] == "\n" and int(text, 16) for text in ids)


@pytest.mark.parametrize(
    ("before", "changed"),
    [(b"", True), (b"uninitialized\n", True), (b"0" * 32 + b"\n", False), (b"uninitialized", False)],
)
def test_only_an_empty_machine_id_is_filled(guest: FakeGuest, before: bytes, changed: bool) -> None:
    guest.add("/etc/machine-id", before)
    _result, events = _customize(guest)
    assert (guest.read("/etc/machine-id") != before) == changed
    assert ("Setting the machine ID in /etc/machine-id" in _steps(events)) == changed


def test_a_missing_or_linked_machine_id_is_left(guest: FakeGuest) -> None:
    guest.remove("/etc/machine-id")
    _customize(guest)
    assert not guest.exists("/etc/machine-id")
    guest.add_link("/etc/machine-id", "/run/machine-id")
    guest.add("/run/machine-id", "")
    _customize(guest)
    assert guest.text("/run/machine-id") == ""


@pytest.mark.parametrize(("old", "new"), [(1, 512), (1000, 1000), (20_000, 8192)])
def test_an_existing_seed_is_refilled_in_place(guest: FakeGuest, old: int, new: int) -> None:
    guest.add("/var/lib/urandom/random-seed", b"x" * old, mode=0o600, uid=1)
    _customize(guest)
    content = guest.read("/var/lib/urandom/random-seed")
    assert len(content) == new
    assert content != b"x" * new
    assert guest.permissions("/var/lib/urandom/random-seed") == ("0600", 1, 0)


def test_a_guest_without_systemd_gets_its_familys_seed_or_a_warning() -> None:
    guest = FakeGuest()
    guest.add("/etc/os-release", "ID=debian")
    guest.add_dir("/var/lib/urandom")
    _result, events = _customize(guest)
    assert len(guest.read("/var/lib/urandom/random-seed")) == 512
    assert not [event for event in events if isinstance(event, Notice)]

    guest = FakeGuest()
    guest.add("/etc/os-release", "ID=debian")
    _result, events = _customize(guest)
    assert [event.severity for event in events if isinstance(event, Notice)] == [Severity.WARNING]


def test_openrc_gets_a_seed_that_its_seedrng_reads(bare: FakeGuest) -> None:
    bare.add("/etc/os-release", "ID=alpine")
    bare.add("/etc/init.d/seedrng")
    _result, events = _customize(bare)
    path = "/var/lib/seedrng/seed.no-credit"
    assert len(bare.read(path)) == 512
    assert (bare.permissions(path)[0], bare.permissions("/var/lib/seedrng")[0]) == ("0600", "0700")
    assert not [event for event in events if isinstance(event, Notice)]
    _customize(bare, "sysprep random-seed")
    assert bare.ls("/var/lib/seedrng") == []


def test_a_planted_seed_link_is_not_written_through(guest: FakeGuest) -> None:
    guest.add_link("/var/lib/systemd/random-seed", "/etc/nowhere")
    _customize(guest)
    assert not guest.exists("/etc/nowhere")


@pytest.mark.row("Z23")
def test_commands_write_to_the_new_log_which_is_removed(guest: FakeGuest) -> None:
    guest.add_link("/tmp/builder.log", "/etc/passwd")
    passwd = guest.read("/etc/passwd")

    def write_log(_script: str) -> CommandResult:
        guest.add(_script.split(">>")[1].split()[0], "output")
        return CommandResult(0, "")

    guest.on_sh("^exec", write_log)
    result, _events = _customize(guest, "run-command true", "no-logfile")
    assert result.log_file.startswith("/tmp/builder-")
    assert not guest.exists(result.log_file)
    assert guest.read("/etc/passwd") == passwd
    assert guest.is_symlink("/tmp/builder.log")


@pytest.mark.parametrize(
    ("files", "lines", "labelled"),
    [
        (["/etc/selinux/config", "/usr/sbin/load_policy"], [], True),
        (["/etc/selinux/config", "/usr/sbin/load_policy"], ["selinux-relabel"], True),
        (["/etc/selinux/config", "/usr/sbin/load_policy"], ["no-selinux-relabel"], False),
        (["/etc/selinux/config"], [], False),
        (["/usr/sbin/load_policy"], ["selinux-relabel"], False),
    ],
)
def test_selinux_labels(guest: FakeGuest, files: list[str], lines: list[str], labelled: bool) -> None:
    for path in files:
        guest.add(path)
    _result, events = _customize(guest, *lines)
    assert guest.exists("/.autorelabel") == labelled
    assert _steps(events).count("SELinux relabelling") == labelled
    parse_operation("selinux-relabel").apply(guest, context_of(guest))
    assert guest.exists("/.autorelabel") == (len(files) == 2)


def test_commands_of_a_foreign_architecture_are_refused_before_the_guest_is_changed(guest: FakeGuest) -> None:
    with pytest.raises(
        OperationError, match="--run-command cannot run programs of a guest for aarch64"
    ) as caught:
        _customize(guest, "write /a:x", "run-command true", arch="aarch64", runs_commands=False)
    assert "--firstboot" in (caught.value.hint or "")
    assert guest.calls == []
    _customize(guest, "firstboot-install a", "no-logfile", arch="aarch64", runs_commands=False)
    assert guest.scripts == []


def test_package_names_are_checked_before_the_guest_is_changed(guest: FakeGuest) -> None:
    with pytest.raises(OperationError, match="'vim-' is not a package name of apt"):
        _customize(guest, "write /a:x", "install vim-")
    assert guest.calls == []


def test_name_resolution_is_tested_once_and_before_apt(guest: FakeGuest) -> None:
    guest.add("/etc/apt/sources.list", "deb http://deb.example.org/ x main")
    _customize(guest, "install a", "run-command x", "update")
    kinds = [
        "getent" if "getent" in script else "apt" if "apt-get" in script else "x"
        for script in guest.scripts
        if NOTED not in script
    ]
    assert kinds == ["getent", "apt", "x", "apt"]

    guest.scripts.clear()
    guest.on_sh("getent", CommandResult(3, ""))
    _customize(guest, "run-command x", "uninstall a")
    assert not any("getent" in script for script in guest.scripts)
    guest.scripts.clear()
    with pytest.raises(OperationError, match="name resolution does not work"):
        _customize(guest, "install a")
    assert len(guest.scripts) == 1


def test_windows_is_refused_what_is_for_linux_before_it_is_changed() -> None:
    guest = fill_windows(FakeGuest())
    wanted = [parse_operation("mkdir", "/new"), parse_operation("run-command", "x")]
    with pytest.raises(OperationError, match="--run-command: the guest is Windows, and this is for Linux"):
        customize(guest, wanted, context_of(guest, implicit_root_password=True))
    assert guest.calls == []


def test_linux_is_refused_what_is_for_windows_before_it_is_changed(bare: FakeGuest) -> None:
    for keyword, argument in (("write", "C:\\a:text"), ("write", "c:/a:text")):
        with pytest.raises(OperationError, match="is a path of Windows, and the guest is not"):
            customize(bare, [parse_operation(keyword, argument)], context_of(bare))
    assert bare.calls == []


def test_freebsd_is_refused_by_name(bare: FakeGuest) -> None:
    bare.add("/etc/os-release", "ID=freebsd\n")
    with pytest.raises(OperationError, match="not Linux but 'freebsd'"):
        customize(bare, [parse_operation("mkdir", "/etc")], context_of(bare))


def test_windows_without_operations_is_left_alone(events: list[Event]) -> None:
    """A build may only have to grow it."""
    guest = fill_windows(FakeGuest())
    result = customize(guest, [], context_of(guest, implicit_root_password=True), events.append)
    assert result.root_password is None
    assert guest.calls == []
    assert [event.text for event in events if isinstance(event, Notice)] == [
        "the guest is 'windows' and is not customized"
    ]

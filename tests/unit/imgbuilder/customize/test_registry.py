"""Tests over the whole table of operations, and commands files: the same operations as the command line."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imgbuilder.customize import argforms
from imgbuilder.customize.operation import Operation, Phase
from imgbuilder.customize.ops.files import Write
from imgbuilder.customize.passwords import Crypto
from imgbuilder.customize.registry import all_operations, operation
from imgbuilder.errors import GuestCallError, UsageError
from tests.fakes.debianguest import KEY, context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation, read_commands_file


@dataclass(frozen=True)
class Case:
    """One behaviour of an operation.

    ``{local}`` in the text stands for a local script that holds ``#!/bin/sh``; ``{tar}`` for a tar file
    of it.
    """

    text: str
    says: str
    holds: Callable[[FakeGuest], bool]
    files: dict[str, str] = field(default_factory=dict)


def _ran(text: str) -> Callable[[FakeGuest], bool]:
    return lambda guest: any(text in script for script in guest.scripts)


def _has(path: str, content: str) -> Callable[[FakeGuest], bool]:
    return lambda guest: guest.text(path) == content


_FIRSTBOOT = "/usr/lib/virt-sysprep/scripts/5000-0001-"

CASES = {
    "append-line": Case("/a:x", "Appending line to /a", _has("/a", "old\nx\n"), {"/a": "old"}),
    "chmod": Case(
        "755:/a", "Changing permissions of /a to 0755", lambda g: g.permissions("/a")[0] == "0755", {"/a": ""}
    ),
    "chown": Case(
        "1:2:/a", "Changing owner of /a to 1:2", lambda g: g.permissions("/a")[1:] == (1, 2), {"/a": ""}
    ),
    "cloud-init": Case(
        "{local}", "Seeding cloud-init: {local}", _has("/var/lib/cloud/seed/nocloud/user-data", "#!/bin/sh\n")
    ),
    "copy": Case("/a:/b", "Copying (in image): /a to /b", _has("/b", "x"), {"/a": "x"}),
    "copy-in": Case("{local}:/tmp", "Copying: {local} to /tmp", _has("/tmp/script.sh", "#!/bin/sh\n")),
    "delete": Case("/a", "Deleting: /a", lambda g: not g.exists("/a"), {"/a": ""}),
    "edit": Case("/a:s/x/y/", "Editing: /a", _has("/a", "y\n"), {"/a": "x\n"}),
    "firstboot": Case(
        "{local}",
        "Installing firstboot script: {local}",
        lambda g: any(path.startswith(_FIRSTBOOT) for path in g.tree()),
    ),
    "firstboot-command": Case(
        "echo 'hello'",
        "Installing firstboot command: echo 'hello'",
        _has(_FIRSTBOOT + "echo--hello-", "echo 'hello'\n"),
    ),
    "firstboot-install": Case(
        "a1,b2",
        "Installing firstboot packages: a1 b2",
        lambda g: "install -- a1 b2\n" in g.text(_FIRSTBOOT + "install-a1-b2"),
    ),
    "hostname": Case(
        "vm.example.org", "Setting the hostname: vm.example.org", _has("/etc/hostname", "vm.example.org\n")
    ),
    "install": Case("a1,b2", "Installing packages: a1 b2", _ran("install -- a1 b2\n")),
    "link": Case(
        "/t:/l:/m", "Linking: /l -> /t, /m -> /t", lambda g: g.readlink("/l") + g.readlink("/m") == "/t/t"
    ),
    "mirror": Case("http://m.example.org", "Using a mirror for packages", lambda g: g.calls == []),
    "mkdir": Case("/x/y", "Making directory: /x/y", lambda g: g.is_dir("/x/y")),
    "move": Case(
        "/a:/b", "Moving: /a -> /b", lambda g: g.text("/b") == "x" and not g.exists("/a"), {"/a": "x"}
    ),
    "no-logfile": Case(
        "", "Scrubbing the log file", lambda g: not g.exists("/tmp/builder.log"), {"/tmp/builder.log": "x"}
    ),
    "no-selinux-relabel": Case("", "Leaving SELinux labels as they are", lambda g: g.calls == []),
    "package-cache": Case("{local}.d", "Keeping packages in {local}.d", lambda g: g.calls == []),
    "password": Case(
        "ann:password:s3cret", "Setting passwords", lambda g: "\nann:$6$" in g.text("/etc/shadow")
    ),
    "password-crypto": Case("sha256", "Hashing passwords with sha256", lambda g: g.calls == []),
    "root-password": Case(
        "password:s3cret", "Setting passwords", lambda g: g.text("/etc/shadow").startswith("root:$6$")
    ),
    "run": Case("{local}", "Running: {local}", _ran("/script.sh\n")),
    "run-command": Case("make me", "Running: make me", _ran("\nmake me\n")),
    "scrub": Case("/a", "Scrubbing: /a", lambda g: not g.exists("/a"), {"/a": "x"}),
    "secret": Case("TOKEN=file:{local}", "Providing the secret TOKEN", lambda g: g.calls == []),
    "selinux-relabel": Case(
        "",
        "SELinux relabelling",
        lambda g: g.exists("/.autorelabel"),
        {"/etc/selinux/config": "", "/usr/sbin/load_policy": ""},
    ),
    "selinux-relabel-exclude": Case(
        "/srv", "Leaving SELinux labels below /srv as they are", lambda g: g.calls == []
    ),
    "ssh-inject": Case(
        f"ann:string:{KEY}", "SSH key inject: ann", _has("/home/ann/.ssh/authorized_keys", f"{KEY}\n")
    ),
    "static-ip": Case(
        "192.0.2.11/24,gateway=192.0.2.1",
        "Setting the address: 192.0.2.11/24",
        _has(
            "/etc/systemd/network/00-pybuilder.network",
            "[Match]\nName=en* eth*\nType=ether\n\n[Network]\nDHCP=no\nAddress=192.0.2.11/24\n"
            "Gateway=192.0.2.1\n",
        ),
        {"/etc/systemd/system/multi-user.target.wants/systemd-networkd.service": ""},
    ),
    "sysprep": Case(
        "machine-id,shell-history",
        "Removing the machine's identity: machine-id shell-history",
        lambda g: g.text("/etc/machine-id") == "" and not g.exists("/root/.bash_history"),
        {"/etc/machine-id": "1234", "/root/.bash_history": "ls"},
    ),
    "tar-in": Case("{tar}:/tmp", "Unpack tar file: {tar} to /tmp", _has("/tmp/script.sh", "#!/bin/sh\n")),
    "timezone": Case(
        "Europe/Berlin",
        "Setting the timezone: Europe/Berlin",
        lambda g: g.readlink("/etc/localtime") == "/usr/share/zoneinfo/Europe/Berlin",
    ),
    "touch": Case("/a", "Running touch: /a", lambda g: g.is_file("/a")),
    "truncate": Case("/a", "Truncating: /a", _has("/a", ""), {"/a": "x"}),
    "truncate-recursive": Case("/a", "Recursively truncating: /a", _has("/a/b/c", ""), {"/a/b/c": "old"}),
    "uninstall": Case("a1,b2", "Uninstalling packages: a1 b2", _ran("remove -- a1 b2\n")),
    "update": Case("", "Updating packages", _ran("upgrade\n")),
    "upload": Case("{local}:/tmp", "Uploading: {local} to /tmp", _has("/tmp/script.sh", "#!/bin/sh\n")),
    "user": Case("bob", "Adding user: bob", _ran("useradd -m -s /bin/sh -- bob\n")),
    "write": Case("/a:b:c", "Writing: /a", _has("/a", "b:c")),
}


WINDOWS_ONLY = {"inject-blnsvr", "inject-qemu-ga", "inject-virtio-win", "windows-runner"}
"""Their tests are in ``test_windows.py``."""


def test_every_operation_has_a_behaviour_test_and_no_test_is_left_over() -> None:
    assert sorted([*CASES, *WINDOWS_ONLY]) == sorted(all_operations())


@pytest.mark.parametrize("keyword", sorted(CASES))
def test_operation(guest: FakeGuest, keyword: str, tmp_path: Path) -> None:
    case = CASES[keyword]
    local = tmp_path / "script.sh"
    local.write_text("#!/bin/sh\n")
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(local, arcname=local.name)

    def filled(text: str) -> str:
        return text.replace("{local}", str(local)).replace("{tar}", str(archive))

    for path, content in case.files.items():
        guest.add(path, content)
    before = debian_guest()
    for path, content in case.files.items():
        before.add(path, content)
    changes_nothing = all_operations()[keyword].phase is Phase.SETTING
    assert changes_nothing or not _safely(case.holds, before), "the check would pass without the operation"

    parsed = parse_operation(keyword, filled(case.text))
    parsed.check_host()
    parsed.check_guest(context_of(guest))
    parsed.apply(guest, context_of(guest))

    assert parsed.describe() == filled(case.says)
    assert case.holds(guest)
    again = parse_operation(keyword, filled(case.text))
    assert parsed == again


def _safely(check: Callable[[FakeGuest], bool], guest: FakeGuest) -> bool:
    try:
        return check(guest)
    except GuestCallError:
        return False


@pytest.mark.parametrize("keyword", sorted(CASES))
def test_operation_is_documented(keyword: str) -> None:
    spec = all_operations()[keyword]
    assert 10 < len(spec.help) < 80
    assert "\n" not in spec.help
    assert not spec.help.endswith(".")
    assert "Attributes:" not in spec.long_help
    assert spec.cls.keyword == keyword
    assert bool(spec.metavar) == bool(CASES[keyword].text)


def test_properties_of_rows() -> None:
    rows = all_operations()
    assert {name for name, spec in rows.items() if spec.network} == {"install", "update"}
    running = {"install", "uninstall", "update", "run", "run-command", "user"}
    assert {name for name, spec in rows.items() if spec.runs_in_guest} == running
    secret = {"password", "root-password", "secret", "user"}
    assert {name for name, spec in rows.items() if spec.secret} == secret
    assert {name for name, spec in rows.items() if spec.phase is Phase.LATE} == {"password", "root-password"}
    last = {"selinux-relabel", "no-logfile", "sysprep"}
    assert {name for name, spec in rows.items() if spec.phase is Phase.LAST} == last


def test_a_second_operation_of_the_same_name_fails_at_import() -> None:
    all_operations()
    with pytest.raises(ValueError, match="two operations are called 'write'"):
        operation("write", form=argforms.flag())(Write)


def test_an_operation_without_help_fails_at_import() -> None:
    @dataclass(frozen=True)
    class Silent(Operation):
        def describe(self) -> str:
            return ""

        def apply(self, guest: object, context: object) -> None:
            pass

    with pytest.raises(ValueError, match="no docstring"):
        operation("silent", form=argforms.flag())(Silent)
    assert "silent" not in all_operations()


def test_an_unknown_keyword_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'frobnicate' is not a customization"):
        parse_operation("frobnicate", "x")


def _parse(keyword: str, text: str) -> Operation | UsageError:
    try:
        return parse_operation(keyword, text)
    except UsageError as error:
        return error


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(keyword=st.sampled_from(sorted(CASES)), text=st.text(max_size=60))
@example("root-password", "file:\0")
@example("run", "\0")
@example("upload", "\udcff:/x")
@example("upload", "a" * 5000 + ":/x")
@example("ssh-inject", "root:file:\0")
@example("ssh-inject", "root:file:~no-such-user/x")
@example("chmod", "\u0667\u0665\u0665:/x")
@example("chown", "\u0663:\u0663:/x")
@example("write", "/\udcff:x")
def test_any_argument_gives_an_operation_or_a_usage_error_that_names_the_option(
    keyword: str, text: str
) -> None:
    result = _parse(keyword, text)
    if isinstance(result, UsageError):
        assert result.message.startswith(f"--{keyword}: ")
    else:
        assert result.describe()


LIKELY = ["root", "/", "/etc/x", "..", "0755", "u+x", "file", "password", "string", "-o", "$(x)", "\n", "\0"]


@settings(max_examples=80, deadline=None)
@given(
    keyword=st.sampled_from(sorted(CASES)),
    parts=st.lists(
        st.sampled_from(LIKELY),
        max_size=4,
    ),
    joint=st.sampled_from([":", ",", ""]),
)
def test_likely_arguments_give_only_usage_errors(keyword: str, parts: list[str], joint: str) -> None:
    result = _parse(keyword, joint.join(parts))
    if isinstance(result, UsageError):
        assert result.message.startswith(f"--{keyword}: ")


@pytest.mark.row("Z3")
@pytest.mark.parametrize("keyword", sorted(name for name, spec in all_operations().items() if spec.metavar))
def test_nul_is_refused_everywhere(keyword: str) -> None:
    with pytest.raises(UsageError):
        parse_operation(keyword, (CASES[keyword].text if keyword in CASES else "/etc") + "\0")


@pytest.mark.row("Z18")
def test_texts_about_operations_contain_no_secrets(tmp_path: Path) -> None:
    canary = "canary-3141"
    file = tmp_path / "password"
    file.write_text(f"{canary}\n")
    for keyword, text in [
        ("password", f"ann:password:{canary}"),
        ("root-password", f"locked:password:{canary}"),
        ("root-password", f"file:{file}"),
    ]:
        parsed = parse_operation(keyword, text)
        assert canary not in repr(parsed) + str(parsed) + parsed.describe()
    for text in (canary, f"passwort:{canary}", f"password:{canary}\n{canary}"):
        with pytest.raises(UsageError) as caught:
            parse_operation("root-password", text)
        assert canary not in f"{caught.value.message} {caught.value.hint}"
    context = context_of(debian_guest(), proxies={"http_proxy": f"http://u:{canary}@proxy/"})
    assert canary not in repr(context)


def test_password_crypto_words() -> None:
    assert parse_operation("password-crypto", "sha512").crypto is Crypto.SHA512  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="md5") as caught:
        parse_operation("password-crypto", "md5")
    assert "sha512" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="'rot13' is not a password hash"):
        parse_operation("password-crypto", "rot13")


def _file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "commands"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_lines_become_operations_in_order(tmp_path: Path) -> None:
    text = (
        "# a comment\n\n  write /a:x y \n\t mkdir /d\nupdate and more\nno-logfile\n"
        "run-command echo 'one' \\\n  two\nwrite /c:'q' \"r\""
    )
    assert read_commands_file(_file(tmp_path, text)) == [
        parse_operation("write", "/a:x y "),
        parse_operation("mkdir", "/d"),
        parse_operation("update"),
        parse_operation("no-logfile"),
        parse_operation("run-command", "echo 'one' \n  two"),
        parse_operation("write", "/c:'q' \"r\""),
    ]


def test_a_comment_that_ends_in_a_backslash_swallows_the_next_line(tmp_path: Path) -> None:
    assert read_commands_file(_file(tmp_path, "# off \\\nmkdir /a\nmkdir /b\n")) == [
        parse_operation("mkdir", "/b")
    ]


@pytest.mark.row("Z20")
def test_windows_line_ends_give_the_same_operations(tmp_path: Path) -> None:
    text = "write /a:x\n\nrun-command a \\\n b\nhostname vm\n"
    expected = read_commands_file(_file(tmp_path, text))
    assert read_commands_file(_file(tmp_path, text.replace("\n", "\r\n"))) == expected
    assert len(expected) == 3


@pytest.mark.row("Z20")
def test_ten_thousand_lines(tmp_path: Path) -> None:
    text = "".join(f"mkdir /d{number}\n" for number in range(10_000))
    assert len(read_commands_file(_file(tmp_path, text))) == 10_000


def test_bytes_that_are_not_utf8_reach_the_content(tmp_path: Path) -> None:
    assert read_commands_file(_file(tmp_path, b"write /a:\xff\n")) == [parse_operation("write", "/a:\udcff")]


@pytest.mark.row("Z20")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mkdir /a\n\nfrobnicate x\n", "line 3: command 'frobnicate' not valid"),
        ("size 5G\n", "line 1: command 'size' not valid"),
        ("--mkdir /a\n", "line 1: command '--mkdir' not valid"),
        ("mkdir\t/a\n", "line 1: command 'mkdir\\\\t/a' not valid"),
        ("commands-from-file x\n", "line 1: a commands file cannot include another one"),
        ("mkdir /a\\\n\nhostname\n", "line 1: --mkdir: a line break"),
        ("hostname\n", "line 1: --hostname: '' is not a hostname"),
        ("mkdir /a\nchmod u+x:/a\n", "line 2: --chmod: 'u\\+x' is not an octal file mode"),
        ("mkdir /\0\n", "line 1: --mkdir: a NUL"),
    ],
)
def test_errors_name_the_file_and_the_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        read_commands_file(_file(tmp_path, text))
    assert caught.value.message.startswith(f"{tmp_path}/commands: line ")


def test_secrets_in_a_bad_line_are_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_commands_file(_file(tmp_path, "root-password canary\n"))
    assert "canary" not in f"{caught.value.message}{caught.value.hint}"


def test_a_missing_or_endless_file_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(UsageError, match="--commands-from-file: "):
            read_commands_file(path)


@given(st.binary(max_size=300))
def test_any_file_gives_operations_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "commands"
    path.write_bytes(content)
    try:
        read_commands_file(path)
    except UsageError as error:
        assert error.message  # noqa: PT017


NOT_OPERATIONS = {
    "add", "attach", "attach-format", "color", "colors", "colour", "colours", "connect", "domain", "dry-run",
    "dryrun", "echo-keys", "format", "help", "key", "keys-from-stdin", "machine-readable", "memsize",
    "network", "no-network", "quiet", "smp", "verbose", "version", "wrap", "commands-from-file",
}  # fmt: skip
"""Options that are not customizations."""

GONE = {"sm-attach", "sm-credentials", "sm-register", "sm-remove", "sm-unregister"}
"""Removed from virt-customize in 1.56: --run-command does the same."""

LATER = {"chown", "tar-in", "no-selinux-relabel", "selinux-relabel-exclude"}
"""In virt-customize since 1.50, 1.52 and 1.57; the installed one may not have them."""


@pytest.mark.skipif(shutil.which("virt-customize") is None, reason="virt-customize is not installed")
def test_every_operation_of_virt_customize_is_here() -> None:
    shown = subprocess.run(["virt-customize", "--help"], capture_output=True, text=True, check=True).stdout
    theirs = set(re.findall(r"--([a-z][a-z-]*)", shown.split("Options:")[-1])) - NOT_OPERATIONS
    assert len(theirs) > 25, "the help was not understood"
    assert (theirs | LATER) - GONE - set(all_operations()) == set()

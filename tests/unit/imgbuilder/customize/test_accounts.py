"""Passwords and ssh keys."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from passlib.hash import sha256_crypt, sha512_crypt

from imgbuilder.customize import passwords
from imgbuilder.customize.accountfiles import add_keys, find_account, find_number, set_shadow_field
from imgbuilder.customize.passwords import Crypto, parse_selector
from imgbuilder.customize.run import customize, validate
from imgbuilder.errors import OperationError, UsageError
from imgbuilder.events import Event, Notice, Severity
from tests.fakes.debianguest import KEY, OTHER_KEY, SHADOW, apply, context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation

DAY = 20500
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\ncanary\n-----END OPENSSH PRIVATE KEY-----\n"


def _field(shadow: str, user: str) -> str:
    return next(line.split(":")[1] for line in shadow.split("\n") if line.startswith(f"{user}:"))


@pytest.fixture(autouse=True)
def a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: (DAY * 86400 + 3600) * 10**9)


@pytest.mark.row("Z9")
def test_a_password_changes_its_field_and_nothing_else(guest: FakeGuest) -> None:
    apply(guest, "password", "ann:password:p:w d")
    shadow = guest.text("/etc/shadow")
    value = _field(shadow, "ann")
    assert sha512_crypt.verify("p:w d", value)
    assert shadow.replace(f"ann:{value}:{DAY}:", "ann:!:19000:") == SHADOW
    assert guest.permissions("/etc/shadow") == ("0640", 0, 42)
    assert ("replace", "/etc/shadow") in guest.calls


def test_the_chosen_hash_is_used(guest: FakeGuest) -> None:
    apply(guest, "root-password", "password:x", password_crypto=Crypto.SHA256)
    assert sha256_crypt.verify("x", _field(guest.text("/etc/shadow"), "root"))


@pytest.mark.skipif(not passwords.yescrypt_available(), reason="libcrypt of this host has no yescrypt")
def test_yescrypt_of_the_hosts_libcrypt() -> None:
    first, second = (passwords.hash_password("x", Crypto.YESCRYPT) for _ in range(2))
    assert first.startswith("$y$")
    assert first != second
    library = passwords._library()
    assert library is not None
    assert library.crypt(b"x", first.encode()) == first.encode()
    assert library.crypt(b"y", first.encode()) != first.encode()


def test_yescrypt_without_a_library_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_library", lambda: None)
    with pytest.raises(UsageError, match="cannot make yescrypt") as caught:
        passwords.parse_crypto("yescrypt")
    assert caught.value.hint == "use sha512"


@pytest.mark.parametrize(
    ("selector", "value"),
    [("disabled", "*"), ("disable", "*"), ("locked", "!!*"), ("lock", "!!*"), ("locked:disabled", "!!*")],
)
def test_accounts_without_a_password(guest: FakeGuest, selector: str, value: str) -> None:
    apply(guest, "root-password", selector)
    assert _field(guest.text("/etc/shadow"), "root") == value


def test_a_locked_password_keeps_its_hash(guest: FakeGuest) -> None:
    apply(guest, "root-password", "locked:password:x")
    value = _field(guest.text("/etc/shadow"), "root")
    assert value.startswith("!!$6$")
    assert sha512_crypt.verify("x", value.removeprefix("!!"))


def test_an_unknown_user_is_an_error_with_the_next_step(guest: FakeGuest) -> None:
    with pytest.raises(OperationError, match="no user bob") as caught:
        apply(guest, "password", "bob:password:x")
    assert caught.value.hint == "add the user first: --run-command 'useradd -m bob'"
    assert guest.text("/etc/shadow") == SHADOW
    guest.remove("/etc/shadow")
    with pytest.raises(OperationError, match="no /etc/shadow"):
        apply(guest, "root-password", "password:x")


def test_odd_shadow_files_are_kept_byte_for_byte() -> None:
    assert set_shadow_field(b"\xff:x\n\nroot:a", "root", "*", DAY) == b"\xff:x\n\nroot:*"
    assert set_shadow_field(b"\xff:x\n\nroot:a:b:c", "root", "*", DAY) == b"\xff:x\n\nroot:*:20500:c"
    assert set_shadow_field(b"root\n", "root", "*", DAY) is None
    assert set_shadow_field(b"roots:x:\n", "root", "*", DAY) is None


@pytest.mark.row("Z17")
@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"pw\nsecond\n", "pw"),
        (b"pw\r\n", "pw"),
        (b"pw", "pw"),
        (b" p:w \n", " p:w "),
        ("p\u00e4\n".encode(), "p\u00e4"),
        (b"\xff\n", "\udcff"),
        (b"x" * 512 + b"\n" + b"y" * 1_000_000, "x" * 512),
    ],
)
def test_the_first_line_of_a_password_file(content: bytes, password: str, tmp_path: Path) -> None:
    file = tmp_path / "with:colon"
    file.write_bytes(content)
    assert parse_selector(f"file:{file}").text == password


@pytest.mark.row("Z17")
@pytest.mark.parametrize("content", [b"", b"\nx", b"\r\n", b"x\0y\n", b"x" * 513, b"x" * 1_000_000])
def test_unusable_password_files_are_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(UsageError):
        parse_selector(f"file:{file}")


def test_a_missing_password_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        parse_selector(f"file:{tmp_path}/none")


@pytest.mark.parametrize(
    "text", ["", "x", "password:", "random:x", "disabled:x", "locked:", "locked:x", "PASSWORD:x"]
)
def test_other_selectors_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_selector(text)


def test_passwords_that_are_not_utf8_are_hashed_as_bytes() -> None:
    assert sha512_crypt.verify(b"\xff", passwords.hash_password("\udcff", Crypto.SHA512))


@pytest.mark.row("Z17")
def test_random_passwords_have_120_bits_and_are_reported_once(events: list[Event], guest: FakeGuest) -> None:
    apply(guest, "password", "ann:random", on_event=events.append)
    [event] = events
    assert isinstance(event, Notice)
    assert event.severity is Severity.INFO
    start, _space, password = event.text.rpartition(" ")
    assert start == "Setting random password of ann to"
    assert sha512_crypt.verify(password, _field(guest.text("/etc/shadow"), "ann"))

    many = [passwords.random_password() for _ in range(300)]
    alphabet = set("".join(many))
    assert len(set(many)) == 300
    assert not alphabet & set("O0oIl1")
    assert len(password) * math.log2(len(alphabet)) >= 120


@pytest.mark.row("Z10")
def test_keys_get_their_files_with_the_right_owner_and_modes(guest: FakeGuest) -> None:
    apply(guest, "ssh-inject", f"ann:string:{KEY}")
    assert guest.permissions("/home/ann") == ("0700", 1000, 1001)
    assert guest.permissions("/home/ann/.ssh") == ("0700", 1000, 1001)
    assert guest.permissions("/home/ann/.ssh/authorized_keys") == ("0600", 1000, 1001)
    apply(guest, "ssh-inject", f"root:string:{KEY}")
    assert guest.permissions("/root") == ("0755", 0, 0)
    assert guest.permissions("/root/.ssh") == ("0700", 0, 0)


@pytest.mark.row("Z10")
def test_a_home_that_is_a_link_is_followed_in_the_guest(guest: FakeGuest) -> None:
    guest.add_dir("/srv/ann", mode=0o755, uid=1000, gid=1001)
    guest.add_link("/home/ann", "/srv/ann")
    apply(guest, "ssh-inject", f"ann:string:{KEY}")
    assert guest.text("/srv/ann/.ssh/authorized_keys") == f"{KEY}\n"
    assert guest.permissions("/srv/ann") == ("0755", 1000, 1001)


@pytest.mark.row("Z10")
def test_an_existing_file_is_repaired_and_gets_no_duplicates(guest: FakeGuest) -> None:
    guest.add("/root/.ssh/authorized_keys", OTHER_KEY, mode=0o640, uid=0, gid=8)
    apply(guest, "ssh-inject", f"root:string:{KEY}")
    apply(guest, "ssh-inject", f"root:string:{KEY} a new comment")
    assert guest.text("/root/.ssh/authorized_keys") == f"{OTHER_KEY}\n{KEY}\n"
    assert guest.permissions("/root/.ssh/authorized_keys") == ("0640", 0, 8)


def test_keys_are_the_same_whatever_their_options_and_comments() -> None:
    assert add_keys(f'from="10.*" {KEY}\n'.encode(), (KEY,)) == f'from="10.*" {KEY}\n'.encode()
    assert add_keys(f"# {KEY}\n".encode(), (KEY,)) == f"# {KEY}\n{KEY}\n".encode()


@pytest.mark.row("Z10")
def test_key_files(guest: FakeGuest, tmp_path: Path) -> None:
    file = tmp_path / "keys:2.pub"
    file.write_bytes(f"# mine\r\n{KEY}\r\n\r\n{OTHER_KEY}".encode())
    apply(guest, "ssh-inject", f"root:file:{file}")
    assert guest.text("/root/.ssh/authorized_keys") == f"{KEY}\n{OTHER_KEY}\n"


@pytest.mark.row("Z10")
def test_a_selector_may_hold_colons(guest: FakeGuest) -> None:
    key = f'environment="A=b:c" {KEY}'
    apply(guest, "ssh-inject", f"root:string:{key}")
    assert guest.text("/root/.ssh/authorized_keys") == f"{key}\n"


@pytest.mark.row("Z10")
@pytest.mark.parametrize("content", [PRIVATE, f"{KEY}\n{PRIVATE}", "PuTTY-User-Key-File-2: ssh-rsa\n"])
def test_private_keys_are_refused_and_not_quoted(content: str, tmp_path: Path) -> None:
    file = tmp_path / "id"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"--ssh-inject: .*this is a private key") as caught:
        apply(debian_guest(), "ssh-inject", f"root:file:{file}")
    assert "canary" not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    "selector", ["string:", "string:hello", "string:ssh-rsa hello", "file:", "x", "string:#x"]
)
def test_other_keys_are_refused(selector: str) -> None:
    with pytest.raises(UsageError):
        apply(debian_guest(), "ssh-inject", f"root:{selector}")


@pytest.mark.row("Z10")
def test_an_unknown_user_is_an_error() -> None:
    with pytest.raises(OperationError, match="no user bob"):
        apply(debian_guest(), "ssh-inject", f"bob:string:{KEY}")


def test_the_newest_key_of_the_user_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no public key was found"):
        apply(debian_guest(), "ssh-inject", "root")
    (tmp_path / ".ssh").mkdir()
    for age, name, key in (
        (30, "id_rsa.pub", OTHER_KEY),
        (20, "id_ed25519.pub", KEY),
        (10, "id_a-cert.pub", "x"),
    ):
        file = tmp_path / ".ssh" / name
        file.write_text(f"{key}\n")
        os.utime(file, (1e9 - age, 1e9 - age))
    guest = debian_guest()
    apply(guest, "ssh-inject", "root")
    assert guest.text("/root/.ssh/authorized_keys") == f"{KEY}\n"


def test_malformed_passwd_lines_are_ignored() -> None:
    passwd = b"a:x:1\nb:x:one:1::/b:\n\xff:x:1:1::/:\nc:x:1:2::/c:/bin/sh"
    assert find_account(passwd, "a") is None
    assert find_account(passwd, "b") is None
    for number in (b"9" * 5000, b"4294967295", b"-1", "\u0661".encode(), b""):
        assert find_account(b"a:x:" + number + b":0::/a:\n", "a") is None
        assert find_account(b"a:x:0:" + number + b"::/a:\n", "a") is None
        assert find_number(b"a:x:" + number + b":\na:x:7:\n", "a") == 7
    found = find_account(passwd, "c")
    assert found is not None
    assert (found.uid, found.gid, found.home) == (1, 2, "/c")


def test_a_password_may_be_a_secret(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "p:w d")
    wishes = [
        parse_operation("root-password", "locked:secret:PW"),
        parse_operation("password", "ann:secret:PW"),
        parse_operation("secret", "PW=env:MINE"),
    ]
    customize(guest, wishes, context_of(guest))
    shadow = guest.text("/etc/shadow")
    assert sha512_crypt.verify("p:w d", _field(shadow, "ann"))
    assert sha512_crypt.verify("p:w d", _field(shadow, "root").removeprefix("!!"))
    assert _field(shadow, "root").startswith("!!")


@pytest.mark.parametrize(("value", "says"), [(None, "the secret 'PW'"), ("two\nlines", "line break")])
def test_a_secret_that_cannot_be_a_password_is_refused_before_any_work(
    value: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = [parse_operation("user", "joe:password=secret:PW")]
    if value is not None:
        monkeypatch.setenv("MINE", value)
        wishes.append(parse_operation("secret", "PW=env:MINE"))
    with pytest.raises(UsageError, match=says) as caught:
        validate(wishes)
    assert caught.value.message.startswith("--user: ")


@pytest.mark.parametrize("selector", ["password:secret-1", "locked:password:secret-1", "disabled"])
def test_a_password_is_not_expired_at_birth(guest: FakeGuest, selector: str) -> None:
    """A day of 0 means that the password must be changed at once; an old day, that it may have expired."""
    guest.add("/etc/shadow", "root:*:0:0:99999:7:::\nann:!:19000:0:90:7:::\n", mode=0o640, gid=42)
    apply(guest, "root-password", selector)
    apply(guest, "password", f"ann:{selector}")
    lines = [line.split(":") for line in guest.text("/etc/shadow").split()]
    assert [line[2:] for line in lines] == [
        ["20500", "0", "99999", "7", "", "", ""],
        ["20500", "0", "90", "7", "", "", ""],
    ]


@pytest.mark.parametrize(
    ("expires", "said"), [("20499", True), ("20500", True), ("20501", False), ("", False)]
)
def test_a_password_for_an_expired_account_is_a_warning(guest: FakeGuest, expires: str, said: bool) -> None:
    guest.add("/etc/shadow", f"ann:!:19000:0:90:7::{expires}:\n")
    events: list[Event] = []
    apply(guest, "password", "ann:password:x", on_event=events.append)
    assert [event.severity for event in events if isinstance(event, Notice)] == [Severity.WARNING] * said
    assert all("account ann expired" in event.text for event in events if isinstance(event, Notice))


@pytest.mark.parametrize("field", ["", "*", "$1$old$hash"])
def test_a_password_is_looked_for_where_it_was_put(guest: FakeGuest, field: str) -> None:
    """Only "x" in /etc/passwd refers to /etc/shadow."""
    passwd = guest.text("/etc/passwd")
    guest.write("/etc/passwd", passwd.replace("root:x:", f"root:{field}:").encode())
    apply(guest, "root-password", "password:x")
    assert guest.text("/etc/passwd") == passwd


@pytest.mark.skipif(not passwords.yescrypt_available(), reason="libcrypt of this host has no yescrypt")
@pytest.mark.parametrize(
    ("path", "content", "known"),
    [
        ("/usr/lib/x86_64-linux-gnu/libcrypt.so.1.1.0", b"\0$6$\0$y$\0", True),
        ("/usr/lib64/libcrypt.so.2.0.0", b"$y$", True),
        ("/lib/libcrypt.so.1", b"$5$\0$6$", False),
        ("/lib/libc.musl-x86_64.so.1", b"$6$", False),
    ],
)
def test_a_hash_that_the_guest_does_not_know_is_refused(path: str, content: bytes, known: bool) -> None:
    guest = debian_guest()
    guest.add(path, content)
    if known:
        apply(guest, "root-password", "password:x", password_crypto=Crypto.YESCRYPT)
        assert _field(guest.text("/etc/shadow"), "root").startswith("$y$")
        return
    with pytest.raises(OperationError, match="libcrypt does not know yescrypt"):
        apply(guest, "root-password", "password:x", password_crypto=Crypto.YESCRYPT)
    assert guest.text("/etc/shadow") == SHADOW


@pytest.mark.skipif(not passwords.yescrypt_available(), reason="libcrypt of this host has no yescrypt")
@pytest.mark.parametrize(
    ("files", "prefix"),
    [
        ({}, "$6$"),
        ({"/etc/login.defs": "ENCRYPT_METHOD YESCRYPT\n"}, "$y$"),
        ({"/etc/login.defs": "#ENCRYPT_METHOD YESCRYPT\n"}, "$6$"),
        ({"/etc/pam.d/common-password": "password [success=1] pam_unix.so obscure yescrypt\n"}, "$y$"),
        (
            {
                "/etc/pam.d/system-auth": "password sufficient pam_unix.so sha512 # yescrypt\n",
                "/etc/login.defs": "ENCRYPT_METHOD YESCRYPT\n",
            },
            "$6$",
        ),
    ],
)
def test_passwords_are_hashed_as_the_guest_does(files: dict[str, str], prefix: str, guest: FakeGuest) -> None:
    for path, text in files.items():
        guest.add(path, text)
    customize(guest, [parse_operation("root-password", "password:x")], context_of(guest))
    assert _field(guest.text("/etc/shadow"), "root").startswith("$6$"), "its libcrypt does not know yescrypt"
    guest.add("/usr/lib64/libcrypt.so.2.0.0", b"$y$")
    customize(guest, [parse_operation("root-password", "password:x")], context_of(guest))
    assert _field(guest.text("/etc/shadow"), "root").startswith(prefix)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("AuthorizedKeysFile /etc/ssh/keys/%u\n", True),
        ("#AuthorizedKeysFile none\nauthorizedkeysfile\t.ssh/authorized_keys .ssh/authorized_keys2\n", False),
        ("Port 22\n", False),
    ],
)
@pytest.mark.parametrize("path", ["/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/10-keys.conf"])
def test_a_key_that_sshd_will_not_read_is_a_warning(path: str, config: str, said: bool) -> None:
    guest = debian_guest()
    guest.add(path, config)
    events: list[Event] = []
    apply(guest, "ssh-inject", f"ann:string:{KEY}", on_event=events.append)
    assert guest.text("/home/ann/.ssh/authorized_keys") == f"{KEY}\n"
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert len(texts) == said
    assert all("/etc/ssh/keys/%u" in text for text in texts)


def test_a_folder_for_keys_that_was_made_before_is_given_to_the_user(guest: FakeGuest) -> None:
    guest.add_dir("/home/ann", uid=1000, gid=1001)
    guest.add_dir("/home/ann/.ssh", mode=0o700)
    guest.add("/home/ann/.ssh/authorized_keys", f"{OTHER_KEY}\n", mode=0o600)
    events: list[Event] = []
    apply(guest, "ssh-inject", f"ann:string:{KEY}", on_event=events.append)
    assert guest.permissions("/home/ann/.ssh") == ("0700", 1000, 1001)
    assert guest.permissions("/home/ann/.ssh/authorized_keys") == ("0600", 1000, 1001)
    assert events == []


@pytest.mark.parametrize(
    ("path", "mode", "uid"), [("", 0o777, 1000), ("", 0o755, 1), ("/.ssh", 0o770, 1000), ("/.ssh", 0o700, 1)]
)
def test_a_key_that_sshd_finds_unsafe_is_a_warning(guest: FakeGuest, path: str, mode: int, uid: int) -> None:
    guest.add_dir("/home/ann", uid=1000, gid=1001)
    guest.add_dir(f"/home/ann{path}", mode=mode, uid=uid)
    events: list[Event] = []
    apply(guest, "ssh-inject", f"ann:string:{KEY}", on_event=events.append)
    [notice] = [event for event in events if isinstance(event, Notice)]
    assert notice.text.endswith(f"other users can write to /home/ann{path}")

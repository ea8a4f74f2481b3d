"""Passwords of guests: accounts that have one, and whether it is in the hints."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passlib.hash import des_crypt, md5_crypt, sha256_crypt, sha512_crypt

from imgbuilder.customize.passwords import Crypto, can_try, hash_password, matches, yescrypt_available
from imgrepo.library.records import Account, PasswordState
from imgrepo.review import passwords
from imgrepo.review.passwords import Hashed, hint_words, homes, judge_passwords, read_passwords

QUICK = sha512_crypt.using(rounds=1000)
BCRYPT = "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
"""Of ``U*U``, from the test vectors of crypt_blowfish."""


def judged(password: str, hints: str = "", name: str = "ann") -> PasswordState:
    (account,) = judge_passwords((Hashed(name, QUICK.hash(password)),), hints)
    assert account.name == name
    return account.password


@pytest.mark.parametrize(
    "hints",
    [
        "Log in as ann with the password k3ss!el.",
        'The password of ann is "k3ss!el".',
        "ann/k3ss!el",
        "Users: ann:k3ss!el, bob:other",
        "password=k3ss!el",
        "ann (k3ss!el)",
        "ann, `k3ss!el`",
    ],
)
def test_passwords_in_the_hints(hints: str) -> None:
    assert judged("k3ss!el", hints) is PasswordState.IN_HINTS


def test_passwords_of_several_words_are_quoted() -> None:
    assert judged("correct horse", 'say "correct horse" to it') is PasswordState.IN_HINTS
    assert judged("correct horse", "say correct horse to it") is PasswordState.NOT_IN_HINTS


def test_passwords_that_are_not_in_the_hints() -> None:
    assert judged("k3ss!el", "ask ann") is PasswordState.NOT_IN_HINTS
    assert judged("toor", "ask ann") is PasswordState.COMMON
    assert judged("ann", "log in") is PasswordState.COMMON, "the account's own name"


def test_every_kind_of_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [sha256_crypt.using(rounds=1000), QUICK, md5_crypt, des_crypt]
    hashes = [(kind.hash("word"), "word") for kind in kinds] + [(BCRYPT, "U*U")]
    if yescrypt_available():
        hashes.append((hash_password("word", Crypto.YESCRYPT), "word"))
    for hashed, word in hashes:
        assert matches(word, hashed) is True, hashed
        assert matches("other", hashed) is False, hashed
    # Where the system's libcrypt is another one, passlib knows the commonest.
    monkeypatch.setattr("imgbuilder.customize.passwords._crypt", lambda _secret, _setting: None)
    assert [matches("word", kind.hash("word")) for kind in kinds] == [True, True, True, None]
    assert matches("other", md5_crypt.hash("word")) is False


@pytest.mark.parametrize(
    "hashed",
    [
        "$6$rounds=999999999$abcdefgh$" + "a" * 86,
        "$2b$31$" + "a" * 53,
        "$y$jFT$abcdefgh$" + "a" * 43,
        "$7$CU..../....abc$" + "a" * 43,
        "$6$abc",
        "x",
        "{SSHA}abc",
        "$6$abc$\x00",
    ],
)
def test_hashes_that_ask_for_too_much_or_are_none(hashed: str) -> None:
    began = time.process_time()
    (account,) = judge_passwords((Hashed("ann", hashed),), "word")
    assert account.password is PasswordState.UNTRIED
    assert time.process_time() - began < 1


def test_tries_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_SECONDS", -1.0)
    assert judged("k3ss!el") is PasswordState.UNTRIED


def test_many_accounts_hide_none_without_a_password() -> None:
    empty = tuple(Hashed(f"e{number}", "") for number in range(100))
    found = judge_passwords((*empty, Hashed("ann", QUICK.hash("k3ss!el"))), "")
    assert Account("ann", PasswordState.NOT_IN_HINTS) in found
    assert len(found) == 40
    many = tuple(Hashed(f"a{number}", QUICK.hash("root")) for number in range(22))
    states = [one.password for one in judge_passwords(many, "")]
    assert states == [PasswordState.COMMON] * 20 + [PasswordState.UNTRIED] * 2


def test_an_account_without_a_password() -> None:
    assert judge_passwords((Hashed("ann", ""),), "") == (Account("ann", PasswordState.EMPTY),)


def test_names_cannot_drive_terminals() -> None:
    (account,) = judge_passwords((Hashed("a\x1b[2J" + "n" * 999, ""),), "")
    assert account.name.startswith("a\\x1b[2Jn")
    assert len(account.name) < 150


def test_accounts_that_are_locked_have_no_password() -> None:
    shadow = "root:!$6$a$b:1::::::\nbin:*:1::::::\nann:$6$a$b:1::::::\nbob:!!:1::::::\neve::1::::::\n\nodd\n"
    assert read_passwords("", shadow) == (Hashed("ann", "$6$a$b"), Hashed("eve", ""))


def test_a_password_in_passwd_counts_before_that_in_shadow() -> None:
    passwd = (
        "root:x:0:0::/root:/bin/sh\nann:abcdefghijklm:1:1::/home/ann:/bin/sh\nbob::2:2::/:/bin/sh\nbad:\n"
    )
    assert read_passwords(passwd, "root:*:1\nann:*:1\n") == (
        Hashed("ann", "abcdefghijklm"),
        Hashed("bob", ""),
    )


def test_home_folders() -> None:
    passwd = (
        "root:x:0:0::/root:/bin/bash\nann:x:1:1::/home/ann:/bin/sh\nwww:x:2:2::/var/www:/usr/sbin/nologin\n"
        "bad:x:3:3::/srv/*:/bin/sh\nup:x:4:4::/a/../../b:/bin/sh\nshort:x\nann2:x:5:5::/home/ann:/bin/zsh\n"
    )
    assert homes(passwd)[:2] == ("/root", "/home/ann")
    assert not [home for home in homes(passwd) if "*" in home or "www" in home]


@given(hints=st.text(max_size=400))
def test_any_hints_have_words(hints: str) -> None:
    words = hint_words(hints)
    assert len(words) <= 200
    assert all(0 < len(word) <= 128 for word in words)
    assert set(hints.split()) <= set(words) or len(hints.split()) > 60 or max(map(len, hints.split())) > 128


@given(passwd=st.text(max_size=300), shadow=st.text(max_size=300))
def test_any_files_of_accounts_are_read(passwd: str, shadow: str) -> None:
    assert all(one.name and not one.hashed.startswith(("!", "*")) for one in read_passwords(passwd, shadow))
    assert homes(passwd)[0] == "/root"


@given(hashed=st.text(alphabet="$.0aj9Ty25=6rounds\x00\n\udc80", max_size=120))
@settings(deadline=None)
def test_any_hash_is_tried_or_not(hashed: str) -> None:
    assert matches("word", hashed) in ({None, False} if can_try(hashed) else {None})

"""Accounts of a guest, and whether their passwords are in its hints.

A password in the hints is not a secret. Any other may be one that its contributor uses
elsewhere, and everyone who has the image can attack its hash offline.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from imgbuilder.customize.passwords import can_try, matches
from imgbuilder.host.text import printable
from imgrepo.library.records import Account, PasswordState

COMMON = (
    "root", "toor", "admin", "administrator", "password", "passw0rd", "changeme", "secret", "test", "guest",
    "user", "demo", "vagrant", "debian", "ubuntu", "fedora", "centos", "alpine", "linux", "live", "player",
    "pi", "raspberry", "1234", "12345", "123456", "12345678", "qwerty", "letmein", "live123",
)  # fmt: skip
"""Passwords that attackers try first."""
_MOST_WORDS = 200
_MOST_HASHES = 20
_MOST_ACCOUNTS = 40
_LONGEST = 128
_SECONDS = 60.0
"""Time for all tries of one image: hashes are slow on purpose."""
_QUOTED = re.compile(
    r"\"([^\"\n]{1,128})\"|'([^'\n]{1,128})'|`([^`\n]{1,128})`"
    "|\N{LEFT DOUBLE QUOTATION MARK}([^\N{RIGHT DOUBLE QUOTATION MARK}\n]{1,128})"
)
_EDGES = "\"'`.,;:!?()[]{}<>*_\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
_NO_SHELL = ("nologin", "false", "sync", "halt", "shutdown")
HOME = re.compile(r"/(?:[A-Za-z0-9._-]+/)*[A-Za-z0-9._-]+")


class Hashed(NamedTuple):
    """An account and its password hash; empty for no password."""

    name: str
    hashed: str


def hint_words(hints: str) -> tuple[str, ...]:
    """Return possible passwords in the hints, quoted ones first, each once."""
    words = [text for found in _QUOTED.findall(hints) for text in found if text]
    for word in hints.split():
        plain = word.strip(_EDGES)
        words += [word, plain, *(part.strip(_EDGES) for part in re.split(r"[/:=]", plain))]
    return tuple(dict.fromkeys(word for word in words if 0 < len(word) <= _LONGEST))[:_MOST_WORDS]


def read_passwords(passwd: str, shadow: str) -> tuple[Hashed, ...]:
    """Read the passwords of accounts that are not locked, passwd(5) and shadow(5)."""
    found: dict[str, str] = {}
    for line in passwd.split("\n"):
        fields = line.split(":")
        if len(fields) == 7 and fields[1] != "x":  # then shadow(5) is not used
            found[fields[0]] = fields[1]
    for line in shadow.split("\n"):
        fields = line.split(":")
        if len(fields) > 1:
            found.setdefault(fields[0], fields[1])
    return tuple(
        Hashed(name, hashed) for name, hashed in found.items() if name and not hashed.startswith(("!", "*"))
    )


def homes(passwd: str) -> tuple[str, ...]:
    """Return the home folders of accounts that may log in, by passwd(5), each once, and ``/root``."""
    found = ["/root"]
    for line in passwd.split("\n"):
        fields = line.split(":")
        if len(fields) == 7 and HOME.fullmatch(fields[5]) and not fields[6].strip().endswith(_NO_SHELL):
            found.append(fields[5])
    return tuple(dict.fromkeys(found))


def judge_passwords(found: tuple[Hashed, ...], hints: str) -> tuple[Account, ...]:
    """Judge the password of each account by the hints of its entry."""
    words, end = hint_words(hints), time.monotonic() + _SECONDS
    accounts: list[Account] = []
    for one in sorted(found, key=lambda account: not account.hashed)[:_MOST_ACCOUNTS]:
        late = len(accounts) >= _MOST_HASHES and one.hashed
        state = PasswordState.UNTRIED if late else _judge(one, words, end)
        accounts.append(Account(printable(one.name[:_LONGEST]), state))
    return tuple(accounts)


def _judge(one: Hashed, words: tuple[str, ...], end: float) -> PasswordState:
    if not one.hashed:
        return PasswordState.EMPTY
    if not can_try(one.hashed):
        return PasswordState.UNTRIED
    own = (one.name, f"{one.name}{one.name}", f"{one.name}123")
    for state, tried in ((PasswordState.IN_HINTS, words), (PasswordState.COMMON, (*own, *COMMON))):
        for word in tried:
            if time.monotonic() > end:
                return PasswordState.UNTRIED
            answer = matches(word, one.hashed)
            if answer is None:
                return PasswordState.UNTRIED
            if answer:
                return state
    return PasswordState.NOT_IN_HINTS

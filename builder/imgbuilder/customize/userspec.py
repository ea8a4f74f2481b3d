"""Reading the argument of ``--user``: ``NAME[:sudo][:groups=..][:key=..][:password=..]``."""

from __future__ import annotations

from dataclasses import dataclass, field

from imgbuilder.customize.passwords import PasswordSelector, parse_selector
from imgbuilder.customize.sshkeys import parse_key_selector
from imgbuilder.customize.values import user_name
from imgbuilder.errors import UsageError

_WITH_VALUE = ("groups", "key", "password")


@dataclass(frozen=True)
class UserWishes:
    """What a new user gets.

    Attributes:
        sudo: Whether the user may do everything by sudo.
        groups: Further groups.
        keys: Public ssh keys, one line each.
        password: The password; None when the user gets none.
    """

    sudo: bool = False
    groups: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    password: PasswordSelector | None = field(default=None, repr=False)


def parse_user(text: str) -> tuple[str, UserWishes]:
    """Split the argument; a part that begins no wish belongs to the value before it, with its ``:``.

    Raises:
        UsageError: It is not understood; a password is never quoted.
    """
    name, *parts = text.split(":")
    wishes: dict[str, str] = {}
    current = ""
    for part in parts:
        word, equals, value = part.partition("=")
        if part == "sudo" or (equals and word in _WITH_VALUE):
            if word in wishes:
                raise UsageError(f"{word} is given twice")
            current = word
            wishes[word] = value
        elif current in ("key", "password"):
            wishes[current] += f":{part}"
        else:
            raise UsageError(
                "a part of the argument is not understood",
                hint="give NAME[:sudo][:groups=G,G][:key=SELECTOR][:password=SELECTOR]",
            )
    groups = tuple(user_name(group) for group in wishes["groups"].split(",")) if "groups" in wishes else ()
    return name, UserWishes(
        "sudo" in wishes,
        groups,
        parse_key_selector(wishes["key"]) if "key" in wishes else (),
        parse_selector(wishes["password"]) if "password" in wishes else None,
    )

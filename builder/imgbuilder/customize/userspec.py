"""The argument of ``--user``: ``NAME[:sudo][:groups=..][:key=..][:password=..]``."""

from __future__ import annotations

from imgbuilder.customize.argforms import Form, Kind, Part, Raw
from imgbuilder.customize.passwords import holds_password, parse_selector
from imgbuilder.customize.sshkeys import parse_key_selector
from imgbuilder.errors import UsageError

_METAVAR = "NAME[:sudo][:groups=G,G][:key=SELECTOR][:password=SELECTOR]"
_WITH_VALUE = ("groups", "key", "password")


def cut_user(text: str) -> tuple[Raw, ...]:
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
            raise UsageError("a part of the argument is not understood", hint=f"give {_METAVAR}")
    groups = tuple(wishes["groups"].split(",")) if "groups" in wishes else None
    sudo = True if "sudo" in wishes else None
    return (name, sudo, groups, wishes.get("key"), wishes.get("password"))


USER_FORM = Form(
    _METAVAR,
    (
        Part("NAME"),
        Part("sudo", bool, Kind.SWITCH, optional=True),
        Part("G,G", tuple, Kind.LIST, optional=True),
        Part("SELECTOR", parse_key_selector, Kind.SELECTOR, optional=True, key="key"),
        Part("SELECTOR", parse_selector, Kind.SELECTOR, optional=True, is_secret=holds_password),
    ),
    cut_user,
)

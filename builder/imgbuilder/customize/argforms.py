r"""The forms of option arguments, which split an argument into the fields of an operation.

A form only splits and converts. Values are checked by the operation's rules (``values.py``), which also apply
to recipes and Python programs. Errors never quote the argument, which may contain a password.

Splitting gives a ``Raw`` value for each field; recipes give these one by one.

In a part that ends at a ``:``, ``\:`` stands for a literal ``:`` (ADR 0026); every other backslash, and the
last part, is left as it is.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import UsageError
from imgbuilder.guests.windows import DRIVE

Raw = str | tuple[str, ...] | bool | None
"""The unconverted value of one field: a text, a list of texts or a switch; None if it was left out."""

_COLON = re.compile(r"(?<!\\):")
"""A separating ``:``, which has no backslash before it."""


class Kind(enum.Enum):
    """The kind of a part's value in a recipe."""

    TEXT = "text"
    PATH = "path"
    """The name of a local file; in a recipe relative to the recipe's folder."""
    SELECTOR = "selector"
    """A text that may name a local file as ``file:PATH``; in a recipe relative to the recipe's folder."""
    OWNER = "owner"
    """The name or the number of a user or group."""
    LIST = "list"
    SWITCH = "switch"


def _no_secret(_text: str) -> bool:
    return False


@dataclass(frozen=True)
class ArgumentPart:
    """One part of an argument, which becomes one field."""

    metavar: str
    convert: Callable[..., object] = str
    kind: Kind = Kind.TEXT
    """The kind of its value in recipes."""
    optional: bool = False
    absent: Raw = None
    """The raw value if it was left out; None to leave the field at its default."""
    key: str = ""
    """Its name in recipes; empty for the name of the field."""
    is_secret: Callable[[str], bool] = _no_secret
    """Returns whether a text contains a secret, which recipes must not."""


@dataclass(frozen=True)
class ArgumentForm:
    """The form of an option's argument."""

    metavar: str
    """The argument in the help; empty for an option without an argument."""
    parts: tuple[ArgumentPart, ...]
    """One for each field of the operation, in their order."""
    cut: Callable[[str], tuple[Raw, ...]]
    """Splits an argument into a raw value for each part."""


def local(metavar: str) -> ArgumentPart:
    """Make a part that names a local file."""
    return ArgumentPart(metavar, _local_path, Kind.PATH)


def single(part: str | ArgumentPart) -> ArgumentForm:
    """Make a form that does not split the argument."""
    one = _part(part)
    return ArgumentForm(one.metavar, (one,), lambda text: (text,))


def pair(first: str | ArgumentPart, second: str | ArgumentPart) -> ArgumentForm:
    """Split at the first ``:``; the second part may contain more."""
    return _split((_part(first), _part(second)))


def triple(first: str | ArgumentPart, second: str | ArgumentPart, third: str | ArgumentPart) -> ArgumentForm:
    """Split at the first two ``:``; the third part may contain more."""
    return _split((_part(first), _part(second), _part(third)))


def items(metavar: str, convert: Callable[[tuple[str, ...]], object] = tuple) -> ArgumentForm:
    """Split at commas; blanks around items are ignored, and an empty item is an error."""

    def cut(text: str) -> tuple[Raw, ...]:
        return (tuple(item.strip() for item in text.split(",")),)

    def make(found: tuple[str, ...]) -> object:
        if not all(found):
            raise UsageError(
                f"expects {metavar}; an item is empty",
                hint="separate items by single commas, without blanks",
            )
        return convert(found)

    return ArgumentForm(metavar, (ArgumentPart(metavar, make, Kind.LIST),), cut)


def links(target: str, link: str) -> ArgumentForm:
    """Split at every ``:`` into a target and one or more links to it."""
    metavar = f"{target}:{link}[:{link}...]"

    def cut(text: str) -> tuple[Raw, ...]:
        first, *others = [_unescape(piece) for piece in _COLON.split(text)]
        if not others:
            raise _shape_error(metavar)
        return (first, tuple(others))

    return ArgumentForm(metavar, (ArgumentPart(target), ArgumentPart(link, tuple, Kind.LIST)), cut)


def user_selector(user: str, selector: ArgumentPart) -> ArgumentForm:
    """Split at the first ``:`` into a user and a selector, which is empty without ``:``."""

    def cut(text: str) -> tuple[Raw, ...]:
        name, _colon, rest = text.partition(":")
        return (name, rest)

    return ArgumentForm(f"{user}[:{selector.metavar}]", (ArgumentPart(user), selector), cut)


def assignment(name: str, value: ArgumentPart) -> ArgumentForm:
    """Split ``NAME=VALUE`` at the first ``=``."""
    metavar = f"{name}={value.metavar}"

    def cut(text: str) -> tuple[Raw, ...]:
        left, equals, right = text.partition("=")
        if not equals:
            raise UsageError(f"expects {metavar}", hint="add the missing '='")
        return (left, right)

    return ArgumentForm(metavar, (ArgumentPart(name), value), cut)


def local_files(first: str, *others: str) -> ArgumentForm:
    """Split at every ``:`` into one local file and optional further ones."""
    metavar = first + "".join(f"[:{name}" for name in others) + "]" * len(others)
    parts = (local(first), *(ArgumentPart(name, _local_path, Kind.PATH, optional=True) for name in others))

    def cut(text: str) -> tuple[Raw, ...]:
        pieces: list[Raw] = [_unescape(piece) for piece in _COLON.split(text)]
        if len(pieces) > len(parts):
            raise UsageError(
                f"expects {metavar}", hint="there are too many parts; write \\: for a colon in a file name"
            )
        return tuple(pieces + [None] * (len(parts) - len(pieces)))

    return ArgumentForm(metavar, parts, cut)


def flag() -> ArgumentForm:
    """Make a form without an argument; one in a commands file is ignored, as in virt-builder."""
    return ArgumentForm("", (), lambda _text: ())


def _part(part: str | ArgumentPart) -> ArgumentPart:
    return ArgumentPart(part) if isinstance(part, str) else part


def _split(parts: tuple[ArgumentPart, ...]) -> ArgumentForm:
    metavar = ":".join(part.metavar for part in parts)

    def cut(text: str) -> tuple[Raw, ...]:
        # A drive's colon does not split: C:\Windows is a path in the guest, and never a local file.
        drive = DRIVE.match(text) if parts[0].kind is Kind.TEXT else None
        start = drive.end() if drive else 0
        *firsts, last = _COLON.split(text[start:], len(parts) - 1)
        if drive and firsts:
            firsts[0] = drive[0] + firsts[0]
        texts = [*map(_unescape, firsts), last]
        if len(texts) != len(parts):
            raise _shape_error(metavar)
        return tuple(texts)

    return ArgumentForm(metavar, parts, cut)


def _unescape(text: str) -> str:
    return text.replace("\\:", ":")


def _shape_error(metavar: str) -> UsageError:
    return UsageError(f"expects {metavar}", hint="a ':' is missing")


def _local_path(text: str) -> Path:
    if not text:
        raise UsageError("the name of the local file is empty")
    return Path(text)

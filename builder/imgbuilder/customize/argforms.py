r"""The shapes of option arguments: how one text becomes the fields of an operation.

A shape only splits and converts; what the values may be is for the
operation's own rules (``values.py``), which hold for every front door. Errors
never quote the argument, which may hold a password.

Between the text and the fields lies what was written for each field, a
``Raw``: recipes name these one by one, the command line and commands files
put them together into one argument.

In a part that ends at a ``:``, ``\:`` stands for a ``:`` of its own (ADR 0026);
every other backslash, and the last part, stays as it is.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import UsageError

Raw = str | tuple[str, ...] | bool | None
"""What was written for one field: a text, a list of texts, or a switch; None when nothing was."""

_COLON = re.compile(r"(?<!\\):")
"""A ``:`` that separates: not one behind a backslash."""


class Kind(enum.Enum):
    """What is written for a part, in a recipe."""

    TEXT = "text"
    PATH = "path"
    """The name of a local file, in a recipe beside that one."""
    SELECTOR = "selector"
    """A text that may name a local file as ``file:PATH``, in a recipe beside that one."""
    OWNER = "owner"
    """The name or the number of a user or group."""
    LIST = "list"
    SWITCH = "switch"


def _no_secret(_text: str) -> bool:
    return False


@dataclass(frozen=True)
class Part:
    """One part of an argument: what becomes one field.

    Attributes:
        metavar: Its name in the help.
        convert: Makes the field's value of what was written; may raise ``UsageError``.
        kind: What is written for it.
        optional: Whether it may be left out.
        absent: What is converted when it was left out; None to leave the field at its default.
        key: Its name in recipes; empty for the name of the field.
        is_secret: Tells whether a text holds a secret itself, which must not stand in a recipe.
    """

    metavar: str
    convert: Callable[..., object] = str
    kind: Kind = Kind.TEXT
    optional: bool = False
    absent: Raw = None
    key: str = ""
    is_secret: Callable[[str], bool] = _no_secret


@dataclass(frozen=True)
class Form:
    """The shape of an option's argument.

    Attributes:
        metavar: How the help shows it; empty for an option without an argument.
        parts: One for each field of the operation, in their order.
        cut: Returns what is written for each part.
    """

    metavar: str
    parts: tuple[Part, ...]
    cut: Callable[[str], tuple[Raw, ...]]

    @property
    def takes_argument(self) -> bool:
        """Whether the option has an argument at all."""
        return bool(self.metavar)


def local(metavar: str) -> Part:
    """Describe a part that names a local file."""
    return Part(metavar, _local_path, Kind.PATH)


def single(part: str | Part) -> Form:
    """Take the argument whole."""
    one = _part(part)
    return Form(one.metavar, (one,), lambda text: (text,))


def pair(first: str | Part, second: str | Part) -> Form:
    """Split at the first ``:``; the second part may hold more of them (Z2)."""
    return _split((_part(first), _part(second)))


def triple(first: str | Part, second: str | Part, third: str | Part) -> Form:
    """Split at the first two ``:``; the third part may hold more of them."""
    return _split((_part(first), _part(second), _part(third)))


def items(metavar: str, convert: Callable[[tuple[str, ...]], object] = tuple) -> Form:
    """Split at commas; blanks around an item do not count, and an empty item is an error."""

    def cut(text: str) -> tuple[Raw, ...]:
        return (tuple(item.strip() for item in text.split(",")),)

    def make(found: tuple[str, ...]) -> object:
        if not all(found):
            raise UsageError(
                f"expects {metavar}, and an item is empty",
                hint="separate items by single commas, without blanks",
            )
        return convert(found)

    return Form(metavar, (Part(metavar, make, Kind.LIST),), cut)


def links(target: str, link: str) -> Form:
    """Split at every ``:``: a target, and one or more links to it."""
    metavar = f"{target}:{link}[:{link}...]"

    def cut(text: str) -> tuple[Raw, ...]:
        first, *others = [_unescape(piece) for piece in _COLON.split(text)]
        if not others:
            raise _shape_error(metavar)
        return (first, tuple(others))

    return Form(metavar, (Part(target), Part(link, tuple, Kind.LIST)), cut)


def user_selector(user: str, selector: Part) -> Form:
    """Take a user and, after the first ``:``, an optional selector; without it the text is empty."""

    def cut(text: str) -> tuple[Raw, ...]:
        name, _colon, rest = text.partition(":")
        return (name, rest)

    return Form(f"{user}[:{selector.metavar}]", (Part(user), selector), cut)


def assignment(name: str, value: Part) -> Form:
    """Split ``NAME=VALUE`` at the first ``=``."""
    metavar = f"{name}={value.metavar}"

    def cut(text: str) -> tuple[Raw, ...]:
        left, equals, right = text.partition("=")
        if not equals:
            raise UsageError(f"expects {metavar}", hint="an '=' is missing")
        return (left, right)

    return Form(metavar, (Part(name), value), cut)


def local_files(first: str, *others: str) -> Form:
    """Split at every ``:`` into one local file and, after it, optional ones."""
    metavar = first + "".join(f"[:{name}" for name in others) + "]" * len(others)
    parts = (local(first), *(Part(name, _local_path, Kind.PATH, optional=True) for name in others))

    def cut(text: str) -> tuple[Raw, ...]:
        pieces: list[Raw] = [_unescape(piece) for piece in _COLON.split(text)]
        if len(pieces) > len(parts):
            raise UsageError(
                f"expects {metavar}", hint="there are too many parts; write \\: for a colon in a name"
            )
        return tuple(pieces + [None] * (len(parts) - len(pieces)))

    return Form(metavar, parts, cut)


def flag() -> Form:
    """Take no argument; one in a commands file is ignored, as virt-builder does (8.4)."""
    return Form("", (), lambda _text: ())


def _part(part: str | Part) -> Part:
    return Part(part) if isinstance(part, str) else part


def _split(parts: tuple[Part, ...]) -> Form:
    metavar = ":".join(part.metavar for part in parts)

    def cut(text: str) -> tuple[Raw, ...]:
        *firsts, last = _COLON.split(text, len(parts) - 1)
        texts = [*map(_unescape, firsts), last]
        if len(texts) != len(parts):
            raise _shape_error(metavar)
        return tuple(texts)

    return Form(metavar, parts, cut)


def _unescape(text: str) -> str:
    return text.replace("\\:", ":")


def _shape_error(metavar: str) -> UsageError:
    return UsageError(f"expects {metavar}", hint="a ':' is missing; the argument is split at the first ones")


def _local_path(text: str) -> Path:
    if not text:
        raise UsageError("the name of the local file is empty")
    return Path(text)

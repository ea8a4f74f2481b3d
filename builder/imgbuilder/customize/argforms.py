r"""The shapes of option arguments: how one text becomes the fields of an operation.

A shape only splits and converts; what the values may be is for the
operation's own rules (``values.py``), which hold for every front door. Errors
never quote the argument, which may hold a password.

In a part that ends at a ``:``, ``\:`` stands for a ``:`` of its own (ADR 0046);
every other backslash, and the last part, stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


_COLON = re.compile(r"(?<!\\):")
"""A ``:`` that separates: not one behind a backslash."""


@dataclass(frozen=True)
class Part:
    """One part of an argument.

    Attributes:
        metavar: Its name in the help.
        convert: Makes the field's value of the text; may raise ``UsageError``.
    """

    metavar: str
    convert: Callable[[str], object] = str


@dataclass(frozen=True)
class Form:
    """The shape of an option's argument.

    Attributes:
        metavar: How the help shows it; empty for an option without an argument.
        split: Returns the values of the operation's fields, in their order.
    """

    metavar: str
    split: Callable[[str], tuple[object, ...]]

    @property
    def takes_argument(self) -> bool:
        """Whether the option has an argument at all."""
        return bool(self.metavar)


def local(metavar: str) -> Part:
    """Describe a part that names a local file."""
    return Part(metavar, _local_path)


def single(part: str | Part) -> Form:
    """Take the argument whole."""
    one = _part(part)
    return Form(one.metavar, lambda text: (one.convert(text),))


def pair(first: str | Part, second: str | Part) -> Form:
    """Split at the first ``:``; the second part may hold more of them (Z2)."""
    return _split((_part(first), _part(second)))


def triple(first: str | Part, second: str | Part, third: str | Part) -> Form:
    """Split at the first two ``:``; the third part may hold more of them."""
    return _split((_part(first), _part(second), _part(third)))


def items(metavar: str) -> Form:
    """Split at commas; blanks around an item do not count, and an empty item is an error."""

    def split(text: str) -> tuple[object, ...]:
        found = tuple(item.strip() for item in text.split(","))
        if not all(found):
            raise UsageError(
                f"expects {metavar}, and an item is empty",
                hint="separate items by single commas, without blanks",
            )
        return (found,)

    return Form(metavar, split)


def links(target: str, link: str) -> Form:
    """Split at every ``:``: a target, and one or more links to it."""
    metavar = f"{target}:{link}[:{link}...]"

    def split(text: str) -> tuple[object, ...]:
        first, *others = [_unescape(piece) for piece in _COLON.split(text)]
        if not others:
            raise _shape_error(metavar)
        return (first, tuple(others))

    return Form(metavar, split)


def user_selector(user: str, selector: Part) -> Form:
    """Take a user and, after the first ``:``, an optional selector; without it the text is empty."""

    def split(text: str) -> tuple[object, ...]:
        name, _colon, rest = text.partition(":")
        return (name, selector.convert(rest))

    return Form(f"{user}[:{selector.metavar}]", split)


def assignment(name: str, value: Part) -> Form:
    """Split ``NAME=VALUE`` at the first ``=``."""
    metavar = f"{name}={value.metavar}"

    def split(text: str) -> tuple[object, ...]:
        left, equals, right = text.partition("=")
        if not equals:
            raise UsageError(f"expects {metavar}", hint="an '=' is missing")
        return (left, value.convert(right))

    return Form(metavar, split)


def local_files(first: str, *others: str) -> Form:
    """Split at every ``:`` into one local file and, after it, optional ones."""
    metavar = first + "".join(f"[:{name}" for name in others) + "]" * len(others)

    def split(text: str) -> tuple[object, ...]:
        pieces = [_unescape(piece) for piece in _COLON.split(text)]
        if len(pieces) > 1 + len(others):
            raise UsageError(
                f"expects {metavar}", hint="there are too many parts; write \\: for a colon in a name"
            )
        return tuple(_local_path(piece) for piece in pieces)

    return Form(metavar, split)


def flag() -> Form:
    """Take no argument; one in a commands file is ignored, as virt-builder does (8.4)."""
    return Form("", lambda _text: ())


def _part(part: str | Part) -> Part:
    return Part(part) if isinstance(part, str) else part


def _split(parts: tuple[Part, ...]) -> Form:
    metavar = ":".join(part.metavar for part in parts)

    def split(text: str) -> tuple[object, ...]:
        *firsts, last = _COLON.split(text, len(parts) - 1)
        texts = [*map(_unescape, firsts), last]
        if len(texts) != len(parts):
            raise _shape_error(metavar)
        return tuple(part.convert(piece) for part, piece in zip(parts, texts, strict=True))

    return Form(metavar, split)


def _unescape(text: str) -> str:
    return text.replace("\\:", ":")


def _shape_error(metavar: str) -> UsageError:
    return UsageError(f"expects {metavar}", hint="a ':' is missing; the argument is split at the first ones")


def _local_path(text: str) -> Path:
    if not text:
        raise UsageError("the name of the local file is empty")
    return Path(text)

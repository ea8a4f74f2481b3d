"""The table of operations: each is declared once, next to its code.

A row of the table makes the command-line option, the command of commands files, the operation in recipes, the
help and the manual's section.

A commands file (``--commands-from-file``) has virt-builder's format: each line is a customization option
without its dashes, and its argument. The first space separates; blanks at the end belong to the argument.
A backslash at the end of a line joins it with the next one, and the line break stays in the argument. Empty
lines and those that begin with ``#`` do not count, and Windows line ends are accepted.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from imgbuilder.customize.argforms import ArgumentForm, ArgumentPart, Raw
from imgbuilder.customize.facts import System
from imgbuilder.customize.needs import Need
from imgbuilder.customize.operation import FieldError, Operation, Phase, name_option
from imgbuilder.customize.values import read_given
from imgbuilder.errors import UsageError

_MODULES = (
    "files",
    "paths",
    "accounts",
    "packages",
    "system",
    "staticip",
    "scripts",
    "identity",
    "windows",
    "buildoptions",
)
"""The modules of ``imgbuilder.customize.ops``."""

_registered: dict[str, Spec] = {}

_Class = TypeVar("_Class", bound=Operation)


@dataclass(frozen=True)
class Spec:
    """The declaration of one operation."""

    keyword: str
    cls: type[Operation]
    form: ArgumentForm
    help: str
    long_help: str
    phase: Phase
    network: bool
    runs_in_guest: bool
    """True if it runs programs of the guest, which needs a processor like the guest's."""
    secret: bool
    """True if its argument may contain a secret and must not be printed."""
    needs: tuple[Need, ...]
    """Its needs besides files that can be written."""
    systems: tuple[System, ...]
    """The kinds of guests that it is for."""

    @property
    def metavar(self) -> str:
        """The argument in the help; empty for a flag."""
        return self.form.metavar

    @property
    def field_names(self) -> tuple[str, ...]:
        """The names of the operation's fields, in their order."""
        return tuple(field.name for field in dataclasses.fields(self.cls))

    @property
    def fields(self) -> Mapping[str, ArgumentPart]:
        """The parts of its argument by their names in recipes; the first is named by the keyword."""
        names = [
            part.key or name.replace("_", "-")
            for name, part in zip(self.field_names, self.form.parts, strict=True)
        ]
        return dict(zip([self.keyword, *names[1:]], self.form.parts, strict=False))

    def cut(self, text: str) -> tuple[Raw, ...]:
        """Cut an argument into the raw values of the fields; errors name the option."""
        try:
            return self.form.cut(text)
        except UsageError as error:
            raise name_option(self.keyword, error) from error

    def make(self, written: Sequence[Raw]) -> Operation:
        """Make the operation from the raw values of the fields; errors name the option."""
        values = {}
        for name, part, raw in zip(self.field_names, self.form.parts, written, strict=True):
            given = part.absent if raw is None else raw
            if given is not None:
                try:
                    values[name] = part.convert(given)
                except UsageError as error:
                    raise name_option(self.keyword, error, name) from error
        try:
            return self.cls(**values)
        except UsageError as error:
            raise name_option(self.keyword, error) from error


def operation(
    keyword: str,
    *,
    progress: str = "",
    form: ArgumentForm,
    phase: Phase = Phase.NORMAL,
    network: bool = False,
    runs_in_guest: bool = False,
    secret: bool = False,
    needs: tuple[Need, ...] = (),
    systems: tuple[System, ...] = (System.LINUX,),
) -> Callable[[type[_Class]], type[_Class]]:
    """Declare the decorated dataclass as the operation ``keyword``.

    The first line of the class's docstring becomes the help, the rest (up to the list of attributes) the
    manual's text. ``progress`` is shown while it is applied, with the values of the fields that it names in
    braces; an operation without it overrides ``describe``.
    """

    def register(cls: type[_Class]) -> type[_Class]:
        if keyword in _registered:
            raise ValueError(f"two operations are called {keyword!r}")
        text = inspect.cleandoc(cls.__doc__ or "").split("\nAttributes:")[0].strip()
        if not text or text.startswith(f"{cls.__name__}("):  # made up by dataclass
            raise ValueError(f"the operation {keyword!r} has no docstring")
        first, _newline, rest = text.partition("\n")
        cls.keyword = keyword
        cls.progress = progress
        _registered[keyword] = Spec(
            keyword, cls, form, first.rstrip("."), rest.strip(), phase, network, runs_in_guest, secret, needs,
            systems,
        )  # fmt: skip
        return cls

    return register


def all_operations() -> Mapping[str, Spec]:
    """Return every operation by its keyword."""
    for name in _MODULES:
        importlib.import_module(f"imgbuilder.customize.ops.{name}")
    return MappingProxyType(_registered)


def spec_of(operation: Operation) -> Spec:
    """Return the declaration of an operation."""
    return all_operations()[operation.keyword]


def _no_place(_field: str) -> str:
    return ""


@dataclass(frozen=True)
class Written:
    """An operation as written by the user: not converted, and without reading the files that it names."""

    spec: Spec
    """Its declaration."""
    values: tuple[Raw, ...]
    """The raw value of each field, in their order."""
    where: Callable[[str], str] = field(default=_no_place, compare=False)
    """Returns file and line of a field, or of the whole, for messages; empty for the command line."""

    def make(self) -> Operation:
        """Make the operation; errors name file and line."""
        try:
            return self.spec.make(self.values)
        except UsageError as error:
            name = error.field if isinstance(error, FieldError) else ""
            raise at_place(self.where(name), error) from error


def written_argument(keyword: str, text: str, where: str = "") -> Written:
    """Cut a customization's argument into the raw values of its fields."""
    spec = all_operations().get(keyword)
    if spec is None:
        raise at_place(where, UsageError(f"{keyword!r} is not a customization"))
    try:
        return Written(spec, spec.cut(text), lambda _field: where)
    except UsageError as error:
        raise at_place(where, error) from error


def at_place(where: str, error: UsageError) -> UsageError:
    """Return the error with a place in front."""
    return UsageError(f"{where}: {error.message}" if where else error.message, hint=error.hint)


KEYWORD = "commands-from-file"

_LARGEST = 4 * 1024 * 1024
"""Largest commands file in bytes."""


def written_commands(path: Path) -> list[Written]:
    """Read a commands file, without reading the files that it names; errors name file and line."""
    content = read_given(path, f"--{KEYWORD}:", lambda file: file.read(_LARGEST + 1))
    if len(content) > _LARGEST:
        raise UsageError(f"--{KEYWORD}: {path} is larger than {_LARGEST} bytes")
    text = content.decode(errors="surrogateescape")
    return [_parse(path, number, line) for number, line in _logical_lines(text)]


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the joined lines that count, each with the 1-based number of its first line."""
    joined: list[str] = []
    start = 1
    lines = text.split("\n")
    for number, raw in enumerate(lines, start=1):
        line = raw.removesuffix("\r")
        if not joined:
            start = number
        if line.endswith("\\") and number < len(lines):
            joined.append(line[:-1])
            continue
        logical = "\n".join([*joined, line]).lstrip()
        joined = []
        if logical and not logical.startswith("#"):
            yield start, logical


def _parse(path: Path, number: int, line: str) -> Written:
    keyword, _space, argument = line.partition(" ")
    where = f"{path}: line {number}"
    if keyword == KEYWORD:
        raise UsageError(f"{where}: a commands file cannot include another one")
    if keyword not in all_operations():
        hint = "write it without dashes" if keyword.startswith("--") else "use customization options only"
        raise UsageError(f"{where}: command {keyword[:80]!r} not valid", hint=hint)
    return written_argument(keyword, argument, where)

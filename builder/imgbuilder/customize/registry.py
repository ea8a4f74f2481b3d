"""The table of operations: each is declared once, beside its code.

From a row come the option of the command line, the command of a commands
file, the help and the manual; a row cannot be half added.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar, cast

from imgbuilder.customize.argforms import Form, Part, Raw
from imgbuilder.customize.operation import FieldError, Operation, OperationBase, Phase, name_option
from imgbuilder.errors import UsageError

_MODULES = (
    "files",
    "paths",
    "accounts",
    "packages",
    "system",
    "scripts",
    "identity",
    "settings",
)
"""The modules of ``imgbuilder.customize.ops``."""

_registered: dict[str, Spec] = {}

_Class = TypeVar("_Class", bound=OperationBase)


@dataclass(frozen=True)
class Spec:
    """One row of the table.

    Attributes:
        keyword: The option's name without dashes.
        cls: The class of the operation.
        form: The shape of its argument.
        help: One line for ``--help``.
        long_help: More for the manual; empty when the line says it all.
        phase: When it is applied.
        network: Whether it needs the network.
        runs_in_guest: Whether it starts programs of the guest, which must then fit the host's processor.
        secret: Whether its argument may hold a secret, and must not be printed.
    """

    keyword: str
    cls: type[OperationBase]
    form: Form
    help: str
    long_help: str
    phase: Phase
    network: bool
    runs_in_guest: bool
    secret: bool

    @property
    def metavar(self) -> str:
        """How the help shows the argument; empty for a flag."""
        return self.form.metavar

    @property
    def field_names(self) -> tuple[str, ...]:
        """The names of the operation's fields, in their order."""
        return tuple(field.name for field in dataclasses.fields(self.cls))

    @property
    def fields(self) -> Mapping[str, Part]:
        """The parts of its argument by their names in recipes; the first one's is the keyword."""
        names = [
            part.key or name.replace("_", "-")
            for name, part in zip(self.field_names, self.form.parts, strict=True)
        ]
        return dict(zip([self.keyword, *names[1:]], self.form.parts, strict=False))

    def cut(self, text: str) -> tuple[Raw, ...]:
        """Cut an argument into what is written for each field.

        Raises:
            UsageError: A part is missing, or there are too many; the message names the option.
        """
        try:
            return self.form.cut(text)
        except UsageError as error:
            raise name_option(self.keyword, error) from error

    def make(self, written: Sequence[Raw]) -> Operation:
        """Make the operation of what is written for each field.

        Raises:
            UsageError: A value does not fit; the message names the option.
        """
        values = {}
        for name, part, raw in zip(self.field_names, self.form.parts, written, strict=True):
            given = part.absent if raw is None else raw
            if given is not None:
                try:
                    values[name] = part.convert(given)
                except UsageError as error:
                    raise name_option(self.keyword, error, name) from error
        make = cast("Callable[..., Operation]", self.cls)
        try:
            return make(**values)
        except UsageError as error:
            raise name_option(self.keyword, error) from error

    def parse(self, text: str) -> Operation:
        """Make the operation of its argument.

        Raises:
            UsageError: The argument does not fit; the message names the option.
        """
        return self.make(self.cut(text))


def operation(
    keyword: str,
    *,
    form: Form,
    phase: Phase = Phase.NORMAL,
    network: bool = False,
    runs_in_guest: bool = False,
    secret: bool = False,
) -> Callable[[type[_Class]], type[_Class]]:
    """Declare the decorated dataclass as the operation ``keyword``.

    The first line of the class's docstring becomes the help, the rest (up to
    the list of attributes) the manual's text.

    Raises:
        ValueError: The keyword is taken, or the class has no docstring: a mistake in our own code.
    """

    def register(cls: type[_Class]) -> type[_Class]:
        if keyword in _registered:
            raise ValueError(f"two operations are called {keyword!r}")
        text = inspect.cleandoc(cls.__doc__ or "").split("\nAttributes:")[0].strip()
        if not text or text.startswith(f"{cls.__name__}("):  # what dataclass makes up
            raise ValueError(f"the operation {keyword!r} has no docstring")
        first, _newline, rest = text.partition("\n")
        cls.keyword = keyword
        _registered[keyword] = Spec(
            keyword, cls, form, first.rstrip("."), rest.strip(), phase, network, runs_in_guest, secret
        )
        return cls

    return register


def all_operations() -> Mapping[str, Spec]:
    """Return every operation by its keyword."""
    for name in _MODULES:
        importlib.import_module(f"imgbuilder.customize.ops.{name}")
    return MappingProxyType(_registered)


def parse_operation(keyword: str, text: str = "") -> Operation:
    """Make an operation of an option and its argument.

    Args:
        keyword: The option's name without dashes.
        text: Its argument; ignored when the option takes none.

    Raises:
        UsageError: No operation has that name, or the argument does not fit it.
    """
    try:
        spec = all_operations()[keyword]
    except KeyError:
        raise UsageError(f"there is no customization {keyword!r}") from None
    return spec.parse(text)


def spec_of(operation: Operation) -> Spec:
    """Return the row of an operation."""
    return all_operations()[operation.keyword]


def nowhere(_field: str) -> str:
    """Say nothing about the place of a field: the command line has no lines."""
    return ""


@dataclass(frozen=True)
class Written:
    """An operation as the user wrote it, whichever way: not yet converted, no file read.

    Attributes:
        spec: Its row of the table.
        values: What is written for each field, in their order.
        where: Returns file and line of a field, or of the whole, for messages; empty for the command line.
    """

    spec: Spec
    values: tuple[Raw, ...]
    where: Callable[[str], str] = field(default=nowhere, compare=False)

    def make(self) -> Operation:
        """Make the operation.

        Raises:
            UsageError: A value does not fit; the message says where it stands.
        """
        try:
            return self.spec.make(self.values)
        except UsageError as error:
            name = error.field if isinstance(error, FieldError) else ""
            raise at_place(self.where(name), error) from error


def written_argument(keyword: str, text: str, where: str = "") -> Written:
    """Take an option of customization and its argument apart.

    Args:
        keyword: The option's name without dashes.
        text: Its argument; ignored when the option takes none.
        where: File and line, for messages.

    Raises:
        UsageError: No operation has that name, or a part of the argument is missing.
    """
    spec = all_operations().get(keyword)
    if spec is None:
        raise at_place(where, UsageError(f"there is no customization {keyword!r}"))
    try:
        return Written(spec, spec.cut(text), lambda _field: where)
    except UsageError as error:
        raise at_place(where, error) from error


def at_place(where: str, error: UsageError) -> UsageError:
    """Return the same error with a place in front."""
    return UsageError(f"{where}: {error.message}" if where else error.message, hint=error.hint)

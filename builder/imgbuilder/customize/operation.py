"""What a customization operation is.

An operation is a frozen dataclass that knows how to describe itself in one
line and how to apply itself to a guest. Its fields check themselves when it
is constructed, so that every front door (command line, commands file, recipe,
Python) refuses the same arguments before any work is done.
"""

from __future__ import annotations

import dataclasses
import enum
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import ClassVar, Protocol

from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.passwords import PasswordSelector
from imgbuilder.errors import OperationError, UsageError
from imgbuilder.events import Reporter, warn
from imgbuilder.guests.ports import Guest


class Phase(enum.Enum):
    """When an operation is applied (``virt-builder.md`` 8.1)."""

    SETTING = "setting"
    """Before all others: it changes how the others work and does nothing to the guest itself."""
    NORMAL = "normal"
    """In the user's order."""
    LATE = "late"
    """After all normal ones: passwords, so that an earlier or later command may add the user."""
    LAST = "last"
    """At the very end: SELinux labels, removal of the log."""


class Operation(Protocol):
    """One customization, ready to be applied."""

    keyword: ClassVar[str]
    """The option's name without dashes."""

    @property
    def passwords(self) -> tuple[PasswordSelector, ...]:
        """The passwords that it sets."""
        ...

    def describe(self) -> str:
        """Return the progress text, without secrets."""
        ...

    def check_host(self) -> None:
        """Check what can be known before any work, such as programs of the host that are needed.

        Raises:
            PybuilderError: Something is missing.
        """
        ...

    def check_guest(self, context: GuestContext) -> None:
        """Check what can be known before the guest is changed.

        Raises:
            OperationError: The operation cannot work in this guest.
        """
        ...

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Change the guest.

        Raises:
            OperationError: The guest does not fit, or a command in it failed.
            GuestCallError: A request to the appliance failed.
        """
        ...


@dataclass(frozen=True)
class OperationBase(ABC):
    """Base of the operations: checks each field by the rule in its metadata.

    A field's metadata may hold ``rule``, a function that returns the value to
    keep or raises ``UsageError``; and ``raw``, true when bytes that are not
    UTF-8 (kept as surrogate escapes by Python) are welcome, as in content.
    """

    keyword: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            try:
                value = _check_type(value, str(field.type))
                _check_text(value, raw=field.metadata.get("raw", False))
                rule = field.metadata.get("rule")
                object.__setattr__(self, field.name, value if rule is None else rule(value))
            except UsageError as error:
                raise name_option(self.keyword, error, field.name) from error

    @property
    def passwords(self) -> tuple[PasswordSelector, ...]:
        """The passwords that it sets."""
        return ()

    @abstractmethod
    def describe(self) -> str:
        """Return the progress text, without secrets."""

    def check_host(self) -> None:  # noqa: B027 - most operations need nothing of the host
        """Check programs of the host that are needed; the default needs none."""

    def check_guest(self, context: GuestContext) -> None:  # noqa: B027 - most operations fit every guest
        """Check that the operation fits the guest; the default fits all."""

    @abstractmethod
    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Change the guest."""


class FieldError(UsageError):
    """The value of one field does not fit.

    Args:
        message: What is wrong.
        field: Name of the field; empty when it is none in particular.
        hint: What to do next.
    """

    def __init__(self, message: str, *, field: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


def name_option(keyword: str, error: UsageError, field: str = "") -> UsageError:
    """Return the same error with the option's name in front, once, and the field's name inside."""
    prefix = f"--{keyword}: "
    if not keyword or error.message.startswith(prefix):
        return error
    return FieldError(prefix + error.message, field=field, hint=error.hint)


def _check_type(value: object, annotation: str) -> object:
    """Check what programs pass: a text in the place of a list would be taken as a list of letters."""
    if annotation.startswith("tuple"):
        if isinstance(value, str) or not isinstance(value, tuple | list):
            raise UsageError("a tuple is expected here", hint='for example ("nginx",)')
        if not all(isinstance(item, str) for item in value):
            raise UsageError("a tuple of texts is expected here")
        return tuple(value)
    if annotation == "str" and not isinstance(value, str):
        raise UsageError("a text is expected here")
    if annotation.startswith("Path") and isinstance(value, str):
        return Path(value)
    if annotation == "int" and (isinstance(value, bool) or not isinstance(value, int)):
        raise UsageError("a number is expected here", hint="modes are octal numbers: 0o755")
    return value


def _check_text(value: object, *, raw: bool) -> None:
    for text in _texts(value):
        if "\0" in text:
            raise UsageError("a NUL character cannot be used here")
        if not raw and any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(
                "the argument is not valid UTF-8", hint="give the name in UTF-8, or rename the file"
            )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, PurePath):
        yield str(value)
    elif isinstance(value, tuple):
        for item in value:
            yield from _texts(item)


# Checks of what an operation finds in the guest, with errors that name the option and the path.


_VOLATILE = ("/run/", "/dev/", "/proc/", "/sys/")
"""Folders over which a running guest mounts filesystems that are not on the disk."""


def require_existing(guest: Guest, path: str, operation: OperationBase) -> None:
    """Check that something is at a path of the guest.

    Raises:
        OperationError: It is missing, or a link that leads nowhere.
    """
    if not guest.exists(path):
        raise OperationError(f"--{operation.keyword}: {path} does not exist in the guest")


def require_file(guest: Guest, path: str, operation: OperationBase) -> None:
    """Check that a path of the guest is a regular file (links followed).

    Raises:
        OperationError: It is missing or something else.
    """
    require_existing(guest, path, operation)
    require_no_special(guest, path, operation)


def require_no_special(guest: Guest, path: str, operation: OperationBase) -> None:
    """Check that a path of the guest is a regular file, or nothing yet (links followed).

    What is written to a device or a pipe would be in no image.

    Raises:
        OperationError: It is something else.
    """
    if guest.exists(path) and not guest.is_file(path):
        raise OperationError(f"--{operation.keyword}: {path} is not a regular file in the guest")


def require_directory(guest: Guest, path: str, operation: OperationBase) -> None:
    """Check that a path that ends with a slash is a directory, as its writer believes.

    Raises:
        OperationError: It is none.
    """
    if path.endswith("/") and not guest.is_dir(path):
        raise OperationError(
            f"--{operation.keyword}: {path} is not a directory in the guest",
            hint=f"put --mkdir {path.rstrip('/')} before it, or leave out the last slash",
        )


def warn_of_volatile(guest: Guest, path: str, operation: OperationBase, on_event: Reporter) -> None:
    """Warn when what was just written will not be seen in the running guest (links followed)."""
    real = guest.realpath(path)
    if f"{real}/".startswith(_VOLATILE):
        where = path if real == path else f"{path} leads to {real}, which"
        warn(
            on_event,
            f"--{operation.keyword}: {where} is in the image, but not in the running guest: "
            f"{real[:5].rstrip('/')} is made anew at each boot",
        )

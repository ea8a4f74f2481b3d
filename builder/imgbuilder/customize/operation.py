"""The base of customization operations.

An operation is a frozen dataclass that can describe itself in one line and apply itself to a guest. Its
fields are checked when it is constructed, so that the command line, commands files, recipes and Python
programs refuse the same arguments before any work is done.
"""

from __future__ import annotations

import dataclasses
import enum
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import ClassVar

from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.passwords import PasswordSelector
from imgbuilder.customize.values import first_line
from imgbuilder.errors import OperationError, UsageError
from imgbuilder.events import Reporter, warn
from imgbuilder.guests.ports import Guest


class Phase(enum.Enum):
    """When an operation is applied, in virt-builder's order."""

    SETTING = "setting"
    """Before all others: changes how the others work and does nothing to the guest."""
    NORMAL = "normal"
    """In the user's order."""
    LATE = "late"
    """After all normal ones: passwords, so that any other operation may add the user."""
    LAST = "last"
    """At the very end: SELinux labels, removal of the log."""


@dataclass(frozen=True)
class Operation(ABC):
    """One customization; its fields are checked by the rules in their metadata.

    A field's metadata may have ``rule``, a function that returns the value to keep or raises ``UsageError``,
    and ``raw``, true where bytes that are not UTF-8 (surrogate escapes in Python) are allowed, as in content.
    """

    keyword: ClassVar[str] = ""
    """The option's name without dashes."""
    progress: ClassVar[str] = ""
    """Progress text with the names of fields in braces; set by ``registry.operation``."""

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

    @property
    def guest_paths(self) -> tuple[str, ...]:
        """The paths in the guest that it names, as the user wrote them."""
        return tuple(
            getattr(self, field.name) for field in dataclasses.fields(self) if field.metadata.get("guest")
        )

    def describe(self) -> str:
        """Return the progress text, without secrets."""
        shown = {field.name: _shown(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return self.progress.format(**shown)

    def check_host(self) -> None:  # noqa: B027 - most operations need nothing of the host
        """Check before any work, for example that programs are installed; raises ``PybuilderError``."""

    def check_guest(self, context: GuestContext) -> None:  # noqa: B027 - most operations fit every guest
        """Check before the guest is changed; raises ``OperationError`` if it cannot work in this guest."""

    @abstractmethod
    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Change the guest; raises ``OperationError`` or ``GuestCallError`` if that fails."""


class SettingOperation(Operation):
    """Base of the operations that only change how others work."""

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Do nothing: ``run.customize`` has put the setting into the context."""


def _shown(value: object) -> object:
    """Return a field for the progress text: the items of a list, the first line of a text."""
    if isinstance(value, tuple):
        return " ".join(value)
    return first_line(value) if isinstance(value, str) else value


class FieldError(UsageError):
    """The value of one field is not accepted; ``field`` is empty if the error concerns no single field."""

    def __init__(self, message: str, *, field: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


def name_option(keyword: str, error: UsageError, field: str = "") -> UsageError:
    """Return the error with the option's name in front, once, and with the field's name."""
    prefix = f"--{keyword}: "
    if not keyword or error.message.startswith(prefix):
        return error
    return FieldError(prefix + error.message, field=field, hint=error.hint)


def _check_type(value: object, annotation: str) -> object:
    """Check a value passed by a Python program: a string in place of a list would be a list of letters."""
    if annotation.startswith("tuple"):
        if isinstance(value, str) or not isinstance(value, tuple | list):
            raise UsageError("a tuple is expected here", hint='for example ("nginx",)')
        if not all(isinstance(item, str) for item in value):
            raise UsageError("a tuple of strings is expected here")
        return tuple(value)
    if annotation == "str" and not isinstance(value, str):
        raise UsageError("a string is expected here")
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


# Checks of paths in the guest, with errors that name the option and the path.

_VOLATILE = ("/run/", "/dev/", "/proc/", "/sys/")
"""Folders where a running guest mounts filesystems that are not on its disk."""


def read_if_present(guest: Guest, path: str) -> bytes:
    """Read a file of the guest; empty if it is missing."""
    return guest.read(path) if guest.is_file(path) else b""


def require_existing(guest: Guest, path: str, operation: Operation) -> None:
    """Check that a path exists in the guest and is not a dangling link."""
    if not guest.exists(path):
        raise OperationError(f"--{operation.keyword}: {path} does not exist in the guest")


def require_file(guest: Guest, path: str, operation: Operation) -> None:
    """Check that a path of the guest is a regular file (links followed)."""
    require_existing(guest, path, operation)
    require_no_special(guest, path, operation)


def require_no_special(guest: Guest, path: str, operation: Operation) -> None:
    """Check that a path of the guest is a regular file or does not exist (links followed).

    Content written to a device or a pipe would not be in the image.
    """
    if guest.exists(path) and not guest.is_file(path):
        raise OperationError(f"--{operation.keyword}: {path} is not a regular file in the guest")


def require_directory(guest: Guest, path: str, operation: Operation) -> None:
    """Check that a path that ends with a slash is a directory, as the user expects."""
    if path.endswith("/") and not guest.is_dir(path):
        raise OperationError(
            f"--{operation.keyword}: {path} is not a directory in the guest",
            hint=f"put --mkdir {path.rstrip('/')} before it, or remove the trailing slash",
        )


def warn_of_volatile(guest: Guest, path: str, operation: Operation, on_event: Reporter) -> None:
    """Warn if a path that was just written is hidden in the running guest (links followed)."""
    real = guest.realpath(path)
    if f"{real}/".startswith(_VOLATILE):
        where = path if real == path else f"{path} leads to {real}, which"
        warn(
            on_event,
            f"--{operation.keyword}: {where} is in the image, but not in the running guest: "
            f"{real[:5].rstrip('/')} is empty after each boot",
        )

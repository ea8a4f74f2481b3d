"""The description of an entry that its contributor writes: ``entry.toml``."""

from __future__ import annotations

import functools
import hashlib
import re
import tomllib
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.machine.model import BOARDS, Firmware, Forward
from imgbuilder.sizes import parse_size
from imgindex.files import open_file
from imgindex.lexer import MISLEADING
from imgrepo.recordfile import describe_error

DESCRIPTION_NAME = "entry.toml"
_LARGEST = 256 << 10
_LINK = re.compile(r"https?://[^\s<>\"'`\\]+")


def _clean(value: object) -> object:
    """Refuse characters that control terminals or change the direction of text."""
    if isinstance(value, str) and MISLEADING.search(value):
        raise ValueError("it has control characters or invisible ones")
    return value.strip() if isinstance(value, str) else value


def _one_line(value: object) -> object:
    if isinstance(value, str) and "\n" in value.strip():
        raise ValueError("it must be one line")
    return _clean(value)


def _size(value: object) -> object:
    try:
        return parse_size(value) if isinstance(value, str) else value
    except UsageError as error:
        raise ValueError(error.message) from error


def _moment(value: object) -> object:
    """A day alone is its first moment in UTC; without a zone, a time is UTC."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    raise ValueError("it must be a day or a time, without quotes: not-before = 2026-12-01")


Text = Annotated[str, BeforeValidator(_clean), Field(max_length=20_000)]
Line = Annotated[str, BeforeValidator(_one_line), Field(max_length=200)]
Bytes = Annotated[int, BeforeValidator(_size), Field(gt=0)]
Moment = Annotated[datetime, BeforeValidator(_moment)]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class Table(BaseModel):
    """A table of a file that people write: strict, without unknown keys; names have dashes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=_dashed)


class MachineTable(Table):
    """``[machine]``: what the image needs to run.

    Attributes:
        memory: MiB.
        firmware: The firmware; None to detect it from the image.
        graphic: Whether users see the guest's screen; otherwise its serial console.
        ports: Ports of the guest that the ``run`` script forwards, as ``--forward`` takes them.
    """

    memory: int = Field(default=1024, ge=16, le=1 << 20)
    processors: int = Field(default=1, ge=1, le=256)
    firmware: Annotated[Firmware | None, Field(strict=False)] = None
    graphic: bool = False
    ports: tuple[Forward, ...] = ()

    @field_validator("ports", mode="before")
    @classmethod
    def _ports(cls, value: object) -> tuple[Forward, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError('it must be a list: ports = ["8080:80"]')  # noqa: TRY004 - pydantic's rule
        try:
            return tuple(item if isinstance(item, Forward) else Forward.parse(str(item)) for item in value)
        except UsageError as error:
            raise ValueError(error.message) from error


class BootTable(Table):
    """``[boot]``: settings of the boot check.

    Attributes:
        marker: A regular expression found on the serial console when the image has booted.
        seconds: Time limit with KVM; it is longer with emulation.
    """

    marker: Line = "login:"
    seconds: int = Field(default=120, ge=5, le=3600)
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(default=(), strict=False)

    @field_validator("marker")
    @classmethod
    def _marker(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"it is not a valid regular expression: {error}") from error
        return value


class Description(Table):
    """The fields of ``entry.toml``.

    Attributes:
        licence: Of the whole image, an SPDX expression.
        not_before: When it is published at the earliest, in UTC; None for at once.
        size_budget: Size limit of the compressed image in bytes; None for any size.
        source_offer: Mail or web address for sources that are not published with the image.
    """

    title: Line = ""
    description: Text = ""
    hints: Text = ""
    licence: Line = ""
    contributor: Line = ""
    homepage: Line = ""
    tags: tuple[Line, ...] = Field(default=(), strict=False)
    arch: str = "x86_64"
    not_before: Moment | None = None
    size_budget: Bytes | None = None
    source_offer: Line = ""
    machine: MachineTable = MachineTable()
    boot: BootTable = BootTable()

    @field_validator("arch")
    @classmethod
    def _arch(cls, value: str) -> str:
        if value not in BOARDS:
            raise ValueError(f"it must be one of {', '.join(BOARDS)}")
        return value

    @field_validator("homepage")
    @classmethod
    def _homepage(cls, value: str) -> str:
        if value and not _LINK.fullmatch(value):
            raise ValueError("it must be an http:// or https:// address")
        return value


def parse_description(text: str, *, where: str) -> Description:
    """Read the text of an ``entry.toml``; the error lists all wrong values."""
    try:
        data: dict[str, Any] = tomllib.loads(text)
        return Description.model_validate(data)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RepositoryError(f"{where} is not valid TOML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(describe_error(one) for one in error.errors())
        raise RepositoryError(f"{where}: {wrong}", hint="see entry.toml in pybuilder-repo(1)") from error


def read_with_digest(path: Path) -> tuple[Description, str]:
    """Read an ``entry.toml``; return also the SHA-512 of its bytes, in hex."""
    data = _bytes(path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{path} is not UTF-8 text") from error
    return parse_description(text, where=str(path)), hashlib.sha512(data).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise RepositoryError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise RepositoryError(f"{path} is larger than {_LARGEST} bytes")
    return data


_LONGEST = 200
_OPERATORS = {"AND", "OR", "WITH", "(", ")"}
_EXAMPLE = 'such as "GPL-2.0-or-later AND MIT"'


@functools.cache
def _licensing() -> Any:  # noqa: ANN401 - a library without types
    from license_expression import get_spdx_licensing  # late: reading its list takes a third of a second

    return get_spdx_licensing()


def licence_problem(text: str) -> str | None:
    """Return why a text is not an SPDX licence expression; None when it is one.

    ``LicenseRef-`` identifiers are allowed: for what is not in SPDX's list (SPDX 2.3, annex D).
    """
    if len(text) > _LONGEST:
        return f"it is longer than {_LONGEST} characters"
    licensing = _licensing()
    tokens = text.replace("(", " ( ").replace(")", " ) ").split()
    names = [word for word in tokens if word not in _OPERATORS and not word.startswith("LicenseRef-")]
    # The library accepts ambiguous names such as "GPL" as well.
    unknown = [name for name in names if name not in licensing.known_symbols]
    if unknown:
        return f"SPDX has no licence {', '.join(unknown)}"
    try:
        # A known licence in the place of each private one, for the grammar.
        plain = " ".join("MIT" if word.startswith("LicenseRef-") else word for word in tokens)
        # It reports errors of the grammar, but its parser raises AttributeError on some of them.
        found = licensing.validate(plain) if tokens else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        found = None
    return None if found is not None and not found.errors else f"it is not an SPDX expression, {_EXAMPLE}"

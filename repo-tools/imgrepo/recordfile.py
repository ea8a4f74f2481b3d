"""JSON files in which the publisher keeps dataclasses: bounded when read, written whole or not at all.

Such a file may come from a stranger, with a library or a mirrored repository.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, FailFast, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from imgbuilder.errors import RepositoryError
from imgbuilder.host.text import printable
from imgbuilder.host.workspace import explaining, new_file
from imgindex.files import open_file

_VERSION = 1
_MOST_ERRORS = 1000
_BYTES_PER_LIST = 128
"""A record has at most one list or table for each of so many bytes of its limit: some versions of pydantic
take 600 bytes of memory for an empty one."""
_Record = TypeVar("_Record")
_Item = TypeVar("_Item")


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except (OverflowError, OSError) as error:  # pydantic handles ValueError only
        raise ValueError("out of range") from error


# One error is enough: a million of them take a gigabyte.
Many = Annotated[tuple[_Item, ...], FailFast()]
"""A tuple of any length in a record."""

Moment = Annotated[datetime, AfterValidator(_in_utc)]
"""A time in a record, in UTC: ``2026-12-01T12:00:00Z``, or with ``+00:00``."""


@dataclass(frozen=True)
class _Versioned:
    version: int


_VERSIONED = TypeAdapter(_Versioned)


class RecordFile(Generic[_Record]):
    """The form of one kind of record: the fields of a dataclass, and ``version``.

    Args:
        kind: The dataclass. Its long tuples are ``Many``, its times ``Moment``.
        name: Name of the file in its folder.
        limit: Bytes that such a file has at most.
        hint: Advice for a file that cannot be read.
    """

    def __init__(
        self,
        kind: type[_Record],
        name: str,
        *,
        limit: int = 16 << 20,
        hint: str = "remove it and make it again",
    ) -> None:
        self._kind = kind
        self.name = name
        self._limit = limit
        self._hint = hint

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[_Record]:
        return TypeAdapter(self._kind)

    def read(self, folder: Path) -> _Record | None:
        """Return the record in a folder; None when there is no such file."""
        path = folder / self.name
        try:
            with open_file(path) as file:
                data = file.read(self._limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RepositoryError(f"{path} cannot be read: {error.strerror}", hint=self._hint) from error
        return self.parse(data, where=str(path))

    def parse(self, data: bytes, *, where: str) -> _Record:
        """Return the record in the content of a file."""
        if len(data) > self._limit:
            raise RepositoryError(f"{where} is larger than {self._limit} bytes", hint=self._hint)
        most = self._limit // _BYTES_PER_LIST
        if data.count(b"[") + data.count(b"{") > most:
            raise RepositoryError(
                f"{where} cannot be read: it has more than {most} lists and tables", hint=self._hint
            )
        try:
            version = _VERSIONED.validate_json(data).version
            if version == _VERSION:
                return self._adapter.validate_json(data)
        except ValidationError as error:
            raise RepositoryError(f"{where} cannot be read: {_first(error)}", hint=self._hint) from error
        raise RepositoryError(f"{where} was written by a different version of this program", hint=self._hint)

    def text(self, record: _Record, *, indent: int | None = 1) -> bytes:
        """Return the content of the file of a record; without ``indent``, it is one line."""
        fields = {"version": _VERSION, **self._adapter.dump_python(record, mode="json")}
        # Half a surrogate, as in a file name that is not UTF-8, could not be read again.
        return f"{json.dumps(fields, indent=indent, ensure_ascii=False)}\n".encode(errors="replace")

    def write(self, folder: Path, record: _Record) -> None:
        """Write a record."""
        with self.writing(folder, record):
            pass

    @contextlib.contextmanager
    def writing(self, folder: Path, record: _Record) -> Iterator[None]:
        """Write a record at once, but give it its name only when the block ends without error."""
        with writing_file(folder / self.name, self.text(record)):
            yield


@contextlib.contextmanager
def writing_file(path: Path, data: bytes) -> Iterator[Path]:
    """Write a file under the temporary name that is yielded; it gets its own when the block ends."""
    with new_file(path) as temporary:
        with explaining(path):
            temporary.write_bytes(data)
        yield temporary


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with writing_file(path, text.encode()):
        pass


def describe_error(error: ErrorDetails) -> str:
    """Return one of pydantic's errors in one line: the field and what is wrong with it."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message[:1].lower()}{message[1:]}" if place else message


def _first(error: ValidationError) -> str:
    if error.error_count() > _MOST_ERRORS:
        return "it is not such a record"
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return printable(describe_error(found[0])[:200])

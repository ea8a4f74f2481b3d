"""Files of what the tools found out: JSON with a version, written whole or not at all."""

from __future__ import annotations

import contextlib
import enum
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from imgbuilder.errors import RepositoryError
from imgbuilder.workspace import explain, new_file
from imgindex.regular import open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from _typeshed import DataclassInstance

_VERSION = 1
_LARGEST = 64 << 20
_Record = TypeVar("_Record")


def write_record(path: Path, record: DataclassInstance) -> None:
    """Write a record.

    Args:
        path: The file.
        record: Of dataclasses, enumerations, times and what JSON has.

    Raises:
        WorkspaceError: It cannot be written.
    """
    with record_written(path, record):
        pass


@contextlib.contextmanager
def record_written(path: Path, record: DataclassInstance) -> Iterator[None]:
    """Write a record as ``write_record``, at once; it gets its name when the block ends without error."""
    with new_file(path) as temporary:
        try:
            text = json.dumps({"version": _VERSION, **asdict(record)}, default=_plain, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise explain(error, path) from error
        yield


def read_record(path: Path, build: Callable[[Any], _Record]) -> _Record | None:
    """Read a record.

    Args:
        path: The file.
        build: Makes the record of its fields; what is wrong with them raises what a wrong key, type or
            value raises.

    Returns:
        The record; None when there is no such file.

    Raises:
        RepositoryError: It cannot be read.
    """
    try:
        with open_file(path) as file:
            fields = json.loads(file.read(_LARGEST))
        if fields["version"] != _VERSION:
            raise RepositoryError(
                f"{path} was written by another version of this program", hint="make it anew"
            )
        return build(fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RepositoryError(f"{path} cannot be read: {error}", hint="remove it and make it anew") from error


def _plain(value: Any) -> Any:  # noqa: ANN401 - json's own
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(type(value))

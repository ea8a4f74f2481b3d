"""Small records of our own, as JSON: read with a limit and checks, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

from imgindex.files import open_file, write_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read_json(path: Path, *, version: int | None, limit: int, private: bool = False) -> dict[str, Any]:
    """Return the fields of a record; links are not followed.

    Args:
        path: The file.
        version: The value that its field ``version`` must have; None if it has no such field.
        limit: Bytes that it may have.
        private: Refuse a file that another user owns or may write, or that has a second name.

    Raises:
        OSError: It is missing, not an ordinary file, not private, or cannot be read.
        ValueError: It is too large, not a JSON object, or of another version.
    """
    with open_file(path, os.O_NOFOLLOW) as file:
        status = os.fstat(file.fileno())
        if private and (status.st_uid != os.geteuid() or status.st_mode & 0o022 or status.st_nlink != 1):
            raise OSError(errno.EPERM, "other users may have changed it", str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError("it is too large")
    try:
        fields = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - the content is wrong, not the caller
    if version is not None and (type(fields.get("version")) is not int or fields["version"] != version):
        raise ValueError("it is of another version")
    return fields


def write_json(
    path: Path, fields: Mapping[str, object], *, version: int | None, durable: bool, owner: str = ""
) -> None:
    """Write a record, in place of any earlier one.

    Args:
        path: The file, in a folder that exists.
        fields: Values that JSON can hold.
        version: Value of the field ``version``; None for none.
        durable: As for ``imgindex.files.write_file``.
        owner: As for ``imgindex.files.temporary_file``.

    Raises:
        OSError: It cannot be written.
    """
    whole = fields if version is None else {"version": version, **fields}
    write_file(path, (json.dumps(whole, indent=2) + "\n").encode(), durable=durable, owner=owner)

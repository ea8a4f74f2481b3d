"""The settings of a library, ``library.toml`` in the folder of its images, which all commands read.

Options override them. Paths in it start at its folder.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from imgbuilder.errors import RepositoryError
from imgindex.files import open_file
from imgrepo.images.compress import PRESETS, ZSTD_LEVELS
from imgrepo.library.description import Line, Table
from imgrepo.recordfile import describe_error
from imgrepo.review.results import Requirement

SETTINGS_NAME = "library.toml"
_LARGEST = 256 << 10
_LINE_OF_ERROR = re.compile(r" \(at line (\d+), column \d+\)$")
_Lines = Annotated[tuple[Line, ...], Field(default=(), strict=False)]
_Requirement = Annotated[Requirement, Field(strict=False)]
_Days = Annotated[int, Field(ge=0, le=3650)]


class LibrarySettings(Table):
    """The fields of ``library.toml``.

    Attributes:
        webroot: The folder that is served.
        keys: The signing keys; two while clients move from one to the other.
        expire: Days after which signatures expire, 0 for never; None to leave that as it is.
        targets: Where the served folder is uploaded after each ``publish``.
        base_url: The address under which users find the served folder.
        reviewers: File with the public keys of the reviewers.
        require: What images must have passed.
        grace: Days that old files stay.
    """

    webroot: Line
    keys: Annotated[tuple[Line, ...], Field(min_length=1, strict=False)]
    expire: _Days | None = None
    targets: _Lines
    endpoint_url: Line | None = None
    title: Line | None = None
    base_url: Line | None = None
    calendar: bool = False
    reviewers: Line | None = None
    require: Annotated[tuple[_Requirement, ...], Field(strict=False)] = ()
    zstd: bool = False
    zstd_level: int | None = Field(default=None, ge=ZSTD_LEVELS[0], le=ZSTD_LEVELS[-1])
    xz_preset: Line | None = None
    prune: bool = False
    grace: _Days | None = None

    @field_validator("xz_preset")
    @classmethod
    def _preset(cls, value: str | None) -> str | None:
        if value is not None and value not in PRESETS:
            raise ValueError('it must be a digit from 0 to 9, or one followed by e, such as "6" or "9e"')
        return value


def read_settings(folder: Path) -> LibrarySettings | None:
    """Read the settings of a library; None for a folder without any."""
    path = folder / SETTINGS_NAME
    try:
        with open_file(path) as file:
            data = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RepositoryError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise RepositoryError(f"{path} is larger than {_LARGEST} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{path} is not UTF-8 text") from error
    return parse_settings(text, where=str(path))


def parse_settings(text: str, *, where: str) -> LibrarySettings:
    """Read the text of a ``library.toml``; the error names the line."""
    hint = "see LIBRARY SETTINGS in pybuilder-repo(1)"
    try:
        values: dict[str, Any] = tomllib.loads(text)
        return LibrarySettings.model_validate(values)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = str(error)
        found = _LINE_OF_ERROR.search(message)
        place = f"{where}:{found[1]}" if found else where
        raise RepositoryError(f"{place}: {_LINE_OF_ERROR.sub('', message)}", hint=hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        line = _line_of(text, str(first["loc"][0]))
        place = where if line is None else f"{where}:{line}"
        raise RepositoryError(f"{place}: {describe_error(first)}", hint=hint) from error


def _line_of(text: str, key: str) -> int | None:
    """Find the line of a key at the top of a TOML document."""
    pattern = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*(?:=|\.)|\s*\[+\s*["']?{re.escape(key)}\b""")
    return next((number for number, line in enumerate(text.split("\n"), 1) if pattern.match(line)), None)


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of ``library.toml``, for editors."""
    schema = LibrarySettings.model_json_schema(by_alias=True)
    title = f"{SETTINGS_NAME} of pybuilder-repo"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}

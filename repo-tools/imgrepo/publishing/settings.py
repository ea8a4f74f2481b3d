"""The settings of a library, ``library.toml`` in the folder of its images, which all commands read.

Options override them. Paths in it start at its folder. Its tables say where images come from, for ``update``.
"""

from __future__ import annotations

import enum
import graphlib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.recipe.document import find_lines
from imgindex.files import open_file
from imgrepo.images.compress import PRESETS, ZSTD_LEVELS
from imgrepo.images.scan import is_stem
from imgrepo.intake.proof import TrustOptions, name_in
from imgrepo.library.description import Bytes, Line, Table
from imgrepo.recordfile import describe_error
from imgrepo.review.results import Requirement
from imgrepo.template.bootstrap import Mode
from imgrepo.template.disk import Layout, RootKind
from imgrepo.template.make import TemplateRequest, bootstrap_request
from imgrepo.template.recipes import (
    DEBIAN_MIRROR,
    DEBIAN_SECURITY_MIRROR,
    PLAIN_LOCALE,
    Arch,
    Kernel,
    recipe_named,
)

SETTINGS_NAME = "library.toml"
_LARGEST = 256 << 10
_LINE_OF_ERROR = re.compile(r" \(at line (\d+), column \d+\)$")
_Lines = Annotated[tuple[Line, ...], Field(default=(), strict=False)]
_Requirement = Annotated[Requirement, Field(strict=False)]
_Days = Annotated[int, Field(ge=0, le=3650)]
_Age = Annotated[int, Field(ge=1, le=3650)]
_Size = Annotated[Bytes, WithJsonSchema({"type": ["integer", "string"]})]


def _template_name(name: str) -> str:
    if not is_stem(name):
        raise ValueError("letters, digits, '.', '_' and '-' make the name of a template, 80 at most")
    return name


_Name = Annotated[str, AfterValidator(_template_name)]


class UpdateStep(enum.Enum):
    """A step of ``update`` between an image and its publication, or after it."""

    BOOT_CHECK = "boot-check"
    SBOM = "sbom"
    SOURCES = "sources"
    CATALOGUE = "catalogue"


_Steps = Annotated[tuple[Annotated[UpdateStep, Field(strict=False)], ...], Field(strict=False)]


class _Origin(Table):
    """The keys of all origins.

    Attributes:
        steps: The steps for this image; None for those of the library.
    """

    steps: _Steps | None = None


class Made(_Origin):
    """``[made.NAME]``: an image that ``make-template`` makes, by its options.

    Attributes:
        every: Days after which it is made again.
    """

    recipe: Line
    size: _Size = 2 << 30
    kernel: Annotated[Kernel, Field(strict=False)] = Kernel.CLOUD
    arch: Annotated[Arch, Field(strict=False)] = Arch.AMD64
    root: Annotated[RootKind, Field(strict=False)] = RootKind.EXT4
    uefi: bool = True
    lvm: bool = False
    locale: Line = PLAIN_LOCALE
    script: Line | None = None
    include: _Lines
    mirror: Line = DEBIAN_MIRROR
    security_mirror: Line = DEBIAN_SECURITY_MIRROR
    snapshot: bool = False
    keep_mirror: bool = False
    suite_keyring: Line | None = None
    mode: Annotated[Mode, Field(strict=False)] = Mode.AUTO
    every: _Age = 7

    def request(self, folder: Path, output: Path, appliance: ApplianceOptions) -> TemplateRequest:
        """Return the request for its image; the files that it names are in the library's folder."""
        system = bootstrap_request(
            recipe=self.recipe,
            kernel=self.kernel,
            arch=self.arch,
            layout=Layout(self.root, self.uefi, self.lvm),
            locale=self.locale,
            script=None if self.script is None else folder / self.script,
            include=self.include,
            mirror=self.mirror,
            security_mirror=self.security_mirror,
            snapshot=self.snapshot,
            keep_mirror=self.keep_mirror,
            suite_keyring=None if self.suite_keyring is None else folder / self.suite_keyring,
            mode=self.mode,
        )
        return TemplateRequest(system, output, self.size, appliance)

    @field_validator("recipe")
    @classmethod
    def _recipe(cls, value: str) -> str:
        try:
            recipe_named(value)
        except UsageError as error:
            raise ValueError(error.in_one_line) from error
        return value


class Imported(_Origin):
    """``[imported.NAME]``: a distribution's cloud image, as ``import`` takes it in."""

    address: Line
    key: Line | None = None
    checksums: Line | None = None
    checksum: Line | None = None
    unsigned: bool = False

    @model_validator(mode="after")
    def _trust(self) -> Imported:
        if self.key is None and self.checksum is None and not self.unsigned:
            raise ValueError('it needs key = "FILE-or-FINGERPRINT", checksum = "SHA512" or unsigned = true')
        try:
            name_in(self.address)
            self.trust(Path())
        except UsageError as error:
            raise ValueError(error.message) from error
        return self

    def trust(self, folder: Path) -> TrustOptions:
        """Return how its images are checked; a key file is looked for in the library's folder."""
        key = self.key
        if key is not None and (folder / key).is_file():
            key = str(folder / key)
        return TrustOptions(self.checksum, self.checksums, key, self.unsigned)


class Built(_Origin):
    """``[built.NAME]``: an image that a recipe makes of another one of the library, and that follows it.

    Attributes:
        every: Days after which it is built again although its base is the same; None for never.
    """

    base: Line
    recipe: Line
    every: _Age | None = None


Origin = Made | Imported | Built


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
        steps: The steps of ``update``.
        made, imported, built: Where images come from, by the names of their templates.
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
    steps: _Steps = (*UpdateStep,)
    made: dict[_Name, Made] = Field(default={})
    imported: dict[_Name, Imported] = Field(default={})
    built: dict[_Name, Built] = Field(default={})

    @property
    def origins(self) -> dict[str, Origin]:
        """All origins by the names of their templates, each after its base."""
        origins: dict[str, Origin] = {**self.made, **self.imported, **self.built}
        bases = {name: [origin.base] if isinstance(origin, Built) else [] for name, origin in origins.items()}
        ordered = graphlib.TopologicalSorter(dict(sorted(bases.items()))).static_order()
        return {name: origins[name] for name in ordered if name in origins}

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
        settings = LibrarySettings.model_validate(values)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = str(error)
        found = _LINE_OF_ERROR.search(message)
        place = f"{where}:{found[1]}" if found else where
        raise RepositoryError(f"{place}: {_LINE_OF_ERROR.sub('', message)}", hint=hint) from error
    except ValidationError as error:
        # A mistyped key is also one that is missing: the word itself says more.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise RepositoryError(
            f"{_place(text, first['loc'], where)}: {describe_error(first)}", hint=hint
        ) from error
    key, problem = _contradiction(settings)
    if problem:
        raise RepositoryError(f"{_place(text, key, where)}: {'.'.join(key)}: {problem}", hint=hint)
    return settings


def _contradiction(settings: LibrarySettings) -> tuple[tuple[str, ...], str]:
    """Return what is wrong between origins, and the key that it stands under; empty texts if nothing is."""
    seen: set[str] = set()
    for table in ("made", "imported", "built"):
        for name in getattr(settings, table):
            if name in seen:
                return (table, name), "this template has another origin as well: leave one"
            seen.add(name)
    try:
        settings.origins  # noqa: B018 - it puts them in order
    except graphlib.CycleError as error:
        circle = error.args[1]
        return ("built", circle[0], "base"), f"images are bases of each other: {' <- '.join(circle)}"
    return (), ""


def _place(text: str, key: tuple[str | int, ...], where: str) -> str:
    """Return file and line of a value; if it is missing, of the nearest table around it."""
    lines = find_lines(text.replace("\r\n", "\n"))
    while key and key not in lines:
        key = key[:-1]
    return f"{where}:{lines[key]}" if key else where


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of ``library.toml``, for editors."""
    schema = LibrarySettings.model_json_schema(by_alias=True)
    title = f"{SETTINGS_NAME} of pybuilder-repo"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}

"""Reading ``repos.d/*.conf``: from the text of a configuration file to its sources.

The files are those of virt-builder (``docs/compatibility.md``), read more
strictly: a source needs either ``gpgkey`` or ``unsigned=yes`` (T6), and its key
is never downloaded. The order is fixed: folders as given, in each the file names
sorted, in each file as written. The first source that offers a template wins.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.catalog.sources import Key, Source, SourceFormat, fingerprints, stream_base
from imgbuilder.errors import IndexSyntaxError, PybuilderError, UsageError
from imgbuilder.fetch.transfer import NO_PROXY, SYSTEM_PROXY
from imgbuilder.fetch.urls import Address, check_uri, local_path, scheme_of
from imgindex.files import check_writers, open_file
from imgindex.lexer import decode_text, parse_sections

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgindex.lexer import Field, Section

_LARGEST_FILE = 1 << 20
"""Most bytes of a configuration file."""

_NEXT_URI = re.compile(r",\s*(?=[A-Za-z][A-Za-z0-9+.-]*://|/|$)")
_FORMATS = {item.value: item for item in SourceFormat}
_FLAGS = {"yes": True, "true": True, "no": False, "false": False}
_DAYS = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True)
class SourcesResult:
    """The content of the configuration files."""

    sources: tuple[Source, ...]
    """Usable sources, the most important first."""
    problems: tuple[PybuilderError, ...]
    """Reasons why others are not used; each names its file, and the line if there is one."""
    disabled: tuple[tuple[str, Path], ...] = ()
    """Name and file of each source that is switched off."""


def read_sources(dirs: Iterable[Path], *, check: bool = True) -> SourcesResult:
    """Read all ``*.conf`` files of some folders.

    A file hides those of the same name in later folders, even when it is empty: so a user switches off a
    file of the system. A file that cannot be read hides nothing. A source hides those of the same name in
    later files, even with ``enabled=no``. Within one file, the last of the same name counts.
    """
    problems: list[PybuilderError] = []
    sources: list[Source] = []
    disabled: list[tuple[str, Path]] = []
    seen_files: set[str] = set()
    seen_names: set[str] = set()
    for folder in dirs:
        for path in _files(folder, problems):
            if path.name in seen_files:
                continue
            try:
                sections = _sections(path, problems)
            except PybuilderError as error:
                problems.append(error)
                continue
            seen_files.add(path.name)
            # A faulty source hides those of the same name as well: it was meant to replace them.
            fresh = [section for section in sections if section.name not in seen_names]
            seen_names.update(section.name for section in fresh)
            for section in fresh:
                try:
                    found = _source(section, path, check=check)
                    if found is None:
                        disabled.append((section.name, path))
                    else:
                        sources.append(found)
                except PybuilderError as error:
                    problems.append(error)
    return SourcesResult(tuple(sources), tuple(problems), tuple(disabled))


def _files(folder: Path, problems: list[PybuilderError]) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(".conf"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(UsageError(f"cannot read {folder}: {error.strerror}"))
        return []


def _sections(path: Path, problems: list[PybuilderError]) -> list[Section]:
    try:
        with open_file(path) as file:
            check_writers(path, os.fstat(file.fileno()))
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _LARGEST_FILE:
        raise UsageError(f"{path} is larger than {_LARGEST_FILE} bytes")
    by_name: dict[str, Section] = {}
    for section in parse_sections(decode_text(data, where=str(path)), where=str(path), hyphens=True):
        if section.name in by_name:
            problem = f"the source {section.name} is defined twice in this file; the last one counts"
            problems.append(IndexSyntaxError(str(path), section.line, problem))
        by_name[section.name] = section
    return list(by_name.values())


class _Fields:
    """The fields of one section; each error names the source, the file and the line."""

    def __init__(self, section: Section, path: Path) -> None:
        self._section = section
        self._path = path
        self._fields: dict[str, Field] = {}
        self._uris: list[str] = []
        for item in section.fields:
            if item.subkey is not None:
                continue
            # virt-builder cannot read a file with hyphens in keys, but skips keys that it does not know.
            name = item.key.replace("_", "-")
            if self._fields.setdefault(name, item) is not item and name != "uri":
                raise self._error_at(item.line, f"{item.key} is given twice")
            if item.key == "uri" and "\n" not in item.value:
                self._uris += _split_uris(item.value)

    def _error_at(self, line: int, problem: str, hint: str | None = None) -> IndexSyntaxError:
        text = f"source {self._section.name} is not used: {problem}"
        return IndexSyntaxError(str(self._path), line, text, hint=hint)

    def error(self, problem: str, key: str = "", hint: str | None = None) -> IndexSyntaxError:
        """Make the error for a key, or for the whole section."""
        found = self._fields.get(key)
        return self._error_at(self._section.line if found is None else found.line, problem, hint)

    def value(self, key: str, default: str = "") -> str:
        found = self._fields.get(key)
        if found is None:
            return default
        if "\n" in found.value:
            raise self.error(f"{key} has more than one line", key)
        return found.value.strip()

    def flag(self, key: str, default: str = "no") -> bool:
        chosen = _FLAGS.get(self.value(key, default).lower())
        if chosen is None:
            raise self.error(f"{key} is neither yes nor no", key)
        return chosen

    def format(self) -> SourceFormat:
        kind = self.value("format") or "native"
        if kind not in _FORMATS:
            raise self.error(f"unknown format {kind!r}", "format", f"known ones: {', '.join(_FORMATS)}")
        return _FORMATS[kind]

    def uris(self) -> list[str]:
        self.value("uri")  # refuses one of several lines
        if not self._uris and "url" in self._fields:
            problem = "it has no uri, but a url, which means nothing here"
            raise self.error(problem, "url", "write uri= instead of url=")
        if not self._uris:
            hint = "add a line such as uri=https://example.com/index.asc"
            raise self.error("it has no uri", hint=hint)
        if any(scheme_of(uri) is None and not uri.startswith("/") for uri in self._uris):
            raise self.error("its uri is a relative path", "uri", "write an absolute path or a URL")
        return list(dict.fromkeys(self._uris))


def _source(section: Section, path: Path, *, check: bool) -> Source | None:
    """Read one section; None when it is switched off."""
    fields = _Fields(section, path)
    if not fields.flag("enabled", "yes"):
        return None  # before anything else, which may be missing then
    kind, uris, written = fields.format(), fields.uris(), ""
    if kind is SourceFormat.SIMPLESTREAMS:
        written, uris = uris[0], list(dict.fromkeys(stream_base(uri) for uri in uris))
    unsigned = fields.flag("unsigned")
    try:
        for uri in uris:
            check_uri(uri)
        key = _key(fields.value("gpgkey"), path.parent)
        proxy = _proxy(fields.value("proxy"))
        only = fingerprints(fields.value("fingerprint")) if fields.value("fingerprint") else ()
        max_age = _max_age(fields.value("max-age"))
    except UsageError as error:
        raise fields.error(error.message, hint=error.hint) from error
    if check and key is None and not unsigned:
        hint = "add gpgkey=file:///path/to/key.gpg or gpgkey=<full fingerprint>"
        raise fields.error("it has no gpgkey, so nothing of it could be trusted", hint=hint)
    if unsigned:
        _check_unsigned(fields, key)
    if only and not isinstance(key, Path):
        raise fields.error(
            "fingerprint selects keys of a gpgkey file, but gpgkey is not a file", "fingerprint"
        )
    return Source(
        section.name,
        uris[0],
        key,
        unsigned,
        proxy,
        path,
        check=check and not unsigned,
        mirrors=tuple(uris[1:]),
        max_age=max_age,
        extra_signatures=fields.flag("allow-extra-signatures"),
        only=only,
        format=kind,
        optional=fields.flag("optional"),
        written=written,
    )


def _check_unsigned(fields: _Fields, key: Key) -> None:
    """Refuse an unsigned source with settings that need a signature."""
    if key is not None:
        raise fields.error("it has both gpgkey and unsigned=yes", "unsigned", "keep only one of them")
    for name in ("max-age", "allow-extra-signatures"):
        if fields.value(name):
            raise fields.error(f"{name} needs a signature, but the source has unsigned=yes", name)


def _split_uris(text: str) -> list[str]:
    """Split at commas that begin another address; a comma inside an address belongs to it."""
    return [part.strip() for part in _NEXT_URI.split(text) if part.strip()]


def _max_age(text: str) -> timedelta | None:
    if not text:
        return None
    if not _DAYS.fullmatch(text):
        raise UsageError(f"max-age={text} is not a number of days", hint="write for example max-age=30")
    return timedelta(days=int(text))


def _key(text: str, folder: Path) -> Key:
    if not text:
        return None
    scheme = scheme_of(text)
    if scheme == "file":
        return local_path(text)
    if scheme is not None:
        raise UsageError(
            f"gpgkey={Address(text)} would have to be downloaded unchecked",
            hint="fetch the key once, compare its fingerprint, and write gpgkey=file:///path/to/key.gpg",
        )
    if text.startswith("/"):
        return Path(text)
    if text.startswith("./"):  # next to the configuration file, not in the working directory as virt-builder
        return folder / text
    if re.search(r"[^0-9A-Fa-fxX,\s]", text):
        raise UsageError(
            f"gpgkey={text} is neither an absolute path nor a full fingerprint",
            hint="write gpgkey=file:///path/to/key.gpg, or ./key.gpg for a file next to this one",
        )
    return fingerprints(text)


def _proxy(text: str) -> str:
    if text.lower() in ("no", "off"):
        return NO_PROXY
    if text.lower() in ("", "system"):
        return SYSTEM_PROXY
    if scheme_of(text) not in ("http", "https", "socks5", "socks5h"):
        raise UsageError(
            f"unknown value proxy={Address(text)}",
            hint="write proxy=no, proxy=system, proxy=http://host:port or proxy=socks5h://host:port",
        )
    check_uri(f"http://{text.partition('://')[2]}")
    return text

"""Reading ``repos.d/*.conf``: from the text of a configuration file to its sources.

The files are those of virt-builder (``virt-builder.md`` section 2), read more
strictly: a source that says neither which key signs it nor ``unsigned=yes`` is
not used (T6), and neither is one whose key would have to be downloaded. The
order is fixed: folders as given, in each the file names sorted, in each file
as written; the first source that offers a template wins (design.md decision 3).
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
"""Bytes of a configuration file that are read at most."""

_NEXT_URI = re.compile(r",\s*(?=[A-Za-z][A-Za-z0-9+.-]*://|/|$)")
_FORMATS = {item.value: item for item in SourceFormat}
_DAYS = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True)
class SourcesResult:
    """What the configuration files hold.

    Attributes:
        sources: Usable sources, the most important first.
        problems: Why others are not used; each names its file, and the line if there is one.
        disabled: Name and file of each source that is switched off.
    """

    sources: tuple[Source, ...]
    problems: tuple[PybuilderError, ...]
    disabled: tuple[tuple[str, Path], ...] = ()


def read_sources(dirs: Iterable[Path], *, check: bool = True) -> SourcesResult:
    """Read all ``*.conf`` files of some folders.

    A file hides those of the same name in later folders, even when it is empty, which is how a user switches
    a system's file off; one that cannot be read hides nothing. A source hides those of the same name in
    later files, also when it says ``enabled=no``. Within one file the last of the same name counts.

    Args:
        dirs: ``repos.d`` folders, the most important first; missing ones are no problem.
        check: Whether signatures are checked in this run.
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
            # A source with a fault hides its namesakes as well: it was meant to replace them.
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


def _source(section: Section, path: Path, *, check: bool) -> Source | None:
    """Read one section; None when it is switched off."""
    fields: dict[str, Field] = {}
    uris: list[str] = []

    def refuse(problem: str, line: int | None = None, hint: str | None = None) -> IndexSyntaxError:
        text = f"source {section.name} is not used: {problem}"
        return IndexSyntaxError(str(path), line or section.line, text, hint=hint)

    for item in section.fields:
        # virt-builder cannot read a file with hyphens in keys, but passes over keys that it does not know.
        name = item.key.replace("_", "-")
        if item.subkey is None and fields.setdefault(name, item) is not item and name != "uri":
            raise refuse(f"{item.key} is given twice", item.line)
        if item.subkey is None and item.key == "uri" and "\n" not in item.value:
            uris += [uri for uri in _split_uris(item.value) if uri not in uris]

    def value(key: str, otherwise: str = "") -> str:
        found = fields.get(key)
        if found is not None and "\n" in found.value:
            raise refuse(f"{key} has more than one line", found.line)
        return found.value.strip() if found is not None else otherwise

    def line(key: str) -> int:
        return fields[key].line

    def flag(key: str, otherwise: str = "no") -> bool:
        chosen = _yes_or_no(value(key, otherwise))
        if chosen is None:
            raise refuse(f"{key} is neither yes nor no", line(key))
        return chosen

    if not flag("enabled", "yes"):
        return None  # before anything else, which then need not be there
    kind = value("format") or "native"
    if kind not in _FORMATS:
        raise refuse(f"unknown format {kind!r}", line("format"), f"known ones: {', '.join(_FORMATS)}")
    value("uri")
    if not uris:
        meant = fields.get("url")
        raise refuse(
            "it has no uri" + (", but a url, which means nothing here" if meant else ""),
            meant.line if meant else None,
            "write uri= instead of url=" if meant else "add a line such as uri=https://example.com/index.asc",
        )
    if any(scheme_of(uri) is None and not uri.startswith("/") for uri in uris):
        raise refuse("its uri is a relative path", line("uri"), "write an absolute path or a URL")
    written = ""
    if _FORMATS[kind] is SourceFormat.SIMPLESTREAMS:
        written = uris[0]
        uris = list(dict.fromkeys(stream_base(uri) for uri in uris))
    unsigned = flag("unsigned")
    try:
        for uri in uris:
            check_uri(uri)
        key = _key(value("gpgkey"), path.parent) if value("gpgkey") else None
        proxy = _proxy(value("proxy"))
        only = fingerprints(value("fingerprint")) if value("fingerprint") else ()
        max_age = _max_age(value("max-age"))
    except UsageError as error:
        raise refuse(error.message, hint=error.hint) from error
    if unsigned and key is not None:
        raise refuse("it says both gpgkey and unsigned=yes", line("unsigned"), "keep only one of them")
    if check and key is None and not unsigned:
        raise refuse(
            "it has no gpgkey, so nothing of it could be trusted",
            hint="add gpgkey=file:///path/to/key.gpg or gpgkey=<full fingerprint>",
        )
    if only and not isinstance(key, Path):
        raise refuse("fingerprint says which keys of a gpgkey file count", line("fingerprint"))
    for needless in ("max-age", "allow-extra-signatures"):
        if unsigned and value(needless):
            raise refuse(f"{needless} needs a signature, but it says unsigned=yes", line(needless))
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
        extra_signatures=flag("allow-extra-signatures"),
        only=only,
        format=_FORMATS[kind],
        optional=flag("optional"),
        written=written,
    )


def _split_uris(text: str) -> list[str]:
    """Split at commas that begin another address; one inside an address belongs to it."""
    return [part.strip() for part in _NEXT_URI.split(text) if part.strip()]


def _max_age(text: str) -> timedelta | None:
    if not text:
        return None
    if not _DAYS.fullmatch(text):
        raise UsageError(f"max-age={text} is not a number of days", hint="write for example max-age=30")
    return timedelta(days=int(text))


def _yes_or_no(text: str) -> bool | None:
    return {"yes": True, "true": True, "no": False, "false": False}.get(text.lower())


def _key(text: str, folder: Path) -> Key:
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
    if text.startswith(
        "./"
    ):  # beside the configuration file; never the working directory, as in virt-builder
        return folder / text
    if re.search(r"[^0-9A-Fa-fxX,\s]", text):
        raise UsageError(
            f"gpgkey={text} is neither an absolute path nor a full fingerprint",
            hint="write gpgkey=file:///path/to/key.gpg, or ./key.gpg for a file beside this one",
        )
    return fingerprints(text)


def _proxy(text: str) -> str:
    if text.lower() in ("no", "off"):
        return NO_PROXY
    if text.lower() in ("", "system"):
        return SYSTEM_PROXY
    if scheme_of(text) not in ("http", "https", "socks5", "socks5h"):
        raise UsageError(
            f"proxy={Address(text)} is not understood",
            hint="write proxy=no, proxy=system, proxy=http://host:port or proxy=socks5h://host:port",
        )
    check_uri(f"http://{text.partition('://')[2]}")
    return text

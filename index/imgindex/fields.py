"""The fields of one template: rules P2 to P14 of ``docs/threat-model.md``, and the layout as text.

Fields are written in the order of virt-builder's own tool (virt-builder-repository);
ours and unknown ones come last. virt-builder skips those about deprecation:

``deprecated=true``: the template should not be used for new machines.
``deprecated_until=2027-01-31``: it may be withdrawn after that day.
``replaced_by=debian-13``: the template to use instead. The format allows no hyphens in names.
"""

from __future__ import annotations

import dataclasses
import re
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from imgindex.errors import IndexSyntaxError
from imgindex.lexer import shorten
from imgindex.model import Comment, Entry, ExtraField, FurtherFile, Note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgindex.lexer import Field, Section


MAX_DISK_SIZE = 16 * 2**40
"""Largest ``size`` and ``compressed_size`` in bytes (P3)."""

MAX_REVISION = 2**63 - 1
"""Largest ``revision`` (P9)."""

DISK_FORMATS = ("raw", "qcow2")
"""Values of ``format`` (P10)."""

_SECTOR = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ARCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}")
_NUMBER = re.compile(r"[0-9]{1,19}")
_SHA512 = re.compile(r"[0-9A-Fa-f]{128}")
_ALIAS = re.compile(r"[^\s]{1,100}")
_DEVICE = re.compile(r"/dev(?:/(?!\.\.?(?:/|$))[A-Za-z0-9_.+-]{1,100}){1,3}")
# No blanks, %, \, ?, #, : or @, so that a path means the same as a file name and in an address (T7).
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9._+~,=][A-Za-z0-9._+~,=-]{0,254}")
_MAX_PATH = 1024

_FURTHER_KEYS = {
    kind: (("file", kind), ("compressed_size", kind), ("checksum", f"{kind}.sha512"))
    for kind in ("zstd", "blocks")
}
_PLAIN_KEYS = (
    "name",
    "osinfo",
    "file",
    "arch",
    "sig",
    "checksum",
    "revision",
    "format",
    "size",
    "compressed_size",
    "expand",
    "lvexpand",
    "hidden",
    "aliases",
)


def read_entry(section: Section, *, checksum_required: bool, where: str) -> Entry:
    """Read one template.

    Args:
        section: Its section.
        checksum_required: An entry without SHA-512 breaks a rule (P2).
        where: The source, for error messages.

    Raises:
        IndexSyntaxError: A field is missing, given twice or malformed.
    """
    return _Fields(section, where).entry(checksum_required=checksum_required)


def strip_line_ends(text: str) -> str:
    """Cut the blanks at line ends and the empty lines at the end, which clear-signing does not keep."""
    return "\n".join(line.rstrip(" \t") for line in text.split("\n")).rstrip("\n")


def is_known_field(key: str, subkey: str | None) -> bool:
    """Report whether ``Entry`` has an attribute for a field."""
    if subkey is None:
        return key == "notes" or key in _PLAIN_KEYS
    return (
        key == "notes"
        or (key, subkey) == ("checksum", "sha512")
        or any((key, subkey) in keys for keys in _FURTHER_KEYS.values())
    )


class _Fields:
    """The fields of one section, read one by one."""

    def __init__(self, section: Section, where: str) -> None:
        self._section = section
        self._where = where
        if not _NAME.fullmatch(section.name):
            raise IndexSyntaxError(
                where,
                section.line,
                f"a template's name starts with a letter or digit and has at most 100 characters, "
                f"unlike {shorten(section.name)}",
            )
        self._fields: dict[tuple[str, str | None], Field] = {}
        for item in section.fields:
            first = self._fields.setdefault((item.key, item.subkey), item)
            if first is not item:
                raise self._error(f"{_label(item)} is given twice, first in line {first.line}", item)

    def entry(self, *, checksum_required: bool) -> Entry:
        sha512 = self._sha512()
        if sha512 is None and checksum_required:
            raise self._error("checksum[sha512] is missing")
        file = self._path("file")
        arch = self._matching("arch", _ARCH)
        size = self._number("size", 1, MAX_DISK_SIZE)
        if file is None or arch is None or size is None:
            missing = [key for key in ("file", "arch", "size") if (key, None) not in self._fields]
            raise self._error(f"{' and '.join(missing)} missing")
        if size % _SECTOR:
            raise self._error(f"size={size} is not a multiple of {_SECTOR} bytes", self._fields["size", None])
        revision = self._number("revision", 0, MAX_REVISION)
        zstd, blocks = self._further_file("zstd"), self._further_file("blocks")
        if blocks is not None and zstd is None:
            raise self._error("there is file[blocks], but file[zstd] missing", self._fields["file", "blocks"])
        entry = Entry(
            os_version=self._section.name,
            file=file,
            arch=arch,
            size=size,
            name=self._text("name"),
            osinfo=self._text("osinfo"),
            sha512=sha512,
            revision=1 if revision is None else revision,
            format=self._choice("format", DISK_FORMATS),
            compressed_size=self._number("compressed_size", 1, MAX_DISK_SIZE),
            expand=self._matching("expand", _DEVICE),
            lvexpand=self._matching("lvexpand", _DEVICE),
            notes=self._notes(),
            hidden=self._choice("hidden", ("true", "false")) == "true",
            aliases=self._aliases(),
            sig=self._path("sig"),
            zstd=zstd,
            blocks=blocks,
            extra=self._extra(),
            comments=self._comments(),
            line=self._section.line,
        )
        return settle_comments(entry)

    def _error(self, problem: str, item: Field | None = None) -> IndexSyntaxError:
        line = self._section.line if item is None else item.line
        return IndexSyntaxError(self._where, line, f"template {self._section.name}: {problem}")

    def _single_line(self, key: str, subkey: str | None = None) -> Field | None:
        item = self._fields.get((key, subkey))
        if item is not None and "\n" in item.value:
            raise self._error(f"{_label(item)} has more than one line", item)
        return item

    def _text(self, key: str) -> str | None:
        item = self._single_line(key)
        return None if item is None else strip_line_ends(item.value)

    def _matching(self, key: str, pattern: re.Pattern[str]) -> str | None:
        item = self._single_line(key)
        if item is not None and not pattern.fullmatch(item.value):
            raise self._error(f"{key}={shorten(item.value)} is not allowed", item)
        return None if item is None else item.value

    def _choice(self, key: str, allowed: tuple[str, ...]) -> str | None:
        item = self._single_line(key)
        if item is not None and item.value not in allowed:
            raise self._error(f"{key}={shorten(item.value)} is neither {' nor '.join(allowed)}", item)
        return None if item is None else item.value

    def _number(self, key: str, low: int, high: int, subkey: str | None = None) -> int | None:
        item = self._single_line(key, subkey)
        if item is None:
            return None
        if not _NUMBER.fullmatch(item.value) or not low <= int(item.value) <= high:
            raise self._error(
                f"{_label(item)}={shorten(item.value)} is not a plain decimal number from {low} to {high}",
                item,
            )
        return int(item.value)

    def _path(self, key: str, subkey: str | None = None) -> str | None:
        item = self._single_line(key, subkey)
        if item is not None and not _is_safe_path(item.value):
            raise self._error(
                f"{_label(item)}={shorten(item.value)} is not a plain path below the folder of the index",
                item,
            )
        return None if item is None else item.value

    def _sha512(self) -> str | None:
        bare = self._single_line("checksum")
        named = self._single_line("checksum", "sha512")
        if bare is not None and named is not None:
            raise self._error("both checksum and checksum[sha512] are given", bare)
        return self._digest(named or bare)

    def _digest(self, item: Field | None) -> str | None:
        if item is None:
            return None
        if not _SHA512.fullmatch(item.value):
            raise self._error(f"{_label(item)} is not a SHA-512 of 128 hex digits", item)
        return item.value.lower()

    def _further_file(self, kind: str) -> FurtherFile | None:
        """Read the keys of a further file; with only some of them it could only be half checked."""
        file = self._path("file", kind)
        sha512 = self._digest(self._single_line("checksum", f"{kind}.sha512"))
        size = self._number("compressed_size", 1, MAX_DISK_SIZE, kind)
        if file is not None and sha512 is not None and size is not None:
            return FurtherFile(file, sha512, size)
        keys = _FURTHER_KEYS[kind]
        given = [self._fields[key] for key in keys if key in self._fields]
        if given:
            missing = [field_label(key, subkey) for key, subkey in keys if (key, subkey) not in self._fields]
            first = min(given, key=lambda item: item.line)
            raise self._error(f"there is {_label(first)}, but {' and '.join(missing)} missing", first)
        return None

    def _notes(self) -> tuple[Note, ...]:
        return tuple(
            Note(subkey or "", strip_line_ends(item.value))
            for (key, subkey), item in self._fields.items()
            if key == "notes"
        )

    def _aliases(self) -> tuple[str, ...]:
        item = self._single_line("aliases")
        if item is None:
            return ()
        names = tuple(name for name in item.value.split(" ") if name)
        for name in names:
            if not _ALIAS.fullmatch(name):
                raise self._error(f"the alias {shorten(name)} is not allowed", item)
        return names

    def _extra(self) -> tuple[ExtraField, ...]:
        return tuple(
            ExtraField(key, subkey, strip_line_ends(item.value))
            for (key, subkey), item in self._fields.items()
            if not is_known_field(key, subkey)
        )

    def _comments(self) -> tuple[Comment, ...]:
        comments = [Comment(_label(item), item.comment) for item in self._fields.values() if item.comment]
        if self._section.comment:
            comments.insert(0, Comment("", self._section.comment))
        return tuple(Comment(before, strip_line_ends(text)) for before, text in comments)


def _label(item: Field) -> str:
    return field_label(item.key, item.subkey)


def _is_safe_path(path: str) -> bool:
    """Report whether a path stays below its base, both as a file name and in an address (P7, T7)."""
    if len(path) > _MAX_PATH:
        return False
    return all(_PATH_SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in path.split("/"))


def field_label(key: str, subkey: str | None) -> str:
    """Return the part of a field before its ``=``."""
    return key if subkey is None else f"{key}[{subkey}]"


def entry_fields(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield label and value of each field that is written for an entry, in order."""
    yield from _optional("name", entry.name)
    yield from _optional("osinfo", entry.osinfo)
    yield "file", entry.file
    yield "arch", entry.arch
    yield from _optional("sig", entry.sig)
    yield from _optional("checksum[sha512]", entry.sha512)
    yield "revision", str(entry.revision)
    yield from _optional("format", entry.format)
    yield "size", str(entry.size)
    yield from _optional("compressed_size", entry.compressed_size)
    yield from _optional("expand", entry.expand)
    yield from _optional("lvexpand", entry.lvexpand)
    for language, text in entry.notes:
        yield field_label("notes", language or None), text
    if entry.aliases:
        yield "aliases", " ".join(entry.aliases)
    if entry.hidden:
        yield "hidden", "true"
    for kind, further in (("zstd", entry.zstd), ("blocks", entry.blocks)):
        if further is not None:
            yield f"file[{kind}]", further.file
            yield f"checksum[{kind}.sha512]", further.sha512
            yield f"compressed_size[{kind}]", str(further.compressed_size)
    for key, subkey, value in entry.extra:
        yield field_label(key, subkey), value


def _optional(label: str, value: str | int | None) -> Iterator[tuple[str, str]]:
    if value is not None:
        yield label, str(value)


def settle_comments(entry: Entry) -> Entry:
    """Return an entry with its comments in the form in which they are compared and written.

    There is one comment for each field, sorted by label. A comment on a field that is not written
    (``hidden=false``, or a removed one) stands before the header instead.
    """
    if not entry.comments:
        return entry
    written = {label for label, _value in entry_fields(entry)}
    texts: dict[str, list[str]] = {}
    for before, text in entry.comments:
        label = "checksum[sha512]" if before == "checksum" else before
        texts.setdefault(label if label in written else "", []).append(text)
    settled = tuple(Comment(label, "\n".join(texts[label])) for label in sorted(texts))
    return dataclasses.replace(entry, comments=settled)


_DEPRECATED, _UNTIL, _REPLACED_BY = "deprecated", "deprecated_until", "replaced_by"
_KEYS = (_DEPRECATED, _UNTIL, _REPLACED_BY)


class Deprecation(NamedTuple):
    """The deprecation of a template.

    Attributes:
        until: The planned day of its withdrawal; None when the index gives no valid date.
        replaced_by: Name of the template to use instead, or None.
    """

    until: date | None = None
    replaced_by: str | None = None


def deprecation(entry: Entry) -> Deprecation | None:
    """Return the deprecation of an entry; None for a template that is not deprecated."""
    fields = {item.key: item.value for item in entry.extra if item.subkey is None and item.key in _KEYS}
    if fields.get(_DEPRECATED) != "true":
        return None
    try:
        until = date.fromisoformat(fields[_UNTIL]) if _UNTIL in fields else None
    except ValueError:
        until = None
    return Deprecation(until, fields.get(_REPLACED_BY) or None)


def with_deprecation(entry: Entry, end: Deprecation | None) -> Entry:
    """Return an entry with this deprecation, in place of any earlier one."""
    kept = [item for item in entry.extra if item.subkey is not None or item.key not in _KEYS]
    if end is not None:
        kept.append(ExtraField(_DEPRECATED, None, "true"))
        if end.until is not None:
            kept.append(ExtraField(_UNTIL, None, end.until.isoformat()))
        if end.replaced_by is not None:
            kept.append(ExtraField(_REPLACED_BY, None, end.replaced_by))
    return settle_comments(dataclasses.replace(entry, extra=tuple(kept)))


def deprecation_notice(entry: Entry) -> str | None:
    """Return one line for users of a deprecated template; None for others."""
    end = deprecation(entry)
    if end is None:
        return None
    words = f"the template {entry.os_version} is deprecated"
    if end.until is not None:
        words += f", and may be withdrawn after {end.until.isoformat()}"
    if end.replaced_by is not None:
        words += f"; its publisher recommends {shorten(end.replaced_by)}"
    return words

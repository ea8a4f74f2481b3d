"""Reading simplestreams, the format of cloud images and LXD images. Pure: text in, data out.

A source is a base address. ``streams/v1/index.json`` (``.sjson`` when it is signed) names files of
products; a product has versions, and a version has items, of which one may be a disk image. Unlike
virt-builder (``docs/compatibility.md``), we compare versions as versions, and do not take an item's
``size``, that of the download, for the size of the disk.

The text may be hostile even when it is signed: everything that is used is checked, and the rest is
skipped. A faulty product is left out; a faulty file, or a different one than announced, is refused whole.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from imgbuilder.errors import IndexSyntaxError
from imgbuilder.host.arch import normalise
from imgbuilder.host.text import is_one_line
from imgindex.fields import MAX_DISK_SIZE, MAX_REVISION
from imgindex.lexer import shorten
from imgindex.model import UNKNOWN_SIZE, Entry, ExtraField, Index, Refused
from imgindex.trust import UnverifiedText, VerifiedText

MOST_PRODUCT_FILES = 32
"""Most files of products in one index: each costs a download and a signature check."""

_MOST_VALUES = 1_500_000
"""Most values in a file: each takes far more memory than its one or two bytes in the file."""

_INDEX_FORMAT, _PRODUCTS_FORMAT, _DOWNLOADS = "index:1.0", "products:1.0", "image-downloads"
_DISKS = ("disk.img", "disk1.img", "disk.qcow2", "disk-kvm.img")
"""Keys of disk images, the best first; the last two are those of LXD."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,199}")
_ARCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/-]{0,99}")
_SEGMENT = re.compile(r"[A-Za-z0-9._+~,=:@-]{1,255}")
_SHA256, _SHA512 = re.compile(r"[0-9A-Fa-f]{64}"), re.compile(r"[0-9A-Fa-f]{128}")
_NUMBER = re.compile(r"[0-9]{1,19}")
_LONGEST_TEXT = 500
_LONGEST_VERSION = 100
_LONGEST_PATH = 1024


class ProductFile(NamedTuple):
    """A file of products that the index names.

    Attributes:
        content_id: The identifier that the file must contain. The same key signs all files of a source, so
            that one of them could be served in place of another.
    """

    content_id: str
    path: str


class StreamIndex(NamedTuple):
    """The index of a source."""

    files: tuple[ProductFile, ...]
    refused: tuple[Refused, ...] = ()


def parse_stream_index(text: VerifiedText | UnverifiedText, *, where: str) -> StreamIndex:
    """Read the index of a source."""
    reader = _JsonReader(where)
    members = reader.object(reader.document(text.text, _INDEX_FORMAT), "index", "the index")
    files: list[ProductFile] = []
    refused: list[Refused] = []
    for name in members:
        try:
            member = reader.object(members, name, "the index")
            if (member.get("format"), member.get("datatype")) == (_PRODUCTS_FORMAT, _DOWNLOADS):
                files.append(ProductFile(name, reader.path(member, shorten(name))))
        except IndexSyntaxError as error:
            listed = members[name].get("products") if isinstance(members[name], dict) else None
            names = [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []
            refused.append(Refused(error, tuple(names)))
    if len(files) > MOST_PRODUCT_FILES:
        raise reader.error(f"it names {len(files)} files of products; at most {MOST_PRODUCT_FILES} are read")
    return StreamIndex(tuple(files), tuple(refused))


def parse_products(text: VerifiedText | UnverifiedText, *, where: str, content_id: str) -> Index:
    """Read a file of products: the newest version of each that has a disk image becomes an entry.

    Args:
        text: The file, or the text inside its signature. An image that a signed file names without SHA-256
            or SHA-512 could be exchanged, and is skipped.
        where: The file, for error messages.
        content_id: Its identifier in the index, which a signed file must repeat.
    """
    reader = _JsonReader(where)
    document = reader.document(text.text, _PRODUCTS_FORMAT)
    signed = isinstance(text, VerifiedText)
    if signed and reader.get(document, "content_id", "the file") != content_id:
        found = _shown(document.get("content_id"))
        raise reader.error(f"this is {found}, but the index announces {shorten(content_id)}")
    products = reader.object(document, "products", "the file")
    entries: list[Entry] = []
    refused: list[Refused] = []
    for name in products:
        try:
            product = _Product(reader, name, reader.object(products, name, "the file"))
            entry = product.entry(digest_required=signed)
        except IndexSyntaxError as error:
            refused.append(_refusal(error, name, products[name]))
        else:
            entries += [] if entry is None else [entry]
    return Index(tuple(entries), refused=tuple(refused))


def _refusal(error: IndexSyntaxError, name: str, product: object) -> Refused:
    fields = product if isinstance(product, dict) else {}
    arch, aliases = fields.get("arch"), fields.get("aliases")
    others = aliases.split(",") if isinstance(aliases, str) else []
    usable = isinstance(arch, str) and _ARCH.fullmatch(arch)
    return Refused(error, (name, *(one.strip() for one in others)), arch if usable else None)


def joined(files: Iterable[Index], *, where: str) -> Index:
    """Make one index of several files of products.

    A product that two files name for one architecture is left out, and so is an alias of two products.
    """
    files = tuple(files)
    entries = [entry for file in files for entry in file.entries]
    refused = [item for file in files for item in file.refused]
    names = Counter((entry.os_version, normalise(entry.arch)) for entry in entries)
    for (name, arch), count in names.items():
        if count > 1:
            problem = f"the product {name} for {arch} is given twice"
            refused.append(Refused(IndexSyntaxError(where, None, problem), (name,), arch))
    claims = Counter((alias, normalise(entry.arch)) for entry in entries for alias in entry.aliases)
    kept = (
        replace(
            entry,
            aliases=tuple(alias for alias in entry.aliases if claims[alias, normalise(entry.arch)] == 1),
        )
        for entry in entries
        if names[entry.os_version, normalise(entry.arch)] == 1
    )
    return Index(tuple(kept), refused=tuple(refused))


class _Ambiguous(dict[str, Any]):
    """An object of JSON in which keys are given more than once."""

    twice: frozenset[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    ambiguous = _Ambiguous(made)
    ambiguous.twice = frozenset(
        name for name, count in Counter(name for name, _ in pairs).items() if count > 1
    )
    return ambiguous


def _integer(digits: str) -> int | str:
    """Read a number; one that is too long to be of use stays text, since int() refuses very long ones."""
    return int(digits) if len(digits) < 20 else digits


def _no_number(_name: str) -> None:
    """Read NaN and Infinity, which are not JSON, as nothing."""


def _shown(value: object) -> str:
    """Show a value in a message; a large one only by its kind."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return shorten(value if isinstance(value, str) else str(value))


class _JsonReader:
    """Reads values of one JSON file, and names the file in every error."""

    def __init__(self, where: str) -> None:
        self._where = where

    def error(self, problem: str) -> IndexSyntaxError:
        return IndexSyntaxError(
            self._where, None, problem, hint="tell the publisher; nothing was used from this source"
        )

    def document(self, text: str, kind: str) -> dict[str, Any]:
        if sum(map(text.count, ",[{")) > _MOST_VALUES:
            raise self.error(f"it holds more than {_MOST_VALUES:,} values")
        try:
            document = json.loads(
                text, object_pairs_hook=_object, parse_int=_integer, parse_constant=_no_number
            )
        except (ValueError, RecursionError) as error:
            problem = "nested too deeply" if isinstance(error, RecursionError) else error
            raise self.error(f"this is not JSON that can be read: {problem}") from error
        if not isinstance(document, dict) or self.get(document, "format", "the file") != kind:
            raise self.error(f"this is not a simplestreams file of the format {kind}")
        return document

    def get(self, parent: dict[str, Any], key: str, what: str) -> Any:  # noqa: ANN401 - it is JSON
        """Return a member of an object; None when it is missing."""
        if isinstance(parent, _Ambiguous) and key in parent.twice:
            raise self.error(f"the key {shorten(key)} of {what} is given twice")
        return parent.get(key)

    def object(self, parent: dict[str, Any], key: str, what: str) -> dict[str, Any]:
        """Return a member that must be an object."""
        found = self.get(parent, key, what)
        if not isinstance(found, dict):
            raise self.error(f"{what} has no object {shorten(key)}")
        return found

    def text(self, parent: dict[str, Any], key: str, what: str) -> str | None:
        found = self.get(parent, key, what)
        if found is None or found == "":
            return None
        if not isinstance(found, str) or not is_one_line(found) or len(found) > _LONGEST_TEXT:
            raise self.error(f"{key!r} of {what} is not a line of text of at most {_LONGEST_TEXT} characters")
        return found.strip()

    def matching(self, parent: dict[str, Any], key: str, pattern: re.Pattern[str], what: str) -> str | None:
        found = self.get(parent, key, what)
        if found is not None and not (isinstance(found, str) and pattern.fullmatch(found)):
            raise self.error(f"{key!r} of {what} is {_shown(found)}, which is not allowed")
        return found

    def size(self, parent: dict[str, Any], what: str) -> int:
        """Return a number of bytes, which some publishers write as text."""
        found = self.get(parent, "size", what)
        number = int(found) if isinstance(found, str) and _NUMBER.fullmatch(found) else found
        if type(number) is not int or not 1 <= number <= MAX_DISK_SIZE:
            raise self.error(f"'size' of {what} is {_shown(found)}, not a number of bytes")
        return number

    def path(self, parent: dict[str, Any], what: str) -> str:
        found = self.get(parent, "path", what)
        good = isinstance(found, str) and len(found) <= _LONGEST_PATH
        if not good or not all(
            _SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in str(found).split("/")
        ):
            raise self.error(
                f"'path' of {what} is {_shown(found)}, which is not a plain path below the source"
            )
        return str(found)


class _Product:
    """One product; finds its newest disk image."""

    def __init__(self, reader: _JsonReader, name: str, product: dict[str, Any]) -> None:
        self._reader = reader
        self._product = product
        self._name = name
        self._what = f"the product {shorten(name)}"

    def entry(self, *, digest_required: bool) -> Entry | None:
        """Return the entry; None when no version has a usable disk image.

        Faults of versions other than the newest do not matter.
        """
        reader = self._reader
        versions = reader.object(self._product, "versions", self._what)
        newest: tuple[Any, str] | None = None
        made: Entry | IndexSyntaxError | None = None
        for version in versions:
            found: Entry | IndexSyntaxError | None
            try:
                found = self._version(versions, version, digest_required=digest_required)
            except IndexSyntaxError as error:
                found = error
            if found is None:
                continue
            if len(version) > _LONGEST_VERSION or not is_one_line(version):
                raise reader.error(f"{self._what} has a version that is not allowed")
            rank = (version_key(version), version)
            if newest is None or rank > newest:
                newest, made = rank, found
        if isinstance(made, IndexSyntaxError):
            raise made
        if made is not None and not _NAME.fullmatch(self._name):
            raise reader.error(f"{self._what} has a name that is not allowed")
        return made

    def _version(self, versions: dict[str, Any], version: str, *, digest_required: bool) -> Entry | None:
        """Return the entry of a version; None when it has no usable disk image."""
        reader, what = self._reader, f"version {shorten(version)} of {self._what}"
        fields = reader.object(versions, version, self._what)
        if "items" not in fields:
            return None
        items = reader.object(fields, "items", what)
        disk = next((key for key in _DISKS if key in items), None)
        if disk is None:
            return None
        item = reader.object(items, disk, what)
        if digest_required and not (item.get("sha256") or item.get("sha512")):
            return None
        return self._made(version, fields, item)

    def _made(self, version: str, fields: dict[str, Any], item: dict[str, Any]) -> Entry:
        reader = self._reader
        what = f"version {shorten(version)} of {self._what}"
        arch = reader.matching(fields, "arch", _ARCH, what)
        arch = arch or reader.matching(self._product, "arch", _ARCH, self._what)
        if arch is None:
            raise reader.error(f"{self._what} has no 'arch'")
        size = reader.size(item, what)
        sha256 = reader.matching(item, "sha256", _SHA256, what)
        sha512 = reader.matching(item, "sha512", _SHA512, what)
        published = reader.text(fields, "pubname", what) or reader.text(self._product, "pubname", self._what)
        return Entry(
            os_version=self._name,
            file=reader.path(item, what),
            arch=arch,
            size=UNKNOWN_SIZE,
            name=published or self._title(),
            sha512=sha512 and sha512.lower(),
            sha256=sha256 and sha256.lower(),
            revision=_revision(version),
            compressed_size=size,
            aliases=tuple(self._aliases(published)),
            extra=(ExtraField("version", None, version),),
        )

    def _title(self) -> str | None:
        """Make a display name from the fields of LXD's servers."""
        reader, product, what = self._reader, self._product, self._what
        words = [
            reader.text(product, "os", what),
            reader.text(product, "release_title", what) or reader.text(product, "release", what),
            reader.text(product, "variant", what),
        ]
        return " ".join(word for word in words if word) or None

    def _aliases(self, published: str | None) -> Iterator[str]:
        """Return the aliases: the name of the publication, as in virt-builder, and those of the product."""
        names = [published or "", *(self._reader.text(self._product, "aliases", self._what) or "").split(",")]
        for name in dict.fromkeys(name.strip() for name in names):
            # A malformed alias is not a reason to lose the image.
            if _ALIAS.fullmatch(name) and name != self._name:
                yield name


def _revision(version: str) -> int:
    """Return a version that is one number as the revision; else 1."""
    if re.fullmatch(r"[0-9]{1,18}", version) and int(version) <= MAX_REVISION:
        return int(version)
    return 1


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Return the sort key of a version: numbers as numbers, and ``~`` before the end, as in Debian.

    So ``9`` comes before ``10``, ``20240101`` before ``20240101.1``, and ``1.0~rc1`` before ``1.0``.
    """
    key: list[tuple[int, int, str]] = []
    for part in re.findall(r"[0-9]+|[A-Za-z]+|.", version, re.DOTALL):
        if part[0] in "0123456789":
            digits = part.lstrip("0")  # without int(), which refuses very long ones
            key.append((3, len(digits), digits))
        elif part == "~":
            key.append((0, 0, ""))
        else:
            key.append((2, 0, part))
    return (*key, (1, 0, ""))

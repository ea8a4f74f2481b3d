"""Reading simplestreams: what cloud images and LXD images are published with. Pure: text in, data out.

A source is a base address. ``streams/v1/index.json`` (``.sjson`` when it is signed) names files of
products; a product has versions, and a version has items, of which one may be a disk image. Section 11
of ``virt-builder.md`` says what virt-builder makes of that. Ours differs where that goes wrong: versions
are compared as versions, and an item's ``size``, that of the download, is not taken for the disk's.

The text may be hostile even when it is signed, so that everything that is used
is checked; what is not used is passed over, since others put much there.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from imgbuilder.arch import normalise
from imgbuilder.catalog.versions import version_key
from imgbuilder.errors import IndexSyntaxError
from imgindex.fields import MAX_DISK_SIZE, MAX_REVISION
from imgindex.lexer import shorten
from imgindex.model import UNKNOWN_SIZE, Entry, ExtraField, Index
from imgindex.trust import VerifiedText

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgindex.trust import UnverifiedText

MOST_PRODUCT_FILES = 32
"""Files of products that one index may name, each of which costs a download and a signature check."""

_MOST_VALUES = 1_500_000
"""Values that a file may hold: each takes far more memory than the byte or two that it takes in the file."""

_INDEX_FORMAT, _PRODUCTS_FORMAT, _DOWNLOADS = "index:1.0", "products:1.0", "image-downloads"
_DISKS = ("disk.img", "disk1.img", "disk.qcow2", "disk-kvm.img")
"""Keys of disk images, the best first; the last two are those of LXD."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,199}")
_ARCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/-]{0,99}")
_SEGMENT = re.compile(r"[A-Za-z0-9._+~,=:@-]{1,255}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHA256, _SHA512 = re.compile(r"[0-9A-Fa-f]{64}"), re.compile(r"[0-9A-Fa-f]{128}")
_LONGEST_TEXT = 500
_LONGEST_PATH = 1024


class ProductFile(NamedTuple):
    """A file of products that the index names.

    Attributes:
        content_id: What the file must say that it holds. All files of a source bear the same key's signature,
            so that one could be served in place of another.
        path: Where it is, below the base address.
    """

    content_id: str
    path: str


def parse_stream_index(text: VerifiedText | UnverifiedText, *, where: str) -> tuple[ProductFile, ...]:
    """Read the index of a source.

    Args:
        text: ``index.json``, or the text inside the signature of ``index.sjson``.
        where: The file, for error messages.

    Returns:
        The files that name downloadable images, in their order.

    Raises:
        IndexSyntaxError: It is not such an index, or names a path outside of the source.
    """
    reader = _Reader(where)
    document = reader.document(text.text, _INDEX_FORMAT)
    files = [
        ProductFile(name, reader.path(member, name))
        for name, member in reader.members(document, "index", "the index")
        if member.get("format") == _PRODUCTS_FORMAT and member.get("datatype") == _DOWNLOADS
    ]
    if len(files) > MOST_PRODUCT_FILES:
        raise reader.error(f"it names {len(files)} files of products; at most {MOST_PRODUCT_FILES} are read")
    return tuple(files)


def parse_products(text: VerifiedText | UnverifiedText, *, where: str, content_id: str) -> Index:
    """Read a file of products: the newest version of each that has a disk image becomes an entry.

    Args:
        text: The file, or the text inside its signature. An image that a signed file names without SHA-256
            or SHA-512 could be exchanged, and is passed over.
        where: The file, for error messages.
        content_id: What the index calls it; a signed one must say the same.

    Raises:
        IndexSyntaxError: It is not such a file, or what it says of an image that would be used is malformed.
    """
    reader = _Reader(where)
    document = reader.document(text.text, _PRODUCTS_FORMAT)
    signed = isinstance(text, VerifiedText)
    if signed and document.get("content_id") != content_id:
        raise reader.error(
            f"this is {shorten(str(document.get('content_id')))}, where the index promises "
            f"{shorten(content_id)}"
        )
    entries = []
    for name, product in reader.members(document, "products", "the file"):
        entry = _Product(reader, name, product).entry(digest_required=signed)
        if entry is not None:
            entries.append(entry)
    return Index(tuple(entries))


def joined(files: Iterable[Index], *, where: str) -> Index:
    """Make one index of several files of products.

    An alias that two products for one architecture claim is nobody's.

    Args:
        files: What the files offer, in their order.
        where: The source, for error messages.

    Raises:
        IndexSyntaxError: Two products for one architecture have the same name.
    """
    entries = [entry for file in files for entry in file.entries]
    names = Counter((entry.os_version, normalise(entry.arch)) for entry in entries)
    for (name, arch), count in names.items():
        if count > 1:
            raise IndexSyntaxError(where, None, f"the product {name} for {arch} is given twice")
    claims = Counter((alias, normalise(entry.arch)) for entry in entries for alias in entry.aliases)
    return Index(
        tuple(
            replace(
                entry,
                aliases=tuple(alias for alias in entry.aliases if claims[alias, normalise(entry.arch)] == 1),
            )
            for entry in entries
        )
    )


class _Reader:
    """Looks into one JSON file, and names it in every error."""

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
            document = json.loads(text, object_pairs_hook=self._object, parse_constant=self._no_constant)
        except (ValueError, RecursionError) as error:
            problem = "nested too deeply" if isinstance(error, RecursionError) else error
            raise self.error(f"this is not JSON that can be read: {problem}") from error
        if not isinstance(document, dict) or document.get("format") != kind:
            raise self.error(f"this is not a simplestreams file of the format {kind}")
        return document

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise self.error(f"the key {shorten(twice)} is given twice")
        return made

    def _no_constant(self, name: str) -> NoReturn:
        raise self.error(f"{name} is not JSON")

    def members(self, parent: dict[str, Any], key: str, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Walk an object whose members are objects, in the order of the file."""
        found = parent.get(key)
        if not isinstance(found, dict):
            raise self.error(f"{what} has no object {key!r}")
        for name, member in found.items():
            if not isinstance(member, dict):
                raise self.error(f"{shorten(name)} in {key!r} is not an object")
            yield name, member

    def text(self, parent: dict[str, Any], key: str, what: str) -> str | None:
        found = parent.get(key)
        if found is None or found == "":
            return None
        if not isinstance(found, str) or _UNPRINTABLE.search(found) or len(found) > _LONGEST_TEXT:
            raise self.error(f"{key!r} of {what} is not a line of text of at most {_LONGEST_TEXT} characters")
        return found.strip()

    def matching(self, parent: dict[str, Any], key: str, pattern: re.Pattern[str], what: str) -> str | None:
        found = parent.get(key)
        if found is not None and not (isinstance(found, str) and pattern.fullmatch(found)):
            raise self.error(f"{key!r} of {what} is {shorten(str(found))}, which is not allowed")
        return found

    def path(self, parent: dict[str, Any], what: str) -> str:
        found = parent.get("path")
        good = isinstance(found, str) and len(found) <= _LONGEST_PATH
        if not good or not all(
            _SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in str(found).split("/")
        ):
            raise self.error(
                f"'path' of {what} is {shorten(str(found))}, which is not a plain path below the source"
            )
        return str(found)


class _Product:
    """One product, and the way to its newest disk image."""

    def __init__(self, reader: _Reader, name: str, product: dict[str, Any]) -> None:
        self._reader = reader
        self._product = product
        self._name = name
        self._what = f"the product {shorten(name)}"

    def entry(self, *, digest_required: bool) -> Entry | None:
        """Return the entry; None when no version has a usable disk image."""
        versions = [
            (version_key(version), version, fields, item)
            for version, fields in self._reader.members(self._product, "versions", self._what)
            if (item := self._disk(version, fields)) is not None
            and (not digest_required or item.get("sha256") or item.get("sha512"))
        ]
        if not versions:
            return None
        if not _NAME.fullmatch(self._name):
            raise self._reader.error(f"{self._what} has a name that is not allowed")
        _key, version, fields, item = max(versions, key=lambda found: found[:2])
        return self._made(version, fields, item)

    def _disk(self, version: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        if "items" not in fields:
            return None
        items = dict(self._reader.members(fields, "items", f"version {shorten(version)} of {self._what}"))
        return next((items[key] for key in _DISKS if key in items), None)

    def _made(self, version: str, fields: dict[str, Any], item: dict[str, Any]) -> Entry:
        reader = self._reader
        what = f"version {shorten(version)} of {self._what}"
        arch = reader.matching(fields, "arch", _ARCH, what)
        arch = arch or reader.matching(self._product, "arch", _ARCH, self._what)
        if arch is None:
            raise reader.error(f"{self._what} has no 'arch'")
        size = item.get("size")
        if type(size) is not int or not 1 <= size <= MAX_DISK_SIZE:
            raise reader.error(f"'size' of {what} is {shorten(str(size))}, not a number of bytes")
        if len(version) > _LONGEST_TEXT or _UNPRINTABLE.search(version):
            raise reader.error(f"{self._what} has a version that is not allowed")
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
        """Make a name for people from what LXD's servers say."""
        reader, product, what = self._reader, self._product, self._what
        words = [
            reader.text(product, "os", what),
            reader.text(product, "release_title", what) or reader.text(product, "release", what),
            reader.text(product, "variant", what),
        ]
        return " ".join(word for word in words if word) or None

    def _aliases(self, published: str | None) -> Iterator[str]:
        """Find other names: that of the publication, as in virt-builder, and those of the product."""
        names = [published or "", *(self._reader.text(self._product, "aliases", self._what) or "").split(",")]
        for name in dict.fromkeys(name.strip() for name in names):
            # Odd ones are no reason to lose the image.
            if _ALIAS.fullmatch(name) and name != self._name:
                yield name


def _revision(version: str) -> int:
    """Take a version that is one number for the revision; others have none."""
    if re.fullmatch(r"[0-9]{1,18}", version) and int(version) <= MAX_REVISION:
        return int(version)
    return 1

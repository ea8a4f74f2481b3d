"""Compares two lists of packages: our own, or any CycloneDX document.

Versions are compared by the rule of the package manager.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from imgbuilder.errors import RepositoryError, UsageError
from imgindex.files import open_file
from imgrepo.contents.debcontrol import compare_versions
from imgrepo.images.scan import FORMATS
from imgrepo.library.records import CONTENTS_FILE

_Key = tuple[str, ...]
_Item = TypeVar("_Item")

_LARGEST = 256 << 20
_DEEPEST = 20
"""Levels of components within components."""


@dataclass(frozen=True, order=True)
class Listed:
    """A package in a list.

    Attributes:
        arch: Its architecture; empty when not known.
        manager: The package manager whose rule orders its versions; empty when not known.
    """

    name: str
    arch: str
    manager: str
    version: str
    licences: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChangedPackage:
    """A package whose version or licences changed: as it is now, and as it was before."""

    package: Listed
    before: Listed


@dataclass(frozen=True)
class Difference:
    """The differences of two lists, each in the order of names.

    Attributes:
        changed: Packages with a different version, where it is not known which one is newer.
    """

    added: tuple[Listed, ...] = ()
    removed: tuple[Listed, ...] = ()
    upgraded: tuple[ChangedPackage, ...] = ()
    downgraded: tuple[ChangedPackage, ...] = ()
    changed: tuple[ChangedPackage, ...] = ()
    licences: tuple[ChangedPackage, ...] = ()

    def _versions(self) -> tuple[tuple[str, tuple[ChangedPackage, ...]], ...]:
        return ("upgraded", self.upgraded), ("downgraded", self.downgraded), ("changed", self.changed)

    def as_lines(self) -> list[str]:
        """Return the differences for people, one package a line."""
        lines = [f"+ {one.name} {one.version}{_of(one)}" for one in self.added]
        lines += [f"- {one.name} {one.version}{_of(one)}" for one in self.removed]
        for title, changes in self._versions():
            lines += [
                f"{title}: {one.package.name} {one.before.version} -> {one.package.version}{_of(one.package)}"
                for one in changes
            ]
        lines += [
            f"licences: {one.package.name}: {_licences_of(one.before)} -> {_licences_of(one.package)}"
            for one in self.licences
        ]
        counts = (
            (len(self.added), "added"),
            (len(self.removed), "removed"),
            *((len(changes), title) for title, changes in self._versions()),
            (len(self.licences), "with other licences"),
        )
        summary = ", ".join(f"{count} {word}" for count, word in counts if count)
        return [*lines, summary or "the same packages"]

    def as_data(self) -> dict[str, Any]:
        """Return the differences for programs."""
        return {
            "version": 1,
            "added": [_named(one) | {"version": one.version} for one in self.added],
            "removed": [_named(one) | {"version": one.version} for one in self.removed],
            **{
                title: [
                    _named(one.package) | {"from": one.before.version, "to": one.package.version}
                    for one in changes
                ]
                for title, changes in self._versions()
            },
            "licences": [
                _named(one.package) | {"from": list(one.before.licences), "to": list(one.package.licences)}
                for one in self.licences
            ],
        }


def _of(one: Listed) -> str:
    return f" ({one.arch})" if one.arch else ""


def _named(one: Listed) -> dict[str, str]:
    return {"name": one.name, "arch": one.arch}


def _licences_of(one: Listed) -> str:
    return ", ".join(one.licences) or "not known"


def compare_lists(old: Iterable[Listed], new: Iterable[Listed]) -> Difference:
    """Compare two lists.

    Of a package with several versions side by side, such as kernels of Fedora, each version is compared by
    itself: a version that is only in one list was added or removed.
    """
    added: list[Listed] = []
    removed: list[Listed] = []
    changes: dict[int | None, list[ChangedPackage]] = {1: [], -1: [], None: []}
    licences: list[ChangedPackage] = []
    for _key, was, now in pair_up(_keyed(old), _keyed(new)):
        if len(was) == len(now) == 1:
            (earlier,), (later,) = was.values(), now.values()
            if earlier.version != later.version:
                changes[_order(earlier, later)].append(ChangedPackage(later, earlier))
            pairs = [(earlier, later)]
        else:
            added += [one for version, one in now.items() if version not in was]
            removed += [one for version, one in was.items() if version not in now]
            pairs = [(was[version], one) for version, one in now.items() if version in was]
        licences += [
            ChangedPackage(later, earlier) for earlier, later in pairs if earlier.licences != later.licences
        ]
    return Difference(
        tuple(added),
        tuple(removed),
        tuple(changes[1]),
        tuple(changes[-1]),
        tuple(changes[None]),
        tuple(licences),
    )


def pair_up(
    old: Iterable[tuple[_Key, str, _Item]], new: Iterable[tuple[_Key, str, _Item]]
) -> Iterator[tuple[_Key, dict[str, _Item], dict[str, _Item]]]:
    """Pair two lists of key, version and package: each key, in order, with both packages by version."""
    before, after = _by_key(old), _by_key(new)
    for key in sorted({*before, *after}):
        yield key, before.get(key, {}), after.get(key, {})


def _by_key(packages: Iterable[tuple[_Key, str, _Item]]) -> dict[_Key, dict[str, _Item]]:
    found: dict[_Key, dict[str, _Item]] = {}
    for key, version, package in packages:
        found.setdefault(key, {})[version] = package
    return found


def _keyed(packages: Iterable[Listed]) -> Iterator[tuple[_Key, str, Listed]]:
    return (((one.name, one.arch, one.manager), one.version, one) for one in sorted(packages))


def _order(earlier: Listed, later: Listed) -> int | None:
    """Return 1 for a newer version, -1 for an older one, None when the order is not known."""
    try:
        order = compare(later.manager, later.version, earlier.version)
    except RepositoryError:
        return None
    return None if order == 0 else (1 if order > 0 else -1)


def read_list(path: Path) -> tuple[Listed, ...]:
    """Read a list of packages: a ``contents.json``, a CycloneDX file in JSON, or those of a folder or image.

    The folder is that of an entry or of its contents; the packages of the image were listed by ``sbom``.
    """
    if path.suffix in FORMATS:
        path = path.with_name(f"{path.stem}.contents")  # the result of sbom
        if not path.is_dir():
            raise UsageError(
                f"{path} is missing: the packages of the image are not listed yet",
                hint="list them: pybuilder-repo sbom IMAGE",
            )
    if path.is_dir():
        places = [path / CONTENTS_FILE.name, path / "contents" / CONTENTS_FILE.name]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UsageError(
                f"{path} has no {CONTENTS_FILE.name}", hint="make it: pybuilder-repo sbom ENTRY-or-IMAGE"
            )
        path = found
    try:
        with open_file(path) as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise RepositoryError(f"{path} is larger than {_LARGEST} bytes")
    return parse_list(data, where=str(path))


def parse_list(data: bytes, *, where: str) -> tuple[Listed, ...]:
    """Read the bytes of a list of packages; ``where`` names them in messages."""
    try:
        fields = json.loads(data)
        if fields.get("bomFormat") == "CycloneDX":
            return tuple(_components(fields.get("components", ()), _DEEPEST))
        if "manager" in fields:
            return tuple(
                Listed(
                    name=str(one["name"]),
                    arch=str(one["arch"]),
                    manager=str(fields["manager"]),
                    version=str(one["version"]),
                    licences=tuple(sorted(map(str, one["licences"]))),
                )
                for one in fields["packages"]
            )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RepositoryError(f"{where} is not a list of packages: {error!r}") from error
    raise RepositoryError(
        f"{where} is not a list of packages of a known format",
        hint="give a contents.json, or CycloneDX in JSON",
    )


def _components(items: Any, depth: int) -> Iterator[Listed]:  # noqa: ANN401 - json's own
    from imgrepo.contents.documents import parse_url  # late: few commands read or write such documents

    for item in items if depth else ():
        yield from _components(item.get("components", ()), depth - 1)
        if item.get("type") in ("file", "operating-system"):
            continue
        name, version = str(item["name"]), str(item.get("version", ""))
        url = parse_url(str(item["purl"])) if item.get("purl") else None
        yield Listed(
            url.name if url else name,
            url.arch if url else "",
            url.manager if url else "",
            (url.version if url else "") or version,
            tuple(sorted(_licences(item.get("licenses", ())))),
        )


def _licences(items: Any) -> Iterator[str]:  # noqa: ANN401 - json's own
    for item in items:
        licence = item.get("license", {})
        name = item.get("expression") or licence.get("id") or licence.get("name")
        if name:
            yield str(name)


_RPM_PIECES = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")
_APK = re.compile(
    r"(?P<numbers>[0-9]+(?:\.[0-9]+)*)(?P<letter>[a-z]?)(?P<suffixes>(?:_[a-z]+[0-9]*)*)"
    r"(?:~(?P<hash>[0-9a-f]+))?(?:-r(?P<revision>[0-9]+))?"
)
_APK_SUFFIXES = {"alpha": -4, "beta": -3, "pre": -2, "rc": -1, "cvs": 1, "svn": 2, "git": 3, "hg": 4, "p": 5}


def compare(manager: str, left: str, right: str) -> int:
    """Compare two versions by the rule of ``dpkg``, ``rpm`` or ``apk``; return less than 0, 0, or more.

    A version that cannot be understood is a RepositoryError.
    """
    match manager:
        case "dpkg":
            return compare_versions(left, right)
        case "rpm":
            return _compare_rpm(left, right)
        case "apk":
            return _compare_apk(left, right)
    raise RepositoryError(f"the order of versions of {manager} is not known")


def _compare_rpm(left: str, right: str) -> int:
    """Compare ``EPOCH:VERSION-RELEASE`` (rpm-version(7)); no epoch is 0."""
    for first, second in zip(_evr(left), _evr(right), strict=True):
        order = rpmvercmp(first, second)
        if order:
            return order
    return 0


def _evr(text: str) -> tuple[str, str, str]:
    epoch, colon, rest = text.partition(":")
    if not colon or not epoch.isdigit():
        epoch, rest = "0", text
    version, dash, release = rest.rpartition("-")
    return epoch, (version if dash else rest), (release if dash else "")


def rpmvercmp(left: str, right: str) -> int:
    """Compare two parts of a version as rpm does (rpm-version(7)).

    Pieces of digits and of letters are compared in turn. Other characters only separate them, except that a
    tilde sorts before the end, and a caret after the end but before everything else.
    """
    for first, second in itertools.zip_longest(_RPM_PIECES.findall(left), _RPM_PIECES.findall(right)):
        if first == second:
            continue
        order = _compare_pieces(first, second)
        if order:
            return order
    return 0


def _compare_pieces(first: str | None, second: str | None) -> int:
    for mark, sign in (("~", -1), ("^", 1)):
        if first == mark or second == mark:
            if mark == "^" and None not in (first, second):
                sign = -1  # a caret is newer than the end, and older than any further piece
            return sign if first == mark else -sign
    if first is None or second is None:
        return -1 if first is None else 1
    if first.isdigit() != second.isdigit():
        return 1 if first.isdigit() else -1
    if first.isdigit():
        one, two = _number(first), _number(second)
        return (one > two) - (one < two)
    return (first > second) - (first < second)


def _number(digits: str) -> tuple[int, str]:
    """Return the sort key of a number, without int(), which refuses very long ones."""
    plain = digits.lstrip("0")
    return len(plain), plain


def _compare_apk(left: str, right: str) -> int:
    first, second = _apk_key(left), _apk_key(right)
    return (first > second) - (first < second)


def _apk_key(text: str) -> tuple[object, ...]:
    """Return the sort key of a version of Alpine (apk-package(5))."""
    match = _APK.fullmatch(text)
    if match is None:
        raise RepositoryError(f"{text[:60]!r} is not a version of a package of Alpine")
    first, *others = match["numbers"].split(".")
    # After the first, a number with a leading zero is compared as a fraction, and before the others.
    parts = [(1, _number(first))]
    parts += [(0, (0, one)) if one[0] == "0" and one != "0" else (1, _number(one)) for one in others]
    suffixes = []
    for name, number in re.findall(r"_([a-z]+)([0-9]*)", match["suffixes"]):
        if name not in _APK_SUFFIXES:
            raise RepositoryError(f"{text[:60]!r} is not a version of a package of Alpine")
        suffixes.append((_APK_SUFFIXES[name], _number(number)))
    # The end sorts after _rc, and before _p.
    return tuple(parts), match["letter"], (*suffixes, (0, (0, ""))), _number(match["revision"] or "")

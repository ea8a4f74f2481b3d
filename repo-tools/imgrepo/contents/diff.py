"""Compares two lists of packages: our own, or any CycloneDX document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from imgbuilder.errors import RepositoryError, UsageError
from imgindex.files import open_file
from imgrepo.contents.versions import compare
from imgrepo.images.scan import FORMATS
from imgrepo.library.records import CONTENTS_NAME

_Key = tuple[str, ...]
_Item = TypeVar("_Item")

_LARGEST = 256 << 20
_DEEPEST = 20
"""Levels of components within components."""


@dataclass(frozen=True, order=True)
class Listed:
    """A package in a list.

    Attributes:
        name: Its name.
        arch: Its architecture; empty when not known.
        manager: The package manager whose rule orders its versions; empty when not known.
        version: Its version.
        licences: Its licences.
    """

    name: str
    arch: str
    manager: str
    version: str
    licences: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChangedPackage:
    """A package whose version or licences changed.

    Attributes:
        package: The package now.
        before: The package before.
    """

    package: Listed
    before: Listed


@dataclass(frozen=True)
class Difference:
    """The differences of two lists, each in the order of names.

    Attributes:
        added: Packages that are new.
        removed: Packages that are gone.
        upgraded: Packages that are newer.
        downgraded: Packages that are older.
        changed: Packages with a different version, where it is not known which one is newer.
        licences: Packages with different licences.
    """

    added: tuple[Listed, ...] = ()
    removed: tuple[Listed, ...] = ()
    upgraded: tuple[ChangedPackage, ...] = ()
    downgraded: tuple[ChangedPackage, ...] = ()
    changed: tuple[ChangedPackage, ...] = ()
    licences: tuple[ChangedPackage, ...] = ()

    def as_lines(self) -> list[str]:
        """Return the differences for people, one package a line."""
        lines = [f"+ {one.name} {one.version}{_of(one)}" for one in self.added]
        lines += [f"- {one.name} {one.version}{_of(one)}" for one in self.removed]
        for title, changes in (
            ("upgraded", self.upgraded),
            ("downgraded", self.downgraded),
            ("changed", self.changed),
        ):
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
            (len(self.upgraded), "upgraded"),
            (len(self.downgraded), "downgraded"),
            (len(self.changed), "changed"),
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
                for title, changes in (
                    ("upgraded", self.upgraded),
                    ("downgraded", self.downgraded),
                    ("changed", self.changed),
                )
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
    """Pair the packages of two lists by a key.

    Args:
        old: Key, version and package of all in one list.
        new: The same of the other list.

    Yields:
        Each key, in order, with the packages of both lists by version.
    """
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
    """Read a list of packages.

    Args:
        path: A ``contents.json``, a CycloneDX file in JSON, the folder of an entry or of its contents, or an
            image after ``sbom``.
    """
    if path.suffix in FORMATS:
        path = path.with_name(f"{path.stem}.contents")  # the result of sbom
        if not path.is_dir():
            raise UsageError(
                f"{path} is missing: the packages of the image are not listed yet",
                hint="list them: pybuilder-repo sbom IMAGE",
            )
    if path.is_dir():
        places = [path / CONTENTS_NAME, path / "contents" / CONTENTS_NAME]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UsageError(
                f"{path} has no {CONTENTS_NAME}", hint="make it: pybuilder-repo sbom ENTRY-or-IMAGE"
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
    """Read the bytes of a list of packages.

    Args:
        data: The bytes.
        where: Names them in messages.
    """
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

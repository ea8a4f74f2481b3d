"""Which source packages the licences in an image ask for."""

from __future__ import annotations

from imgbuilder.errors import UsageError
from imgrepo.library.records import ContentsRecord


def wanted_sources(contents: ContentsRecord) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the source packages to collect, each with the binaries that it is for.

    A licence that is not known counts as copyleft. What a package took from others (``Built-Using``) is
    part of its source.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for package in contents.packages:
        if package.copyleft is False:
            continue
        for source in ((package.source, package.source_version), *package.built_using):
            found.setdefault(source, set()).add(package.name)
    return {source: tuple(sorted(names)) for source, names in sorted(found.items())}


def only(
    wanted: dict[tuple[str, str], tuple[str, ...]], names: tuple[str, ...]
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Leave those of some packages; all of them when no name is given.

    Args:
        wanted: As ``wanted_sources`` returns it.
        names: Names of source or binary packages.

    Raises:
        UsageError: One of the names is nobody's.
    """
    for name in names:
        if not any(name in (source[0], *binaries) for source, binaries in wanted.items()):
            raise UsageError(
                f"no package {name} in the image needs its sources", hint="see contents.json for the names"
            )
    return {
        source: binaries
        for source, binaries in wanted.items()
        if not names or set(names) & {source[0], *binaries}
    }

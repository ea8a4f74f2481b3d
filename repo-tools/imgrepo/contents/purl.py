"""Names of packages that all tools understand: package URLs, made by packageurl-python, and only here."""

from __future__ import annotations

from dataclasses import dataclass

from packageurl import PackageURL

from imgbuilder.errors import RepositoryError
from imgrepo.library.records import ContentsRecord, Package

_KINDS = {"dpkg": ("deb", "debian"), "rpm": ("rpm", ""), "apk": ("apk", "alpine")}
"""Type of package URL by the package manager, and the namespace where the guest does not tell its own."""


def package_url(package: Package, contents: ContentsRecord) -> PackageURL:
    """Return a package's URL (ECMA-427).

    ``distro`` and ``upstream`` are what scanners for vulnerabilities ask for beside the name.

    Args:
        package: The package.
        contents: What it is a part of.
    """
    from packageurl import PackageURL  # late: few commands name packages

    kind, usual = _KINDS[contents.manager]
    version = package.version
    distro = "-".join(filter(None, (contents.distribution, contents.release)))
    qualifiers = {"arch": package.arch, "distro": distro}
    epoch, colon, rest = version.partition(":")
    if kind == "rpm" and colon:
        qualifiers["epoch"], version = epoch, rest
    upstream = package.source
    if package.source_version != package.version:
        upstream = f"{package.source}@{package.source_version}"
    if upstream != package.name:
        qualifiers["upstream"] = upstream
    return PackageURL(
        type=kind,
        namespace=contents.distribution or usual or None,
        name=package.name,
        version=version,
        qualifiers={key: value for key, value in qualifiers.items() if value},
    )


@dataclass(frozen=True)
class Parsed:
    """What a package URL says.

    Attributes:
        manager: ``dpkg``, ``rpm`` or ``apk``; its type for others.
        name: The package's name.
        version: Its version, with epoch; empty when it says none.
        arch: Its architecture; empty when it says none.
    """

    manager: str
    name: str
    version: str
    arch: str


def parse_url(text: str) -> Parsed:
    """Read a package URL.

    Raises:
        RepositoryError: It is none.
    """
    from packageurl import PackageURL

    try:
        url = PackageURL.from_string(text)
        values = url.qualifiers if isinstance(url.qualifiers, dict) else {}
        epoch, version = values.get("epoch", ""), url.version or ""
    except (ValueError, AttributeError, TypeError) as error:
        raise RepositoryError(f"{text[:100]!r} is no package URL: {error}") from error
    managers = {kind: manager for manager, (kind, _usual) in _KINDS.items()}
    return Parsed(
        managers.get(url.type, url.type),
        url.name,
        f"{epoch}:{version}" if epoch else version,
        values.get("arch", ""),
    )

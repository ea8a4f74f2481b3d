"""Names of packages that all tools understand: package URLs, made by packageurl-python, and only here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packageurl import PackageURL

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

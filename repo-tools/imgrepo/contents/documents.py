"""Software bills of materials in the formats that other tools read: CycloneDX, SPDX, and package URLs.

CycloneDX (ECMA-424) is written by cyclonedx-python-lib. SPDX 2.3 (ISO/IEC 5962)
is written here: see ADR 0033.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.bom_ref import BomRef
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL

from imgbuilder.errors import RepositoryError
from imgindex import __version__
from imgrepo.contents.licences import is_spdx
from imgrepo.library.records import ContentsRecord, Package

_KINDS = {"dpkg": ("deb", "debian"), "rpm": ("rpm", ""), "apk": ("apk", "alpine")}
"""Type of package URL by package manager, and the namespace for guests without an ID in os-release."""


def package_url(package: Package, contents: ContentsRecord) -> PackageURL:
    """Return a package's URL (ECMA-427), with the qualifiers that vulnerability scanners use."""
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
class PackageId:
    """The parts of a package URL.

    Attributes:
        manager: ``dpkg``, ``rpm`` or ``apk``; the URL's type for others.
        version: Its version, with epoch; empty without one.
    """

    manager: str
    name: str
    version: str
    arch: str


def parse_url(text: str) -> PackageId:
    """Read a package URL."""
    try:
        url = PackageURL.from_string(text)
        values = url.qualifiers if isinstance(url.qualifiers, dict) else {}
        epoch, version = values.get("epoch", ""), url.version or ""
    except (ValueError, AttributeError, TypeError) as error:
        raise RepositoryError(f"{text[:100]!r} is not a package URL: {error}") from error
    managers = {kind: manager for manager, (kind, _usual) in _KINDS.items()}
    return PackageId(
        managers.get(url.type, url.type),
        url.name,
        f"{epoch}:{version}" if epoch else version,
        values.get("arch", ""),
    )


_SOURCE_PROPERTY = "virt-pybuilder:source-package"


def serial_of(contents: ContentsRecord, name: str) -> uuid.UUID:
    """Return the document's number; it is always the same for one image and name."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"urn:sha512:{contents.image.sha512}#{name}")


def as_cyclonedx(contents: ContentsRecord, name: str, made: datetime) -> str:
    """Write the packages of an image as CycloneDX 1.6 in JSON."""
    root = Component(
        name=name,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=BomRef("image"),
        description=contents.system or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_512, content=contents.image.sha512)],
    )
    tool = Component(name="virt-pybuilder", version=__version__, type=ComponentType.APPLICATION)
    metadata = BomMetaData(component=root, timestamp=made)
    metadata.tools.components.add(tool)
    bom = Bom(metadata=metadata, serial_number=serial_of(contents, name))
    parts = [_component(package, contents) for package in contents.packages]
    bom.components.update(parts)
    bom.register_dependency(root, parts)
    return str(JsonV1Dot6(bom).output_as_string(indent=1)) + "\n"


def _component(package: Package, contents: ContentsRecord) -> Component:
    url = package_url(package, contents)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=url,
        bom_ref=BomRef(str(url)),
        licenses=_licences(package.licences),
        properties=[Property(name=_SOURCE_PROPERTY, value=f"{package.source} {package.source_version}")],
    )


def _licences(names: tuple[str, ...]) -> list[License]:
    # An exception belongs to an expression, and CycloneDX mixes no expression with names.
    return [
        DisjunctiveLicense(id=name) if is_supported_id(name) else DisjunctiveLicense(name=name)
        for name in names
    ]


_NOT_KNOWN = "NOASSERTION"
_UNKNOWN_FIELDS = ("downloadLocation", "licenseConcluded", "licenseDeclared", "copyrightText")
_NOTHING_SAID = {"filesAnalyzed": False, **dict.fromkeys(_UNKNOWN_FIELDS, _NOT_KNOWN)}
_DOCUMENT, _IMAGE = "SPDXRef-DOCUMENT", "SPDXRef-Image"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.-]+")


def as_spdx(contents: ContentsRecord, name: str, made: datetime) -> str:
    """Write the packages of an image as SPDX 2.3 in JSON; see ``as_cyclonedx``."""
    numbered = [(f"SPDXRef-Package-{number}", one) for number, one in enumerate(contents.packages, 1)]
    names = sorted({name for one in contents.packages for name in one.licences if not is_spdx(name)})
    references = _references(names)
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": name,
        "documentNamespace": f"urn:uuid:{serial_of(contents, name)}",
        "creationInfo": {
            "created": made.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: virt-pybuilder-{__version__}"],
        },
        "packages": [
            _image(contents, name),
            *(_package(one, number, contents, references) for number, one in numbered),
        ],
        "hasExtractedLicensingInfos": [
            {
                "licenseId": reference,
                "name": name,
                "extractedText": f"The package calls its licence {name!r}; its text is in the package.",
            }
            for name, reference in references.items()
        ],
        "relationships": [
            _relation(_DOCUMENT, "DESCRIBES", _IMAGE),
            *(_relation(_IMAGE, "CONTAINS", number) for number, _one in numbered),
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _references(names: Iterable[str]) -> dict[str, str]:
    """Give each name that is not an SPDX identifier an identifier in this document."""
    found: dict[str, str] = {}
    for name in names:
        plain = _NOT_IN_NAMES.sub("-", name).strip("-") or "licence"
        reference, number = f"LicenseRef-{plain}", 2
        while reference in found.values():
            reference, number = f"LicenseRef-{plain}-{number}", number + 1
        found[name] = reference
    return found


def _image(contents: ContentsRecord, name: str) -> dict[str, Any]:
    return {
        "SPDXID": _IMAGE,
        "name": name,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "summary": contents.system,
        "checksums": [{"algorithm": "SHA512", "checksumValue": contents.image.sha512}],
        **_NOTHING_SAID,
    }


def _package(
    package: Package, number: str, contents: ContentsRecord, references: dict[str, str]
) -> dict[str, Any]:
    # It is not known which part of a package has which licence, so all of them apply.
    names = [references.get(name, name) for name in package.licences]
    return {
        "SPDXID": number,
        "name": package.name,
        "versionInfo": package.version,
        "sourceInfo": f"built from the source package {package.source} {package.source_version}",
        **_NOTHING_SAID,
        "licenseDeclared": " AND ".join(names) if names else _NOT_KNOWN,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": str(package_url(package, contents)),
            }
        ],
    }


def _relation(left: str, kind: str, right: str) -> dict[str, str]:
    return {"spdxElementId": left, "relationshipType": kind, "relatedSpdxElement": right}

"""Contents as SPDX 2.3 (ISO/IEC 5962), in JSON. Written here: see ADR 0033."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from imgindex import __version__
from imgrepo.contents.cyclonedx import serial_of
from imgrepo.contents.licences import is_spdx
from imgrepo.contents.purl import package_url
from imgrepo.library.records import ContentsRecord, Package

_NOBODY_SAYS = "NOASSERTION"
_DOCUMENT, _IMAGE = "SPDXRef-DOCUMENT", "SPDXRef-Image"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.-]+")


def as_spdx(contents: ContentsRecord, name: str, made: datetime) -> str:
    """Write the packages of an image as JSON.

    Args:
        contents: The packages.
        name: The image's name, without its ending.
        made: The document's time.
    """
    numbered = [(f"SPDXRef-Package-{number}", one) for number, one in enumerate(contents.packages, 1)]
    words = sorted({word for one in contents.packages for word in one.licences if not is_spdx(word)})
    references = _references(words)
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
                "name": word,
                "extractedText": f"The package calls its licence {word!r}; its text is in the package.",
            }
            for word, reference in references.items()
        ],
        "relationships": [
            _relation(_DOCUMENT, "DESCRIBES", _IMAGE),
            *(_relation(_IMAGE, "CONTAINS", number) for number, _one in numbered),
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _references(words: Iterable[str]) -> dict[str, str]:
    """Give each word that is no SPDX identifier a name of its own in this document."""
    found: dict[str, str] = {}
    for word in words:
        plain = _NOT_IN_NAMES.sub("-", word).strip("-") or "licence"
        reference, number = f"LicenseRef-{plain}", 2
        while reference in found.values():
            reference, number = f"LicenseRef-{plain}-{number}", number + 1
        found[word] = reference
    return found


def _image(contents: ContentsRecord, name: str) -> dict[str, Any]:
    return {
        "SPDXID": _IMAGE,
        "name": name,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "summary": contents.system,
        "checksums": [{"algorithm": "SHA512", "checksumValue": contents.image.sha512}],
        "filesAnalyzed": False,
        "downloadLocation": _NOBODY_SAYS,
        "licenseConcluded": _NOBODY_SAYS,
        "licenseDeclared": _NOBODY_SAYS,
        "copyrightText": _NOBODY_SAYS,
    }


def _package(
    package: Package, number: str, contents: ContentsRecord, references: dict[str, str]
) -> dict[str, Any]:
    # Which part of a package has which licence is not told, so that all of them count.
    names = [references.get(word, word) for word in package.licences]
    return {
        "SPDXID": number,
        "name": package.name,
        "versionInfo": package.version,
        "sourceInfo": f"built from the source package {package.source} {package.source_version}",
        "filesAnalyzed": False,
        "downloadLocation": _NOBODY_SAYS,
        "licenseConcluded": _NOBODY_SAYS,
        "licenseDeclared": " AND ".join(names) if names else _NOBODY_SAYS,
        "copyrightText": _NOBODY_SAYS,
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

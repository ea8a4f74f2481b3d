"""Contents as CycloneDX 1.6 (ECMA-424): written by cyclonedx-python-lib, which is imported only here."""

from __future__ import annotations

import uuid
from datetime import datetime

from cyclonedx.model.component import Component
from cyclonedx.model.license import License

from imgindex import __version__
from imgrepo.contents.purl import package_url
from imgrepo.library.records import ContentsRecord, Package

_SOURCE_PROPERTY = "virt-pybuilder:source-package"


def serial_of(contents: ContentsRecord, name: str) -> uuid.UUID:
    """Return the document's own number, which the same image and name always get."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"urn:sha512:{contents.image.sha512}#{name}")


def as_cyclonedx(contents: ContentsRecord, name: str, made: datetime) -> str:
    """Write the packages of an image as JSON.

    Args:
        contents: The packages.
        name: The image's name, without its ending.
        made: The document's time.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.bom_ref import BomRef
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

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
    from cyclonedx.model import Property
    from cyclonedx.model.bom_ref import BomRef
    from cyclonedx.model.component import Component, ComponentType

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
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.spdx import is_supported_id  # which may know less than we

    # An exception is a part of an expression, which cannot stand beside other licences.
    return [
        DisjunctiveLicense(id=name) if is_supported_id(name) else DisjunctiveLicense(name=name)
        for name in names
    ]

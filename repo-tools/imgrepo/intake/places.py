"""Where an image, its checksum file and that file's signature are. Pure."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit, urlunsplit

from imgbuilder.errors import UsageError
from imgbuilder.fetch.urls import Address, check_uri, scheme_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}")

_FOLDER_SUMS = ("SHA512SUMS", "SHA256SUMS", "CHECKSUM")
"""Of Debian, Ubuntu, and of those who follow Red Hat."""

_FILE_SUMS = (".sha512", ".SHA512", ".SHA256SUM", ".sha256", ".SHA256")
"""What stands after an image's name where each has a checksum file of its own."""

SIGNATURE_ENDINGS = (".sign", ".gpg", ".asc", ".sig")
"""What stands after a checksum file's name."""

_FEDORA = re.compile(
    r"Fedora-Cloud-Base(?:-[A-Za-z]+)?(?:\.(?P<before>[a-z0-9_]+))?-"
    r"(?P<release>[0-9A-Za-z]+)-(?P<compose>[0-9]+(?:\.n?[0-9]+)*)"
    r"(?:\.(?P<after>[a-z0-9_]+))?\.(?:qcow2|raw(?:\.xz)?)"
)


def name_in(address: str) -> str:
    """Return the file name at the end of an address.

    Raises:
        UsageError: The address cannot be used, or its end is no plain name.
    """
    check_uri(address)
    if scheme_of(address) is None:
        name = os.path.basename(address)  # noqa: PTH119 - keeps what Path would tidy up
    else:
        name = unquote(urlsplit(Address(address).reveal()).path.rpartition("/")[2])
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{Address(address)} does not end in a plain file name",
            hint="give the address of the image itself",
        )
    return name


def sibling(address: str, name: str) -> Address:
    """Return the address of another file in the folder of a file."""
    whole = Address(address).reveal()
    if scheme_of(whole) is None:
        return Address(os.path.join(os.path.dirname(whole), name))  # noqa: PTH118, PTH120 - keeps "./"
    parts = urlsplit(whole)
    folder = parts.path[: parts.path.rfind("/") + 1] or "/"
    return Address(urlunsplit((parts.scheme, parts.netloc, folder + name, "", "")))


def likely_sums(name: str) -> tuple[str, ...]:
    """Return the names that the checksum file of an image may have, the likeliest first."""
    return (*_fedora_sums(name), *_FOLDER_SUMS, *(name + ending for ending in _FILE_SUMS))


def _fedora_sums(name: str) -> tuple[str, ...]:
    match = _FEDORA.fullmatch(name)
    arch = (match["before"] or match["after"]) if match else None
    if match is None or arch is None:
        return ()
    release, compose = match["release"], match["compose"]
    return (
        f"Fedora-Cloud-{release}-{compose}-{arch}-CHECKSUM",
        f"Fedora-Cloud-{arch}-{release}-{compose}-CHECKSUM",
    )


def template_name(name: str) -> str:
    """Return the template name that an image's file name suggests."""
    stem = re.sub(r"\.(?:img|raw|qcow2)$", "", name)
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem).lower()[:80]

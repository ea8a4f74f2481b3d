"""Checksum files of distributions: where they are, and the digests of an image in them. No I/O.

The formats are those of coreutils, ``HASH  NAME`` or ``HASH *NAME``, and of BSD,
``SHA256 (NAME) = HASH``, which Fedora uses. A name counts only if it is exactly the
image's: a line for ``../image`` or ``other/image`` is not about the image.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.fetch.urls import Address, check_uri, scheme_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}")

_FOLDER_SUMS = ("SHA512SUMS", "SHA256SUMS", "CHECKSUM")
"""Names in use by Debian, Ubuntu, and distributions that follow Red Hat."""

_FILE_SUMS = (".sha512", ".SHA512", ".SHA256SUM", ".sha256", ".SHA256")
"""Suffixes of checksum files for a single image."""

SIGNATURE_ENDINGS = (".sign", ".gpg", ".asc", ".sig")
"""Suffixes of detached signatures."""

_FEDORA = re.compile(
    r"Fedora-Cloud-Base(?:-[A-Za-z]+)?(?:\.(?P<before>[a-z0-9_]+))?-"
    r"(?P<release>[0-9A-Za-z]+)-(?P<compose>[0-9]+(?:\.n?[0-9]+)*)"
    r"(?:\.(?P<after>[a-z0-9_]+))?\.(?:qcow2|raw(?:\.xz)?)"
)


def name_in(address: str) -> str:
    """Return the file name at the end of an address."""
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


SUMS_LIMIT = 1_000_000
"""Largest checksum file in bytes; that of a release with all its images has some ten thousand."""

_LONGEST_LINE = 4096
_DIGITS = {64: "sha256", 128: "sha512"}
_WEAK = {32: "MD5", 40: "SHA-1", 56: "SHA-224"}
_GNU = re.compile(r"([0-9A-Fa-f]{32,128})(?: [ *]|\t)(.+)")
_BSD = re.compile(r"([A-Za-z0-9-]+) ?\((.+)\) ?= ?([0-9A-Fa-f]+)")
_BARE = re.compile(r"[0-9A-Fa-f]{32,128}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Digests:
    """The expected digests of a file.

    Attributes:
        sha512: SHA-512 in lower-case hex digits; None when only the other one is known.
        sha256: SHA-256, likewise.
    """

    sha512: str | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        return f"sha512:{self.sha512}" if self.sha512 else f"sha256:{self.sha256}"


def digest_by_hand(text: str) -> Digests:
    """Read a digest given by the user."""
    digits = text.strip().lower()
    kind = _DIGITS.get(len(digits))
    if kind is None or not _BARE.fullmatch(digits):
        raise UsageError(
            f"{text!r} is not a SHA-512: it needs 128 hex digits",
            hint="a SHA-256 of 64 digits is accepted as well; MD5 and SHA-1 are not",
        )
    return Digests(**{kind: digits})


def find_digests(text: str, name: str, *, where: str) -> Digests:
    """Find the digests of one image in a checksum file.

    Args:
        text: The file, without any OpenPGP frame.
        name: The image's file name.
        where: The checksum file, for messages.

    Returns:
        Its SHA-512, its SHA-256, or both.
    """
    if _CONTROL.search(text):
        raise RepositoryError(f"{where} is not a checksum file: it contains control characters")
    found: dict[str, str] = {}
    weak: set[str] = set()
    lines = 0
    for line in text.split("\n"):
        entry = _entry(line)
        if entry is None:
            continue
        lines += 1
        kind, digest, named = entry
        if named.removeprefix("./") != name:
            continue
        if kind not in ("sha256", "sha512"):
            weak.add(kind)
        elif found.setdefault(kind, digest) != digest:
            raise RepositoryError(
                f"{where} lists {name} twice, with different digests",
                hint="report this to the distribution",
            )
    if found:
        return Digests(found.get("sha512"), found.get("sha256"))
    if weak:
        raise RepositoryError(
            f"{where} has only digests of {name} that are too weak to trust: {', '.join(sorted(weak))}",
            hint="look for a SHA512SUMS or SHA256SUMS, and give it with --checksums",
        )
    if not lines:
        raise RepositoryError(
            f"{where} is not a checksum file: no line is a digest and a name",
            hint="give the right file with --checksums, or the digest itself with --checksum",
        )
    raise RepositoryError(
        f"{where} does not list {name}",
        hint="give the right checksum file with --checksums",
    )


def _entry(line: str) -> tuple[str, str, str] | None:
    """Return kind, digest and name of a line; None for any other line."""
    if len(line) > _LONGEST_LINE:
        return None
    gnu = _GNU.fullmatch(line)
    if gnu is not None:
        digest, name = gnu[1].lower(), gnu[2]
        length = len(digest)
        return _DIGITS.get(length) or _WEAK.get(length, f"one of {length} digits"), digest, name
    bsd = _BSD.fullmatch(line)
    if bsd is not None:
        kind, digest = bsd[1].lower().replace("-", ""), bsd[3].lower()
        if _DIGITS.get(len(digest)) == kind or kind not in _DIGITS.values():
            return kind if kind in _DIGITS.values() else bsd[1], digest, bsd[2]
    return None

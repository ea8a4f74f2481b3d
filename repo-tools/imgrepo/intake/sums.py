"""What a distribution's checksum file says of one image. Pure.

The formats are those of coreutils, ``HASH  NAME`` or ``HASH *NAME``, and of
BSD, ``SHA256 (NAME) = HASH``, which Fedora uses. A name counts only when it is
the image's own, letter by letter: what an entry says of ``../image`` or
``other/image`` says nothing of the image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imgbuilder.errors import RepositoryError, UsageError

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
    """What a file must have.

    Attributes:
        sha512: SHA-512 in lower-case hex digits; None when only the other one is known.
        sha256: SHA-256, likewise.
    """

    sha512: str | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        return f"sha512:{self.sha512}" if self.sha512 else f"sha256:{self.sha256}"


def digest_by_hand(text: str) -> Digests:
    """Read a digest that somebody typed.

    Raises:
        UsageError: It is neither a SHA-512 nor a SHA-256.
    """
    digits = text.strip().lower()
    kind = _DIGITS.get(len(digits))
    if kind is None or not _BARE.fullmatch(digits):
        raise UsageError(
            f"{text!r} is no SHA-512: it needs 128 hex digits",
            hint="a SHA-256, of 64 digits, is taken as well; MD5 and SHA-1 are not",
        )
    return Digests(**{kind: digits})


def find_digests(text: str, name: str, *, where: str) -> Digests:
    """Find what a checksum file says of one image.

    Args:
        text: The file, without any OpenPGP frame.
        name: The image's file name.
        where: The checksum file, for messages.

    Returns:
        Its SHA-512, its SHA-256, or both.

    Raises:
        RepositoryError: It does not name the image, contradicts itself about it, or has only digests too
            weak to trust; or it is no checksum file.
    """
    if _CONTROL.search(text):
        raise RepositoryError(f"{where}: there are control characters in it, as in no checksum file")
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
                f"{where} names {name} twice, with two different digests",
                hint="one of them is wrong: tell the distribution",
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
            f"{where} is no checksum file: no line of it is a digest and a name",
            hint="give the right file with --checksums, or the digest itself with --checksum",
        )
    raise RepositoryError(
        f"{where} does not name {name}",
        hint="it belongs to other files: give the right one with --checksums",
    )


def _entry(line: str) -> tuple[str, str, str] | None:
    """Return kind, digest and name of a line; None when it is something else."""
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

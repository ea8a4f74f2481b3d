"""Finds the digest that an image must have, and verifies who signed it.

The checksum file and its signature are found, the signature is verified like that of
an index (``imgindex.verdict``), and only the signed text is read. Without a signature
nothing is accepted unless the publisher says so. A name in a checksum file counts only if
it is exactly the image's: a line for ``../image`` or ``other/image`` is not about the image.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from imgbuilder.errors import FetchError, FileMissingError, NotSignedError, RepositoryError, UsageError
from imgbuilder.events import Reporter, Step, warn
from imgbuilder.fetch.transfer import Download, Fetcher
from imgbuilder.fetch.urls import Address, check_uri, hide_in, scheme_of
from imgindex.clearsign import unverified_text
from imgindex.gpg import trusted_keys_from_file
from imgindex.trust import TrustedKeys, VerifiedText, full_fingerprint
from imgrepo.services import Services

_SIGNATURE_LIMIT = 64 << 10
_BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
_HEX = re.compile(r"[0-9A-Fa-f\s]{40,}")


@dataclass(frozen=True)
class TrustOptions:
    """The publisher's options for checking an image.

    Attributes:
        checksum: The digest itself; None to look for a checksum file.
        checksums: Address of the checksum file; None to look next to the image.
        key: Key file, or full fingerprint of a key in the publisher's keyring.
        unsigned: Whether a checksum file without a signature is accepted.
    """

    checksum: str | None = None
    checksums: str | None = None
    key: str | None = None
    unsigned: bool = False

    def __post_init__(self) -> None:
        if self.checksums is not None:
            hide_in(self, "checksums")
        if self.checksum is not None and (self.checksums or self.key or self.unsigned):
            raise UsageError("with --checksum, leave out --checksums, --key and --unsigned")
        if self.key is not None and self.unsigned:
            raise UsageError("--key and --unsigned cannot be used together")
        if self.checksum is None and self.key is None and not self.unsigned:
            raise UsageError(
                "nothing was given to check this image with",
                hint="give --key FILE-or-FINGERPRINT of the distribution; or the digest with --checksum; or, "
                "if the distribution signs nothing, --unsigned",
            )


@dataclass(frozen=True)
class ImageProof:
    """The digest of an image, and who signed it.

    Attributes:
        source: Address of the checksum file; None when the digest was given by hand.
        signed: The signed text; None when it is not signed.
    """

    digests: Digests
    source: str | None = None
    signed: VerifiedText | None = None

    def __str__(self) -> str:
        if self.source is None:
            return "the digest that you gave"
        if self.signed is None:
            return f"{self.source}, which is not signed"
        signer, day = self.signed.primary_fingerprint, f"{self.signed.signed_at:%Y-%m-%d}"
        return f"{self.source}, signed by {signer} on {day}"


def prove(image: str, name: str, trust: TrustOptions, services: Services, on_event: Reporter) -> ImageProof:
    """Find the digest that an image must have."""
    if trust.checksum is not None:
        return ImageProof(digest_by_hand(trust.checksum))
    pin = None if trust.key is None else keys_of(trust.key, services)
    address, data = _find_sums(image, name, trust.checksums, services.fetcher, on_event)
    where = str(address)
    if pin is None:
        warn(on_event, _doubt(where, scheme_of(address)))
        text = unverified_text(data, where=where, limit=SUMS_LIMIT).text
        return ImageProof(find_digests(text, name, where=where), where)
    signed = _signed_text(address, data, pin, services)
    return ImageProof(find_digests(signed.text, name, where=where), where, signed)


def keys_of(key: str, services: Services) -> TrustedKeys:
    """Return the keys that ``--key`` names."""
    path = Path(key)
    if not path.exists() and _HEX.fullmatch(key):
        return services.trusted_keys_from_keyring(full_fingerprint(key))
    if not path.is_file():
        raise UsageError(
            f"--key: {key} is neither a file nor a full fingerprint",
            hint="give the distribution's key file, or all 40 hex digits of a key in your keyring",
        )
    return trusted_keys_from_file(path, where="--key")


def _doubt(where: str, scheme: str | None) -> str:
    if scheme == "http":
        return f"{where} is not signed and came without encryption: it could have been changed on the way"
    return f"{where} is accepted without a signature: anyone who can write there can change the image"


def _get(address: str, limit: int, fetcher: Fetcher, on_event: Reporter) -> bytes:
    body = io.BytesIO()
    # A redirect is fine: the content is verified by its signature, or comes by https all the way.
    fetcher.fetch(Download(address, body, limit=limit, on_event=on_event, digest_known=True))
    return body.getvalue()


def _find_sums(
    image: str, name: str, given: str | None, fetcher: Fetcher, on_event: Reporter
) -> tuple[Address, bytes]:
    if given is not None:
        on_event(Step(f"Fetching {given}"))
        return Address(given), _get(given, SUMS_LIMIT, fetcher, on_event)
    on_event(Step(f"Looking for the checksum file of {name}"))
    tried = likely_sums(name)
    for candidate in tried:
        address = sibling(image, candidate)
        try:
            return address, _get(address, SUMS_LIMIT, fetcher, on_event)
        except FileMissingError:
            continue
    raise FetchError(
        f"no checksum file was found next to {Address(image)} (tried: {', '.join(tried)})",
        hint="give its address with --checksums, or the digest itself with --checksum",
    )


def _signed_text(address: Address, data: bytes, pin: TrustedKeys, services: Services) -> VerifiedText:
    where = str(address)
    # Distributions sign with an old and a new key side by side for years; one of ours is enough.
    tolerant = replace(pin, extra_signatures=True)
    if _BEGIN in data:
        return services.verifier.verify(data, tolerant, where=where, limit=SUMS_LIMIT)
    for ending in SIGNATURE_ENDINGS:
        try:
            next_to = address.derive(partial(_with_ending, ending=ending))
            signature = _get(next_to, _SIGNATURE_LIMIT, services.fetcher, lambda _event: None)
        except FileMissingError:
            continue
        return services.verifier.verify_detached(data, signature, tolerant, where=where)
    raise NotSignedError(
        f"{where} is not signed: no signature is in it or next to it ({', '.join(SIGNATURE_ENDINGS)})",
        hint="if the distribution signs nothing, compare the digest in another way and give it with "
        "--checksum, or use --unsigned",
    )


def _with_ending(address: str, ending: str) -> str:
    """Put an ending on an address' path, before any query."""
    if scheme_of(address) in ("http", "https"):
        path, question, query = address.partition("?")
        return f"{path}{ending}{question}{query}"
    return address + ending


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
    """The expected digests of a file, in lower-case hex digits; at most one of them is None."""

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
    """Find the SHA-512, the SHA-256, or both of an image in the text of a checksum file."""
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
                f"{where} lists {name} twice, with different digests", hint="report this to the distribution"
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
        f"{where} does not list {name}", hint="give the right checksum file with --checksums"
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

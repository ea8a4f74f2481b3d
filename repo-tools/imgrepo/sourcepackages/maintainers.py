"""Source packages that no signed list names any more: proved by the signature of their maintainer.

The pool of a snapshot archive has every version there was. Its ``.dsc`` file is
signed by whoever uploaded it; Debian's package debian-keyring has the keys.
Any key in it counts for any package, as for Debian's archive itself.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from imgbuilder.errors import FileMissingError, RepositoryError, TrustError, UsageError, WrongSizeError
from imgbuilder.events import Reporter, Step
from imgbuilder.fetch.transfer import Fetcher
from imgbuilder.fetch.urls import Address, hide_in
from imgbuilder.host.workspace import private_folder
from imgindex.detached import signature_packets
from imgindex.gpg import key_pin_from_user_keyring
from imgindex.trust import VerifiedText, Verifier
from imgrepo.contents.debcontrol import paragraphs
from imgrepo.sourcepackages.model import SourceFile, SourceId, SourcePackage, source_files

MAINTAINER_KEYRING = Path("/usr/share/keyrings/debian-keyring.gpg")
"""Where Debian's package debian-keyring puts the keys of its developers."""

_LIMIT = 1 << 20
_BEGIN = b"-----BEGIN PGP SIGNATURE-----"
_ISSUER_FINGERPRINT = 33
"""Subpacket of a signature that names its key (RFC 9580 section 5.2.3.35)."""


@dataclass(frozen=True)
class Pool:
    """The pool of an archive.

    Attributes:
        root: The archive's address, without a slash at the end.
        components: The components to look into.
        keyring: Public keys of the maintainers; it may be missing.
    """

    root: str
    components: tuple[str, ...]
    keyring: Path

    def __post_init__(self) -> None:
        hide_in(self, "root")

    def find(
        self, source: SourceId, verifier: Verifier, fetcher: Fetcher, on_event: Reporter
    ) -> SourcePackage | str:
        """Look for a source package.

        Args:
            source: Name and version.
            verifier: Applies the accept rule.
            fetcher: Moves the bytes.
            on_event: Called with each event.

        Returns:
            The package, or why it cannot be taken.

        Raises:
            FetchError: The server failed.
        """
        name, version = source
        plain = version.partition(":")[2] or version
        start = name[:4] if name.startswith("lib") else name[:1]
        for component in self.components:
            folder = f"pool/{component}/{start}/{name}"
            url = Address(self.root).below(quote(f"{folder}/{name}_{plain}.dsc", safe="/+~:"))
            where = str(url)
            on_event(Step(f"Fetching {where}"))
            body = io.BytesIO()
            try:
                fetcher.fetch(url, body, limit=_LIMIT, on_event=on_event, digest_known=True)
            except FileMissingError:
                continue
            except WrongSizeError as error:
                return error.message
            try:
                signed = self._verified(body.getvalue(), verifier, where)
                return read_dsc(signed, body.getvalue(), source, self.root, folder, where=where)
            except (TrustError, RepositoryError, UsageError) as error:
                return f"{where} cannot be verified: {error.message}"
        return f"{self.root} has no {name}_{plain}.dsc in its pool either"

    def _verified(self, data: bytes, verifier: Verifier, where: str) -> VerifiedText:
        if not self.keyring.is_file():
            raise UsageError(f"there are no keys of maintainers in {self.keyring} (Debian: debian-keyring)")
        issuer = issuer_fingerprint(signature_packets(data[data.find(_BEGIN) :], where=where))
        if issuer is None:
            raise RepositoryError("its signature does not name a key by its fingerprint")
        options = ("--no-options", "--lock-never", "--no-default-keyring", "--keyring")
        with private_folder() as home:
            try:
                pin = key_pin_from_user_keyring(
                    issuer, gpg_home=home, command=("gpg", *options, str(self.keyring.absolute()))
                )
            except UsageError as error:
                raise RepositoryError(f"the key {issuer} is not in {self.keyring}") from error
        return verifier.verify(data, pin, where=where, limit=_LIMIT)


def read_dsc(
    signed: VerifiedText, data: bytes, source: SourceId, root: str, folder: str, *, where: str
) -> SourcePackage:
    """Read a verified ``.dsc`` file (dsc(5)).

    Args:
        signed: Its signed text.
        data: The file, which becomes a part of the package itself.
        source: Which package it must be of.
        root: The archive's address.
        folder: Its folder there.
        where: Names it in messages.

    Raises:
        RepositoryError: It is of another package, damaged, or names files elsewhere.
    """
    fields = next(iter(paragraphs(signed.text, where=where)), {})
    said = fields.get("Source", "").strip(), fields.get("Version", "").strip()
    if said != source:
        raise RepositoryError(f"it is that of {said[0][:60]!r} {said[1][:60]!r}")
    files = source_files(fields.get("Checksums-Sha256", ""), root, folder, where=where)
    name = f"{source[0]}_{source[1].partition(':')[2] or source[1]}.dsc"
    if any(file.name.endswith(".dsc") for file in files):
        raise RepositoryError("it names a .dsc file itself")
    path = quote(f"{folder}/{name}", safe="/+~:")
    own = SourceFile(name, len(data), hashlib.sha256(data).hexdigest(), root, path)
    proof = f"{where}, signed by {signed.primary_fingerprint}"
    return SourcePackage(*source, tuple(sorted((*files, own), key=lambda file: file.name)), proof)


def issuer_fingerprint(packets: bytes) -> str | None:
    """Find the fingerprint of the key that made the first signature; it only says which key to try.

    Args:
        packets: Signature packets (RFC 9580 section 5.2.3).

    Returns:
        40 or 64 hex digits; None when the signature does not say.
    """
    body = _first_body(packets)
    if len(body) < 6 or body[0] != 4:
        return None
    rest = body[6 : 6 + int.from_bytes(body[4:6])]
    while rest:
        size, start = rest[0], 1
        if size >= 255:
            size, start = int.from_bytes(rest[1:5]), 5
        elif size >= 192:
            size, start = ((size - 192) << 8) + int.from_bytes(rest[1:2]) + 192, 2
        content, rest = rest[start : start + size], rest[start + size :]
        if len(content) in (22, 34) and content[0] & 0x7F == _ISSUER_FINGERPRINT:
            return content[2:].hex().upper()
    return None


def _first_body(packets: bytes) -> bytes:
    """Return the content of the first packet; how packets are framed was judged before."""
    header = packets[0] if packets else 0
    if header & 0x40:
        first = int.from_bytes(packets[1:2])
        if first < 192:
            return packets[2 : 2 + first]
        if first < 224:
            size = ((first - 192) << 8) + int.from_bytes(packets[2:3]) + 192
            return packets[3 : 3 + size]
        return packets[6 : 6 + int.from_bytes(packets[2:6])]
    width = 1 << (header & 3)
    return packets[1 + width : 1 + width + int.from_bytes(packets[1 : 1 + width])]

"""Finds the source packages of an image in archives, and the reasons why some are missing.

Signed lists come first. The pool of a snapshot archive has every version that
there was, but no signed list of them: there, the uploader's signature of the
``.dsc`` file counts, by the keys in Debian's package debian-keyring. Any of these
keys counts for any package, as for Debian's archive itself.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from imgbuilder.errors import FileMissingError, RepositoryError, TrustError, UsageError, WrongSizeError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.fetch.transfer import Download, Fetcher
from imgbuilder.fetch.urls import Address, hide_in, without_slash
from imgbuilder.host.packages import install_hint
from imgbuilder.host.privatefolder import private_folder
from imgindex.clearsign import signature_packets
from imgindex.gpg import trusted_keys_from_file, trusted_keys_from_keyring
from imgindex.trust import VerifiedText, Verifier
from imgrepo.contents.debcontrol import compare_versions, paragraphs
from imgrepo.library.records import ContentsRecord, SourceGap
from imgrepo.services import Services
from imgrepo.sourcepackages.archive import (
    RELEASE_LIMIT,
    ArchivedSources,
    SourceFile,
    SourceId,
    SourceLists,
    SourcePackage,
    Suite,
    source_files,
)
from imgrepo.template.recipes import (
    DEBIAN_MIRROR,
    DEBIAN_SECURITY_MIRROR,
    GUEST_KEYRING,
    RECIPES,
    Mirrors,
    check_mirror,
)

MAINTAINER_KEYRING = Path("/usr/share/keyrings/debian-keyring.gpg")
"""The keys of Debian's developers, from its package debian-keyring."""

_LIMIT = 1 << 20
_BEGIN = b"-----BEGIN PGP SIGNATURE-----"
_ISSUER_FINGERPRINT = 33
"""Subpacket of a signature that names its key (RFC 9580 section 5.2.3.35)."""


@dataclass(frozen=True)
class Pool:
    """The pool of an archive, whose address has no slash at the end; the keyring may be missing."""

    root: str
    components: tuple[str, ...]
    keyring: Path

    def __post_init__(self) -> None:
        hide_in(self, "root")

    def find(
        self, source: SourceId, verifier: Verifier, fetcher: Fetcher, on_event: Reporter
    ) -> SourcePackage | str:
        """Search for a source package; return it, or the reason why it cannot be used."""
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
                fetcher.fetch(Download(url, body, limit=_LIMIT, on_event=on_event, digest_known=True))
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
            hint = install_hint("debian-keyring")
            raise UsageError(f"the maintainers' keys are missing: {self.keyring} ({hint})")
        issuer = issuer_fingerprint(signature_packets(data[data.find(_BEGIN) :], where=where))
        if issuer is None:
            raise RepositoryError("its signature does not name a key by its fingerprint")
        options = ("--no-options", "--lock-never", "--no-default-keyring", "--keyring")
        with private_folder() as home:
            try:
                pin = trusted_keys_from_keyring(
                    issuer, gpg_home=home, command=("gpg", *options, str(self.keyring.absolute()))
                )
            except UsageError as error:
                raise RepositoryError(f"the key {issuer} is not in {self.keyring}") from error
        return verifier.verify(data, pin, where=where, limit=_LIMIT)


def read_dsc(
    signed: VerifiedText, data: bytes, source: SourceId, root: str, folder: str, *, where: str
) -> SourcePackage:
    """Read a verified ``.dsc`` file (dsc(5)); refuse one of a different package."""
    fields = next(iter(paragraphs(signed.text, where=where)), {})
    said = fields.get("Source", "").strip(), fields.get("Version", "").strip()
    if said != source:
        raise RepositoryError(f"it belongs to {said[0][:60]!r} {said[1][:60]!r}")
    files = source_files(fields.get("Checksums-Sha256", ""), root, folder, where=where)
    name = f"{source[0]}_{source[1].partition(':')[2] or source[1]}.dsc"
    if any(file.name.endswith(".dsc") for file in files):
        raise RepositoryError("it names a .dsc file itself")
    path = quote(f"{folder}/{name}", safe="/+~:")
    own = SourceFile(name, len(data), hashlib.sha256(data).hexdigest(), root, path)
    proof = f"{where}, signed by {signed.primary_fingerprint}"
    return SourcePackage(*source, tuple(sorted((*files, own), key=lambda file: file.name)), proof)


def issuer_fingerprint(packets: bytes) -> str | None:
    """Find the fingerprint of the key that made the first signature; this only selects the key to try."""
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
    """Return the content of the first packet; the frame of packets was checked before."""
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


_OTHERS_SHOWN = 3


@dataclass(frozen=True)
class SourceArchives:
    """The archives that have source packages.

    Attributes:
        suites: Suites of ``mirror`` only; empty for the suites of the guest's Debian.
        snapshots: Archives of earlier states, for packages that the others no longer have.
        keyring: Public keys that may have signed the lists.
        maintainers: Public keys that may have signed a ``.dsc`` in the pool of a snapshot.
    """

    mirror: str = DEBIAN_MIRROR
    security: str = DEBIAN_SECURITY_MIRROR
    suites: tuple[str, ...] = ()
    components: tuple[str, ...] = ("main",)
    snapshots: tuple[str, ...] = ()
    keyring: Path = GUEST_KEYRING
    maintainers: Path = MAINTAINER_KEYRING

    def __post_init__(self) -> None:
        hide_in(self, "mirror", "security", "snapshots")
        for url in (self.mirror, self.security, *self.snapshots):
            check_mirror(url)

    def of(self, contents: ContentsRecord) -> tuple[Suite, ...]:
        """Return the suites to search for an image."""
        if self.suites:
            return tuple(Suite(without_slash(self.mirror), name, self.components) for name in self.suites)
        recipe = RECIPES.get(f"{contents.distribution}-{contents.release or 'sid'}")
        if recipe is None:
            system = contents.system or contents.distribution or "a system without a name"
            raise UsageError(
                f"the suites of {system} are not known",
                hint="name them, their archive and its keys: --mirror URL --suite noble --suite "
                "noble-updates --component main --component universe --keyring FILE",
            )
        return tuple(
            Suite(without_slash(url), name, self.components)
            for url, names in recipe.suites(Mirrors(self.mirror, self.security))
            for name in names
        )


@dataclass(frozen=True)
class FoundPackages:
    """The source packages that were found, and those that no archive has."""

    packages: tuple[SourcePackage, ...]
    gaps: tuple[SourceGap, ...]


def find_packages(
    contents: ContentsRecord,
    wanted: frozenset[SourceId],
    places: SourceArchives,
    services: Services,
    scratch: Path,
    on_event: Reporter,
) -> FoundPackages:
    """Search for source packages in all archives."""
    if not wanted:
        return FoundPackages((), ())
    if contents.manager != "dpkg":
        reason = f"source packages of {contents.manager} cannot be verified yet and are never used unverified"
        return FoundPackages((), _gaps(wanted, lambda _source: reason))
    suites = places.of(contents)
    # Distributions sign with an old and a new key side by side for years; one known key is enough.
    pin = replace(trusted_keys_from_file(places.keyring, where="--keyring"), extra_signatures=True)
    lists = SourceLists(
        lambda data, where: services.verifier.verify(data, pin, where=where, limit=RELEASE_LIMIT),
        services.fetcher,
        scratch,
        on_event,
    )
    found = lists.find(suites, wanted)
    for snapshot in places.snapshots:
        rest = wanted - found.packages.keys()
        if rest:
            then = [replace(suite, root=without_slash(snapshot)) for suite in suites]
            try:
                older = lists.find(dict.fromkeys(then), rest, some_missing=True)
            except FileMissingError as error:
                debug(on_event, error.message)  # it is only a pool, which is searched below
                continue
            found.packages.update(older.packages)
    reasons: dict[SourceId, str] = {}
    for snapshot in places.snapshots:
        pool = Pool(snapshot.rstrip("/"), places.components, places.maintainers)
        for source in sorted(wanted - found.packages.keys()):
            answer = pool.find(source, services.verifier, services.fetcher, on_event)
            if isinstance(answer, str):
                reasons[source] = answer
            else:
                found.packages[source] = answer
    missing = wanted - found.packages.keys()
    return FoundPackages(
        tuple(found.packages.values()),
        _gaps(missing, lambda source: reasons.get(source) or _why(source, found, suites)),
    )


def _gaps(missing: frozenset[SourceId], why: Callable[[SourceId], str]) -> tuple[SourceGap, ...]:
    return tuple(SourceGap(*source, why(source)) for source in sorted(missing))


def _why(source: SourceId, found: ArchivedSources, suites: tuple[Suite, ...]) -> str:
    asked = ", ".join(dict.fromkeys(suite.name for suite in suites))
    others = sorted(found.others.get(source[0], ()), key=functools.cmp_to_key(compare_versions))
    if others:
        newest = ", ".join(others[-_OTHERS_SHOWN:])
        return f"no longer in {asked}, which have {newest}; --snapshot URL may have it"
    return f"{asked} have no source package of this name"

"""Imports a distribution's cloud image into the folder of images to publish.

First the digest is found and verified, then the image is fetched by it, then the image's
header is checked; only an image that passed all three gets its name. Its bytes stay as
they are, so that its digest stays the distribution's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from imgbuilder.cache.partial import PartialFile
from imgbuilder.disk.imageheader import find_format
from imgbuilder.disk.magic import packing_of
from imgbuilder.disk.qcow2 import QCOW2_MAGIC
from imgbuilder.errors import DiskError, RepositoryError, RolledBackError, UsageError
from imgbuilder.events import Reporter, info
from imgbuilder.fetch.transfer import Fetcher
from imgbuilder.fetch.urls import hide_in, local_path, scheme_of
from imgbuilder.host import imagelocks
from imgbuilder.host.hashing import Fingerprint, hash_file
from imgbuilder.host.locks import exclusive
from imgbuilder.host.workspace import explaining
from imgindex.accept import show
from imgindex.files import open_file, sync_folder
from imgrepo.images.scan import FORMATS, SourceImage, is_stem, measure
from imgrepo.intake.proof import Digests, ImageProof, TrustOptions, name_in, prove, template_name
from imgrepo.recordfile import Moment, RecordFile, write_text
from imgrepo.services import Services
from imgrepo.sharing.download import GROUP_FILE, GROUP_FOLDER, verified_download
from imgrepo.webroot.entries import sidecar_of

_LARGEST = 64 << 30
"""Size limit of a download in bytes: a server must not fill the disk."""

_KEPT = timedelta(days=14)
"""Time that a partial download is kept for the next run."""

_PARTS = ".pybuilder-import"
_HEAD = 512


@dataclass(frozen=True)
class ImportRequest:
    """A request to import an image.

    Attributes:
        name: The template's name; None for one made of the file's name.
        allow_older: Whether an image may be replaced by one that was signed earlier.
        file: The image's file name, as its checksum file has it. Derived.
    """

    address: str
    folder: Path
    trust: TrustOptions
    name: str | None = None
    allow_older: bool = False
    file: str = field(init=False)

    def __post_init__(self) -> None:
        hide_in(self, "address")
        object.__setattr__(self, "file", name_in(self.address))
        if self.name is not None and not is_stem(self.name):
            raise UsageError(
                f"{self.name!r} cannot be the name of a template",
                hint="letters, digits, '.', '_' and '-', such as --name debian-12",
            )
        path = local_path(self.address)
        if path is not None and not path.is_file():
            raise UsageError(
                f"the image {path} does not exist", hint="give its path, or its whole address on the web"
            )
        if not self.folder.is_dir():
            raise UsageError(
                f"the folder {self.folder} does not exist", hint=f"create it: mkdir -p {self.folder}"
            )

    @property
    def stem(self) -> str:
        """Name of the template, and of the image without its ending."""
        return self.name or template_name(self.file)


@dataclass(frozen=True)
class _Origin:
    """When and by which primary key the checksum of an imported image was signed."""

    signed_at: Moment
    signer: str


@dataclass(frozen=True)
class _Origins:
    images: dict[str, _Origin]


_ORIGINS = RecordFile(_Origins, "origins.json", hint="remove it; the next import then accepts an older image")


@dataclass(frozen=True)
class Imported:
    """An imported image, the bytes of its disk, what it was checked by, and whether it was fetched now."""

    path: Path
    size: int
    proof: ImageProof
    new: bool


def import_image(request: ImportRequest, services: Services, on_event: Reporter) -> Imported:
    """Import an image, which replaces an earlier import of the same name."""
    proof = prove(request.address, request.file, request.trust, services, on_event)
    parts = request.folder / _PARTS
    with explaining(parts):
        parts.mkdir(mode=GROUP_FOLDER, exist_ok=True)
        purpose = "is importing into the same folder"
        with exclusive(parts / "lock", purpose, on_event, mode=GROUP_FILE):
            _sweep(parts, services.clock() - _KEPT)
            _check_not_older(request, proof, parts)
            imported = _fetch(request, proof, parts, services.fetcher, on_event)
            if proof.signed is not None:
                origin = _Origin(proof.signed.signed_at, proof.signed.primary_fingerprint)
                _ORIGINS.write(parts, _Origins({**_origins(parts), request.stem: origin}))
            return imported


def _origins(parts: Path) -> dict[str, _Origin]:
    record = _ORIGINS.read(parts)
    return {} if record is None else record.images


def _check_not_older(request: ImportRequest, proof: ImageProof, parts: Path) -> None:
    """Check that an image is not replaced by one that the same key signed earlier.

    A server, or an attacker on the way, could offer an old image with known holes:
    its signature is as good as ever.
    """
    last = _origins(parts).get(request.stem)
    if last is None or proof.signed is None or request.allow_older or _already_here(request) is None:
        return
    if last.signer == proof.signed.primary_fingerprint and proof.signed.signed_at < last.signed_at:
        raise RolledBackError(
            f"{proof.source} was signed at {show(proof.signed.signed_at)}, and the image {request.stem} was "
            f"imported by a newer one, of {show(last.signed_at)}: the server offers an older image",
            hint="wait for the server, or use another one; to go back on purpose: --allow-older",
        )


def _fetch(
    request: ImportRequest, proof: ImageProof, parts: Path, fetcher: Fetcher, on_event: Reporter
) -> Imported:
    here = _already_here(request)
    if here is not None and _has(here, proof.digests):
        return Imported(here, _measured(here, here.suffix), proof, new=False)
    if here is not None:
        imagelocks.refuse_if_in_use(here, changing=True)
    with verified_download(
        request.address,
        parts,
        str(proof.digests).replace(":", "-"),
        lambda part: _is_right(part, proof.digests),
        fetcher,
        on_event,
        limit=_LARGEST,
        blame=f"is not the file that {proof} is about",
    ) as part:
        ending, size = _judge(part.path, request.address)
        final = request.folder / f"{request.stem}{ending}"
        if here is not None and here != final:
            raise UsageError(
                f"{here} is in the way of {final.name}: both would be the template {request.stem}",
                hint=f"move it away, or give another name: --name {request.stem}-2",
            )
        imagelocks.refuse_if_in_use(final, changing=True)
        with explaining(final):
            part.path.replace(final)
            sync_folder(request.folder)
    _describe(request, final, on_event)
    return Imported(final, size, proof, new=True)


def _sweep(parts: Path, before: datetime) -> None:
    """Remove old partial downloads: the distribution has newer images by now."""
    for path in parts.glob("sha*"):
        if path.lstat().st_mtime < before.timestamp():
            path.unlink()


def _already_here(request: ImportRequest) -> Path | None:
    """Find an image that has the name already."""
    for ending in FORMATS:
        path = request.folder / f"{request.stem}{ending}"
        if path.is_symlink() or path.exists():
            if not sidecar_of(path).is_file():
                raise UsageError(
                    f"{path} exists, and was not imported",
                    hint=f"move it away, or give another name: --name {request.stem}-2",
                )
            return path
    return None


def _has(path: Path, digests: Digests) -> bool:
    try:
        return hash_file(path, "sha512" if digests.sha512 else "sha256") == (digests.sha512 or digests.sha256)
    except OSError:
        return False


def _is_right(part: PartialFile, digests: Digests) -> bool:
    if digests.sha512 is not None and part.sha512() != digests.sha512:
        return False
    return digests.sha256 is None or hash_file(part.path, "sha256") == digests.sha256


def _judge(path: Path, where: str) -> tuple[str, int]:
    """Return the suffix for an image's format, and the size of its disk in bytes.

    Names such as Ubuntu's ``.img`` do not show the format.
    """
    with open_file(path) as file:
        head = file.read(_HEAD)
    packing = None if head.startswith(QCOW2_MAGIC) else packing_of(head)
    if packing is not None:
        raise RepositoryError(
            f"{where} is a {packing} file, not a disk image",
            hint="use the distribution's .qcow2 or .raw image instead",
        )
    if head.lstrip()[:1] == b"<":
        raise RepositoryError(f"{where} is a web page, not a disk image")
    try:
        ending = ".qcow2" if find_format(path) == "qcow2" else ".img"
        return ending, _measured(path, ending)
    except DiskError as error:
        # The path is a temporary one, which would not help.
        raise DiskError(
            error.message.replace(str(path), where), hint="use another image of the distribution"
        ) from error


def _measured(path: Path, ending: str) -> int:
    return measure(SourceImage(path, path.stem, FORMATS[ending], Fingerprint.of(path.stat())))


def _describe(request: ImportRequest, image: Path, on_event: Reporter) -> None:
    """Write the image's sidecar entry for the publisher to complete; an existing one is kept."""
    path = sidecar_of(image)
    if path.exists():
        info(on_event, f"{path.name} exists and is kept")
        return
    lines = [f"[{request.stem}]", f"file={image.name}"]
    if scheme_of(request.address) in ("http", "https"):  # a local path is not published
        lines.append(f"notes=Imported from {request.address.partition('?')[0]}")
    write_text(path, "\n".join([*lines, ""]))

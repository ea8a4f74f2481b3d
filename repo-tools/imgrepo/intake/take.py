"""``import``: a distribution's cloud image, checked, among the images to publish.

First the digest and who vouches for it, then the image by that digest, then
its header; only what passed all three gets a name. The image keeps its bytes,
so that its digest stays the distribution's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from imgbuilder.cache.partial import PartialFile
from imgbuilder.disk.imageheader import find_format
from imgbuilder.disk.magic import packing_of
from imgbuilder.disk.qcow2 import QCOW2_MAGIC
from imgbuilder.errors import DiskError, RepositoryError, UsageError
from imgbuilder.events import Reporter, info
from imgbuilder.fetch.transfer import Fetcher
from imgbuilder.fetch.urls import hide_in, local_path, scheme_of
from imgbuilder.host import imagelocks
from imgbuilder.host.hashing import Fingerprint, hash_file
from imgbuilder.host.locks import exclusive
from imgbuilder.host.workspace import explain, new_file
from imgindex.files import open_file, sync_folder
from imgrepo.images.scan import FORMATS, SourceImage, is_stem, measure
from imgrepo.intake.places import name_in, template_name
from imgrepo.intake.proof import Evidence, Proof, prove
from imgrepo.intake.sums import Digests
from imgrepo.services import Services
from imgrepo.sharing.download import verified_download
from imgrepo.webroot.draft import sidecar_of

_LARGEST = 64 << 30
"""Bytes of the largest image that is fetched: a server must not fill the disk."""

_KEPT = timedelta(days=14)
"""How long the beginning of an image stays for the next run."""

_PARTS = ".pybuilder-import"
_HEAD = 512


@dataclass(frozen=True)
class ImportRequest:
    """What to take in.

    Attributes:
        address: Web address or path of the image.
        folder: The folder of images.
        evidence: What to check it by.
        name: The template's name; None for one made of the file's name.
        file: The image's file name, as its checksum file has it. Derived.
    """

    address: str
    folder: Path
    evidence: Evidence
    name: str | None = None
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
                f"there is no image {path}", hint="give its path, or its whole address on the web"
            )
        if not self.folder.is_dir():
            raise UsageError(
                f"{self.folder} is not a folder", hint=f"create it first: mkdir -p {self.folder}"
            )

    @property
    def stem(self) -> str:
        """Name of the template, and of the image without its ending."""
        return self.name or template_name(self.file)


@dataclass(frozen=True)
class Imported:
    """What was taken in.

    Attributes:
        path: The image.
        size: Size of its disk in bytes.
        proof: Why it is believed.
        new: Whether it was not here already.
    """

    path: Path
    size: int
    proof: Proof
    new: bool


def take_in(request: ImportRequest, services: Services, fetcher: Fetcher, on_event: Reporter) -> Imported:
    """Take an image in.

    Args:
        request: Which, and what to check it by.
        services: Verifier and key files.
        fetcher: Moves the bytes.
        on_event: Called with each event.

    Returns:
        Where it is now; an earlier import of the same name is replaced.

    Raises:
        TrustError: It is not the distribution's, as far as the evidence tells.
        FetchError: Something cannot be had; what came of the image is kept for the next run.
        DiskError: It is no image that is published: it refers to other files, or is of another format; or
            a running machine uses the one that it would replace.
        UsageError: There is another image of this name.
    """
    proof = prove(request.address, request.file, request.evidence, services, fetcher, on_event)
    parts = request.folder / _PARTS
    try:
        parts.mkdir(mode=0o700, exist_ok=True)
        with exclusive(parts / "lock", "is importing into the same folder", on_event):
            _sweep(parts, services.clock() - _KEPT)
            return _bring(request, proof, parts, fetcher, on_event)
    except OSError as error:
        raise explain(error, parts) from error


def _bring(
    request: ImportRequest, proof: Proof, parts: Path, fetcher: Fetcher, on_event: Reporter
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
        try:
            part.path.replace(final)
            sync_folder(request.folder)
        except OSError as error:
            raise explain(error, final) from error
    _describe(request, final, on_event)
    return Imported(final, size, proof, new=True)


def _sweep(parts: Path, before: datetime) -> None:
    """Remove beginnings that nobody came back for: the distribution has other images by now."""
    for path in parts.glob("sha*"):
        if path.lstat().st_mtime < before.timestamp():
            path.unlink()


def _already_here(request: ImportRequest) -> Path | None:
    """Find an image that has the name already.

    Raises:
        UsageError: It was not imported: somebody made it.
    """
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
    """Return the ending that fits an image's content, and the size of its disk in bytes.

    Names such as Ubuntu's ``.img`` say nothing of the content.

    Raises:
        DiskError: It is hostile, or of a format that is not published.
        RepositoryError: It is packed, or no image at all.
    """
    with open_file(path) as file:
        head = file.read(_HEAD)
    packing = None if head.startswith(QCOW2_MAGIC) else packing_of(head)
    if packing is not None:
        raise RepositoryError(
            f"{where} is a {packing} file, not a disk image",
            hint="take the distribution's .qcow2 or .raw image instead",
        )
    if head.lstrip()[:1] == b"<":
        raise RepositoryError(f"{where} is a web page, not a disk image")
    try:
        ending = ".qcow2" if find_format(path) == "qcow2" else ".img"
        return ending, _measured(path, ending)
    except DiskError as error:
        # Its path is a temporary one that says nothing to anybody.
        raise DiskError(
            error.message.replace(str(path), where), hint="take another image of the distribution"
        ) from error


def _measured(path: Path, ending: str) -> int:
    return measure(SourceImage(path, path.stem, FORMATS[ending], Fingerprint.of(path.stat())))


def _describe(request: ImportRequest, image: Path, on_event: Reporter) -> None:
    """Write the image's entry, for the publisher to fill in; one that is there already stays."""
    path = sidecar_of(image)
    if path.exists():
        info(on_event, f"{path.name} stays as it is")
        return
    lines = [f"[{request.stem}]", f"file={image.name}"]
    if scheme_of(request.address) in ("http", "https"):  # a path of this machine is nobody's business
        lines.append(f"notes=Imported from {request.address.partition('?')[0]}")
    with new_file(path) as temporary:
        try:
            temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")
        except OSError as error:
            raise explain(error, path) from error

"""Checks an index before it is published: its grammar, and with ``full`` also its signature and files.

The grammar and the two compatibility checks give the verdicts of
virt-index-validate, except that our clients must accept the OpenPGP frame, and
that nothing crashes. All problems are found, not only the first.
"""

from __future__ import annotations

import enum
import hashlib
import lzma
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from imgbuilder.cache.unpack import unpack
from imgbuilder.disk.blocks import compare
from imgbuilder.disk.qcow2 import parse_qcow2
from imgbuilder.errors import DiskError, PybuilderError, RepositoryError, TrustError, UsageError
from imgbuilder.events import Reporter, info, warn
from imgbuilder.host import process
from imgbuilder.host.hashing import hash_stream
from imgbuilder.host.privatefolder import scratch_folder
from imgindex.accept import AcceptPolicy, accept, show
from imgindex.blocklist import parse_blocklist
from imgindex.clearsign import MAX_FILE_SIZE, unverified_text
from imgindex.errors import IndexSyntaxError
from imgindex.files import open_file
from imgindex.gpg import trusted_keys_from_file
from imgindex.lexer import Document, parse_document
from imgindex.model import Entry
from imgindex.parse import Examined, examine_index
from imgindex.trust import TrustedKeys, UnverifiedText
from imgrepo.services import Services
from imgrepo.webroot.signing import PUBLIC_KEY, SIGNED_INDEX

_BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"


class Compatibility(enum.Enum):
    """The old version of virt-builder that must also be able to read the index."""

    NONE = "none"
    VERSION_1_24_1 = "1.24.1"
    VERSION_1_24_0 = "1.24.0"


@dataclass(frozen=True)
class ValidateRequest:
    """The index to check, and how; without ``key``, the keys are in ``index.gpg`` next to it."""

    path: Path
    compatibility: Compatibility = Compatibility.NONE
    full: bool = False
    key: Path | None = None


def validate(request: ValidateRequest, services: Services, on_event: Reporter) -> tuple[PybuilderError, ...]:
    """Check an index; return all problems, in the order of the file."""
    path, where = request.path, str(request.path)
    data = _read(path)
    try:
        text = unverified_text(data, where=where)
        document = parse_document(text.text, where=where, first_line=text.first_line)
    except (IndexSyntaxError, TrustError) as error:
        return (error,)
    problems: list[PybuilderError] = list(_incompatible(document, text, request.compatibility, where))
    if request.full:
        try:
            entries, wrong = _judge(data, text, request, services, on_event)
        except PybuilderError as error:
            problems.append(error)
            entries, wrong = examine_index(text, where=where)
        problems += wrong
        check = _signature_check(request, services)
        if check is None and any(entry.sig is not None for entry in entries):
            warn(on_event, f"{where}: no key to check the signatures of templates with was found")
        for entry in entries:
            problems += check_files(entry, path.parent, on_event, check)
    return tuple(problems)


def _signature_check(request: ValidateRequest, services: Services) -> CheckSignature | None:
    """Return the check of signatures of templates; None without a usable key, which is reported elsewhere."""
    try:
        pin = _pin(request)
    except PybuilderError:
        return None
    return lambda file, signature, where: services.verifier.verify_file(file, signature, pin, where=where)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint=f"try {path / SIGNED_INDEX}")
    try:
        with open_file(path) as file:
            return file.read(MAX_FILE_SIZE + 1)
    except FileNotFoundError as error:
        raise UsageError(
            f"the file {path} does not exist", hint="give the path of an index on this machine"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PybuilderError(
            f"cannot read {path}: {reason}", hint="give the path of an index on this machine"
        ) from error


def _pin(request: ValidateRequest) -> TrustedKeys:
    if request.key is not None:
        return trusted_keys_from_file(request.key, where=str(request.path))
    default = request.path.parent / PUBLIC_KEY
    if not default.exists():
        raise PybuilderError(
            f"{request.path}: the signature cannot be checked: {PUBLIC_KEY} is missing next to the index",
            hint="name the file with the public key: --gpgkey FILE",
        )
    return trusted_keys_from_file(default, where=str(request.path), any_owner=True)


def _judge(
    data: bytes, text: UnverifiedText, request: ValidateRequest, services: Services, on_event: Reporter
) -> Examined:
    """Read an index; a signed one as a client does that has never seen it."""
    where = str(request.path)
    if not data.startswith(_BEGIN):
        warn(on_event, f"{where} is not signed: clients refuse it unless configured with unsigned=yes")
        return examine_index(text, where=where)
    rule = AcceptPolicy(_pin(request), last=None, max_age=None, where=where, forget_hint="")
    accepted = accept(data, rule, examine_index, verifier=services.verifier, now=datetime.now(UTC))
    record = accepted.record
    until = "and does not expire" if record.expires_at is None else f"valid until {show(record.expires_at)}"
    info(on_event, f"signed by {accepted.signed.fingerprint} at {show(record.signed_at)}, {until}")
    return accepted.content


def _incompatible(
    document: Document, text: UnverifiedText, wanted: Compatibility, where: str
) -> Iterator[PybuilderError]:
    """Find the parts that old versions of virt-builder cannot read."""
    if wanted is Compatibility.NONE:
        return
    for number, line in enumerate(text.text.split("\n"), text.first_line):
        if line.startswith("#"):
            yield _too_new(where, number, "there are comments", Compatibility.VERSION_1_24_1)
            break
    for section in document.sections:
        if wanted is Compatibility.VERSION_1_24_0 and "_" in section.name:
            yield _too_new(where, section.line, f"the name {section.name} has a '_'", wanted)
        for item in section.fields:
            if "." in item.key:
                problem = f"the field name {item.key} has a '.'"
                yield _too_new(where, item.line, problem, Compatibility.VERSION_1_24_1)
        if wanted is Compatibility.VERSION_1_24_0 and all(item.key != "sig" for item in section.fields):
            yield _too_new(where, section.line, f"template {section.name} has no sig field", wanted)


def _too_new(where: str, line: int, problem: str, version: Compatibility) -> RepositoryError:
    return IndexSyntaxError(where, line, f"{problem}, which virt-builder {version.value} cannot read")


_PIECE = 1 << 20
_XZ_MAGIC = b"\xfd7zXZ\x00"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LARGEST_HEADER = 2 << 20
"""Bytes of the largest cluster of a qcow2 image, which holds its header."""
_LARGEST_SIGNATURE = 16 << 10
"""Bytes of a detached signature."""
_MEMORY = 80 << 20
"""Bytes that unpacking the header may use, the same as for clients."""


CheckSignature = Callable[[Path, bytes, str], None]
"""Raises a ``TrustError`` unless a file has that detached signature by a key of the publisher.

The third argument begins the messages.
"""


def check_files(
    entry: Entry, folder: Path, on_event: Reporter, check_signature: CheckSignature | None
) -> Iterator[PybuilderError]:
    """Check the files that an entry names; yield the problems.

    ``check_signature`` checks the signature of a template (``sig``), which virt-builder requires without a
    digest; without a key it is None.
    """
    what = f"template {entry.os_version}"
    problems = list(_check(folder / entry.file, what, entry.compressed_size, entry.sha512, entry, on_event))
    if entry.zstd is not None:
        path = folder / entry.zstd.file
        more = list(_check(path, what, entry.zstd.compressed_size, entry.zstd.sha512, None, on_event))
        if entry.blocks is not None:
            listed = entry.blocks
            size, sha512 = listed.compressed_size, listed.sha512
            more += _check(folder / listed.file, what, size, sha512, None, on_event)
        problems += more or _check_second(entry, folder, what, on_event, first_is_good=not problems)
    yield from problems
    if entry.sig is not None:
        yield from _check_signature(folder / entry.file, folder / entry.sig, what, check_signature)


def _check_second(
    entry: Entry, folder: Path, what: str, on_event: Reporter, *, first_is_good: bool
) -> list[PybuilderError]:
    """Unpack the zstd file as clients do, and the other file if it is good; compare the disks."""
    assert entry.zstd is not None
    paths = [folder / entry.zstd.file]
    if first_is_good:
        paths.append(folder / entry.file)
    contents: set[str] = set()
    try:
        with scratch_folder() as scratch:
            for path in paths:
                with open_file(path) as file:
                    contents.add(unpack(file, scratch / "disk", entry, on_event, where=f"{what}: {path}"))
                    if path is paths[0] and entry.blocks is not None:
                        _check_blocks(entry, folder / entry.blocks.file, file, scratch / "disk", what)
                (scratch / "disk").unlink()
    except OSError as error:
        return [RepositoryError(f"{what}: cannot read {paths[0]}: {error.strerror}")]
    except PybuilderError as error:
        return [error]
    if len(contents) > 1:
        return [RepositoryError(f"{what}: {paths[0]} does not hold the same disk as {paths[1]}")]
    return []


def _check_blocks(entry: Entry, path: Path, packed: BinaryIO, disk: Path, what: str) -> None:
    """Compare a list of blocks with the zstd file and with the disk in it."""
    assert entry.zstd is not None
    where = f"{what}: {path}"
    with open_file(path) as file:
        data = file.read()
    blocks = parse_blocklist(data, size=entry.size, packed=entry.zstd.compressed_size, where=where)
    with open_file(disk) as file:
        missing, stray = compare(file.fileno(), blocks)
    wrong = {block.number for block in missing} | set(stray)
    for block in blocks:
        frame = os.pread(packed.fileno(), block.length, block.offset)
        if hashlib.sha256(frame).digest()[:16] != block.packed_digest:
            wrong.add(block.number)
    if wrong:
        raise RepositoryError(
            f"{where}: {len(wrong)} blocks are not those of the disk, the first is {min(wrong)}",
            hint="publish the image again",
        )


def _check_signature(
    file: Path, signature: Path, what: str, check: CheckSignature | None
) -> Iterator[PybuilderError]:
    try:
        with open_file(signature) as opened:
            data = opened.read(_LARGEST_SIGNATURE + 1)
        if check is not None and file.is_file():  # a missing one was reported
            check(file, data, f"{what}: {signature}")
    except OSError as error:
        yield RepositoryError(f"{what}: cannot read the signature {signature}: {error.strerror}")
    except PybuilderError as error:
        yield error


def _check(
    path: Path, what: str, size: int | None, sha512: str | None, disk: Entry | None, on_event: Reporter
) -> Iterator[PybuilderError]:
    try:
        with open_file(path) as file:
            found = os.fstat(file.fileno()).st_size
            if size is not None and found != size:
                yield RepositoryError(f"{what}: {path} has {found} bytes instead of {size}")
            elif (
                sha512 is not None
                and hash_stream(file, on_event=on_event, label=f"Reading {path.name}", total=found) != sha512
            ):
                yield RepositoryError(f"{what}: {path} has a different SHA-512 from the one in the index")
            elif disk is not None:
                _check_disk(path, file, disk, what)
    except OSError as error:
        yield RepositoryError(f"{what}: cannot read {path}: {error.strerror}")
    except PybuilderError as error:
        yield error


def _check_disk(path: Path, file: BinaryIO, entry: Entry, what: str) -> None:
    """Compare the disk inside a file with the index, as far as possible without unpacking."""
    file.seek(0)
    head = file.read(len(_XZ_MAGIC))
    file.seek(0)
    try:
        if head == _XZ_MAGIC:
            size = _unpacked_size(path)
            start = _unpacked_start(file) if entry.format == "qcow2" else b""
        elif head.startswith(_ZSTD_MAGIC):
            return  # frames may leave the size out
        else:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_LARGEST_HEADER)
        if entry.format == "qcow2":
            size = parse_qcow2(start, size, where=str(path)).virtual_size
    except (lzma.LZMAError, EOFError, DiskError, ValueError) as error:
        raise RepositoryError(f"{what}: {path} does not hold a disk: {error}") from error
    if size != entry.size:
        raise RepositoryError(f"{what}: the disk in {path} has {size} bytes instead of {entry.size}")


def _unpacked_size(path: Path) -> int:
    done = process.run(["xz", "--robot", "--list", "--format=xz", "--", path.absolute()], check=False)
    for line in done.stdout.decode("utf-8", "replace").split("\n"):
        fields = line.split("\t")
        if done.status == 0 and fields[0] == "totals" and len(fields) > 4:
            return int(fields[4])
    raise ValueError(f"xz cannot read it: {done.stderr.strip()[-200:]}")


def _unpacked_start(file: BinaryIO) -> bytes:
    unpacking = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    start = b""
    while len(start) < _LARGEST_HEADER and not unpacking.eof:
        piece = file.read(_PIECE) if unpacking.needs_input else b""
        if unpacking.needs_input and not piece:
            break
        start += unpacking.decompress(piece, _LARGEST_HEADER - len(start))
    return start

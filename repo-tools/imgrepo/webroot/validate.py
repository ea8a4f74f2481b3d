"""Checking an index before it is published: its grammar, and with ``full`` all that it promises.

The grammar and the two compatibility checks give the verdicts of
virt-index-validate, except that the OpenPGP frame must be one that our clients
accept, and that nothing crashes. All that is wrong is found, not only the first.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from imgbuilder.errors import PybuilderError, RepositoryError, TrustError
from imgbuilder.events import Reporter, info, warn
from imgindex.accept import Rule, accept
from imgindex.clearsign import MAX_FILE_SIZE, unverified_text
from imgindex.errors import IndexSyntaxError
from imgindex.freshness import show
from imgindex.lexer import Document, parse_document
from imgindex.parse import Examined, examine_index
from imgindex.regular import open_file
from imgindex.trust import KeyPin, UnverifiedText
from imgrepo.services import Services
from imgrepo.webroot.filecheck import CheckSignature, check_files
from imgrepo.webroot.signing import PUBLIC_KEY

_BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"


class Compatibility(enum.Enum):
    """Which old virt-builder must be able to read the index, too."""

    NONE = "none"
    VERSION_1_24_1 = "1.24.1"
    VERSION_1_24_0 = "1.24.0"


@dataclass(frozen=True)
class ValidateRequest:
    """What to check.

    Attributes:
        path: The index, signed or not.
        compatibility: Which old clients must be able to read it.
        full: Check its meaning, its signature and the files beside it, too.
        key: File with the public keys that may have signed it; None for ``index.gpg`` beside it.
    """

    path: Path
    compatibility: Compatibility = Compatibility.NONE
    full: bool = False
    key: Path | None = None


def validate(request: ValidateRequest, services: Services, on_event: Reporter) -> tuple[PybuilderError, ...]:
    """Check an index.

    Args:
        request: What to check.
        services: The clients' accept rule.
        on_event: Reports by whom and until when the index is signed, and of the progress of reading files.

    Returns:
        All that is wrong, in the order of the file; empty when it is valid.

    Raises:
        PybuilderError: The file cannot be read.
    """
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
            warn(on_event, f"{where}: there is no key to check the signatures of templates with")
        for entry in entries:
            problems += check_files(entry, path.parent, on_event, check)
    return tuple(problems)


def _signature_check(request: ValidateRequest, services: Services) -> CheckSignature | None:
    """Return what judges the signatures of templates; None without a usable key, of which others tell."""
    try:
        pin = _pin(request, services)
    except PybuilderError:
        return None
    return lambda file, signature, where: services.verify_file(file, signature, pin, where=where)


def _read(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(MAX_FILE_SIZE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PybuilderError(
            f"cannot read {path}: {reason}", hint="give the path of an index on this machine"
        ) from error


def _pin(request: ValidateRequest, services: Services) -> KeyPin:
    if request.key is not None:
        return services.pin_from_file(request.key, where=str(request.path))
    beside = request.path.parent / PUBLIC_KEY
    if not beside.exists():
        raise PybuilderError(
            f"{request.path}: the signature cannot be checked: there is no {PUBLIC_KEY} beside the index",
            hint="name the file with the public key: --gpgkey FILE",
        )
    return services.pin_from_file(beside, where=str(request.path))


def _judge(
    data: bytes, text: UnverifiedText, request: ValidateRequest, services: Services, on_event: Reporter
) -> Examined:
    """Read an index; a signed one by the rule of a client that has never seen it before."""
    where = str(request.path)
    if not data.startswith(_BEGIN):
        warn(on_event, f"{where} is not signed: clients refuse it, unless they are told to trust anybody")
        return examine_index(text, where=where)
    rule = Rule(_pin(request, services), last=None, max_age=None, where=where, repair="")
    accepted = accept(data, rule, examine_index, verifier=services.verifier, now=datetime.now(UTC))
    record = accepted.record
    until = "for ever" if record.expires_at is None else f"until {show(record.expires_at)}"
    info(on_event, f"signed by {accepted.signed.fingerprint} at {show(record.signed_at)}, valid {until}")
    return accepted.content


def _incompatible(
    document: Document, text: UnverifiedText, wanted: Compatibility, where: str
) -> Iterator[PybuilderError]:
    """Find what old versions of virt-builder could not read."""
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

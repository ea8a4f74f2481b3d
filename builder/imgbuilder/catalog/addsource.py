"""Writing a new source into the user's configuration, once its index was accepted."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from imgbuilder.catalog.sources import Source, SourceFormat, fingerprints, index_format
from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.fetch.urls import Address, check_uri, local_path, scheme_of
from imgindex.files import make_folder, sync_folder, temporary_file
from imgindex.keys import read_key_file

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FINGERPRINT = re.compile(r"(?:0[xX])?[0-9A-Fa-f]{8,}")


@dataclass(frozen=True)
class NewSource:
    """A source to configure."""

    source: Source
    """The content of the configuration, with the key where the user has it."""
    path: Path
    key_path: Path | None
    """The copy of the key file; None for a key of the user's keyring."""


def new_source(
    name: str, uri: str, key: str | None, only: Iterable[str], folder: Path, *, unsigned: bool = False
) -> NewSource:
    """Check a source that the user wants to add, without asking the source."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name for a source: use only letters, digits, '.', '_' and '-'",
            hint="pybuilder source add NAME URL --gpgkey FILE",
        )
    check_uri(uri)
    if "\n" in uri or uri != uri.strip():
        raise UsageError(f"{str(Address(uri))!r} is not an address for a configuration file")
    if scheme_of(uri) is None:
        uri = str(Path(uri).absolute())
    if "," in uri and local_path(uri) is not None:
        raise UsageError(f"{uri}: a path with a comma cannot be written into a configuration file")
    if not key and not unsigned:
        raise UsageError(
            "source add needs --gpgkey: without a key nothing of a source could be trusted",
            hint="get the publisher's key file, compare its fingerprint, and give --gpgkey FILE",
        )
    uri, kind = index_format(uri)
    source = Source(name, uri, origin=folder / f"{name}.conf", format=kind)
    if not key:
        return NewSource(replace(source, unsigned=True, check=False), folder / f"{name}.conf", None)
    pinned = tuple(fingerprint for text in only for fingerprint in fingerprints(text))
    if _FINGERPRINT.fullmatch("".join(key.replace(",", "").split())) and not Path(key).exists():
        if pinned:
            raise UsageError(
                "--fingerprint selects keys of a --gpgkey file, but --gpgkey is a fingerprint here"
            )
        return NewSource(replace(source, key=fingerprints(key)), folder / f"{name}.conf", None)
    if scheme_of(key) not in (None, "file"):
        raise UsageError(
            f"--gpgkey {Address(key)} would have to be downloaded unchecked",
            hint="fetch the key yourself, compare its fingerprint, and give --gpgkey FILE",
        )
    file = local_path(key)
    if file is not None and file.is_dir():
        raise UsageError(f"--gpgkey {key} is a folder", hint="give a key file in it, or a full fingerprint")
    if file is None or not file.is_file():
        raise UsageError(f"--gpgkey {key}: no such file", hint="give a key file, or a full fingerprint")
    return NewSource(
        replace(source, key=file.absolute(), only=pinned), folder / f"{name}.conf", folder / f"{name}.gpg"
    )


def check_new(new: NewSource, configured: Iterable[tuple[str, Path | None]]) -> None:
    """Refuse a source whose name or files exist already."""
    for name, origin in configured:
        if name == new.source.name and origin is not None:
            raise UsageError(
                f"there is a source {name} already, in {origin}",
                hint="choose another name, or remove it from that file first",
            )
    for path in (new.path, new.key_path):
        if path is not None and os.path.lexists(path):
            raise _taken(path)


def write_source(new: NewSource) -> None:
    """Write the key file and then the configuration file, each whole or not at all."""
    folder = new.path.parent
    with contextlib.ExitStack() as undo:
        try:
            make_folder(folder, 0o755)
            if new.key_path is not None:
                assert isinstance(new.source.key, Path)
                _write(new.key_path, read_key_file(new.source.key, f"source {new.source.name}"), 0o644)
                undo.callback(new.key_path.unlink)
            # An address may hold a password.
            mode = 0o600 if Address(new.source.uri).has_secret else 0o644
            _write(new.path, _text(new).encode(), mode)
        except OSError as error:
            raise WorkspaceError(f"cannot write in {folder}: {error.strerror}") from error
        undo.pop_all()


def _text(new: NewSource) -> str:
    source = new.source
    lines = [f"[{source.name}]", f"uri={Address(source.uri).reveal()}"]
    if source.format is not SourceFormat.NATIVE:
        lines.append(f"format={source.format.value}")
    if new.key_path is not None:
        lines.append(f"gpgkey=./{new.key_path.name}")
    elif isinstance(source.key, tuple):
        lines.append(f"gpgkey={','.join(source.key)}")
    else:
        lines.append("unsigned=yes")
    if source.only:
        lines.append(f"fingerprint={','.join(source.only)}")
    return "".join(f"{line}\n" for line in lines)


def _write(path: Path, data: bytes, mode: int) -> None:
    with temporary_file(path.parent) as (descriptor, temporary):
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
        try:
            os.link(temporary, path)  # unlike a rename, this replaces nothing
        except OSError as error:
            if error.errno == errno.EEXIST:
                raise _taken(path) from error
            raise
    sync_folder(path.parent)


def _taken(path: Path) -> UsageError:
    return UsageError(f"{path} exists already", hint="choose another name, or remove that file")

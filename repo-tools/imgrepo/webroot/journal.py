"""The journal of a served folder: who published, withdrew or signed what, and when.

Each signing of the index adds a line: JSON, a tab, and a detached signature. A line holds the
digest of the one before it, so that the signature of the last line vouches for all of them, also
for those of keys that are no longer used. A line keeps the entries that it replaced: ``rollback``
finds them there. No client reads the file. It is kept whole: 1 KB for each changed template.
"""

from __future__ import annotations

import base64
import binascii
import enum
import getpass
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from imgbuilder.errors import RepositoryError, TrustError
from imgbuilder.host.workspace import explain
from imgindex.files import open_file
from imgindex.gpg import GpgVerifier
from imgindex.model import Entry, Index
from imgindex.parse import parse_index
from imgindex.trust import TrustedKeys, UnverifiedText, VerifiedText
from imgindex.write import write_index
from imgrepo.recordfile import Many, Moment, RecordFile

JOURNAL_NAME = ".pybuilder-repo-journal"
_LARGEST = 256 << 20
_FRESH = "move it away: a new one begins with the next command that signs"


class Action(enum.Enum):
    """The command that signed an index."""

    PUBLISH = "publish"
    REFRESH = "refresh"
    EDIT = "edit"
    DEPRECATE = "deprecate"
    ALIAS = "alias"
    HIDE = "hide"
    WITHDRAW = "withdraw"
    WITHDRAW_UNDO = "withdraw --undo"
    ROLLBACK = "rollback"
    CHANNEL = "channel"
    ROTATE_KEY = "rotate-key"


@dataclass(frozen=True)
class Change:
    """A template that changed.

    Attributes:
        before: Its revision before; None for a new template.
        after: Its revision now; None for one that is gone.
        file: The file that it has now; empty for one that is gone.
        former: Its entry before, as in an index; empty for a new template.
    """

    name: str
    arch: str
    before: int | None
    after: int | None
    file: str
    former: str

    def former_entry(self) -> Entry | None:
        """Return the entry before."""
        if not self.former:
            return None
        (entry,) = parse_index(UnverifiedText(self.former), where=JOURNAL_NAME).entries
        return entry


@dataclass(frozen=True)
class Line:
    """A line of the journal.

    Attributes:
        who: User and machine.
        signer: Full fingerprint of the primary key.
        index: SHA-512 of the signed text.
        previous: SHA-512 of the line before; empty in the first one.
    """

    when: Moment
    who: str
    action: Action
    signer: str
    index: str
    previous: str
    changes: Many[Change]


@dataclass(frozen=True)
class Journal:
    """The lines that the last signature vouches for, and what is wrong with the file, if anything."""

    lines: tuple[Line, ...]
    problem: str | None = None


_RECORD = RecordFile(Line, JOURNAL_NAME, limit=64 << 20, hint=_FRESH)


def next_line(folder: Path, action: Action, before: Index, after: Index, signed: VerifiedText) -> bytes:
    """Return the text of the next line, which is to be signed."""
    lines = _stored(folder)
    line = Line(
        when=signed.signed_at,
        who=_who(),
        action=action,
        signer=signed.primary_fingerprint,
        index=_digest(signed.text.encode()),
        previous=_digest(lines[-1]) if lines else "",
        changes=tuple(changes(before, after)),
    )
    return _RECORD.text(line, indent=None).rstrip(b"\n")


def journal_with(folder: Path, line: bytes, signature: bytes) -> bytes:
    """Return the content of the journal with one more line."""
    new = line + b"\t" + base64.b64encode(signature)
    return b"".join(one + b"\n" for one in (*_stored(folder), new))


def read_journal(folder: Path, verifier: GpgVerifier, trusted: TrustedKeys, index: str) -> Journal:
    """Read the journal of a folder; ``index`` is the signed text that is published there."""
    where, stored = str(folder / JOURNAL_NAME), _stored(folder)
    if not stored:
        return Journal(())
    try:
        text, _, signature = stored[-1].partition(b"\t")
        verifier.verify_detached(text, base64.b64decode(signature, validate=True), trusted, where=where)
    except (TrustError, binascii.Error) as error:
        return Journal((), f"{where}: the last line is not signed by a key of the index: {error}")
    lines: list[Line] = []
    wanted: str | None = None
    for number, one in reversed(list(enumerate(stored, 1))):
        problem = f"{where}: line {number} was changed, or lines after it were removed"
        if wanted is not None and _digest(one) != wanted:
            return Journal(tuple(reversed(lines)), problem)
        try:
            line = _RECORD.parse(one.partition(b"\t")[0], where=f"{where}:{number}")
        except RepositoryError as error:
            return Journal(tuple(reversed(lines)), error.message)
        lines.append(line)
        wanted = line.previous
    found = tuple(reversed(lines))
    if wanted:
        return Journal(found, f"{where}: lines at the beginning were removed")
    if found[-1].index != _digest(index.encode()):
        return Journal(found, f"{where}: the index was not put there by the command of the last line")
    return Journal(found)


def _stored(folder: Path) -> list[bytes]:
    """Return the lines of the file; a line that was cut off is one as well."""
    path = folder / JOURNAL_NAME
    try:
        with open_file(path) as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise explain(error, path) from error
    if len(data) > _LARGEST:
        raise RepositoryError(f"{path} is larger than {_LARGEST} bytes", hint=_FRESH)
    return [line for line in data.split(b"\n") if line]


def _digest(data: bytes) -> str:
    return hashlib.sha512(data).hexdigest()


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in a container
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def changes(before: Index, after: Index) -> Iterator[Change]:
    """Yield what differs between two indexes, one template at a time."""
    for key in sorted({(entry.os_version, entry.arch) for entry in (*before.entries, *after.entries)}):
        was, now = before.find(*key), after.find(*key)
        if was != now:
            yield Change(
                *key,
                before=was.revision if was else None,
                after=now.revision if now else None,
                file=now.file if now else "",
                former=write_index(Index((was,))) if was else "",
            )


def former_revisions(lines: Sequence[Line], name: str, arch: str) -> Iterator[tuple[datetime, Entry]]:
    """Yield the former entries of a template, newest first, each with the time when it was replaced."""
    for line in reversed(lines):
        for change in line.changes:
            entry = change.former_entry() if (change.name, change.arch) == (name, arch) else None
            if entry is not None:
                yield line.when, entry

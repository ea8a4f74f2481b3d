"""What a reviewer signs: the files of an entry, each by its SHA-512. A pure module.

The lines are those of sha512sum(1), which takes the others for comments: people can check an entry by hand.
``approval`` has the files and the keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgbuilder.errors import RepositoryError, UsageError
from imgindex.lexer import MISLEADING

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST = 64 << 10
"""Bytes that a signed manifest may have; one has some hundred."""
_FIRST = "# approved entry of a library, version 1"
_NAME = "# entry: "
_NOTE = "# note: "
_LONGEST_NOTE = 200
_LINE = re.compile(r"([0-9a-f]{128})  ([A-Za-z0-9][A-Za-z0-9._+~-]*(?:/[A-Za-z0-9][A-Za-z0-9._+~-]*)?)")
_CONTROL = re.compile(rf"[\n\t]|{MISLEADING.pattern}")


@dataclass(frozen=True)
class Manifest:
    """What is approved.

    Attributes:
        name: The entry's.
        files: SHA-512 in hex of each file, by its path in the entry's folder.
        note: What the reviewer adds, as ``check_note`` returns it.
    """

    name: str
    files: Mapping[str, str]
    note: str = ""


def check_note(note: str) -> str:
    """Return what a reviewer adds, without blanks around it.

    Raises:
        UsageError: It is more than a line, too long, or would drive a terminal.
    """
    note = note.strip()
    if _CONTROL.search(note) or len(note) > _LONGEST_NOTE:
        raise UsageError(f"the note is not one line of at most {_LONGEST_NOTE} plain characters")
    return note


def write_manifest(manifest: Manifest) -> str:
    """Write the text that is signed.

    Raises:
        UsageError: A file's name cannot be said in it.
    """
    lines = [_FIRST, f"{_NAME}{manifest.name}", *([f"{_NOTE}{manifest.note}"] if manifest.note else [])]
    for path, digest in sorted(manifest.files.items()):
        line = f"{digest}  {path}"
        if not _LINE.fullmatch(line):
            raise UsageError(f"{path!r} cannot be approved by its name", hint="rename it")
        lines.append(line)
    return "\n".join(lines) + "\n"


def read_manifest(text: str, *, where: str) -> Manifest:
    """Read what ``write_manifest`` wrote, and nothing else.

    Args:
        text: The text that was signed.
        where: Names the file in messages.

    Raises:
        RepositoryError: It is no such text.
    """
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or lines[0] != _FIRST or not lines[1].startswith(_NAME):
        raise RepositoryError(f"{where} is signed, but no approval of an entry", hint="let it be made anew")
    note = lines.pop(2).removeprefix(_NOTE) if lines[2].startswith(_NOTE) else ""
    files: dict[str, str] = {}
    for line in lines[2:]:
        match = _LINE.fullmatch(line)
        if match is None or match[2] in files:
            raise RepositoryError(f"{where} has a line that no approval has", hint="let it be made anew")
        files[match[2]] = match[1]
    if not files or _CONTROL.search(note):
        raise RepositoryError(f"{where} approves nothing that can be told", hint="let it be made anew")
    return Manifest(lines[1].removeprefix(_NAME), files, note)


def difference(approved: Manifest, name: str, files: Mapping[str, str]) -> str | None:
    """Say how an entry differs from what was approved; None when it does not. A pure function.

    Args:
        approved: What was signed.
        name: The entry's name now.
        files: Its files now, as in a manifest.
    """
    if approved.name != name:
        return f"it is of another entry, {approved.name}"
    changes = [
        *(f"{path} is not the one that was approved" for path in sorted(files.keys() & approved.files.keys())
          if files[path] != approved.files[path]),
        *(f"{path} was added since" for path in sorted(files.keys() - approved.files.keys())),
        *(f"{path} is gone since" for path in sorted(approved.files.keys() - files.keys())),
    ]  # fmt: skip
    return "; ".join(changes) or None

"""The interface of upload targets, and their addresses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.events import Reporter
from imgbuilder.fetch.urls import without_secrets

_SAFE_PATH = r"[A-Za-z0-9._~+,@%=/-]"
_USER = r"(?:[A-Za-z0-9._-]+@)?"
_HOST = r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])"
_RSYNC = re.compile(rf"rsync://{_USER}{_HOST}(?::[0-9]{{1,5}})?/{_SAFE_PATH}+")
_SSH = re.compile(rf"{_USER}{_HOST}:(?!:){_SAFE_PATH}*")
_S3 = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9._/+=-]*))?")


class UploadError(PybuilderError):
    """An upload failed; what is served at the target is as valid as before."""


@dataclass(frozen=True)
class Place:
    """The address of a target.

    Attributes:
        text: As given, without a slash at its end.
        bucket: Of an S3 address, the bucket; empty for rsync.
        prefix: Of an S3 address, the start of each object's name: empty, or ending in a slash.
    """

    text: str
    bucket: str = ""
    prefix: str = ""

    @property
    def shown(self) -> str:
        """The address without user information."""
        return without_secrets(self.text)


class Target(Protocol):
    """A served folder on another machine."""

    def sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of the files directly in it, by name.

        Raises:
            UploadError: The target cannot be reached.
        """
        ...

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file of it.

        Raises:
            UploadError: It cannot be read, or is larger than ``limit`` bytes.
        """
        ...

    def put(self, folder: Path, names: Sequence[str], on_event: Reporter) -> tuple[str, ...]:
        """Send files; each appears whole under its name, or not at all.

        Args:
            folder: The folder that holds them.
            names: Their paths in it; files that are unchanged at the target are not sent.
            on_event: Called with each event.

        Returns:
            The names of the files that were sent.

        Raises:
            UploadError: A file did not arrive; others may have.
        """
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Delete files, if they exist.

        Raises:
            UploadError: A file could not be deleted.
        """
        ...


def read_place(text: str) -> Place:
    """Read the address of a target.

    Args:
        text: ``s3://bucket/prefix``, ``rsync://host/module/path``, or ``host:path`` for rsync over ssh.

    Raises:
        UsageError: It is none of these, or has characters that are special to a remote shell.
    """
    plain = text.rstrip("/") if not text.endswith(":/") else text
    s3 = _S3.fullmatch(plain)
    if s3 is not None:
        prefix = (s3["prefix"] or "").strip("/")
        if ".." not in prefix.split("/"):
            return Place(plain, s3["bucket"], f"{prefix}/" if prefix else "")
    elif _RSYNC.fullmatch(plain) or ("://" not in text and _SSH.fullmatch(plain)):
        return Place(plain)
    shown = without_secrets(text) if "://" in text else text.rpartition("@")[2]
    raise UsageError(
        f"{shown!r} is not an upload target",
        hint="give s3://bucket/prefix, rsync://host/module/path, or host:path for rsync over ssh; pass "
        "passwords in RSYNC_PASSWORD, ssh keys, or the configuration of AWS",
    )

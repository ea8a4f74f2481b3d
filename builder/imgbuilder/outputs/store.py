"""The port of places on other machines that images are put to, and the addresses of images there."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.errors import UsageError
from imgbuilder.events import Reporter
from imgbuilder.fetch.urls import without_secrets

_POOL = re.compile(
    r"libvirt:(?P<pool>[A-Za-z0-9_+][A-Za-z0-9_.+-]*)(?:/(?P<name>[A-Za-z0-9_+][A-Za-z0-9_.+-]*))?"
)
_S3 = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<path>[A-Za-z0-9._/+=-]*))?")


@dataclass(frozen=True)
class Domain:
    """A machine that libvirt runs from an image.

    Attributes:
        name: Its name.
        memory: MiB.
        processors: Their number.
        network: The network of libvirt that its card is in.
        mac: The MAC address of the card, or an empty text.
        start: Whether it is started.
    """

    name: str
    memory: int
    processors: int
    network: str
    mac: str
    start: bool


@dataclass(frozen=True)
class Remote:
    """The address of an image on another machine.

    Attributes:
        kind: ``libvirt`` or ``s3``.
        holder: The pool or the bucket.
        name: The name of the image there.
        server: The URI of libvirt, or the URL of S3's server; empty for what the environment says.
        domain: The machine that libvirt runs from it, if one is wanted.
    """

    kind: str
    holder: str
    name: str
    server: str = ""
    domain: Domain | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{'//' if self.kind == 's3' else ''}{self.holder}/{self.name}"

    def as_data(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    @classmethod
    def from_data(cls, fields: Mapping[str, Any]) -> Remote:
        """Return the address that ``as_data`` described."""
        domain = fields["domain"]
        return cls(**{**fields, "domain": None if domain is None else Domain(**domain)})


@dataclass(frozen=True)
class Image:
    """A finished image in a local file."""

    path: Path
    format: OutputFormat
    arch: str


class Store(Protocol):
    """A place for images on another machine. Its methods raise ``PybuilderError`` if it does not serve."""

    def found(self, names: Collection[str]) -> set[str]:
        """Return those of the names under which there is something."""
        ...

    def check(self, remote: Remote, *, ours: bool) -> None:
        """Refuse to replace what is in use, or was not made by us.

        Raises:
            UploadError: The message says what it is.
        """
        ...

    def put(self, image: Image, remote: Remote, on_event: Reporter) -> None:
        """Put an image there, whole or not at all, in place of an earlier one."""
        ...


_OTHER_PLACE = re.compile(r"(?!s3://|libvirt:|block:)[A-Za-z][A-Za-z0-9+.-]*:")
"""The beginning of a place that is none of ours, and may be mistyped."""


def read_remote(text: str, default: str, server: str, domain: Domain | None) -> Remote | None:
    """Read the address of an image; None if it is not on another machine.

    Args:
        text: The address; the name of the image may be missing.
        default: The name then.
        server: The server, or an empty text.
        domain: The machine that runs from it, if one is wanted.
    """
    if _OTHER_PLACE.match(text):
        raise UsageError(
            f"images cannot be put to {without_secrets(text)!r}",
            hint="known are s3://, libvirt: and block:; for a file of that name: ./NAME",
        )
    if text.startswith("libvirt:"):
        found = _POOL.fullmatch(text)
        if found is None:
            raise UsageError(f"{text!r} is not a volume", hint="such as libvirt:default/{host}.qcow2")
        return Remote("libvirt", found["pool"], found["name"] or default, server, domain)
    if text.startswith("s3://"):
        bucket, path = read_s3(text)
        if not bucket or not path.rpartition("/")[2]:
            path += default
        if not bucket:
            raise UsageError(f"{text!r} is not an object", hint="such as s3://bucket/images/{host}.qcow2")
        return Remote("s3", bucket, path, server)
    return None


def check_server(kind: str, server: str) -> None:
    """Refuse what is not the server of an image, or has a password."""
    if kind == "libvirt":
        pattern, example = r"[a-z]+(\+[a-z0-9]+)?://([A-Za-z0-9._-]+@)?[^\s@]*", "qemu+ssh://root@host/system"
    else:
        pattern, example = r"https?://[^\s@?#]+", "https://s3.example.org"
    if not re.fullmatch(pattern, server):
        raise UsageError(
            f"{without_secrets(server)!r} is not the address of a server", hint=f"such as {example}"
        )


def read_s3(text: str) -> tuple[str, str]:
    """Return bucket and path of an address of S3; two empty texts if it is none."""
    found = _S3.fullmatch(text)
    path = (found["path"] or "").lstrip("/") if found else ""
    if found is None or ".." in path.split("/"):
        return "", ""
    return found["bucket"], path


def open_store(remote: Remote) -> Store:
    """Return the place of an image."""
    from imgbuilder.outputs.libvirt import LibvirtPool  # late: each loads what it needs
    from imgbuilder.outputs.s3 import S3Store

    opened: Mapping[str, Callable[[Remote], Store]] = {"libvirt": LibvirtPool, "s3": S3Store}
    return opened[remote.kind](remote)

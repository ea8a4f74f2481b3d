"""Records that the tools make of an entry's image, each in a JSON file in the entry's folder.

A record holds for one image, by its SHA-512.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from imgbuilder.events import Reporter
from imgbuilder.host.hashing import Fingerprint
from imgrepo.images.compress import hash_image
from imgrepo.images.scan import SourceImage
from imgrepo.recordfile import Many, Moment, RecordFile


@dataclass(frozen=True)
class ImageMark:
    """The image that a record is of; as long as its fingerprint is the same, it is not read."""

    sha512: str
    fingerprint: Fingerprint

    @classmethod
    def of(cls, image: SourceImage, on_event: Reporter) -> ImageMark:
        """Read an image and return its mark."""
        return cls(hash_image(image, on_event), image.fingerprint)

    def fits(self, image: SourceImage, on_event: Reporter) -> bool:
        """Return whether an image is the marked one; it is read only if it was touched."""
        return self.fingerprint == image.fingerprint or self.sha512 == hash_image(image, on_event)


class Verdict(enum.Enum):
    """The result of a boot check."""

    BOOTED = "booted"
    FAILED = "failed"


@dataclass(frozen=True)
class BootRecord:
    """``boot/boot.json``. Next to it: ``serial.log``, ``screen.png`` and ``thumbnail.png`` (320x240).

    Attributes:
        qemu: Version of QEMU, such as ``7.2.11``.
        accelerator: ``kvm`` or ``tcg``.
        seconds: From the start to the marker, or to the end when it failed.
        ports: Ports of the guest that answered.
    """

    image: ImageMark
    verdict: Verdict
    reason: str
    qemu: str
    accelerator: str
    started: Moment
    seconds: float
    concerns: Many[str] = ()
    ports: Many[int] = ()
    pictures: bool = False


@dataclass(frozen=True)
class Package:
    """A binary package of the guest.

    Attributes:
        version: Its version, with epoch and revision.
        licences: SPDX identifiers or names from the package's copyright file; empty when not known.
        copyleft: Whether a licence requires sources; None when not known.
        built_using: Other source packages that parts of it were taken from, name and version.
    """

    name: str
    version: str
    arch: str
    source: str
    source_version: str
    licences: Many[str] = ()
    copyleft: bool | None = None
    built_using: Many[tuple[str, str]] = ()


@dataclass(frozen=True)
class ContentsRecord:
    """``contents/contents.json``. Next to it: ``contents.cdx.json`` and ``contents.spdx.json``.

    Attributes:
        distribution: Its ID in os-release, such as ``debian``.
        release: Its VERSION_ID; empty for rolling ones.
        manager: ``dpkg``, ``rpm`` or ``apk``.
    """

    image: ImageMark
    system: str
    distribution: str
    release: str
    manager: str
    packages: Many[Package]


@dataclass(frozen=True)
class SourceGap:
    """A source package that was not found."""

    source: str
    version: str
    reason: str


@dataclass(frozen=True)
class SourcesRecord:
    """``sources/sources.json``. Next to it: the archive, a tar file of source packages and the offer's text.

    Attributes:
        archive: Name of the tar file; empty for none.
        covered: Source packages in it, name and version.
    """

    image: ImageMark
    archive: str
    sha512: str
    size: int
    covered: Many[tuple[str, str]]
    gaps: Many[SourceGap] = ()


class Leftover(enum.Enum):
    """A kind of leftover in an image."""

    MACHINE_ID = "machine-id"
    SSH_HOST_KEY = "ssh-hostkeys"
    DHCP_LEASE = "dhcp-leases"
    NETWORK_RULE = "network-rules"
    RANDOM_SEED = "random-seed"
    HOSTNAME = "hostname"
    LOG = "logs"
    PACKAGE_CACHE = "package-caches"
    TEMPORARY_FILE = "temporary-files"
    CLOUD_INIT = "cloud-init"
    TOOL_MEMORY = "tool-memory"
    PRIVATE_KEY = "private-key"
    MADE_KEY = "made-key"
    AUTHORIZED_KEY = "authorized-key"
    CREDENTIALS = "credentials"
    SHELL_HISTORY = "shell-history"
    NETWORK_PASSWORD = "network-password"  # noqa: S105 - a word
    UNREADABLE = "unreadable"
    UNREADABLE_IDENTITY = "unreadable-identity"


@dataclass(frozen=True)
class Seen:
    """The leftovers of a kind: the first paths, with control characters escaped, and how many there are.

    ``size`` is the number of their bytes, of those that only make an image larger.
    """

    trace: Leftover
    paths: Many[str]
    count: int
    size: int = 0


class PasswordState(enum.Enum):
    """The judgement of an account's password."""

    EMPTY = "empty"
    IN_HINTS = "told"  # plain-english: off
    COMMON = "common"
    NOT_IN_HINTS = "untold"
    UNTRIED = "untried"


@dataclass(frozen=True)
class Account:
    """An account that has a password, or none at all."""

    name: str
    password: PasswordState


@dataclass(frozen=True)
class Inside:
    """The leftovers and passwords in an image; with an unknown kind of system, the reason.

    ``hints`` is the SHA-256 of the hints that the passwords were compared with.
    """

    system: bool
    reason: str = ""
    seen: Many[Seen] = ()
    accounts: Many[Account] = ()
    hints: str = ""


@dataclass(frozen=True)
class CompressedSize:
    """The compressed size of an image in bytes, after trimming its filesystems.

    Attributes:
        zstd: With zstd at a fast level.
        xz: With xz as ``publish`` does it; None when zstd's size was enough to decide.
    """

    zstd: int
    xz: int | None


@dataclass(frozen=True)
class RunTrial:
    """A trial of the script ``run``: SHA-256 of its text, and what went wrong; empty if nothing did."""

    script: str
    problem: str


@dataclass(frozen=True)
class CheckRecord:
    """``check/check.json``: the results of checks that take long, of one image (ADR 0036).

    It does not say that an entry is checked: that is worked out each time. What was not done is None.
    ``archive`` is the archive of sources that was hashed last.
    """

    image: ImageMark
    inside: Inside | None = None
    packed: CompressedSize | None = None
    run: RunTrial | None = None
    archive: ImageMark | None = None


BOOT_FILE = RecordFile(BootRecord, "boot.json", limit=1 << 20)
CONTENTS_FILE = RecordFile(ContentsRecord, "contents.json")
SOURCES_FILE = RecordFile(SourcesRecord, "sources.json")
CHECK_FILE = RecordFile(CheckRecord, "check.json", limit=1 << 20)
"""The files of records; each is in the entry's folder of that name."""

"""``check/check.json``: what a check of an entry found out that takes long (ADR 0036).

It does not say that an entry is checked: that is worked out each time, of this and of what is there now.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from imgrepo.library.records import ImageMark
from imgrepo.recordfile import Many, RecordFile

CHECK_NAME = "check.json"


class Trace(enum.Enum):
    """What was seen in an image."""

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
    """What was seen of a kind.

    Attributes:
        trace: The kind.
        paths: Where in the image, the first ones; control characters are made visible.
        count: How many there are.
    """

    trace: Trace
    paths: Many[str]
    count: int


class PasswordState(enum.Enum):
    """What is known of the password of an account that can be logged into with one."""

    EMPTY = "empty"
    TOLD = "told"
    COMMON = "common"
    UNTOLD = "untold"
    UNTRIED = "untried"


@dataclass(frozen=True)
class Account:
    """An account that has a password, or none at all.

    Attributes:
        name: Its name.
        password: What is known of it: told by the hints, among the first that anybody would try, or neither;
            or it was not tried, since its hash is of an unknown kind or takes too long.
    """

    name: str
    password: PasswordState


@dataclass(frozen=True)
class Inside:
    """What was seen in an image.

    Attributes:
        system: Whether a system was found whose places are known.
        reason: Why not.
        seen: What there was.
        accounts: Accounts with a password, or with none at all.
        hints: SHA-256 of the hints in which passwords were looked for.
    """

    system: bool
    reason: str = ""
    seen: Many[Seen] = ()
    accounts: Many[Account] = ()
    hints: str = ""


@dataclass(frozen=True)
class Packed:
    """How large the image becomes, in bytes, with the free space of its filesystems given back.

    Attributes:
        zstd: By zstd, quickly.
        xz: As ``publish`` does it; None when zstd's was enough to know.
    """

    zstd: int
    xz: int | None


@dataclass(frozen=True)
class RunTrial:
    """How the script ``run`` fared.

    Attributes:
        script: SHA-256 of its text.
        problem: What went wrong; empty when it went well.
    """

    script: str
    problem: str


@dataclass(frozen=True)
class CheckRecord:
    """What takes long, of one image.

    Attributes:
        image: The image.
        inside: What was seen in it; None when nobody looked.
        packed: How large it becomes; None when nobody tried.
        run: How the script fared; None when nobody tried.
        archive: The archive of sources whose digest was taken last; None for none.
    """

    image: ImageMark
    inside: Inside | None = None
    packed: Packed | None = None
    run: RunTrial | None = None
    archive: ImageMark | None = None


_CHECK = RecordFile(CheckRecord, limit=1 << 20)


def write_check(folder: Path, record: CheckRecord) -> None:
    """Write the record into an entry's ``check`` folder."""
    _CHECK.write(folder / CHECK_NAME, record)


def read_check(folder: Path) -> CheckRecord | None:
    """Read the record of a check; None when there is none."""
    return _CHECK.read(folder / CHECK_NAME)

"""The ports that the publisher's commands use, gathered in one place for the commands and for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from imgbuilder.appliance import ApplianceOptions, Attachment, open_appliance
from imgbuilder.events import Reporter
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.transfer import Fetcher
from imgbuilder.guests.ports import Appliance
from imgindex.gpg import GpgVerifier, key_pin_from_file, key_pin_from_user_keyring, keys_in_file
from imgindex.keylist import ListedKey
from imgindex.signer import GpgSigner
from imgindex.trust import KeyPin, Signer, VerifiedText, Verifier


def _now() -> datetime:
    return datetime.now(UTC)


def _list_keys(path: Path) -> Sequence[ListedKey]:
    return keys_in_file(path, where="the published key")


OpenAppliance = Callable[
    [Sequence[Attachment], ApplianceOptions | None, Reporter], AbstractContextManager[Appliance]
]


class PublisherKeys(Signer, Protocol):
    """The publisher's keys."""

    def check_key(self, key: str) -> str:
        """Return the full fingerprint of the one usable secret key that ``key`` names.

        Raises:
            SigningError: There is none, or several.
        """
        ...

    def export_public_key(self, key: str) -> bytes:
        """Return the public key of the one that ``key`` names, armored."""
        ...


@dataclass(frozen=True)
class Signing:
    """How an index is signed.

    Attributes:
        key: The signing key, as gpg takes it.
        also: Further keys that sign as well, while clients move from one key to the next.
        valid_for: How long the signature stays valid; None for ever.
        command: The gpg to use, with options for every call of it.
    """

    key: str
    also: tuple[str, ...] = ()
    valid_for: timedelta | None = None
    command: tuple[str, ...] = ("gpg",)


class PinFromFile(Protocol):
    """Makes a pin of the keys in a file."""

    def __call__(self, path: Path, *, where: str) -> KeyPin:
        """Read the file; ``where`` names it in messages."""
        ...


class VerifyDetached(Protocol):
    """Checks a text whose signature is a file of its own."""

    def __call__(self, data: bytes, signature: bytes, pin: KeyPin, *, where: str) -> VerifiedText:
        """See ``imgindex.gpg.GpgVerifier.verify_detached``."""
        ...


class VerifyFile(Protocol):
    """Checks the detached signature of a file of any size."""

    def __call__(self, file: Path, signature: bytes, pin: KeyPin, *, where: str) -> None:
        """See ``imgindex.gpg.GpgVerifier.verify_file``."""
        ...


@dataclass(frozen=True)
class Services:
    """What the commands need of the world outside.

    Attributes:
        open_appliance: Starts an appliance with disks and ends it when the block is left.
        make_keys: Opens the publisher's keyring.
        verifier: The clients' accept rule.
        pin_from_file: Makes a pin of the keys in a file.
        clock: Tells the time, in UTC.
        list_keys: Lists the keys in a file.
        fetcher: Gets files of other repositories.
        verify_detached: Checks a text whose signature is a file of its own.
        pin_from_keyring: Makes a pin of a key in the publisher's own keyring, by its full fingerprint.
        verify_file: Checks the detached signature of a file of any size.
    """

    open_appliance: OpenAppliance
    make_keys: Callable[[Signing], PublisherKeys]
    verifier: Verifier
    pin_from_file: PinFromFile
    clock: Callable[[], datetime] = _now
    list_keys: Callable[[Path], Sequence[ListedKey]] = _list_keys
    fetcher: Fetcher = field(default_factory=SourceFetcher)
    verify_detached: VerifyDetached = field(default_factory=lambda: GpgVerifier().verify_detached)
    pin_from_keyring: Callable[[str], KeyPin] = key_pin_from_user_keyring
    verify_file: VerifyFile = field(default_factory=lambda: GpgVerifier().verify_file)


def _open_keyring(signing: Signing) -> PublisherKeys:
    return GpgSigner(valid_for=signing.valid_for, command=signing.command)


def default_services() -> Services:
    """Return the real ones."""
    return Services(
        open_appliance=open_appliance,
        make_keys=_open_keyring,
        verifier=GpgVerifier(),
        pin_from_file=key_pin_from_file,
    )

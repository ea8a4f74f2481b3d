"""The outside world of the publisher's commands in one object, so that tests can replace parts of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from imgbuilder.appliance import ApplianceOptions, Attachment, open_appliance
from imgbuilder.events import Reporter
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.transfer import Fetcher
from imgbuilder.guests.ports import Appliance
from imgindex.gpg import GpgVerifier, trusted_keys_from_keyring
from imgindex.signer import GpgSigner
from imgindex.trust import TrustedKeys

OpenAppliance = Callable[
    [Sequence[Attachment], ApplianceOptions | None, Reporter], AbstractContextManager[Appliance]
]


@dataclass(frozen=True)
class Signing:
    """The keys and options for signing an index.

    Attributes:
        also: Further keys that sign as well, while clients move from one key to the next.
        valid_for: How long the signature stays valid; None for ever.
        command: The gpg to use, with options for every call of it.
    """

    key: str
    also: tuple[str, ...] = ()
    valid_for: timedelta | None = None
    command: tuple[str, ...] = ("gpg",)


@dataclass(frozen=True)
class Services:
    """The outside world; the real one by default.

    Attributes:
        clock: Returns the time, in UTC.
        trusted_keys_from_keyring: Returns one key of the publisher's keyring, given its full fingerprint.
    """

    open_appliance: OpenAppliance = open_appliance
    make_keys: Callable[[Signing], GpgSigner] = lambda signing: GpgSigner(
        valid_for=signing.valid_for, command=signing.command
    )
    verifier: GpgVerifier = field(default_factory=GpgVerifier)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    fetcher: Fetcher = field(default_factory=SourceFetcher)
    trusted_keys_from_keyring: Callable[[str], TrustedKeys] = trusted_keys_from_keyring

"""The context in which operations are applied to a guest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize.facts import GuestFacts
from imgbuilder.customize.passwordhash import Crypto
from imgbuilder.customize.secrecy import Mask, proxy_passwords
from imgbuilder.events import Reporter, ignore


@dataclass(frozen=True)
class GuestContext:
    """Facts about the guest, and options, for one customization.

    ``run.customize`` sets the fields from ``log_file`` on, except ``follow`` and ``command_limit``.

    Attributes:
        facts: Facts about the guest.
        arch: The guest's architecture, normalised.
        runs_commands: Whether the guest's programs can run in this appliance.
        network: Whether the appliance has a network.
        proxies: Lower-case proxy variables of the host; not shown, since they may contain credentials.
        password_crypto: The hash of passwords.
        implicit_root_password: Whether root gets a random password if no operation sets one.
        log_file: The file in the guest for the output of commands.
        on_event: Called with steps and warnings.
        follow: Whether the output of commands is reported while they run.
        command_limit: Seconds after which a command is stopped; None for no limit.
        secrets: Variables for commands whose values are hidden everywhere.
        mirror: Address of a mirror for apt, or empty.
        package_cache: Local folder of packages.
        wanted: File names of packages that apt was about to fetch, and their SHA-256.
        memory: Folder in the guest that is not on its disk, or empty.
        unlabelled: Directories whose SELinux labels are not changed.
    """

    facts: GuestFacts
    arch: str
    runs_commands: bool = True
    network: bool = True
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    password_crypto: Crypto = Crypto.SHA512
    implicit_root_password: bool = False
    log_file: str = "/tmp/builder.log"  # noqa: S108 - a path in the guest
    on_event: Reporter = field(default=ignore, repr=False)
    follow: bool = False
    command_limit: float | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    mirror: str = field(default="", repr=False)
    package_cache: Path | None = None
    wanted: dict[str, str] = field(default_factory=dict, repr=False)
    memory: str = ""
    unlabelled: tuple[str, ...] = ()

    @property
    def mask(self) -> Mask:
        """The mask for the secrets and the passwords of proxies."""
        return Mask([*self.secrets.values(), *proxy_passwords({**self.proxies, "mirror": self.mirror})])

"""What operations need to know beside the guest itself."""

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
    """Facts and wishes for one customization.

    Attributes:
        facts: What the guest is.
        arch: The guest's architecture, normalised.
        runs_commands: Whether the guest's programs can run in this appliance.
        network: Whether the appliance has a network.
        proxies: Lower-case proxy variables of the host; may hold credentials, hence not shown.
        password_crypto: How passwords are hashed.
        implicit_root_password: Whether root gets a random password when no operation sets one.
        log_file: Where commands in the guest write, chosen by ``run.customize``.
        on_event: Where warnings go, set by ``run.customize``.
        follow: Whether the output of commands is reported while they run.
        command_limit: Seconds after which a command is stopped; None for no limit.
        secrets: Variables for commands whose values are hidden everywhere, set by ``run.customize``.
        mirror: Address of a mirror for apt, or empty; set by ``run.customize``.
        package_cache: Local folder of packages, set by ``run.customize``.
        wanted: File names of packages that apt was about to fetch, and their SHA-256.
        memory: Folder in the guest that is not on its disk, or empty; set by ``run.customize``.
        unlabelled: Directories whose SELinux labels stay as they are, set by ``run.customize``.
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
        """What hides the secrets, and the passwords of proxies."""
        return Mask([*self.secrets.values(), *proxy_passwords({**self.proxies, "mirror": self.mirror})])

"""The context in which operations are applied to a guest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize.facts import GuestFacts
from imgbuilder.customize.passwords import Crypto
from imgbuilder.customize.secrecy import Mask, proxy_passwords
from imgbuilder.events import Reporter, ignore
from imgbuilder.guests.windows import WindowsFacts
from imgbuilder.host.variation import Variation


@dataclass(frozen=True)
class GuestContext:
    """Facts about the guest, and options, for one customization.

    ``run.customize`` sets the fields from ``log_file`` on, except ``follow`` and ``command_limit``.
    """

    facts: GuestFacts
    arch: str
    """The guest's architecture, normalised."""
    runs_commands: bool = True
    """True if the guest's programs can run in this appliance."""
    network: bool = True
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Lower-case proxy variables of the host; not shown, since they may contain credentials."""
    password_crypto: Crypto = Crypto.SHA512
    implicit_root_password: bool = False
    """True if root gets a random password if no operation sets one."""
    windows: WindowsFacts | None = None
    """Facts about Windows; None in other guests."""
    log_file: str = "/tmp/builder.log"  # noqa: S108 - a path in the guest
    """The file in the guest for the output of commands."""
    on_event: Reporter = field(default=ignore, repr=False)
    follow: bool = False
    """True if the output of commands is reported while they run."""
    command_limit: float | None = None
    """Seconds after which a command is stopped; None for no limit."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables for commands whose values are hidden everywhere."""
    mirror: str = field(default="", repr=False)
    package_cache: Path | None = None
    windows_runner: Path | None = None
    """The program of ``--windows-runner``; None to look for one."""
    wanted: dict[str, str] = field(default_factory=dict, repr=False)
    """File names of packages that apt was about to fetch, and their SHA-256."""
    memory: str = ""
    """Folder in the guest that is not on its disk, or empty."""
    unlabelled: tuple[str, ...] = ()
    """Directories whose SELinux labels are not changed."""
    variation: Variation = field(default_factory=Variation, repr=False)

    @property
    def mask(self) -> Mask:
        """The mask for the secrets and the passwords of proxies."""
        return Mask([*self.secrets.values(), *proxy_passwords({**self.proxies, "mirror": self.mirror})])

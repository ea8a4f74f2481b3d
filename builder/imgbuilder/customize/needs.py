"""The needs of operations besides files that can be written, and why a guest does not meet them.

Each operation declares its needs once, by ``registry.operation``. They are checked before the guest is
changed; docs/guests.md shows the answers for each kind of guest.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection

from imgbuilder.customize.facts import Family, GuestFacts, PackageManager, System
from imgbuilder.errors import OperationError


class Need(enum.Enum):
    """Something that an operation needs of the guest."""

    PACKAGES = "a known package manager"
    APT = "apt as its package manager"
    FIRST_BOOT = "an init system that can start scripts"
    HOSTNAME = "a file that holds the hostname"
    TIMEZONE = "a link that chooses the time zone"
    NETWORK = "a known program that sets up its network"
    ACCOUNTS = "accounts that useradd or adduser adds"


Answer = tuple[str, str] | None
"""The reason why a need is not met, and a hint; None if it is met."""

_DECLARED = (
    "NixOS generates this from its configuration and would undo the change",
    "declare it in /etc/nixos/configuration.nix with --upload or --write, and run nixos-rebuild in the guest",
)

_OWN_COMMANDS = {
    Family.GENTOO: "'emerge PACKAGE'",
    Family.OPENWRT: "'opkg update && opkg install PACKAGE'",
}


def _packages(facts: GuestFacts) -> Answer:
    if facts.package_manager is not None:
        return None
    own = _OWN_COMMANDS.get(facts.family, "the guest's own command")
    return (
        f"no known package manager was found in the guest ({facts.product_name})",
        f"use --run-command or --firstboot-command with {own}",
    )


def _apt(facts: GuestFacts) -> Answer:
    manager = facts.package_manager
    if manager is PackageManager.APT:
        return None
    present = manager.value if manager else "no known one"
    return (
        f"this works with apt only, and the guest has {present}",
        "use a caching proxy instead: set http_proxy and https_proxy",
    )


def _first_boot(facts: GuestFacts) -> Answer:
    if facts.inits or facts.system is System.WINDOWS:
        return None
    return (
        f"no init system that could start scripts was found in the guest ({facts.product_name})",
        "systemd, OpenRC, System V init and runit are known; use --upload for a service of its own",
    )


def _timezone(facts: GuestFacts) -> Answer:
    if facts.family is not Family.OPENWRT:
        return None
    return (
        "OpenWrt does not read its time zone from /etc/localtime",
        "write a script for its first boot that calls uci: --upload FILE:/etc/uci-defaults/90-timezone",
    )


def _network(facts: GuestFacts) -> Answer:
    if facts.network is not None:
        return None
    return (
        f"no known program that sets up the network was found in the guest ({facts.product_name})",
        "netplan, NetworkManager, systemd-networkd and ifupdown are known; for others use --upload",
    )


def _met(_facts: GuestFacts) -> Answer:
    return None


_ANSWERS: dict[Need, Callable[[GuestFacts], Answer]] = {
    Need.PACKAGES: _packages,
    Need.APT: _apt,
    Need.FIRST_BOOT: _first_boot,
    Need.HOSTNAME: _met,
    Need.TIMEZONE: _timezone,
    Need.NETWORK: _network,
    Need.ACCOUNTS: _met,
}


def check_system(facts: GuestFacts, systems: Collection[System], keyword: str) -> None:
    """Refuse an operation that is not for guests of this kind."""
    if facts.system in systems:
        return
    if facts.system is System.FREEBSD:
        raise OperationError(
            f"the guest is not Linux but {facts.system.value!r}",
            hint="only guests with Linux or Windows can be customized",
        )
    if facts.system is System.WINDOWS:
        raise OperationError(
            f"--{keyword}: the guest is Windows, and this is for Linux only",
            hint="use --firstboot or --firstboot-command, whose scripts Windows runs itself",
        )
    raise OperationError(
        f"--{keyword}: the guest is not Windows ({facts.product_name}), and this is for Windows only",
        hint=f"leave --{keyword} out",
    )


def check_need(facts: GuestFacts, need: Need, keyword: str) -> None:
    """Refuse an operation whose need the guest does not meet."""
    answer = _DECLARED if facts.family is Family.NIXOS else _ANSWERS[need](facts)
    if answer is not None:
        message, hint = answer
        raise OperationError(f"--{keyword}: {message}", hint=hint)

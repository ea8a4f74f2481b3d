"""The commands of each package manager (``virt-builder.md`` 8.7), always without questions.

Names were checked by ``values.package_names`` when the operation was made;
here each is checked by what its package manager takes, and quoted.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgbuilder.customize.facts import PackageManager
from imgbuilder.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgbuilder.customize.facts import GuestFacts

_APT_SETUP = """\
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
export APT_LISTCHANGES_FRONTEND=none NEEDRESTART_SUSPEND=1
"""

_APT_NO_DAEMONS = """\
if [ ! -e /usr/sbin/policy-rc.d ] && [ ! -L /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '%s\\n' '#!/bin/sh' 'exit 101' >/usr/sbin/policy-rc.d
    chmod 0755 /usr/sbin/policy-rc.d
fi
"""
"""Daemons that packages start would keep the guest's filesystems busy (Debian's invoke-rc.d asks this)."""

_APT_GET = "apt-get -q -y -o Dpkg::Options::=--force-confnew"
_APT_UPDATE = f"{_APT_GET} -o APT::Update::Error-Mode=any update"
"""Before apt 2.3, which ignores the setting, an update whose downloads failed still ends with status 0."""

_ZYPPER_OK = '|| case $? in 102|103) : ;; *) exit "$?" ;; esac'
"""zypper(8): 102 and 103 say "done, now restart"."""

_WORD = r"[A-Za-z0-9@_][A-Za-z0-9@+._:~=-]*"
_RPM = re.compile(r"[A-Za-z0-9@/][A-Za-z0-9@/+._:~=<>^()*?-]*")
_APT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9.+-]*(?:[:][a-z0-9-]+)?(?:[=/][A-Za-z0-9.+:~-]+)?|/[A-Za-z0-9+._:~/-]+\.deb"
)


@dataclass(frozen=True)
class Commands:
    """How one package manager is driven.

    Attributes:
        install: Script; ``{names}`` stands for the quoted names.
        update: Script.
        uninstall: Script; ``{names}`` as above.
        names: What a package name may be.
    """

    install: str
    update: str
    uninstall: str
    names: re.Pattern[str]


_TABLE = {
    PackageManager.APT: Commands(
        install=f"{_APT_SETUP}{_APT_NO_DAEMONS}{_APT_UPDATE}\n{_APT_GET} install -- {{names}}",
        update=f"{_APT_SETUP}{_APT_NO_DAEMONS}{_APT_UPDATE}\n{_APT_GET} upgrade",
        uninstall=f"{_APT_SETUP}{_APT_NO_DAEMONS}{_APT_GET} remove -- {{names}}",
        names=_APT,
    ),
    PackageManager.DNF: Commands(
        install="dnf -y install {names}",
        update="dnf -y --best upgrade",
        uninstall="dnf -y --disableplugin=subscription-manager remove {names}",
        names=_RPM,
    ),
    PackageManager.YUM: Commands(
        install="yum -y install {names}",
        update="yum -y update",
        uninstall="yum -y remove {names}",
        names=_RPM,
    ),
    PackageManager.ZYPPER: Commands(
        install=f"zypper -n in -l -- {{names}} {_ZYPPER_OK}",
        update=f"zypper -n dup -l {_ZYPPER_OK}",
        uninstall=f"zypper -n rm -- {{names}} {_ZYPPER_OK}",
        names=_RPM,
    ),
    # Arch supports no partial upgrades: new packages are installed together with an upgrade.
    PackageManager.PACMAN: Commands(
        install="pacman -Syu --noconfirm --needed -- {names}",
        update="pacman -Syu --noconfirm",
        uninstall="pacman -R --noconfirm -- {names}",
        names=re.compile(rf"(?:[a-z0-9-]+/)?{_WORD}"),
    ),
    PackageManager.APK: Commands(
        install="apk update\napk add -- {names}",
        update="apk update\napk upgrade",
        uninstall="apk del -- {names}",
        names=re.compile(rf"{_WORD}(?:[<>=~]+[A-Za-z0-9._-]+)?"),
    ),
    PackageManager.XBPS: Commands(
        install="xbps-install -Sy -- {names}",
        update="xbps-install -Suy",
        uninstall="xbps-remove -y -- {names}",
        names=re.compile(_WORD),
    ),
    PackageManager.URPMI: Commands(
        install="urpmi --auto {names}",
        update="urpmi --auto --auto-update",
        uninstall="urpme --auto {names}",
        names=re.compile(_WORD),
    ),
    PackageManager.PISI: Commands(
        install="pisi install --yes-all {names}",
        update="pisi upgrade --yes-all",
        uninstall="pisi remove --yes-all {names}",
        names=re.compile(_WORD),
    ),
}


def install_script(facts: GuestFacts, names: Sequence[str], *, at_boot: bool = False) -> str:
    """Return the script that installs packages.

    Args:
        facts: What the guest is.
        names: The packages.
        at_boot: Whether it runs in the booted guest, where daemons are to be started.

    Raises:
        OperationError: The guest has no known package manager, or a name does not suit it.
    """
    commands = _commands(facts)
    template = commands.install.replace(_APT_NO_DAEMONS, "") if at_boot else commands.install
    return _script(template, _quoted(commands, facts, names))


def fetched_script(facts: GuestFacts, names: Sequence[str] | None, listing: str) -> str:
    """Return the script that writes to a file what apt would fetch, after an update of its lists.

    Args:
        facts: What the guest is: one with apt.
        names: Packages to install; None for an upgrade of all.
        listing: The file in the guest.
    """
    what = "upgrade" if names is None else f"install -- {_quoted(_commands(facts), facts, names)}"
    # Unless it is told which, apt prints the MD5.
    asked = f"{_APT_GET} -qq -o Acquire::ForceHash=SHA256 --print-uris {what} >{shlex.quote(listing)}"
    return _script(f"{_APT_SETUP}{_APT_UPDATE}\n{asked}")


def without_update(script: str) -> str:
    """Leave the update of apt's lists out of a script, where it was done just before."""
    return script.replace(f"{_APT_UPDATE}\n", "")


def update_script(facts: GuestFacts) -> str:
    """Return the script that updates all packages.

    Raises:
        OperationError: The guest has no known package manager.
    """
    return _script(_commands(facts).update)


def uninstall_script(facts: GuestFacts, names: Sequence[str]) -> str:
    """Return the script that removes packages.

    Raises:
        OperationError: The guest has no known package manager, or a name does not suit it.
    """
    commands = _commands(facts)
    return _script(commands.uninstall, _quoted(commands, facts, names))


def _commands(facts: GuestFacts) -> Commands:
    if facts.package_manager is None:
        raise OperationError(
            f"no package manager that we know was found in the guest ({facts.product_name})",
            hint="use --run-command or --firstboot-command with the guest's own command",
        )
    return _TABLE[facts.package_manager]


def _quoted(commands: Commands, facts: GuestFacts, names: Sequence[str]) -> str:
    assert facts.package_manager is not None
    for name in names:
        # "name-" would remove a package in the middle of an installation, apt-get(8).
        removes = facts.package_manager is PackageManager.APT and name.endswith("-")
        if removes or not commands.names.fullmatch(name):
            raise OperationError(f"{name!r} is not a package name of {facts.package_manager.value}")
    return shlex.join(names)


def _script(template: str, names: str = "") -> str:
    return "set -e\n" + template.replace("{names}", names) + "\n"

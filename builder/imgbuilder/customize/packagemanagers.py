"""The commands of the guests' package managers, and the parts of their output that matter.

The commands never ask questions. Package names were checked by ``values.package_names`` when the operation
was made; here each is checked by the rules of its package manager and quoted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from imgbuilder.customize.facts import GuestFacts, PackageManager
from imgbuilder.customize.firstboot import NETWORK_WAITS
from imgbuilder.errors import OperationError

_APT_SETUP = """\
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
export APT_LISTCHANGES_FRONTEND=none NEEDRESTART_SUSPEND=1
"""

_APT_NO_DAEMONS = """\
if [ ! -e /usr/sbin/policy-rc.d ] && [ ! -L /usr/sbin/policy-rc.d ]; then
    trap '! grep -q "of this build" /usr/sbin/policy-rc.d || rm -f /usr/sbin/policy-rc.d' EXIT
    printf '%s\\n' '#!/bin/sh' '# of this build' 'exit 101' >/usr/sbin/policy-rc.d
    chmod 0755 /usr/sbin/policy-rc.d
fi
"""
"""Daemons that packages start would keep the guest's filesystems busy; Debian's invoke-rc.d asks policy-rc.d.

A file of that name that a package installs stays.
"""

_APT_GET = "apt-get -q -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
"""A configuration file that the user wrote or changed is kept; others are updated with their packages."""
_APT_UPGRADE = "-o APT::Get::Upgrade-Allow-New=true upgrade"
"""As ``apt upgrade`` does: a new kernel is a new package. Versions of apt without this option ignore it."""
_APT_QUICK = (
    "-o Acquire::Languages=none -o Acquire::GzipIndexes=true -o Acquire::CompressionTypes::Order::=gz"
)
"""Without translated descriptions and with compressed lists, an update is half the work and takes a fifth
of the space. The guest's next update fetches the rest.
"""
_APT_UPDATE = f"{_APT_GET} {_APT_QUICK} -o APT::Update::Error-Mode=any update"
"""apt before 2.3 ignores the last setting: an update whose downloads failed ends with status 0."""

_APK_KEPT = "find /etc -name '*.apk-new'"
"""apk does not print them."""
_ZYPPER_OK = '|| case $? in 102|103) : ;; *) exit "$?" ;; esac'
"""102 and 103 mean "done, now restart", zypper(8)."""

_WORD = r"[A-Za-z0-9@_][A-Za-z0-9@+._:~=-]*"
_RPM = re.compile(r"[A-Za-z0-9@/][A-Za-z0-9@/+._:~=<>^()*?-]*")
_APT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9.+-]*(?:[:][a-z0-9-]+)?(?:=[A-Za-z0-9.+:~*?-]+|/[A-Za-z0-9.+:~-]+)?"
    r"|[a-z0-9][a-z0-9.+-]*\^"  # a task
    r"|/[A-Za-z0-9+._:~/-]+\.deb"
)


@dataclass(frozen=True)
class PackageCommands:
    """The scripts for one package manager, with ``{names}`` for the quoted names, and a pattern of names."""

    install: str
    update: str
    uninstall: str
    names: re.Pattern[str]


_TABLE = {
    PackageManager.APT: PackageCommands(
        install=f"{_APT_SETUP}{_APT_NO_DAEMONS}{_APT_UPDATE}\n{_APT_GET} install -- {{names}}",
        update=f"{_APT_SETUP}{_APT_NO_DAEMONS}{_APT_UPDATE}\n{_APT_GET} {_APT_UPGRADE}",
        uninstall=f"{_APT_SETUP}{_APT_NO_DAEMONS}{_APT_GET} remove -- {{names}}",
        names=_APT,
    ),
    PackageManager.DNF: PackageCommands(
        install="dnf -y install {names}",
        update="dnf -y --best upgrade",
        uninstall="dnf -y --disableplugin=subscription-manager remove {names}",
        names=_RPM,
    ),
    PackageManager.DNF5: PackageCommands(
        install="dnf5 -y install {names}",
        update="dnf5 -y --best upgrade",
        uninstall="dnf5 -y remove {names}",
        names=_RPM,
    ),
    PackageManager.MICRODNF: PackageCommands(
        install="microdnf -y install {names}",
        update="microdnf -y update",
        uninstall="microdnf -y remove {names}",
        names=_RPM,
    ),
    PackageManager.TDNF: PackageCommands(
        install="tdnf -y install {names}",
        update="tdnf -y update",
        uninstall="tdnf -y remove {names}",
        names=_RPM,
    ),
    PackageManager.YUM: PackageCommands(
        install="yum -y install {names}",
        update="yum -y update",
        uninstall="yum -y remove {names}",
        names=_RPM,
    ),
    PackageManager.ZYPPER: PackageCommands(
        install=f"zypper -n in -l -- {{names}} {_ZYPPER_OK}",
        update=f"zypper -n dup -l {_ZYPPER_OK}",
        uninstall=f"zypper -n rm -- {{names}} {_ZYPPER_OK}",
        names=_RPM,
    ),
    # Arch supports no partial upgrades: new packages are installed together with an upgrade.
    PackageManager.PACMAN: PackageCommands(
        install="pacman -Syu --noconfirm --needed -- {names}",
        update="pacman -Syu --noconfirm",
        uninstall="pacman -R --noconfirm -- {names}",
        names=re.compile(rf"(?:[a-z0-9-]+/)?{_WORD}"),
    ),
    PackageManager.APK: PackageCommands(
        install=f"apk update\napk add -- {{names}}\n{_APK_KEPT}",
        update=f"apk update\napk upgrade\n{_APK_KEPT}",
        uninstall="apk del -- {names}",
        names=re.compile(rf"{_WORD}(?:[<>=~]+[A-Za-z0-9._-]+)?"),
    ),
    PackageManager.XBPS: PackageCommands(
        install="xbps-install -Sy -- {names}",
        update="xbps-install -Suy",
        uninstall="xbps-remove -y -- {names}",
        names=re.compile(_WORD),
    ),
    PackageManager.URPMI: PackageCommands(
        install="urpmi --auto {names}",
        update="urpmi --auto --auto-update",
        uninstall="urpme --auto {names}",
        names=re.compile(_WORD),
    ),
    PackageManager.PISI: PackageCommands(
        install="pisi install --yes-all {names}",
        update="pisi upgrade --yes-all",
        uninstall="pisi remove --yes-all {names}",
        names=re.compile(_WORD),
    ),
}


_WAITS = {
    "apt-get ": "apt-get -o DPkg::Lock::Timeout=600 ",
    "apk ": "apk --wait 600 ",
    "zypper ": "ZYPP_LOCK_TIMEOUT=600 zypper ",
    "urpmi ": "urpmi --wait-lock ",
    "pacman ": "for _ in $(seq 600); do [ -e /var/lib/pacman/db.lck ] || break; sleep 1; done\npacman ",
}
"""The commands that wait for the lock at boot, when cloud-init and unattended upgrades also install packages.

dnf and yum wait by default.
"""


def install_script(facts: GuestFacts, names: Sequence[str], *, at_boot: bool = False) -> str:
    """Return the script that installs packages; daemons are started only ``at_boot``, in the booted guest."""
    commands = _commands(facts)
    template = commands.install
    if at_boot:
        template = NETWORK_WAITS + template.replace(_APT_NO_DAEMONS, "")
        for command, waiting in _WAITS.items():
            template = re.sub(rf"^{command}", waiting, template, flags=re.MULTILINE)
    return _script(template, _quoted(commands, facts, names))


def fetched_script(facts: GuestFacts, names: Sequence[str] | None, listing: str) -> str:
    """Return the script that updates apt's lists and writes what apt would fetch to the file ``listing``.

    Without ``names`` it is for an upgrade of all packages.
    """
    what = _APT_UPGRADE if names is None else f"install -- {_quoted(_commands(facts), facts, names)}"
    # By default apt prints the MD5.
    asked = f"{_APT_GET} -qq -o Acquire::ForceHash=SHA256 --print-uris {what} >{shlex.quote(listing)}"
    return _script(f"{_APT_SETUP}{_APT_UPDATE}\n{asked}")


def without_update(script: str) -> str:
    """Remove the update of apt's lists from a script, because it was just done."""
    return script.replace(f"{_APT_UPDATE}\n", "")


def update_script(facts: GuestFacts) -> str:
    """Return the script that updates all packages; errors as for ``install_script``."""
    return _script(_commands(facts).update)


def uninstall_script(facts: GuestFacts, names: Sequence[str]) -> str:
    """Return the script that removes packages; errors as for ``install_script``."""
    commands = _commands(facts)
    return _script(commands.uninstall, _quoted(commands, facts, names))


NOTED = (
    "sed -n -E -e '/ kept back:$/,/^[^ ]/p' -e '/ due to phasing:$/,/^[^ ]/p'"
    " -e '/^Configuration file /,/^ ==> (Using|Keeping)/p'"
    " -e '/[.](rpm|pac|apk-)(new|save|orig)$/p' -e '/^No package .* available/p' -e '/ for regex /p'"
)
"""Selects the lines that ``deviations`` and ``not_found`` read from the output of package managers."""

_CONFIGURATION = re.compile(r"Configuration file [`'](.+)'")
_BESIDE = re.compile(r"(/\S+)\.(rpmnew|pacnew|apk-new)$")
_REPLACED = re.compile(r"(/\S+)\.(rpmsave|rpmorig|pacsave|pacorig)$")
_NOT_FOUND = re.compile(r"No package (\S+) available|Note, selecting .* for regex '(.*)'")


def deviations(text: str) -> list[str]:
    """Read from a package manager's English output where it did not simply do as asked.

    Returns:
        A sentence for each: packages that were kept back, and configuration files that both the user and a
        package changed.
    """
    found = []
    kept_back: list[str] = []
    in_list = False
    configuration = ""
    for line in text.split("\n"):
        if in_list and line.startswith(" "):
            kept_back += line.split()
            continue
        in_list = line.endswith((" kept back:", " due to phasing:"))
        if match := _CONFIGURATION.match(line):
            configuration = match[1]
        elif configuration and line.startswith((" ==> Using current old", " ==> Keeping old")):
            found.append(f"{configuration} was kept; the package's version is {configuration}.dpkg-dist")
        elif match := _BESIDE.search(line):
            found.append(f"{match[1]} was kept; the package's version is {match[0]}")
        elif match := _REPLACED.search(line):
            found.append(f"{match[1]} is now the package's version; the previous one is {match[0]}")
    if kept_back:
        found.append(f"packages were kept back and not updated: {' '.join(kept_back)}")
    return list(dict.fromkeys(found))


_HELD = "a program that an earlier command left running holds the lock: let that command wait for its end"
_REPAIRS = {
    "dpkg was interrupted": "first repair the template: --run-command 'dpkg --configure -a'",
    "Unmet dependencies. Try": "first repair the template: --run-command 'apt-get -y --fix-broken install'",
    "Could not get lock": _HELD,
    "Unable to lock database": _HELD,
    "System management is locked": _HELD,
    "unable to lock database": "first remove the template's lock: --delete /var/lib/pacman/db.lck",
}
"""Signs in a package manager's output that the template was left in the middle of something."""


def repair(output: str) -> str | None:
    """Return a hint if the guest's packages have to be repaired first."""
    return next((hint for sign, hint in _REPAIRS.items() if sign in output), None)


def not_found(text: str) -> list[str]:
    """Read which packages were not found by a command that ended with status 0.

    yum of Red Hat 7 does so if it found one of several; older versions of apt treat an unknown name with a
    dot as a pattern and install what matches.
    """
    return [match[1] or match[2] for match in _NOT_FOUND.finditer(text)]


def _commands(facts: GuestFacts) -> PackageCommands:
    assert facts.package_manager is not None, "Need.PACKAGES was checked"
    return _TABLE[facts.package_manager]


def _quoted(commands: PackageCommands, facts: GuestFacts, names: Sequence[str]) -> str:
    manager = facts.package_manager
    for name in names:
        # apt-get(8) would remove a package called "name-" during an installation.
        removes = manager is PackageManager.APT and name.endswith("-")
        if removes or not commands.names.fullmatch(name):
            raise OperationError(f"{name!r} is not a package name of {manager.value if manager else None}")
    return shlex.join(names)


def _script(template: str, names: str = "") -> str:
    return "set -e\n" + template.replace("{names}", names) + "\n"

"""Operations on the guest's settings: hostname and time zone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from imgbuilder.customize import argforms, values
from imgbuilder.customize.accountfiles import rename_host
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import Family
from imgbuilder.customize.operation import OperationBase
from imgbuilder.customize.registry import operation
from imgbuilder.errors import OperationError
from imgbuilder.events import warn
from imgbuilder.guests.ports import Guest

_ZONEINFO = "/usr/share/zoneinfo"
_ZONE_MAGIC = b"TZif"
"""First bytes of a compiled time zone, RFC 8536 section 3.1."""

_CLOCK = "/etc/sysconfig/clock"
_ZONE_LINE = re.compile(rb"^ZONE=", re.MULTILINE)
"""From it, updates of the time zone data in Red Hat 6 and its kin make /etc/localtime anew."""

_SYSTEMD = "/etc/systemd"
_OWN_WAYS = ("nixos",)
"""Systems with systemd that write /etc/hostname themselves, from elsewhere."""
_SYSTEMD_SINCE = {Family.FEDORA: 18, Family.RHEL: 7}
"""First major versions that read /etc/hostname."""


@operation("hostname", form=argforms.single("HOSTNAME"))
@dataclass(frozen=True)
class Hostname(OperationBase):
    """Set the hostname of the guest.

    HOSTNAME may have a domain. On Debian and its kin the old name in /etc/hosts is replaced, too.

    Attributes:
        name: The hostname.
    """

    name: str = field(metadata=values.HOSTNAME)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Setting the hostname: {self.name}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Write the hostname where the guest's family keeps it."""
        family, (major, _minor) = context.facts.family, context.facts.version
        if family in _SYSTEMD_SINCE:
            # Those from before os-release do not say their version to us.
            if (0 < major < _SYSTEMD_SINCE[family]) or (major == 0 and not guest.is_dir(_SYSTEMD)):
                _set_assignment(guest, "/etc/sysconfig/network", "HOSTNAME", self.name)
                return
            _set_assignment(guest, "/etc/machine-info", "PRETTY_HOSTNAME", self.name)
        if family is Family.SUSE and (
            guest.is_file("/etc/HOSTNAME") and not guest.is_symlink("/etc/HOSTNAME")
        ):
            guest.write("/etc/HOSTNAME", f"{self.name}\n".encode())
        old = _old_hostname(guest)
        guest.write("/etc/hostname", f"{self.name}\n".encode())
        if family is Family.DEBIAN and guest.is_file("/etc/hosts"):
            hosts = guest.read("/etc/hosts")
            renamed = rename_host(hosts, old, self.name)
            if renamed != hosts:
                guest.replace("/etc/hosts", renamed)
        if family is Family.OTHER and (context.facts.distro in _OWN_WAYS or not guest.is_dir(_SYSTEMD)):
            warn(
                context.on_event,
                f"--hostname: {self.name} is in /etc/hostname, but whether a guest of this kind "
                f"({context.facts.distro}) takes its name from there is not known",
            )


@operation("timezone", form=argforms.single("TIMEZONE"))
@dataclass(frozen=True)
class Timezone(OperationBase):
    """Set the time zone of the guest.

    TIMEZONE is a name such as Europe/Berlin; the guest must have its time zone data installed.

    Attributes:
        name: The time zone.
    """

    name: str = field(metadata=values.TIMEZONE)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Setting the timezone: {self.name}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Point ``/etc/localtime`` to the zone, which must be a real one (Z14)."""
        path = f"{_ZONEINFO}/{self.name}"
        if not _is_zone(guest, path):
            installed = guest.is_dir(_ZONEINFO)
            raise OperationError(
                f"--timezone: {path} is not a time zone in the guest",
                hint=f"see the names in {_ZONEINFO}, for example Europe/Berlin"
                if installed
                else "the guest has no time zone data: put --install tzdata before it",
            )
        guest.symlink(path, "/etc/localtime")
        if guest.is_file("/etc/timezone"):
            guest.write("/etc/timezone", f"{self.name}\n".encode())
        if guest.is_file(_CLOCK) and _ZONE_LINE.search(guest.read(_CLOCK)):
            _set_assignment(guest, _CLOCK, "ZONE", f'"{self.name}"')


def _is_zone(guest: Guest, path: str) -> bool:
    if not guest.is_file(path):
        return False
    # A name may be a link to another zone, but not out of the folder (Debian's "localtime" is).
    inside = guest.realpath(path).startswith(guest.realpath(_ZONEINFO) + "/")
    return inside and guest.start_of(path, len(_ZONE_MAGIC)) == _ZONE_MAGIC


def _old_hostname(guest: Guest) -> str:
    if not guest.is_file("/etc/hostname"):
        return ""
    lines = [line.strip() for line in guest.read("/etc/hostname").decode(errors="replace").splitlines()]
    return next((line for line in lines if line and not line.startswith("#")), "")


def _set_assignment(guest: Guest, path: str, name: str, value: str) -> None:
    """Make ``name=value`` the one such line of a file, at its end."""
    content = guest.read(path) if guest.is_file(path) else b""
    lines = [line for line in content.split(b"\n") if not line.lstrip().startswith(f"{name}=".encode())]
    kept = b"\n".join(lines)
    if kept and not kept.endswith(b"\n"):
        kept += b"\n"
    guest.write(path, kept + f"{name}={value}\n".encode())

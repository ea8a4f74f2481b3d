"""The service that runs scripts at the guest's first boot, and the report that it leaves.

Folders, names and the log are virt-builder's. The driver is ours: it waits for the network, writes each
script's exit status to the log and to a status file, and disables itself when no script is left.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from imgbuilder.customize.facts import Family, GuestFacts, Init
from imgbuilder.guests.ports import Guest

BASE = "/usr/lib/virt-sysprep"
"""Folder of the scripts and the driver."""
LOG = "/root/virt-sysprep-firstboot.log"
"""The output of the scripts."""
STATUS = "/var/lib/pybuilder/firstboot-status"
"""The status file: lines of time, ``started`` or ``finished``, script and exit code, separated by tabs."""
_DRIVER = f"{BASE}/firstboot.sh"
_UNIT = "/usr/lib/systemd/system/guestfs-firstboot.service"
_WANTS = "/etc/systemd/system/multi-user.target.wants"

_PRIORITY = 5000
_NUMBERED = re.compile(r"[0-9]{4}-([0-9]{4,9})-")
_NAME_LENGTH = 60

NETWORK_WAITS = """\
for _ in $(seq 60); do
    if grep -Eq '^[^[:blank:]]+[[:blank:]]+0{8}[[:blank:]]' /proc/net/route; then break; fi
    if grep -v '[[:blank:]]lo$' /proc/net/ipv6_route | grep -q '^0\\{32\\} 00 '; then break; fi
    sleep 1
done
"""
"""Shell lines that wait for a default route, at most a minute.

runit starts all services at once, and only systemd's service waits for the network.
"""

_OPENRC_SCRIPT = "/etc/init.d/guestfs-firstboot"
_OPENRC_LINK = "/etc/runlevels/default/guestfs-firstboot"
_OPENRC_TEXT = f"""\
#!/sbin/openrc-run
description="Runs scripts once at the first boot"

depend() {{
    after *
    keyword -timeout
}}

start() {{
    ebegin "Running the scripts of the first boot"
    {_DRIVER} start
    eend $?
}}
"""

_STARTPAR = "/etc/init.d/.depend.start"
"""The services that startpar(8) of Debian and SUSE starts: the links alone do not count."""

_RUNIT_FOLDER = "/etc/sv/guestfs-firstboot"
_RUNIT_LINK = "/etc/runit/runsvdir/default/guestfs-firstboot"
_RUNIT_TEXT = f"""\
#!/bin/sh
{NETWORK_WAITS}{_DRIVER} start
# The service is not started again, also if a script is left and the link stays.
exec sv down "$PWD"
"""

_UNIT_TEXT = f"""\
[Unit]
Description=libguestfs firstboot service
Wants=network-online.target
After=network-online.target
Before=prefdm.service
ConditionDirectoryNotEmpty={BASE}/scripts

[Service]
Type=oneshot
ExecStart={_DRIVER} start
RemainAfterExit=yes
StandardOutput=journal+console
StandardError=inherit

[Install]
WantedBy=multi-user.target
"""

_DRIVER_TEXT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          virt-sysprep
# Required-Start:    $all
# Required-Stop:
# Default-Start:     2 3 5
# Default-Stop:      0 1 6
# Short-Description: Run scripts once at the first boot
### END INIT INFO

base=@BASE@
log=@LOG@
links=@LINKS@
status=@STATUS@

[ "$1" = start ] || exit 0
LC_ALL=C
export LC_ALL
mkdir -p "$base/scripts-done" "${status%/*}"

note() {
    line=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    for word; do line="$line	$word"; done
    printf '%s\\n' "$line" >>"$status"
}

# One writer for log and console keeps the lines in order; through a named pipe, so that a daemon which
# a script leaves behind, with the pipe open, cannot keep the boot waiting.
pipe=$base/output.$$
if mkfifo -m 600 "$pipe" 2>/dev/null; then
    tee -a "$log" <"$pipe" &
    exec >"$pipe" 2>&1
    rm -f "$pipe"
else
    exec >>"$log" 2>&1
fi

for script in "$base/scripts"/*; do
    if [ -f "$script" ] && [ -x "$script" ]; then
        # Moved first: a script that reboots the machine is not run again.
        name=${script##*/}
        mv "$script" "$base/scripts-done/$name"
        echo "=== Running $base/scripts-done/$name ==="
        note started "$name"
        "$base/scripts-done/$name" </dev/null
        code=$?
        note finished "$name" "$code"
        echo "=== Finished $name: exit status $code ==="
    fi
done
rm -f "$base/scripts-done"/*

rest=0
for script in "$base/scripts"/*; do
    if [ -e "$script" ]; then rest=1; fi
done
if [ "$rest" = 0 ]; then rm -f $links; fi

# Give the writer a moment for the last lines.
end="=== All done: $$ ==="
echo "$end"
exec >/dev/null 2>&1
tries=0
until grep -qF "$end" "$log" || [ "$tries" -ge 5 ]; do
    sleep 1
    tries=$((tries + 1))
done
exit 0
"""

_RUNLEVELS = (2, 3, 5)
_SYSV_FOLDERS = {
    Family.DEBIAN: "/etc",
    Family.FEDORA: "/etc/rc.d",
    Family.RHEL: "/etc/rc.d",
    Family.SUSE: "/etc/init.d",
}
"""The parent of the folders rcN.d by family."""


def driver_text(
    *,
    base: str = BASE,
    log: str = LOG,
    links: Sequence[str] = (f"{_WANTS}/guestfs-firstboot.service", _OPENRC_LINK, _RUNIT_LINK),
    status: str = STATUS,
) -> str:
    """Return the driver: a shell script that runs each installed script once, in the order of their names."""
    paths = {"@BASE@": base, "@LOG@": log, "@LINKS@": " ".join(links), "@STATUS@": status}
    return re.sub(r"@[A-Z]+@", lambda match: shlex.quote(paths[match[0]]), _DRIVER_TEXT)


def script_name(number: int, name: str) -> str:
    """Return the file name of a script, such as ``5000-0002-echo--hello-``."""
    return f"{_PRIORITY}-{number:04d}-" + re.sub(r"[^A-Za-z0-9_]", "-", name)[:_NAME_LENGTH]


def next_script_name(guest: Guest, folder: str, name: str) -> str:
    """Return the file name of a script that runs after those in a folder."""
    matches = [_NUMBERED.match(file) for file in guest.ls(folder)]
    return script_name(max((int(match[1]) for match in matches if match), default=0) + 1, name)


def install_firstboot(guest: Guest, facts: GuestFacts, name: str, content: bytes) -> None:
    """Install a script that runs at first boot, after the scripts installed before it."""
    scripts = f"{BASE}/scripts"
    guest.mkdir_p(scripts)
    _write(guest, f"{scripts}/{next_script_name(guest, scripts, name)}", content, 0o755)
    _write(guest, _DRIVER, driver_text().encode(), 0o755)
    for init in facts.inits:
        _ENABLE[init](guest, facts.family)


def _enable_systemd(guest: Guest, _family: Family) -> None:
    guest.mkdir_p(_UNIT.rpartition("/")[0])
    _write(guest, _UNIT, _UNIT_TEXT.encode(), 0o644)
    guest.mkdir_p(_WANTS)
    guest.symlink(_UNIT, f"{_WANTS}/guestfs-firstboot.service")


def _enable_openrc(guest: Guest, _family: Family) -> None:
    _write(guest, _OPENRC_SCRIPT, _OPENRC_TEXT.encode(), 0o755)
    guest.symlink(_OPENRC_SCRIPT, _OPENRC_LINK)


def _enable_sysv(guest: Guest, family: Family) -> None:
    parent = _SYSV_FOLDERS[family]
    # Debian with OpenRC has the folders of both.
    if parent != "/etc/rc.d" and not guest.is_symlink(_OPENRC_LINK):
        guest.symlink(_DRIVER, "/etc/init.d/guestfs-firstboot")
    for level in _RUNLEVELS:
        guest.mkdir_p(f"{parent}/rc{level}.d")
        guest.symlink(_DRIVER, f"{parent}/rc{level}.d/S99guestfs-firstboot")
    if guest.is_file(_STARTPAR):
        guest.replace(_STARTPAR, _depend_on_all(guest.read(_STARTPAR)))


def _depend_on_all(makefile: bytes) -> bytes:
    """Add the driver to a makefile of startpar(8), after all others."""
    name = b"guestfs-firstboot"
    lines = makefile.split(b"\n")
    for number, line in enumerate(lines):
        head, _sign, targets = line.partition(b"=")
        if head.strip() == b"TARGETS" and name not in targets.split():
            lines[number] = line.rstrip() + b" " + name
            return b"\n".join(lines).rstrip(b"\n") + b"\n" + name + b": " + targets.strip() + b"\n"
    return makefile


def _enable_runit(guest: Guest, _family: Family) -> None:
    guest.mkdir_p(_RUNIT_FOLDER)
    _write(guest, f"{_RUNIT_FOLDER}/run", _RUNIT_TEXT.encode(), 0o755)
    guest.symlink(_RUNIT_FOLDER, _RUNIT_LINK)


_ENABLE = {
    Init.SYSTEMD: _enable_systemd,
    Init.OPENRC: _enable_openrc,
    Init.SYSV: _enable_sysv,
    Init.RUNIT: _enable_runit,
}


def _write(guest: Guest, path: str, content: bytes, mode: int) -> None:
    guest.write(path, content)
    guest.chmod(mode, path)


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_LARGEST_STATUS = 1 << 20
_LARGEST_LOG = 2 << 20
"""Bytes at the end of the log that are read; a script may print without end."""


@dataclass(frozen=True)
class ScriptStatus:
    """The result of one script."""

    name: str
    started: str | None = None
    """Time of its start, UTC; None before the first boot."""
    finished: str | None = None
    """Time of its end; None if it did not end, for example because it restarted the machine."""
    exit_code: int | None = None
    """Its exit code; None if it did not end."""

    @property
    def succeeded(self) -> bool:
        """True if it ended with 0."""
        return self.exit_code == 0

    @property
    def state(self) -> str:
        """The state as text."""
        if self.started is None:
            return "waiting for the first boot"
        return "did not end" if self.exit_code is None else f"exit status {self.exit_code}"


@dataclass(frozen=True)
class FirstbootReport:
    """The results of the first boot."""

    scripts: tuple[ScriptStatus, ...]
    log: str


def parse_status(text: str) -> dict[str, ScriptStatus]:
    """Read the content of the status file; other lines are ignored."""
    found: dict[str, ScriptStatus] = {}
    for line in text.split("\n"):
        time, *words = line.split("\t")
        if not _TIME.fullmatch(time):
            continue
        match words:
            case ["started", name]:
                found[name] = ScriptStatus(name, time)
            case ["finished", name, code] if name in found and code.isascii() and code.isdecimal():
                found[name] = ScriptStatus(name, found[name].started, time, int(code[:3]))
    return found


def read_firstboot(guest: Guest) -> FirstbootReport:
    """Read log and status of a mounted guest."""
    status = guest.read(STATUS, limit=_LARGEST_STATUS) if guest.is_file(STATUS) else b""
    log = guest.end_of(LOG, _LARGEST_LOG) if guest.is_file(LOG) else b""
    found = parse_status(status.decode(errors="replace"))
    if guest.is_dir(f"{BASE}/scripts"):
        for name in guest.ls(f"{BASE}/scripts"):
            found.setdefault(name, ScriptStatus(name))
    return FirstbootReport(tuple(found[name] for name in sorted(found)), log.decode(errors="replace"))

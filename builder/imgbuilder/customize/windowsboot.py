"""The service that runs scripts at the first boot of Windows, and the computer's name.

Folders, names and exit codes are virt-customize's. Windows starts no batch file as a service, so a program
stands between, which the user gives: rhsrvany.exe or pvvxsvc.exe.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.firstboot import next_script_name
from imgbuilder.customize.values import read_local
from imgbuilder.errors import OperationError, UsageError
from imgbuilder.guests.ports import Guest
from imgbuilder.guests.registry import RegistryKey, number, text
from imgbuilder.guests.windows import WindowsFacts

BASE = "/Program Files/Guestfs/Firstboot"
"""Folder of the scripts, the driver and its log."""
_RUNNERS = ("rhsrvany.exe", "pvvxsvc.exe")
_TOOLS = "/usr/share/virt-tools"
_RUNNER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}\.exe", re.IGNORECASE)
_SERVICE = "firstboot"

# A child of the command processor runs each script: an "exit" or a variable in it cannot harm the driver.
_DRIVER = r"""@echo off
setlocal EnableExtensions DisableDelayedExpansion
set "base=%~dp0"
call :main >>"%base%log.txt" 2>&1 <nul
exit /b

:main
echo === Firstboot service: %DATE% %TIME% ===
if not exist "%base%scripts-done" mkdir "%base%scripts-done"

:next
set "script="
for /f "delims=" %%f in ('dir /b /a-d /o:n "%base%scripts\*.bat" 2^>nul') do (
    if not defined script set "script=%%f"
)
if not defined script goto finished

echo === Running %script% ===
pushd "%base%scripts"
"%ComSpec%" /d /c call "%script%"
set "code=%ERRORLEVEL%"
popd
echo === Finished %script%: exit status %code% ===

rem 249: the script wants to run again at the next boot. 250: no restart is needed.
if "%code%"=="249" goto restart
move /y "%base%scripts\%script%" "%base%scripts-done\%script%"
if exist "%base%scripts\%script%" goto restart
if "%code%"=="250" goto next

:restart
rem Files that a script left in use are free for the next one.
shutdown /r /t 0
exit /b

:finished
echo === All done ===
type nul >"%base%complete"
"%base%@RUNNER@" -s firstboot uninstall
exit /b
"""


def runner_program(path: Path) -> Path:
    """Accept a local program of Windows that can be a service."""
    if read_local(path, 2) != b"MZ":
        raise UsageError(f"{path} is not a program of Windows", hint="give rhsrvany.exe or pvvxsvc.exe")
    if not _RUNNER_NAME.fullmatch(path.name):
        raise UsageError(
            f"{path.name!r} cannot be its name in the guest", hint="give it a plain name: rhsrvany.exe"
        )
    return path


def find_runner(given: Path | None) -> Path:
    """Return the program that starts the driver, where virt-customize looks for it if none is given."""
    if given is not None:
        return given
    folder = Path(os.environ.get("VIRT_TOOLS_DATA_DIR") or _TOOLS)
    for name in _RUNNERS:
        if (folder / name).is_file():
            return runner_program(folder / name)
    raise OperationError(
        f"a program that starts scripts in Windows is missing: {folder / _RUNNERS[0]}",
        hint="none can be distributed with pybuilder; build https://github.com/rwmjones/rhsrvany, and name "
        "it: --windows-runner FILE",
    )


def crlf(content: bytes) -> bytes:
    """Return a text with the line ends of Windows, whatever it has."""
    return content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def install_script(guest: Guest, context: GuestContext, name: str, content: bytes) -> None:
    """Install a batch file that runs at the first boot, after those that were installed before it."""
    facts = _facts(context)
    runner = find_runner(context.windows_runner)
    guest.mkdir_p(f"{BASE}/scripts")
    guest.remove(f"{BASE}/complete")
    guest.upload(runner, f"{BASE}/{runner.name}")
    guest.write(f"{BASE}/firstboot.bat", crlf(_DRIVER.replace("@RUNNER@", runner.name).encode()))
    guest.write(f"{BASE}/scripts/{next_script_name(guest, f'{BASE}/scripts', name)}.bat", crlf(content))
    base = in_windows(facts, BASE)
    service = (facts.control_set, "Services", _SERVICE)
    keys = [
        RegistryKey(
            service,
            {
                "Type": number(0x10),
                "Start": number(2),
                "ErrorControl": number(1),
                # In quotes: otherwise Windows first looks for C:\Program.exe.
                "ImagePath": text(f'"{base}\\{runner.name}" -s {_SERVICE}'),
                "DisplayName": text("Virt tools firstboot service"),
                "ObjectName": text("LocalSystem"),
            },
        ),
        RegistryKey(
            (*service, "Parameters"),
            {"CommandLine": text(f'cmd /c "{base}\\firstboot.bat"'), "PWD": text(base)},
        ),
    ]
    guest.edit_registry(facts.system_hive, keys)


def install_powershell(guest: Guest, context: GuestContext, name: str, content: str) -> None:
    """Install a PowerShell script that runs at the first boot; a batch file starts it."""
    place = f"{BASE}/Temp/{name}.ps1"
    guest.mkdir_p(f"{BASE}/Temp")
    guest.write(place, crlf(content.encode()))
    path = in_windows(_facts(context), place)
    start = f'powershell.exe -ExecutionPolicy ByPass -NoProfile -File "{path}"\n'
    install_script(guest, context, name, start.encode())


def in_windows(facts: WindowsFacts, path: str) -> str:
    """Return a path of the guest as Windows writes it."""
    return f"{facts.drive}:" + path.replace("/", "\\")


_LONGEST_NAME = 15
"""Longest name of a computer in NetBIOS."""


def check_computer_name(name: str) -> None:
    """Refuse a hostname that Windows does not accept for a computer."""
    host = name.partition(".")[0]
    if len(host) > _LONGEST_NAME or host.isdigit():
        raise OperationError(
            f"--hostname: {host} cannot be the name of a computer with Windows",
            hint=f"at most {_LONGEST_NAME} characters before the domain, and not only digits",
        )


def set_computer_name(guest: Guest, context: GuestContext, name: str) -> None:
    """Set the name of the computer, and the domain that follows it in DNS."""
    facts = _facts(context)
    host, _dot, domain = name.partition(".")
    names = {"Hostname": text(host), "NV Hostname": text(host)}
    if domain:
        names |= {"Domain": text(domain), "NV Domain": text(domain)}
    control = facts.control_set
    keys = [
        RegistryKey(
            (control, "Control", "ComputerName", "ComputerName"), {"ComputerName": text(host.upper())}
        ),
        RegistryKey((control, "Services", "Tcpip", "Parameters"), names),
    ]
    guest.edit_registry(facts.system_hive, keys)


def _facts(context: GuestContext) -> WindowsFacts:
    assert context.windows is not None, "checked before"
    return context.windows

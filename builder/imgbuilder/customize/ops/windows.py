"""Operations for Windows: the program that starts scripts, and drivers and services of virtio-win."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize import argforms, virtiowin, windowsboot
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import System
from imgbuilder.customize.operation import Operation, Phase, SettingOperation
from imgbuilder.customize.registry import operation
from imgbuilder.guests.ports import Guest
from imgbuilder.guests.windows import WindowsFacts

_SOURCE = {"rule": virtiowin.source}
_METHOD = argforms.single(argforms.local("METHOD"))
_WINDOWS = (System.WINDOWS,)


class _Injection(Operation):
    """Base of the operations that take files from a folder or an ISO image of virtio-win."""

    source: Path

    def check_host(self) -> None:
        virtiowin.check_host(self.source)


def _facts(context: GuestContext) -> WindowsFacts:
    assert context.windows is not None, "checked before"
    return context.windows


@operation(
    "windows-runner",
    progress="Starting scripts with {program}",
    form=argforms.single(argforms.local("FILE")),
    phase=Phase.SETTING,
    systems=_WINDOWS,
)
@dataclass(frozen=True)
class WindowsRunner(SettingOperation):
    """Choose the program that starts first-boot scripts in Windows.

    FILE is rhsrvany.exe (https://github.com/rwmjones/rhsrvany) or pvvxsvc.exe, which make a service of the
    scripts; neither can be distributed here. Without this option, it is looked for in the folder
    VIRT_TOOLS_DATA_DIR or, if that is not set, /usr/share/virt-tools.

    Attributes:
        program: The local program.
    """

    program: Path = field(metadata={"rule": windowsboot.runner_program})


@operation("inject-virtio-win", progress="Injecting virtio-win: {source}", form=_METHOD, systems=_WINDOWS)
@dataclass(frozen=True)
class InjectVirtioWin(_Injection):
    """Inject the drivers of virtio-win into Windows.

    METHOD is the ISO image of virtio-win, or a folder with its content. The files for the guest's version and
    architecture go to Drivers/VirtIO in the folder of Windows, and the registry is changed so that it can
    start from a virtio disk. It is an error if there is no driver for this Windows. bsdtar reads ISO images.

    Attributes:
        source: The local folder or ISO image.
    """

    source: Path = field(metadata=_SOURCE)

    def check_guest(self, context: GuestContext) -> None:
        virtiowin.require(self.source, _facts(context), virtiowin.is_driver, "drivers", self.keyword)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        virtiowin.inject(guest, context, _facts(context), self.source, self.keyword)


@operation("inject-qemu-ga", progress="Injecting qemu-ga: {source}", form=_METHOD, systems=_WINDOWS)
@dataclass(frozen=True)
class InjectQemuGa(_Injection):
    """Inject the QEMU guest agent into Windows.

    METHOD is a folder or an ISO image as for --inject-virtio-win, with an installer such as
    qemu-ga-x86_64.msi. A first-boot script installs it; see --firstboot.

    Attributes:
        source: The local folder or ISO image.
    """

    source: Path = field(metadata=_SOURCE)

    def check_guest(self, context: GuestContext) -> None:
        virtiowin.require(self.source, _facts(context), virtiowin.is_agent, "guest agent", self.keyword)
        windowsboot.find_runner(context.windows_runner)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        facts = _facts(context)
        folder = f"{windowsboot.BASE}/Temp"
        guest.mkdir_p(folder)
        with virtiowin.files(self.source, facts, virtiowin.is_agent) as found:
            name, file = next(iter(found.items()))
            guest.upload(file, f"{folder}/{name}")
        script = virtiowin.agent_script(facts, f"{folder}/{name}")
        windowsboot.install_powershell(guest, context, "install-qemu-ga", script)


@operation(
    "inject-blnsvr", progress="Injecting the balloon service: {source}", form=_METHOD, systems=_WINDOWS
)
@dataclass(frozen=True)
class InjectBlnsvr(_Injection):
    """Inject the balloon service of virtio-win into Windows.

    METHOD is a folder or an ISO image as for --inject-virtio-win, with blnsvr.exe. A first-boot script
    installs it; see --firstboot.

    Attributes:
        source: The local folder or ISO image.
    """

    source: Path = field(metadata=_SOURCE)

    def check_guest(self, context: GuestContext) -> None:
        wanted = virtiowin.is_balloon_server
        virtiowin.require(self.source, _facts(context), wanted, "balloon service", self.keyword)
        windowsboot.find_runner(context.windows_runner)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        facts = _facts(context)
        place = f"{facts.folder}/Drivers/VirtIO/blnsvr.exe"
        guest.mkdir_p(place.rpartition("/")[0])
        with virtiowin.files(self.source, facts, virtiowin.is_balloon_server) as found:
            guest.upload(found["blnsvr.exe"], place)
        command = f'@echo off\n"{windowsboot.in_windows(facts, place)}" -i\n'
        windowsboot.install_script(guest, context, "install-blnsvr", command.encode())

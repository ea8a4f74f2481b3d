"""Operations whose work is done when the guest boots for the first time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize import argforms, packagemanagers, values
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.firstboot_service import install_firstboot
from imgbuilder.customize.operation import OperationBase
from imgbuilder.customize.ops.scripts import interpreter, local_script
from imgbuilder.customize.registry import operation
from imgbuilder.errors import UsageError
from imgbuilder.events import warn
from imgbuilder.guests.ports import Guest
from imgindex.files import open_file


@operation("firstboot", form=argforms.single(argforms.local("SCRIPT")))
@dataclass(frozen=True)
class Firstboot(OperationBase):
    """Install a local script that runs at the guest's first boot.

    It runs once, as root, late in the boot and when the network is up; several run in the order in which
    they are given, and one that fails does not stop the next. What it prints, and its exit status, go to
    /root/virt-sysprep-firstboot.log in the guest and to its console; exit codes and times are also in
    /var/lib/pybuilder/firstboot-status, and pybuilder(1) can show both from outside. The guest need not be
    of this host's architecture.

    Attributes:
        script: The local file.
    """

    script: Path = field(metadata={"rule": local_script})

    def describe(self) -> str:
        """Return the progress text."""
        return f"Installing firstboot script: {self.script}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Install the script."""
        try:
            with open_file(self.script) as file:
                content = file.read()
        except OSError as error:
            raise UsageError(f"--firstboot: {self.script} cannot be read: {error.strerror}") from error
        program = interpreter(self.script)
        if program is not None and not guest.exists(program):
            warn(
                context.on_event,
                f"--firstboot {self.script}: its interpreter {program} is not in the guest, and is needed "
                "when it boots",
            )
        install_firstboot(guest, context, str(self.script), content)


@operation("firstboot-command", form=argforms.single("CMD+ARGS"))
@dataclass(frozen=True)
class FirstbootCommand(OperationBase):
    """Run a command at the guest's first boot.

    The text is run by the guest's /bin/sh; see --firstboot.

    Attributes:
        command: Text for the shell; may have several lines.
    """

    command: str = field(metadata=values.NOT_EMPTY)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Installing firstboot command: {values.first_line(self.command)}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Install the command as a script."""
        install_firstboot(guest, context, self.command, f"{self.command}\n".encode())


@operation("firstboot-install", form=argforms.items("PKG,PKG..."))
@dataclass(frozen=True)
class FirstbootInstall(OperationBase):
    """Install packages at the guest's first boot.

    They come over the guest's own network, and not during the build; see --firstboot and --install.

    Attributes:
        packages: Names of packages.
    """

    packages: tuple[str, ...] = field(metadata=values.PACKAGES)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Installing firstboot packages: {' '.join(self.packages)}"

    def check_guest(self, context: GuestContext) -> None:
        """Check that the package manager is known and takes the names."""
        packagemanagers.install_script(context.facts, self.packages)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Install a script with the package manager's command."""
        script = "#!/bin/sh\n" + packagemanagers.install_script(context.facts, self.packages, at_boot=True)
        install_firstboot(guest, context, f"install {' '.join(self.packages)}", script.encode())

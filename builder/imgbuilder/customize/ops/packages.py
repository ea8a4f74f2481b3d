"""Operations that use the guest's package manager."""

from __future__ import annotations

from dataclasses import dataclass, field

from imgbuilder.customize import aptsettings, argforms, values
from imgbuilder.customize.commands import NO_NETWORK_HINT, picked_since, run_in_guest
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.needs import Need
from imgbuilder.customize.operation import Operation
from imgbuilder.customize.packagemanagers import (
    NOTED,
    deviations,
    fetched_script,
    install_script,
    not_found,
    repair,
    uninstall_script,
    update_script,
    without_update,
)
from imgbuilder.customize.registry import operation
from imgbuilder.errors import OperationError
from imgbuilder.events import warn
from imgbuilder.guests.ports import Guest
from imgbuilder.host.text import without_controls


@operation(
    "install",
    progress="Installing packages: {packages}",
    form=argforms.items("PKG,PKG..."),
    network=True,
    runs_in_guest=True,
    needs=(Need.PACKAGES,),
)
@dataclass(frozen=True)
class Install(Operation):
    """Install packages.

    They come from the guest's repositories, by its package manager, without questions. Packages are separated
    by commas. A configuration file that was changed before is kept if the package manager can do that, as apt
    can; a warning names it and the package's version of it.

    Attributes:
        packages: Names of packages.
    """

    packages: tuple[str, ...] = field(metadata=values.PACKAGES)

    def check_guest(self, context: GuestContext) -> None:
        install_script(context.facts, self.packages)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        script = install_script(context.facts, self.packages)
        _run(guest, context, script, f"--install {','.join(self.packages)}", self.packages)


@operation(
    "uninstall",
    progress="Uninstalling packages: {packages}",
    form=argforms.items("PKG,PKG..."),
    runs_in_guest=True,
    needs=(Need.PACKAGES,),
)
@dataclass(frozen=True)
class Uninstall(Operation):
    """Uninstall packages.

    Packages are separated by commas.

    Attributes:
        packages: Names of packages.
    """

    packages: tuple[str, ...] = field(metadata=values.PACKAGES)

    def check_guest(self, context: GuestContext) -> None:
        uninstall_script(context.facts, self.packages)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        script = uninstall_script(context.facts, self.packages)
        _run_script(guest, context, script, f"--uninstall {','.join(self.packages)}")


@operation(
    "update",
    progress="Updating packages",
    form=argforms.flag(),
    network=True,
    runs_in_guest=True,
    needs=(Need.PACKAGES,),
)
@dataclass(frozen=True)
class Update(Operation):
    """Update all packages.

    Does what the guest's package manager calls an upgrade, without questions; new packages that the updated
    ones need, such as kernels, are installed. Warnings name packages that are kept back, and configuration
    files that are kept because they were changed.
    """

    def apply(self, guest: Guest, context: GuestContext) -> None:
        _run(guest, context, update_script(context.facts), "--update", None)


def _run_script(
    guest: Guest, context: GuestContext, script: str, display: str, hint: str | None = None
) -> int:
    try:
        return run_in_guest(guest, context, script, display=display, hint=hint)
    except OperationError as error:
        error.hint = repair(error.log_tail) or error.hint
        raise


def _run(
    guest: Guest, context: GuestContext, script: str, display: str, packages: tuple[str, ...] | None
) -> None:
    """Run a script that fetches packages, after uploading those that are in the host's folder."""
    hint = None if context.network else NO_NETWORK_HINT
    if context.package_cache is not None and context.memory:
        listing = f"{aptsettings.FOLDER}/wanted"
        asked = fetched_script(context.facts, packages, listing)
        _run_script(guest, context, asked, display, hint)
        wanted = aptsettings.parse_wanted(guest.read(listing).decode(errors="replace"))
        aptsettings.upload_packages(guest, context, wanted)
        script = without_update(script)
    begin = _run_script(guest, context, script, display, hint)
    printed = without_controls(picked_since(guest, context.log_file, begin, NOTED))
    missing = not_found(printed)
    if missing:
        raise OperationError(f"{display}: the guest's package manager has no package {' '.join(missing)}")
    for sentence in deviations(printed):
        warn(context.on_event, f"{display}: {sentence}")

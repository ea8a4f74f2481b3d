"""Operations that use the guest's package manager."""

from __future__ import annotations

from dataclasses import dataclass, field

from imgbuilder.customize import aptsettings, argforms, packagemanagers, values
from imgbuilder.customize.commands import NO_NETWORK_HINT, picked_since, printable, run_in_guest
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.operation import OperationBase
from imgbuilder.customize.registry import operation
from imgbuilder.errors import OperationError
from imgbuilder.events import warn
from imgbuilder.guests.ports import Guest


@operation("install", form=argforms.items("PKG,PKG..."), network=True, runs_in_guest=True)
@dataclass(frozen=True)
class Install(OperationBase):
    """Install packages.

    They come from the guest's own repositories, by its own package manager, without questions. Packages are
    separated by commas. A configuration file that was written before is kept where the package manager can
    do that, as apt can; a warning says which, and where the package's own is.

    Attributes:
        packages: Names of packages.
    """

    packages: tuple[str, ...] = field(metadata=values.PACKAGES)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Installing packages: {' '.join(self.packages)}"

    def check_guest(self, context: GuestContext) -> None:
        """Check that the package manager is known and takes the names."""
        packagemanagers.install_script(context.facts, self.packages)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Install the packages."""
        script = packagemanagers.install_script(context.facts, self.packages)
        _run(guest, context, script, f"--install {','.join(self.packages)}", self.packages)


@operation("uninstall", form=argforms.items("PKG,PKG..."), runs_in_guest=True)
@dataclass(frozen=True)
class Uninstall(OperationBase):
    """Uninstall packages.

    Packages are separated by commas.

    Attributes:
        packages: Names of packages.
    """

    packages: tuple[str, ...] = field(metadata=values.PACKAGES)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Uninstalling packages: {' '.join(self.packages)}"

    def check_guest(self, context: GuestContext) -> None:
        """Check that the package manager is known and takes the names."""
        packagemanagers.uninstall_script(context.facts, self.packages)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Remove the packages."""
        script = packagemanagers.uninstall_script(context.facts, self.packages)
        run_in_guest(guest, context, script, display=f"--uninstall {','.join(self.packages)}")


@operation("update", form=argforms.flag(), network=True, runs_in_guest=True)
@dataclass(frozen=True)
class Update(OperationBase):
    """Update all packages.

    Does what the guest's own package manager calls an upgrade, without questions; new packages that the
    updated ones need, such as kernels, are installed. Packages that are kept back, and configuration files
    that are kept because they were changed, are told by warnings.
    """

    def describe(self) -> str:
        """Return the progress text."""
        return "Updating packages"

    def check_guest(self, context: GuestContext) -> None:
        """Check that the package manager is known."""
        packagemanagers.update_script(context.facts)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Update the packages."""
        _run(guest, context, packagemanagers.update_script(context.facts), "--update", None)


def _run(
    guest: Guest, context: GuestContext, script: str, display: str, packages: tuple[str, ...] | None
) -> None:
    """Run a script that fetches packages; those in the host's folder are given to the guest first."""
    hint = _network_hint(context)
    if context.package_cache is not None and context.memory:
        listing = f"{aptsettings.FOLDER}/wanted"
        asked = packagemanagers.fetched_script(context.facts, packages, listing)
        run_in_guest(guest, context, asked, display=display, hint=hint)
        wanted = aptsettings.parse_wanted(guest.read(listing).decode(errors="replace"))
        aptsettings.give_packages(guest, context, wanted)
        script = packagemanagers.without_update(script)
    begin = run_in_guest(guest, context, script, display=display, hint=hint)
    printed = printable(picked_since(guest, context.log_file, begin, packagemanagers.NOTED))
    missing = packagemanagers.not_found(printed)
    if missing:
        raise OperationError(f"{display}: the guest's package manager has no package {' '.join(missing)}")
    for sentence in packagemanagers.left_undone(printed):
        warn(context.on_event, f"{display}: {sentence}")


def _network_hint(context: GuestContext) -> str | None:
    return None if context.network else NO_NETWORK_HINT

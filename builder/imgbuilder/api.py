"""The way in for programs: ``from imgbuilder import Builder`` (docs/api.md)."""

from __future__ import annotations

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.building import build as building
from imgbuilder.building import customize_image
from imgbuilder.building.build import BuildResult, summary
from imgbuilder.building.plan import BuildPlan
from imgbuilder.building.preflight import prepare
from imgbuilder.building.request import BuildRequest, CustomizeRequest, HostsideMode, NetworkMode
from imgbuilder.customize.failure import OnError
from imgbuilder.customize.firstboot import FirstbootReport
from imgbuilder.customize.operation import Operation
from imgbuilder.customize.ops.accounts import Password, RootPassword, SshInject
from imgbuilder.customize.ops.buildoptions import Mirror, NoLogfile, PackageCache, PasswordCrypto, Secret
from imgbuilder.customize.ops.files import (
    AppendLine,
    CopyIn,
    Scrub,
    TarIn,
    Touch,
    Truncate,
    TruncateRecursive,
    Upload,
    Write,
)
from imgbuilder.customize.ops.identity import CloudInit, Sysprep, User
from imgbuilder.customize.ops.packages import Install, Uninstall, Update
from imgbuilder.customize.ops.paths import Chmod, Chown, Copy, Delete, Link, Mkdir, Move
from imgbuilder.customize.ops.scripts import (
    Edit,
    Firstboot,
    FirstbootCommand,
    FirstbootInstall,
    Run,
    RunCommand,
)
from imgbuilder.customize.ops.staticip import StaticIp
from imgbuilder.customize.ops.system import (
    Hostname,
    NoSelinuxRelabel,
    SelinuxRelabel,
    SelinuxRelabelExclude,
    Timezone,
)
from imgbuilder.customize.ops.windows import InjectBlnsvr, InjectQemuGa, InjectVirtioWin, WindowsRunner
from imgbuilder.customize.passwords import Crypto, PasswordSelector, parse_selector
from imgbuilder.customize.sysprep import IdentityFile
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.errors import (
    DiskError,
    FetchError,
    GuestError,
    OperationError,
    PybuilderError,
    TrustError,
    UsageError,
    WorkspaceError,
)
from imgbuilder.events import Event, Notice, Progress, ProgressEnd, Reporter, Severity, Step, ignore
from imgbuilder.guests.unlocking import DiskKey, parse_key
from imgbuilder.recipe.reader import read_recipe
from imgbuilder.recipe.recipe import Recipe
from imgbuilder.recipe.writer import recipe_text
from imgbuilder.services import Services, Settings
from imgbuilder.sizes import parse_size
from imgindex.model import Entry

__all__ = [
    "AppendLine", "ApplianceOptions", "Attachment", "BuildPlan", "BuildRequest", "BuildResult", "Builder",
    "Chmod", "Chown", "CloudInit", "Copy", "CopyIn", "Crypto", "CustomizeRequest", "Delete", "DiskError",
    "DiskFormat", "DiskKey", "Edit", "Event", "FetchError", "Firstboot", "FirstbootCommand",
    "FirstbootInstall", "GuestError", "Hostname", "HostsideMode",
    "InjectBlnsvr", "InjectQemuGa", "InjectVirtioWin", "Install", "Link", "Mirror", "Mkdir", "Move",
    "NetworkMode", "NoLogfile", "NoSelinuxRelabel", "Notice", "OnError", "Operation", "OperationError",
    "OutputFormat", "PackageCache", "Password", "PasswordCrypto", "PasswordSelector", "Progress",
    "ProgressEnd", "PybuilderError", "Recipe", "Reporter", "RootPassword", "Run", "RunCommand", "Scrub",
    "Secret", "SelinuxRelabel", "SelinuxRelabelExclude", "Services", "Settings", "Severity", "SshInject",
    "StaticIp", "Step", "Sysprep", "TarIn", "Timezone", "Touch", "Truncate", "TruncateRecursive",
    "TrustError", "Uninstall", "Update", "Upload", "UsageError", "User", "WindowsRunner",
    "WorkspaceError", "Write",
    "parse_key", "parse_selector", "parse_size", "read_recipe", "recipe_text", "summary",
]  # fmt: skip
"""The names of the interface: ``imgbuilder`` offers them and docs/api.md lists them."""


class Builder:
    """Builds and customizes disk images.

    Its methods raise ``PybuilderError``, and nothing else because of what they are given or of what happens.
    Nothing is printed: ``on_event`` receives what happens.

    Args:
        settings: The sources and the cache; by default those of the command ``pybuilder``.
        on_event: Called with each event.
        services: The ports to the outside, for programs that replace one; made of the settings by default.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        on_event: Reporter = ignore,
        *,
        services: Services | None = None,
    ) -> None:
        self._services = services or Services(settings or Settings())
        self._report = on_event

    def templates(self) -> tuple[Entry, ...]:
        """Return the templates that the sources offer."""
        return self._services.catalog(self._report).entries

    def plan(self, request: BuildRequest) -> BuildPlan:
        """Decide how to build, and refuse what cannot work; no template is fetched, nothing is written."""
        return prepare(request, self._services, self._report).plan

    def build(self, request: BuildRequest) -> BuildResult:
        """Build an image.

        Raises:
            PybuilderError: It could not be built; what was at the output's place before is still there.
        """
        return building.build(request, self._services, self._report)

    def customize(self, request: CustomizeRequest) -> None:
        """Customize the guest on existing disks.

        Raises:
            PybuilderError: It failed; the hint says whether the disks were changed.
        """
        customize_image.customize_disks(request, self._services, self._report)

    def find_identity(self, request: CustomizeRequest) -> list[IdentityFile]:
        """Find what identifies one machine on the disks, which are only read."""
        return customize_image.find_identity(request, self._services, self._report)

    def firstboot_report(self, request: CustomizeRequest) -> FirstbootReport:
        """Read how the first-boot scripts on the disks fared; they are only read."""
        return customize_image.firstboot_report(request, self._services, self._report)

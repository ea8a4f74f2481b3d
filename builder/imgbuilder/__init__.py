"""The client: builds a bootable disk image from a template of a signed repository.

The names below are the interface for programs; docs/api.md explains it. They are
imported when they are first used, since ``pybuilder --list`` needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgbuilder.api import Builder as Builder
    from imgbuilder.building.build import BuildResult as BuildResult
    from imgbuilder.building.build import summary as summary
    from imgbuilder.building.existing import CustomizeRequest as CustomizeRequest
    from imgbuilder.building.existing import Disk as Disk
    from imgbuilder.building.plan import BuildPlan as BuildPlan
    from imgbuilder.building.request import (
        Attached as Attached,
    )
    from imgbuilder.building.request import (
        BuildRequest as BuildRequest,
    )
    from imgbuilder.building.request import (
        NetworkMode as NetworkMode,
    )
    from imgbuilder.customize.failure import OnError as OnError
    from imgbuilder.customize.operation import Operation as Operation
    from imgbuilder.customize.ops.accounts import (
        Password as Password,
    )
    from imgbuilder.customize.ops.accounts import (
        RootPassword as RootPassword,
    )
    from imgbuilder.customize.ops.accounts import (
        SshInject as SshInject,
    )
    from imgbuilder.customize.ops.files import (
        AppendLine as AppendLine,
    )
    from imgbuilder.customize.ops.files import (
        CopyIn as CopyIn,
    )
    from imgbuilder.customize.ops.files import (
        Scrub as Scrub,
    )
    from imgbuilder.customize.ops.files import (
        TarIn as TarIn,
    )
    from imgbuilder.customize.ops.files import (
        Touch as Touch,
    )
    from imgbuilder.customize.ops.files import (
        Truncate as Truncate,
    )
    from imgbuilder.customize.ops.files import (
        TruncateRecursive as TruncateRecursive,
    )
    from imgbuilder.customize.ops.files import (
        Upload as Upload,
    )
    from imgbuilder.customize.ops.files import (
        Write as Write,
    )
    from imgbuilder.customize.ops.firstboot import (
        Firstboot as Firstboot,
    )
    from imgbuilder.customize.ops.firstboot import (
        FirstbootCommand as FirstbootCommand,
    )
    from imgbuilder.customize.ops.firstboot import (
        FirstbootInstall as FirstbootInstall,
    )
    from imgbuilder.customize.ops.identity import CloudInit as CloudInit
    from imgbuilder.customize.ops.identity import Sysprep as Sysprep
    from imgbuilder.customize.ops.identity import User as User
    from imgbuilder.customize.ops.packages import Install as Install
    from imgbuilder.customize.ops.packages import Uninstall as Uninstall
    from imgbuilder.customize.ops.packages import Update as Update
    from imgbuilder.customize.ops.paths import (
        Chmod as Chmod,
    )
    from imgbuilder.customize.ops.paths import (
        Chown as Chown,
    )
    from imgbuilder.customize.ops.paths import (
        Copy as Copy,
    )
    from imgbuilder.customize.ops.paths import (
        Delete as Delete,
    )
    from imgbuilder.customize.ops.paths import (
        Link as Link,
    )
    from imgbuilder.customize.ops.paths import (
        Mkdir as Mkdir,
    )
    from imgbuilder.customize.ops.paths import (
        Move as Move,
    )
    from imgbuilder.customize.ops.scripts import Edit as Edit
    from imgbuilder.customize.ops.scripts import Run as Run
    from imgbuilder.customize.ops.scripts import RunCommand as RunCommand
    from imgbuilder.customize.ops.settings import (
        Mirror as Mirror,
    )
    from imgbuilder.customize.ops.settings import (
        NoLogfile as NoLogfile,
    )
    from imgbuilder.customize.ops.settings import (
        NoSelinuxRelabel as NoSelinuxRelabel,
    )
    from imgbuilder.customize.ops.settings import (
        PackageCache as PackageCache,
    )
    from imgbuilder.customize.ops.settings import (
        PasswordCrypto as PasswordCrypto,
    )
    from imgbuilder.customize.ops.settings import (
        Secret as Secret,
    )
    from imgbuilder.customize.ops.settings import (
        SelinuxRelabel as SelinuxRelabel,
    )
    from imgbuilder.customize.ops.settings import (
        SelinuxRelabelExclude as SelinuxRelabelExclude,
    )
    from imgbuilder.customize.ops.system import Hostname as Hostname
    from imgbuilder.customize.ops.system import Timezone as Timezone
    from imgbuilder.customize.passwords import (
        Crypto as Crypto,
    )
    from imgbuilder.customize.passwords import (
        PasswordSelector as PasswordSelector,
    )
    from imgbuilder.customize.passwords import (
        parse_selector as parse_selector,
    )
    from imgbuilder.disk.diskimage import DiskFormat as DiskFormat
    from imgbuilder.disk.diskimage import OutputFormat as OutputFormat
    from imgbuilder.errors import (
        DiskError as DiskError,
    )
    from imgbuilder.errors import (
        FetchError as FetchError,
    )
    from imgbuilder.errors import (
        GuestError as GuestError,
    )
    from imgbuilder.errors import (
        OperationError as OperationError,
    )
    from imgbuilder.errors import (
        PybuilderError as PybuilderError,
    )
    from imgbuilder.errors import (
        TrustError as TrustError,
    )
    from imgbuilder.errors import (
        UsageError as UsageError,
    )
    from imgbuilder.errors import (
        WorkspaceError as WorkspaceError,
    )
    from imgbuilder.events import (
        Event as Event,
    )
    from imgbuilder.events import (
        Notice as Notice,
    )
    from imgbuilder.events import (
        Progress as Progress,
    )
    from imgbuilder.events import (
        ProgressEnd as ProgressEnd,
    )
    from imgbuilder.events import (
        Reporter as Reporter,
    )
    from imgbuilder.events import (
        Severity as Severity,
    )
    from imgbuilder.events import (
        Step as Step,
    )
    from imgbuilder.guests.unlocking import DiskKey as DiskKey
    from imgbuilder.guests.unlocking import parse_key as parse_key
    from imgbuilder.recipe.model import Recipe as Recipe
    from imgbuilder.recipe.read import read_recipe as read_recipe
    from imgbuilder.recipe.write import recipe_text as recipe_text
    from imgbuilder.services import Services as Services
    from imgbuilder.services import Settings as Settings
    from imgbuilder.sizes import parse_size as parse_size

_HOMES = {
    "imgbuilder.api": ("Builder",),
    "imgbuilder.building.build": (
        "BuildResult",
        "summary",
    ),
    "imgbuilder.customize.operation": ("Operation",),
    "imgbuilder.customize.ops.accounts": (
        "Password",
        "RootPassword",
        "SshInject",
    ),
    "imgbuilder.customize.ops.files": (
        "AppendLine",
        "CopyIn",
        "Scrub",
        "TarIn",
        "Touch",
        "Truncate",
        "TruncateRecursive",
        "Upload",
        "Write",
    ),
    "imgbuilder.customize.ops.firstboot": (
        "Firstboot",
        "FirstbootCommand",
        "FirstbootInstall",
    ),
    "imgbuilder.customize.ops.identity": (
        "CloudInit",
        "Sysprep",
        "User",
    ),
    "imgbuilder.customize.ops.packages": (
        "Install",
        "Uninstall",
        "Update",
    ),
    "imgbuilder.customize.ops.paths": (
        "Chmod",
        "Chown",
        "Copy",
        "Delete",
        "Link",
        "Mkdir",
        "Move",
    ),
    "imgbuilder.customize.ops.scripts": (
        "Edit",
        "Run",
        "RunCommand",
    ),
    "imgbuilder.customize.ops.settings": (
        "Mirror",
        "NoLogfile",
        "NoSelinuxRelabel",
        "PackageCache",
        "PasswordCrypto",
        "Secret",
        "SelinuxRelabel",
        "SelinuxRelabelExclude",
    ),
    "imgbuilder.customize.ops.system": (
        "Hostname",
        "Timezone",
    ),
    "imgbuilder.customize.passwords": (
        "Crypto",
        "PasswordSelector",
        "parse_selector",
    ),
    "imgbuilder.disk.diskimage": (
        "DiskFormat",
        "OutputFormat",
    ),
    "imgbuilder.guests.unlocking": (
        "DiskKey",
        "parse_key",
    ),
    "imgbuilder.errors": (
        "DiskError",
        "FetchError",
        "GuestError",
        "OperationError",
        "PybuilderError",
        "TrustError",
        "UsageError",
        "WorkspaceError",
    ),
    "imgbuilder.events": (
        "Event",
        "Notice",
        "Progress",
        "ProgressEnd",
        "Reporter",
        "Severity",
        "Step",
    ),
    "imgbuilder.building.existing": (
        "CustomizeRequest",
        "Disk",
    ),
    "imgbuilder.customize.failure": ("OnError",),
    "imgbuilder.building.plan": ("BuildPlan",),
    "imgbuilder.recipe.model": ("Recipe",),
    "imgbuilder.recipe.read": ("read_recipe",),
    "imgbuilder.recipe.write": ("recipe_text",),
    "imgbuilder.building.request": (
        "Attached",
        "BuildRequest",
        "NetworkMode",
    ),
    "imgbuilder.services": (
        "Services",
        "Settings",
    ),
    "imgbuilder.sizes": ("parse_size",),
}
"""The modules of the interface's names."""

_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

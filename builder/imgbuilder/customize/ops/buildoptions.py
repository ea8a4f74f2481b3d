"""Options that change how the others work, or the build as a whole."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize import aptsettings, argforms, passwords, secrecy, values
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import EVERYWHERE
from imgbuilder.customize.needs import Need
from imgbuilder.customize.operation import Operation, Phase, SettingOperation
from imgbuilder.customize.passwords import Crypto, parse_crypto
from imgbuilder.customize.registry import operation
from imgbuilder.errors import GuestCallError, UsageError
from imgbuilder.guests.ports import Guest


@operation(
    "password-crypto",
    progress="Hashing passwords with {crypto.value}",
    form=argforms.single(argforms.ArgumentPart("sha512|sha256|yescrypt", parse_crypto)),
    phase=Phase.SETTING,
)
@dataclass(frozen=True)
class PasswordCrypto(SettingOperation):
    """Choose the hash of passwords.

    The default is the guest's own: yescrypt if its PAM or login.defs says so and this host's libcrypt can
    make it, otherwise sha512, which every Linux guest knows. md5 is refused. It holds for all passwords,
    wherever the option is; the last one wins.

    Attributes:
        crypto: The hash.
    """

    crypto: Crypto = field(metadata={"rule": passwords.crypto})


@operation(
    "secret",
    progress="Providing the secret {name}",
    form=argforms.assignment(
        "NAME",
        argforms.ArgumentPart(
            "env:VARIABLE|file:PATH", secrecy.parse_source, argforms.Kind.SELECTOR, key="source"
        ),
    ),
    phase=Phase.SETTING,
    secret=True,
)
@dataclass(frozen=True)
class Secret(SettingOperation):
    """Give commands a secret in an environment variable.

    All commands that run in the guest during the build see it as $NAME: --run, --run-command and the package
    manager. Its value comes from a variable of your environment or from a file (without the final newline)
    and has at least 4 characters. It is not written to the image and not in the arguments of any process. If
    a command prints it, the log and all messages show *** instead; text derived from it, such as its base64,
    is not recognised, and a command can of course write it somewhere. The output of each command is then
    limited to 64 MiB. The secret is available to all operations, wherever the option is.

    Attributes:
        name: Name of the variable.
        value: Its value.
    """

    name: str = field(metadata={"rule": secrecy.variable_name})
    value: str = field(repr=False, metadata={"rule": secrecy.secret_value, "raw": True})


@operation(
    "mirror",
    progress="Using a mirror for packages",
    form=argforms.single(argforms.ArgumentPart("URL", is_secret=values.holds_credentials)),
    phase=Phase.SETTING,
    needs=(Need.APT,),
)
@dataclass(frozen=True)
class Mirror(SettingOperation):
    """Fetch the distribution's packages from a mirror, during the build only.

    URL replaces scheme and host in the addresses of the distribution's archives: http://mirror.example.org
    replaces http://deb.debian.org, and the paths /debian and /debian-security stay. Other repositories are
    not affected, and after the build the guest's configuration is as before. For guests with apt.

    Attributes:
        url: The address.
    """

    url: str = field(repr=False, metadata={"rule": values.mirror_url})


@operation(
    "package-cache",
    progress="Keeping packages in {folder}",
    form=argforms.single(argforms.local("DIR")),
    phase=Phase.SETTING,
    needs=(Need.APT,),
)
@dataclass(frozen=True)
class PackageCache(SettingOperation):
    """Keep the packages that --install and --update fetch in a local directory.

    The next build uses them instead of fetching them again, if they have the SHA-256 in the archive's signed
    lists. The packages do not stay in the image. The directory is made if it is missing. For guests with apt.

    Attributes:
        folder: The local directory.
    """

    folder: Path

    def check_host(self) -> None:
        try:
            aptsettings.usable_folder(self.folder)
        except OSError as error:
            raise UsageError(f"--package-cache: {self.folder} cannot be used: {error.strerror}") from error


@operation(
    "no-logfile",
    progress="Scrubbing the log file",
    form=argforms.flag(),
    phase=Phase.LAST,
    systems=EVERYWHERE,
)
@dataclass(frozen=True)
class NoLogfile(Operation):
    """Remove the log file of the customization from the guest.

    Without this option, the output of commands stays in /tmp/builder.log in the guest.
    """

    def apply(self, guest: Guest, context: GuestContext) -> None:
        if not guest.is_file(context.log_file):
            return
        if context.runs_commands:
            with contextlib.suppress(GuestCallError):  # removal is what counts
                guest.sh(f"shred -u {shlex.quote(context.log_file)}")
        guest.remove(context.log_file)

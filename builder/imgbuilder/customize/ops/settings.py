"""Flags: how the other operations work, and what is done at the very end."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize import aptsettings, argforms, passwords, secrecy, values
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.operation import OperationBase, Phase
from imgbuilder.customize.passwordhash import Crypto
from imgbuilder.customize.passwords import parse_crypto
from imgbuilder.customize.registry import operation
from imgbuilder.errors import GuestCallError, UsageError
from imgbuilder.guests.ports import Guest

_EXCLUDED = "/etc/selinux/fixfiles_exclude_dirs"
_POLICY = re.compile(r"[A-Za-z0-9_-]{1,64}")


@operation(
    "password-crypto",
    form=argforms.single(argforms.Part("sha512|sha256|yescrypt", parse_crypto)),
    phase=Phase.SETTING,
)
@dataclass(frozen=True)
class PasswordCrypto(OperationBase):
    """Choose how passwords are hashed.

    The default is sha512, which every Linux guest reads; md5 is refused. It holds for all passwords,
    wherever it stands; the last one wins.

    Attributes:
        crypto: The hash.
    """

    crypto: Crypto = field(metadata={"rule": passwords.crypto})

    def describe(self) -> str:
        """Return the progress text."""
        return f"Hashing passwords with {self.crypto.value}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Do nothing to the guest: ``run.customize`` has put the choice into the context."""


@operation(
    "secret",
    form=argforms.assignment(
        "NAME",
        argforms.Part("env:VARIABLE|file:PATH", secrecy.parse_source, argforms.Kind.SELECTOR, key="source"),
    ),
    phase=Phase.SETTING,
    secret=True,
)
@dataclass(frozen=True)
class Secret(OperationBase):
    """Give commands a secret in an environment variable.

    All commands that run in the guest during the build find it as $NAME: those of --run, --run-command and
    the package manager. Its value comes from a variable of your environment or from a file (without its last
    newline), at least 4 characters. It is not written to the image, is in no argument of any process, and
    where a command prints it, the log and all messages show *** instead; what a command derives from it,
    such as its base64, is not recognised, and a command can of course write it somewhere. Output of commands
    is limited to 64 MiB each then. It holds for all operations, wherever it stands.

    Attributes:
        name: Name of the variable.
        value: Its value.
    """

    name: str = field(metadata={"rule": secrecy.variable_name})
    value: str = field(repr=False, metadata={"rule": secrecy.secret_value, "raw": True})

    def describe(self) -> str:
        """Return the progress text."""
        return f"Providing the secret {self.name}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Do nothing to the guest: ``run.customize`` has put the secret into the context."""


@operation(
    "mirror",
    form=argforms.single(argforms.Part("URL", is_secret=values.holds_credentials)),
    phase=Phase.SETTING,
)
@dataclass(frozen=True)
class Mirror(OperationBase):
    """Fetch the distribution's packages from a mirror, during the build only.

    URL takes the place of scheme and host in the addresses of the distribution's own archives, so that
    http://mirror.example.org stands for http://deb.debian.org: the paths after it, /debian and
    /debian-security, stay. Other repositories are not touched, and the guest's configuration is as before
    when the build has ended. For guests with apt.

    Attributes:
        url: The address.
    """

    url: str = field(repr=False, metadata={"rule": values.mirror_url})

    def describe(self) -> str:
        """Return the progress text."""
        return "Using a mirror for packages"

    def check_guest(self, context: GuestContext) -> None:
        """Check that the guest has apt."""
        aptsettings.check_manager(context, self.keyword)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Do nothing to the guest: ``run.customize`` has put the address into the context."""


@operation("package-cache", form=argforms.single(argforms.local("DIR")), phase=Phase.SETTING)
@dataclass(frozen=True)
class PackageCache(OperationBase):
    """Keep the packages that --install and --update fetch in a local directory.

    The next build takes them from there instead of fetching them again, if they have the SHA-256 that the
    signed lists of the archive say; the packages do not stay in the image. The directory is made when it is
    missing. For guests with apt.

    Attributes:
        folder: The local directory.
    """

    folder: Path

    def describe(self) -> str:
        """Return the progress text."""
        return f"Keeping packages in {self.folder}"

    def check_host(self) -> None:
        """Check that the directory can be used."""
        try:
            aptsettings.usable_folder(self.folder)
        except OSError as error:
            raise UsageError(f"--package-cache: {self.folder} cannot be used: {error.strerror}") from error

    def check_guest(self, context: GuestContext) -> None:
        """Check that the guest has apt."""
        aptsettings.check_manager(context, self.keyword)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Do nothing to the guest: ``run.customize`` has put the directory into the context."""


@operation("no-selinux-relabel", form=argforms.flag(), phase=Phase.SETTING)
@dataclass(frozen=True)
class NoSelinuxRelabel(OperationBase):
    """Do not relabel files in an SELinux guest.

    Files that were changed may then have wrong labels, and the guest may not boot in enforcing mode.
    """

    def describe(self) -> str:
        """Return the progress text."""
        return "Leaving SELinux labels as they are"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Do nothing: ``run.customize`` leaves out the relabelling."""


@operation("selinux-relabel", form=argforms.flag(), phase=Phase.LAST)
@dataclass(frozen=True)
class SelinuxRelabel(OperationBase):
    """Relabel files in an SELinux guest.

    This is the default. The labels are made in the appliance where it has setfiles; otherwise, and when the
    guest's policy is not found, the guest relabels itself at its first boot, and boots once more then.
    Guests without SELinux are left alone.
    """

    def describe(self) -> str:
        """Return the progress text."""
        return "SELinux relabelling"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Label the files, or ask the guest to do it, if it has SELinux."""
        if not has_selinux(guest):
            return
        config = _assignments(guest.read("/etc/selinux/config").decode(errors="replace"))
        policy = config.get("SELINUXTYPE", "targeted")
        specification = f"/etc/selinux/{policy}/contexts/files/file_contexts"
        if (
            config.get("SELINUX") != "disabled"
            and _POLICY.fullmatch(policy)
            and guest.is_file(specification)
            and guest.relabel(specification, context.unlabelled)
        ):
            guest.remove("/.autorelabel")
        else:
            _exclude_at_boot(guest, context.unlabelled)
            guest.touch("/.autorelabel")


@operation("selinux-relabel-exclude", form=argforms.single("DIR"), phase=Phase.SETTING)
@dataclass(frozen=True)
class SelinuxRelabelExclude(OperationBase):
    """Pass over a directory when files in an SELinux guest are relabelled.

    It may be given several times. Where the guest relabels itself at its first boot, the directory is added
    to the guest's own list, /etc/selinux/fixfiles_exclude_dirs, and stays in it.

    Attributes:
        path: The directory in the guest.
    """

    path: str = field(metadata=values.GUEST_PATH)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Leaving SELinux labels below {self.path} as they are"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Do nothing to the guest: ``run.customize`` has put the directory into the context."""


@operation("no-logfile", form=argforms.flag(), phase=Phase.LAST)
@dataclass(frozen=True)
class NoLogfile(OperationBase):
    """Remove the log file of the customization from the guest.

    Without it, what commands printed stays in /tmp/builder.log in the guest.
    """

    def describe(self) -> str:
        """Return the progress text."""
        return "Scrubbing the log file"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Overwrite the log where the guest's tools can, and remove it."""
        if not guest.is_file(context.log_file):
            return
        if context.runs_commands:
            with contextlib.suppress(GuestCallError):  # removal is what counts
                guest.sh(f"shred -u {shlex.quote(context.log_file)}")
        guest.remove(context.log_file)


def _exclude_at_boot(guest: Guest, folders: Sequence[str]) -> None:
    """Add directories to the list that the guest's fixfiles(8) reads."""
    if not folders:
        return
    known = guest.read(_EXCLUDED).decode(errors="surrogateescape") if guest.is_file(_EXCLUDED) else ""
    missing = [folder for folder in folders if folder not in known.splitlines()]
    head = f"{known}\n" if known and not known.endswith("\n") else known
    text = head + "".join(f"{folder}\n" for folder in missing)
    guest.write(_EXCLUDED, text.encode(errors="surrogateescape"))


def has_selinux(guest: Guest) -> bool:
    """Tell whether the guest uses SELinux (``virt-builder.md`` 8.8)."""
    return guest.is_file("/etc/selinux/config") and (
        guest.is_file("/usr/sbin/load_policy") or guest.is_file("/sbin/load_policy")
    )


def _assignments(text: str) -> dict[str, str]:
    """Read ``NAME=value`` lines, selinux(8)."""
    pairs = [line.split("=", 1) for line in text.split("\n") if "=" in line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, value in pairs}

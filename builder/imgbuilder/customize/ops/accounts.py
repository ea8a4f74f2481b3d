"""Operations on the guest's accounts: passwords and ssh keys."""

# ruff: noqa: ARG002 - every operation has the same methods
from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imgbuilder.customize import argforms, passwords, values
from imgbuilder.customize.accountfiles import Account, find_account, set_shadow_field
from imgbuilder.customize.operation import OperationBase, Phase
from imgbuilder.customize.passwords import PasswordSelector, holds_password, parse_selector
from imgbuilder.customize.registry import operation
from imgbuilder.customize.sshkeys import add_keys, parse_key_selector, public_keys
from imgbuilder.errors import OperationError

if TYPE_CHECKING:
    from imgbuilder.customize.context import GuestContext
    from imgbuilder.guest import Guest

_SELECTOR = argforms.Part("SELECTOR", parse_selector, argforms.Kind.SELECTOR, is_secret=holds_password)


@dataclass(frozen=True)
class PasswordOperation(OperationBase):
    """What the two options for passwords share."""

    @property
    @abstractmethod
    def account(self) -> str:
        """The user whose password is set."""

    @property
    @abstractmethod
    def chosen(self) -> PasswordSelector:
        """Which password the user gets."""

    @property
    def passwords(self) -> tuple[PasswordSelector, ...]:
        """The passwords that it sets."""
        return (self.chosen,)

    def describe(self) -> str:
        """Return the progress text, the same for all users."""
        return "Setting passwords"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Set the password field of ``/etc/shadow``, and tell a random password once (Z17)."""
        password = self.chosen.password(context.secrets)
        value = self.chosen.shadow_field(password, context.password_crypto)
        if not guest.is_file("/etc/shadow"):
            raise OperationError(f"--{self.keyword}: the guest has no /etc/shadow")
        shadow = set_shadow_field(guest.read("/etc/shadow"), self.account, value)
        if shadow is None:
            raise OperationError(
                f"--{self.keyword}: the guest has no user {self.account} in /etc/shadow",
                hint=f"add the user first: --run-command 'useradd -m {self.account}'",
            )
        guest.replace("/etc/shadow", shadow)
        self.chosen.tell(self.account, password, context.report)


@operation("password", form=argforms.pair("USER", _SELECTOR), phase=Phase.LATE, secret=True)
@dataclass(frozen=True)
class Password(PasswordOperation):
    """Set the password of a user.

    SELECTOR is password:TEXT, file:PATH (the first line of a local file), secret:NAME (a --secret of that
    name), random (printed once), disabled (no password is right), locked (disabled, too) or
    locked:SELECTOR. A password on the command line can be seen by other users of this host; with file: and
    secret: it cannot. Passwords are set after all other operations, so that the user may be added by one of
    them; an unknown user is an error.

    Attributes:
        user: The user.
        selector: Which password.
    """

    user: str = field(metadata=values.USER_NAME)
    selector: PasswordSelector = field(metadata={"rule": passwords.selector})

    @property
    def account(self) -> str:
        """The user whose password is set."""
        return self.user

    @property
    def chosen(self) -> PasswordSelector:
        """Which password the user gets."""
        return self.selector


@operation("root-password", form=argforms.single(_SELECTOR), phase=Phase.LATE, secret=True)
@dataclass(frozen=True)
class RootPassword(PasswordOperation):
    """Set the password of root.

    SELECTOR is as for --password. Without this option, and without --password root:..., root gets a random
    password, which is printed.

    Attributes:
        selector: Which password.
    """

    selector: PasswordSelector = field(metadata={"rule": passwords.selector})

    @property
    def account(self) -> str:
        """The user whose password is set."""
        return "root"

    @property
    def chosen(self) -> PasswordSelector:
        """Which password the user gets."""
        return self.selector


@operation(
    "ssh-inject",
    form=argforms.user_selector(
        "USER",
        argforms.Part(
            "SELECTOR", parse_key_selector, argforms.Kind.SELECTOR, optional=True, absent="", key="key"
        ),
    ),
)
@dataclass(frozen=True)
class SshInject(OperationBase):
    """Let the owner of an ssh key log in as a user of the guest.

    SELECTOR is file:PATH or string:KEY; without it, the newest ~/.ssh/id*.pub of this host is taken. The
    keys are added to the user's authorized_keys, unless they are there already. Unlike passwords this is
    done in order: add the user before it.

    Attributes:
        user: The user of the guest.
        keys: Public keys, one line each.
    """

    user: str = field(metadata=values.USER_NAME)
    keys: tuple[str, ...] = field(metadata={"rule": public_keys, "raw": True})

    def describe(self) -> str:
        """Return the progress text."""
        return f"SSH key inject: {self.user}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Add the keys, making the files that are missing with the user's ownership (Z10)."""
        account = self._account(guest)
        # sshd ignores keys in places that others could write to (StrictModes), hence 0700 and 0600.
        if not guest.is_dir(account.home):
            guest.mkdir_p(account.home)
            _give(guest, account, account.home, 0o700)
        folder = f"{account.home.rstrip('/')}/.ssh"
        if not guest.is_dir(folder):
            guest.mkdir_mode(folder, 0o700)
            _give(guest, account, folder, 0o700)
        path = f"{folder}/authorized_keys"
        if guest.exists(path):
            content = guest.read(path)
            added = add_keys(content, self.keys)
            if added != content:
                guest.append(path, added[len(content) :])
        else:
            guest.write(path, add_keys(b"", self.keys))
            _give(guest, account, path, 0o600)

    def _account(self, guest: Guest) -> Account:
        passwd = guest.read("/etc/passwd") if guest.is_file("/etc/passwd") else b""
        account = find_account(passwd, self.user)
        if account is None:
            raise OperationError(
                f"--ssh-inject: the guest has no user {self.user}",
                hint=f"add the user first: --run-command 'useradd -m {self.user}'",
            )
        if not account.home.startswith("/"):
            raise OperationError(f"--ssh-inject: the home directory of {self.user} is not an absolute path")
        return account


def _give(guest: Guest, account: Account, path: str, mode: int) -> None:
    guest.chown(account.uid, account.gid, path)
    guest.chmod(mode, path)

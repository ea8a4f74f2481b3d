"""Operations on the guest's accounts: passwords and ssh keys."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass, field

from imgbuilder.customize import argforms, passwords, values
from imgbuilder.customize.accountfiles import (
    PasswdEntry,
    add_keys,
    add_user,
    expiry_day,
    find_account,
    parse_key_selector,
    public_keys,
    set_shadow_field,
    use_shadow,
)
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import Family
from imgbuilder.customize.operation import Operation, Phase, read_if_present
from imgbuilder.customize.passwords import (
    Crypto,
    PasswordSelector,
    holds_password,
    parse_selector,
    yescrypt_available,
)
from imgbuilder.customize.registry import operation
from imgbuilder.errors import OperationError
from imgbuilder.events import warn
from imgbuilder.guests.ports import Guest

_KEYS_FILE = re.compile(r"^[ \t]*AuthorizedKeysFile[ \t]+([^#\n]+)", re.IGNORECASE | re.MULTILINE)
_LIBCRYPT = tuple(
    f"{folder}{deeper}/libcrypt.so.*" for folder in ("/lib*", "/usr/lib*") for deeper in ("", "/*")
)
_DROPBEAR = "/etc/dropbear"
"""Folder where OpenWrt's ssh server reads the keys of root."""
_PAM = tuple(f"/etc/pam.d/{name}" for name in ("common-password", "system-auth", "password-auth", "passwd"))
"""The files that may say how passwd(1) hashes: of Debian and SUSE, of Fedora and Arch, and of others."""
_PAM_UNIX = re.compile(rb"^[ \t]*-?password[ \t][^\n#]*\bpam_unix\.so\b[^\n#]*", re.MULTILINE)
_YESCRYPT_ASKED = re.compile(rb"^[ \t]*ENCRYPT_METHOD[ \t]+YESCRYPT\b", re.MULTILINE)
_YESCRYPT_PREFIX = b"$y$"
_LARGEST_LIBCRYPT = 1024 * 1024

_SELECTOR = argforms.ArgumentPart(
    "SELECTOR", parse_selector, argforms.Kind.SELECTOR, is_secret=holds_password
)


class PasswordOperation(Operation):
    """Base of the two options for passwords."""

    selector: PasswordSelector

    @property
    @abstractmethod
    def account(self) -> str:
        """The user whose password is set."""

    @property
    def passwords(self) -> tuple[PasswordSelector, ...]:
        return (self.selector,)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        set_password(guest, context, self.keyword, self.account, self.selector)


def set_password(
    guest: Guest, context: GuestContext, keyword: str, user: str, chosen: PasswordSelector
) -> None:
    """Set the password of a user, with today as the day of its change, as passwd(1) does."""
    password = chosen.password(context.secrets, context.variation.random_bytes)
    if password is not None and context.password_crypto is Crypto.YESCRYPT:
        _require_yescrypt(guest)
    value = chosen.shadow_field(password, context.password_crypto, context.variation.random_bytes)
    if not guest.is_file("/etc/shadow"):
        raise OperationError(f"--{keyword}: the guest has no /etc/shadow")
    day = context.variation.today
    shadow = set_shadow_field(guest.read("/etc/shadow"), user, value, day)
    if shadow is None:
        raise OperationError(
            f"--{keyword}: the guest has no user {user} in /etc/shadow",
            hint=f"add the user first: --run-command '{add_user(guest)} {user}'",
        )
    guest.replace("/etc/shadow", shadow)
    passwd = read_if_present(guest, "/etc/passwd")
    if use_shadow(passwd, user) != passwd:
        guest.replace("/etc/passwd", use_shadow(passwd, user))
    expires = expiry_day(shadow, user)
    if password is not None and expires is not None and expires <= day:
        warn(
            context.on_event,
            f"--{keyword}: the account {user} expired {day - expires} days ago and cannot log in until that "
            f'is changed: --run-command "chage -E -1 {user}"',
        )
    chosen.report_random(user, password, context.on_event)


def own_crypto(guest: Guest) -> Crypto:
    """Return the guest's own kind of hash: yescrypt if it says so and this host can make it, or sha512."""
    asked = re.search(_YESCRYPT_ASKED, read_if_present(guest, "/etc/login.defs"))
    for path in _PAM:
        rules = _PAM_UNIX.findall(read_if_present(guest, path))
        if rules:
            asked = re.search(rb"\byescrypt\b", rules[0])
            break
    known = asked and yescrypt_available() and _knows_yescrypt(guest)
    return Crypto.YESCRYPT if known else Crypto.SHA512


def _require_yescrypt(guest: Guest) -> None:
    if not _knows_yescrypt(guest):
        raise OperationError(
            "--password-crypto: the guest's libcrypt does not know yescrypt and would accept no password",
            hint="use sha512, which every Linux guest knows",
        )


def _knows_yescrypt(guest: Guest) -> bool:
    """Check whether the guest's libcrypt knows yescrypt, which older ones and musl's do not."""
    return any(
        guest.is_file(path) and _YESCRYPT_PREFIX in guest.start_of(path, _LARGEST_LIBCRYPT)
        for pattern in _LIBCRYPT
        for path in guest.glob(pattern)
    )


@operation(
    "password",
    progress="Setting passwords",
    form=argforms.pair("USER", _SELECTOR),
    phase=Phase.LATE,
    secret=True,
)
@dataclass(frozen=True)
class Password(PasswordOperation):
    """Set the password of a user.

    SELECTOR is password:TEXT, file:PATH (the first line of a local file), secret:NAME (a --secret of that
    name), random (printed once), disabled (no password is accepted), locked (also disabled) or
    locked:SELECTOR. Other users of this host can see a password on the command line, but not one given by
    file: or secret:. Passwords are set after all other operations, so that the user may be added by one of
    them; an unknown user is an error. The day of the change is today; limits of the password's age stay.

    Attributes:
        user: The user.
        selector: The password.
    """

    user: str = field(metadata=values.USER_NAME)
    selector: PasswordSelector = field(metadata={"rule": passwords.selector})

    @property
    def account(self) -> str:
        return self.user


@operation(
    "root-password",
    progress="Setting passwords",
    form=argforms.single(_SELECTOR),
    phase=Phase.LATE,
    secret=True,
)
@dataclass(frozen=True)
class RootPassword(PasswordOperation):
    """Set the password of root.

    SELECTOR is as for --password. Without this option, and without --password root:..., root gets a random
    password, which is printed.

    Attributes:
        selector: The password.
    """

    selector: PasswordSelector = field(metadata={"rule": passwords.selector})

    @property
    def account(self) -> str:
        return "root"


@operation(
    "ssh-inject",
    progress="SSH key inject: {user}",
    form=argforms.user_selector(
        "USER",
        argforms.ArgumentPart(
            "SELECTOR", parse_key_selector, argforms.Kind.SELECTOR, optional=True, absent="", key="key"
        ),
    ),
)
@dataclass(frozen=True)
class SshInject(Operation):
    """Let the owner of an ssh key log in as a user of the guest.

    SELECTOR is file:PATH or string:KEY; the default is the newest ~/.ssh/id*.pub of this host. The keys are
    added to the user's authorized_keys unless they are already in it. Unlike passwords, this is done in
    order: add the user before it.

    Attributes:
        user: The user of the guest.
        keys: Public keys, one line each.
    """

    user: str = field(metadata=values.USER_NAME)
    keys: tuple[str, ...] = field(metadata={"rule": public_keys, "raw": True})

    def apply(self, guest: Guest, context: GuestContext) -> None:
        account = self._account(guest)
        if context.facts.family is Family.OPENWRT and account.uid == 0 and guest.is_dir(_DROPBEAR):
            self._add(guest, f"{_DROPBEAR}/authorized_keys", PasswdEntry("root", 0, 0, "/root"))
            return
        # sshd ignores keys in files that other users can write (StrictModes), hence 0700 and 0600.
        if not guest.is_dir(account.home):
            guest.mkdir_p(account.home)
            _give(guest, account, account.home, 0o700)
        folder = f"{account.home.rstrip('/')}/.ssh"
        if not guest.is_dir(folder):
            guest.mkdir_mode(folder, 0o700)
            _give(guest, account, folder, 0o700)
        path = f"{folder}/authorized_keys"
        self._add(guest, path, account)
        for place in (folder, path):
            if guest.stat(place).uid == 0 != account.uid:  # sshd reads them as the user
                guest.chown(account.uid, account.gid, place)
        refused = next(
            (it for it in (account.home, folder, path) if not _is_private(guest, account, it)), None
        )
        if refused:
            warn(
                context.on_event,
                f"--ssh-inject: sshd will refuse the key of {self.user}: other users can write to {refused}",
            )
        elsewhere = _keys_elsewhere(guest)
        if elsewhere:
            warn(
                context.on_event,
                f"--ssh-inject: the key is in {path}, but the guest's sshd reads keys from {elsewhere}",
            )

    def _add(self, guest: Guest, path: str, account: PasswdEntry) -> None:
        if guest.exists(path):
            content = guest.read(path)
            added = add_keys(content, self.keys)
            if added != content:
                guest.append(path, added[len(content) :])
        else:
            guest.write(path, add_keys(b"", self.keys))
            _give(guest, account, path, 0o600)

    def _account(self, guest: Guest) -> PasswdEntry:
        passwd = read_if_present(guest, "/etc/passwd")
        account = find_account(passwd, self.user)
        if account is None:
            raise OperationError(
                f"--ssh-inject: the guest has no user {self.user}",
                hint=f"add the user first: --run-command '{add_user(guest)} {self.user}'",
            )
        if not account.home.startswith("/"):
            raise OperationError(f"--ssh-inject: the home directory of {self.user} is not an absolute path")
        return account


def _is_private(guest: Guest, account: PasswdEntry, path: str) -> bool:
    """Tell whether only the user and root can write there, which sshd requires (StrictModes)."""
    status = guest.stat(path)
    return status.uid in (0, account.uid) and not status.mode & 0o022


def _keys_elsewhere(guest: Guest) -> str:
    """Return the setting AuthorizedKeysFile of sshd_config(5) if it leaves out ``~/.ssh/authorized_keys``."""
    for path in [*guest.glob("/etc/ssh/sshd_config.d/*.conf"), "/etc/ssh/sshd_config"]:
        content = read_if_present(guest, path)
        match = _KEYS_FILE.search(content.decode(errors="replace"))
        if match:
            usual = {".ssh/authorized_keys", "%h/.ssh/authorized_keys"} & set(match[1].split())
            return "" if usual else match[1].strip()
    return ""


def _give(guest: Guest, account: PasswdEntry, path: str, mode: int) -> None:
    guest.chown(account.uid, account.gid, path)
    guest.chmod(mode, path)

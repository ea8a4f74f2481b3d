"""Operations on the identity of the machine: users, a cloud-init seed, and removal of unique files."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from imgbuilder.customize import argforms, deviceuuids, passwords, sysprep, values
from imgbuilder.customize.accountfiles import (
    add_group,
    find_account,
    find_number,
    optional_keys,
    parse_key_selector,
    set_shadow_field,
)
from imgbuilder.customize.argforms import ArgumentForm, ArgumentPart, Kind, Raw
from imgbuilder.customize.commands import run_in_guest
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.needs import Need
from imgbuilder.customize.operation import Operation, Phase, read_if_present
from imgbuilder.customize.ops.accounts import SshInject, set_password
from imgbuilder.customize.passwords import PasswordSelector, holds_password, parse_selector
from imgbuilder.customize.registry import operation
from imgbuilder.errors import OperationError, UsageError
from imgbuilder.events import debug, warn
from imgbuilder.guests.ports import Guest

_STARTS = (
    b"#cloud-config", b"#!", b"#include", b"#cloud-boothook", b"#part-handler", b"## template: jinja",
    b"Content-Type:", b"MIME-Version:", b"\x1f\x8b",
)  # fmt: skip
"""First bytes of user data, from cloud-init's documentation of its formats; the last is gzip."""
_OFF = "/etc/cloud/cloud-init.disabled"
_SOURCES = re.compile(r"^datasource_list:((?:[^\n]*\n?)(?:[ \t]*-[^\n]*\n?)*)", re.MULTILINE)
"""The list in one line, or in a line for each."""
_LARGEST = 16 * 1024 * 1024


def user_data(path: Path) -> Path:
    """Accept a local file of user data that cloud-init recognises by its first bytes."""
    start = seed_content(path)[:64]
    if not start.startswith(_STARTS):
        raise UsageError(
            f"{path} does not begin like user data; cloud-init would ignore it",
            hint="begin it with #cloud-config, or #!/bin/sh for a script",
        )
    return path


def unread(guest: Guest) -> str:
    """Return the reason why the guest's cloud-init would not read a seed; empty if it would."""
    if guest.exists(_OFF):
        return f"{_OFF} exists"
    sources = None
    for path in ["/etc/cloud/cloud.cfg", *guest.glob("/etc/cloud/cloud.cfg.d/*.cfg")]:  # the last file counts
        content = read_if_present(guest, path)
        for match in _SOURCES.finditer(content.decode(errors="replace")):
            sources = (path, match[1])
    if sources is not None and "NoCloud" not in sources[1]:
        return f"NoCloud is not in the datasource_list of {sources[0]}"
    return ""


def optional_file(path: Path | None) -> Path | None:
    """Accept a local file or None."""
    return None if path is None else values.local_file(path)


def seed_content(path: Path) -> bytes:
    """Read a local file of a seed."""
    values.local_file(path)
    found = values.read_local(path, _LARGEST + 1)
    if len(found) > _LARGEST:
        raise UsageError(f"{path} is larger than {_LARGEST} bytes")
    return found


_METAVAR = "NAME[:sudo][:groups=G,G][:key=SELECTOR][:password=SELECTOR]"
_WITH_VALUE = ("groups", "key", "password")


def cut_user(text: str) -> tuple[Raw, ...]:
    """Split the argument; a part that is not a known word belongs to the key or password before it."""
    name, *parts = text.split(":")
    wishes: dict[str, str] = {}
    current = ""
    for part in parts:
        word, equals, value = part.partition("=")
        if part == "sudo" or (equals and word in _WITH_VALUE):
            if word in wishes:
                raise UsageError(f"{word} is given twice")
            current = word
            wishes[word] = value
        elif current in ("key", "password"):
            wishes[current] += f":{part}"
        else:
            raise UsageError("a part of the argument is unknown", hint=f"write {_METAVAR}")
    groups = tuple(wishes["groups"].split(",")) if "groups" in wishes else None
    sudo = True if "sudo" in wishes else None
    return (name, sudo, groups, wishes.get("key"), wishes.get("password"))


USER_FORM = ArgumentForm(
    _METAVAR,
    (
        ArgumentPart("NAME"),
        ArgumentPart("sudo", bool, Kind.SWITCH, optional=True),
        ArgumentPart("G,G", tuple, Kind.LIST, optional=True),
        ArgumentPart("SELECTOR", parse_key_selector, Kind.SELECTOR, optional=True, key="key"),
        ArgumentPart("SELECTOR", parse_selector, Kind.SELECTOR, optional=True, is_secret=holds_password),
    ),
    cut_user,
)


_SEED = "/var/lib/cloud/seed/nocloud"
"""Folder in the image that cloud-init's NoCloud source reads."""

_ADD = """\
set -e
if command -v useradd >/dev/null 2>&1; then
    useradd -m -s {shell} {groups_option}-- {name}
else
    adduser -D -s {shell} {name}
    for group in {groups}; do addgroup {name} "$group"; done
fi
"""


@operation(
    "user",
    progress="Adding user: {name}",
    form=USER_FORM,
    runs_in_guest=True,
    needs=(Need.ACCOUNTS,),
    secret=True,
)
@dataclass(frozen=True)
class User(Operation):
    """Add a user to the guest.

    The user gets a home directory and the guest's bash, or sh. sudo allows everything by sudo: with the
    password if one is given, otherwise without asking; the guest must have sudo. groups= names further
    groups, which must exist. key= takes a SELECTOR of --ssh-inject, and key= alone means your newest key.
    password= takes a SELECTOR of --password; without it, no password is accepted. It is an error if the user
    exists. A part that is not one of these words belongs to the key or password before it.

    Attributes:
        name: The user.
        sudo: Whether the user may do everything by sudo.
        groups: Further groups.
        keys: Public ssh keys, one line each.
        password: The password, or None.
    """

    name: str = field(metadata=values.USER_NAME)
    sudo: bool = False
    groups: tuple[str, ...] = field(default=(), metadata={"rule": values.user_names})
    keys: tuple[str, ...] = field(default=(), metadata={"rule": optional_keys, "raw": True})
    password: PasswordSelector | None = field(
        default=None, repr=False, metadata={"rule": passwords.optional_selector}
    )

    @property
    def passwords(self) -> tuple[PasswordSelector, ...]:
        return () if self.password is None else (self.password,)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        self._check(guest)
        script = _ADD.format(
            shell="/bin/bash" if guest.exists("/bin/bash") else "/bin/sh",
            groups_option=f"-G {shlex.quote(','.join(self.groups))} " if self.groups else "",
            groups=shlex.join(self.groups),
            name=shlex.quote(self.name),
        )
        run_in_guest(guest, context, script, display=f"--user {self.name}")
        self._own_home(guest, context)
        if self.keys:
            SshInject(self.name, self.keys).apply(guest, context)
        if self.password is not None:
            set_password(guest, context, self.keyword, self.name, self.password)
        else:
            self._let_keys_in(guest, context.variation.today)
        if self.sudo:
            self._allow_sudo(guest)

    def _check(self, guest: Guest) -> None:
        passwd = read_if_present(guest, "/etc/passwd")
        if find_account(passwd, self.name) is not None:
            raise OperationError(
                f"--user: the guest already has a user {self.name}",
                hint="set a password with --password, and a key with --ssh-inject",
            )
        groups = read_if_present(guest, "/etc/group")
        for group in self.groups:
            if find_number(groups, group) is None:
                raise OperationError(
                    f"--user: the guest has no group {group}",
                    hint=f"add it first: --run-command '{add_group(guest)} {group}'",
                )
        if self.sudo and not guest.is_dir("/etc/sudoers.d"):
            raise OperationError(
                "--user: the guest has no sudo", hint="install it first: --install sudo before this option"
            )
        if self.sudo and guest.exists(self._sudo_rule()):
            raise OperationError(f"--user: the guest already has a file {self._sudo_rule()}")
        if self.sudo and guest.is_file("/etc/sudoers") and not _reads_folder(guest.read("/etc/sudoers")):
            raise OperationError(
                "--user: the guest's /etc/sudoers does not include the folder /etc/sudoers.d",
                hint="--append-line '/etc/sudoers:#includedir /etc/sudoers.d' before this option",
            )

    def _own_home(self, guest: Guest, context: GuestContext) -> None:
        """Change the owner of a home directory that existed before, such as one made by --mkdir."""
        account = find_account(guest.read("/etc/passwd"), self.name)
        if account is None or not guest.is_dir(account.home):
            return
        if guest.stat(account.home).uid != account.uid:
            guest.chown(account.uid, account.gid, account.home)
            warn(
                context.on_event,
                f"--user: {account.home} existed before and now belongs to {self.name}; the owners of its "
                "content were not changed",
            )

    def _let_keys_in(self, guest: Guest, day: int) -> None:
        # With "!", which useradd writes, an sshd without PAM would not accept keys either.
        shadow = read_if_present(guest, "/etc/shadow")
        changed = set_shadow_field(shadow, self.name, "*", day)
        if changed is not None:
            guest.replace("/etc/shadow", changed)

    def _sudo_rule(self) -> str:
        # sudo ignores files with a dot in their names, sudoers(5); no user name contains "+" or "=".
        return f"/etc/sudoers.d/90-{self.name.replace('.', '+').replace('$', '=')}"

    def _allow_sudo(self, guest: Guest) -> None:
        path = self._sudo_rule()
        how = "ALL" if self.password is not None else "NOPASSWD: ALL"
        guest.write(path, b"")
        guest.chown(0, 0, path)
        guest.chmod(0o440, path)
        guest.write(path, f"{self.name} ALL=(ALL:ALL) {how}\n".encode())


def _reads_folder(sudoers: bytes) -> bool:
    return any(
        line.strip()[1:].split() == [b"includedir", b"/etc/sudoers.d"] for line in sudoers.split(b"\n")
    )


@operation(
    "cloud-init",
    progress="Seeding cloud-init: {user_data}",
    form=argforms.local_files("USER-DATA", "META-DATA", "NETWORK-CONFIG"),
)
@dataclass(frozen=True)
class CloudInit(Operation):
    r"""Put a seed for cloud-init into the guest.

    The local files become the seed of cloud-init's NoCloud source in /var/lib/cloud/seed/nocloud, readable by
    root only. USER-DATA begins with a line that cloud-init knows, such as #cloud-config or #!/bin/sh. Without
    META-DATA, a file with a new instance-id is made. Write \: for a colon in a file's name.

    Attributes:
        user_data: The local file of user data.
        meta_data: The local file of meta-data, or None.
        network_config: The local file of the network configuration, or None.
    """

    user_data: Path = field(metadata={"rule": user_data})
    meta_data: Path | None = field(default=None, metadata={"rule": optional_file})
    network_config: Path | None = field(default=None, metadata={"rule": optional_file})

    def apply(self, guest: Guest, context: GuestContext) -> None:
        if not any(guest.exists(path) for path in ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init")):
            warn(context.on_event, "--cloud-init: the guest has no cloud-init: add --install cloud-init")
        elif why := unread(guest):
            warn(context.on_event, f"--cloud-init: the guest's cloud-init will not read the seed: {why}")
        guest.mkdir_p(_SEED)
        guest.chmod(0o700, _SEED)
        meta = (
            f"instance-id: iid-{UUID(bytes=context.variation.random_bytes(16), version=4)}\n".encode()
            if self.meta_data is None
            else seed_content(self.meta_data)
        )
        files = {"user-data": seed_content(self.user_data), "meta-data": meta}
        if self.network_config is not None:
            files["network-config"] = seed_content(self.network_config)
        for name, content in files.items():
            path = f"{_SEED}/{name}"
            guest.write(path, b"")
            guest.chown(0, 0, path)
            guest.chmod(0o600, path)
            guest.write(path, content)


@operation(
    "sysprep",
    progress="Removing the machine's identity: {tasks}",
    form=argforms.items("all|TASK,TASK...", sysprep.parse_tasks),
    phase=Phase.LAST,
)
@dataclass(frozen=True)
class Sysprep(Operation):
    """Remove files that are unique to this machine, so that the image can be copied.

    Done at the very end, wherever the option is. The tasks of all are machine-id (emptied; made again at
    boot), ssh-hostkeys (the guest must make new ones at boot; a warning if nothing would), dhcp-leases,
    network-rules, net-hwaddr, net-hostname, net-nmconn, lvm-system-devices, disk-names,
    rh-subscription-manager, domain, management, vpn, passwd-backups, mail-spool, cron-spool, crash-data, logs
    (emptied; rotated logs and journals removed), shell-history, package-caches, backup-files,
    temporary-files, cloud-init (its state, not its seed), random-seed and lvm-uuids. Others must be named:
    fs-uuids, flag-reconfiguration, ssh-userdir, user-account, firewall-rules, ca-certificates, kerberos-data.
    fs-uuids and lvm-uuids also change /etc/fstab, GRUB's configuration and other files that name the UUIDs; a
    UUID in a file that cannot be edited, such as an initial RAM disk, stays, with a warning. all,-logs means
    all but logs. The names of virt-sysprep's operations are accepted. "pybuilder-customize --sysprep list"
    shows the files of each task. With -v, every file that is changed is named, and with -n nothing is
    changed; --check of pybuilder-customize(1) lists what is left.

    Attributes:
        tasks: Names of tasks.
    """

    tasks: tuple[str, ...] = field(metadata={"rule": sysprep.parse_tasks})

    @property
    def device_tasks(self) -> frozenset[str]:
        """The tasks that change devices, which ``deviceuuids.renew`` does when all else is done."""
        return frozenset(self.tasks).intersection(deviceuuids.TASKS)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        found = sysprep.find(guest, self.tasks)
        for finding in found:
            debug(context.on_event, f"--sysprep: {finding.task}: {finding.path}")
        needed = tuple(dict.fromkeys(finding.task for finding in found))
        for task in needed:
            sysprep.clean(guest, task, keep=context.log_file)
        if "ssh-hostkeys" in self.tasks:
            sysprep.warn_without_host_keys(guest, context.on_event)
        if "flag-reconfiguration" in self.tasks:
            sysprep.warn_without_questions(guest, context.on_event)
        left = [finding for finding in sysprep.find(guest, needed) if finding.path != context.log_file]
        if left:
            raise OperationError(f"--sysprep: {left[0].path} is still there ({left[0].task})")

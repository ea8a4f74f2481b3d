"""Finding, removing and renewing what identifies one machine among copies of its image."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from imgbuilder.customize.accountfiles import people, without_accounts
from imgbuilder.customize.deviceuuids import TASKS as DEVICE_TASKS
from imgbuilder.customize.deviceuuids import TEXTS
from imgbuilder.customize.facts import Family, GuestFacts
from imgbuilder.customize.syspreptasks import NOT_TASKS, PEER_NAMES, TASKS, SysprepTask
from imgbuilder.errors import GuestCallError, OperationError, UsageError
from imgbuilder.events import Reporter, Step, warn
from imgbuilder.guests.ports import Guest
from imgbuilder.host.variation import RandomBytes

ALL = tuple(name for name, task in TASKS.items() if task.in_all)
_ACCOUNTS = "user-account"
_ACCOUNT_FILES = tuple(
    f"/etc/{name}" for name in ("shadow", "group", "gshadow", "subuid", "subgid", "passwd")
)
"""The last one names the users, so it is changed last."""


@dataclass(frozen=True)
class IdentityFile:
    """A file that identifies the machine, and the task that would remove it."""

    task: str
    path: str


def parse_tasks(words: tuple[str, ...]) -> tuple[str, ...]:
    """Parse a list of tasks: names, also virt-sysprep's, ``all``, and ``-NAME`` to leave one out."""
    chosen: list[str] = []
    for word in words:
        name = PEER_NAMES.get(word.removeprefix("-"), word.removeprefix("-"))
        if word == "all":
            chosen += [name for name in ALL if name not in chosen]
        elif word.startswith("-") and name in TASKS:
            chosen = [kept for kept in chosen if kept != name]
        else:
            found = name if word in PEER_NAMES else word
            chosen += [name for name in known_tasks((found,)) if name not in chosen]
    return known_tasks(tuple(chosen))


def known_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Accept one or more names of tasks."""
    hint = "use all, or names from: pybuilder-customize --sysprep list"
    for name in names:
        if name not in TASKS:
            raise UsageError(f"{name!r} is not a task", hint=NOT_TASKS.get(name, hint))
    if not names:
        raise UsageError("the list of tasks is empty", hint=hint)
    return names


def task_list() -> str:
    """Return the text of ``--sysprep list``."""
    lines = []
    for name, task in TASKS.items():
        others = [peer for peer, ours in PEER_NAMES.items() if ours == name]
        lines.append(f"{name}: {task.about}" + ("" if task.in_all else " (not in all)"))
        if others:
            lines.append(f"    also called {', '.join(others)}")
        patterns = TEXTS if name in DEVICE_TASKS else task.patterns
        lines += [f"    {pattern}" for pattern in patterns]
    return "".join(f"{line}\n" for line in lines)


def clean(guest: Guest, name: str, *, keep: str = "") -> None:
    """Carry out one task, but keep the file ``keep``, the log of this build."""
    task = TASKS[name]
    for path in _removed(guest, task):
        if path != keep:
            guest.remove(path)
    for path in [*_matches(guest, task.empty), *_files(guest, task)]:
        if not guest.is_symlink(path) and guest.is_file(path):
            guest.truncate(path)
    for path, content in _edited(guest, task):
        guest.replace(path, content)
    for path in task.create:
        guest.touch(path)
    if name == _ACCOUNTS:
        _remove_accounts(guest)


def find(guest: Guest, names: Sequence[str] = ALL) -> list[IdentityFile]:
    """Find the files that identify the machine, in the order of tasks and paths; nothing is changed."""
    found = []
    for name in names:
        task = TASKS[name]
        paths = set(_removed(guest, task))
        paths |= {
            path
            for path in [*_matches(guest, task.empty), *_files(guest, task)]
            if not guest.is_symlink(path) and guest.is_file(path) and guest.stat(path).size
        }
        paths |= {path for path, _content in _edited(guest, task)}
        paths |= {path for path in task.create if not guest.exists(path)}
        if name == _ACCOUNTS and guest.is_file("/etc/passwd"):
            paths |= {entry.home for entry in people(guest.read("/etc/passwd"))}
        found += [IdentityFile(name, path) for path in sorted(paths)]
    return found


def _removed(guest: Guest, task: SysprepTask) -> list[str]:
    held = [
        path
        for pattern, text in task.holding
        for path in _plain_files(guest, (pattern,))
        if text.search(guest.read(path))
    ]
    named = [
        path
        for folder, endings in task.named
        if guest.is_dir(folder)
        for path in _all_files(guest, folder)
        if path.endswith(endings)
    ]
    return [*_matches(guest, task.remove), *_plain_files(guest, task.remove_files), *held, *named]


def _all_files(guest: Guest, folder: str) -> list[str]:
    """Return the paths of all files below a folder, which may have more of them than one list may have."""
    try:
        return guest.files_below(folder)
    except GuestCallError as error:
        if error.errno_name != "EFBIG":
            raise
    try:
        names = guest.ls(folder)
    except GuestCallError as error:
        raise OperationError(
            f"--sysprep: {folder} has too many files to look for copies that editors left",
            hint="leave that task out: --sysprep all,-backup-files",
        ) from error
    found = []
    for path in (f"{folder}/{name}" for name in names):
        if guest.is_symlink(path):
            continue
        found += _all_files(guest, path) if guest.is_dir(path) else [path] if guest.is_file(path) else []
    return found


def _edited(guest: Guest, task: SysprepTask) -> list[tuple[str, bytes]]:
    found = []
    for pattern, edit in task.edit:
        for path in _plain_files(guest, (pattern,)):
            content = guest.read(path)
            if edit(content) != content:
                found.append((path, edit(content)))
    return found


def _plain_files(guest: Guest, patterns: Sequence[str]) -> list[str]:
    return [path for path in _matches(guest, patterns) if not guest.is_symlink(path) and guest.is_file(path)]


def _remove_accounts(guest: Guest) -> None:
    entries = people(guest.read("/etc/passwd")) if guest.is_file("/etc/passwd") else []
    names = {entry.name for entry in entries}
    for entry in entries:
        if entry.home.startswith("/home/"):
            guest.remove(entry.home)
    for path in _ACCOUNT_FILES:
        if names and guest.is_file(path):
            guest.replace(path, without_accounts(guest.read(path), names))


def _matches(guest: Guest, patterns: Sequence[str]) -> list[str]:
    found = []
    for pattern in patterns:
        # Without wildcards the pattern is the path itself; a link, such as D-Bus's, is left alone.
        plain = not any(sign in pattern for sign in "*?[")
        if plain:
            found += [pattern] if guest.is_symlink(pattern) is False and guest.exists(pattern) else []
        else:
            found += guest.glob(pattern)
    return found


def _files(guest: Guest, task: SysprepTask) -> list[str]:
    return [path for folder in task.empty_below if guest.is_dir(folder) for path in guest.files_below(folder)]


_MAKERS = (
    "/usr/bin/cloud-init", "/usr/lib/systemd/system/sshd-keygen*", "/lib/systemd/system/sshd-keygen*",
    "/usr/lib/systemd/system/sshdgenkeys.service", "/usr/sbin/sshd-gen-keys-start",
    "/usr/libexec/openssh/sshd-keygen", "/etc/dropbear",
)  # fmt: skip
_MAKING = (
    "/etc/init.d/ssh*", "/etc/rc.d/init.d/sshd", "/etc/sv/sshd/run", "/etc/systemd/system/*.service",
    "/etc/rc.local", "/usr/lib/virt-sysprep/scripts/*",
)  # fmt: skip
_MAKES = re.compile(rb"ssh-keygen|openssh-server")


def warn_without_host_keys(guest: Guest, on_event: Reporter) -> None:
    """Warn if an ssh server has no keys, and nothing that is known would make them at the next boot."""
    if not guest.exists("/usr/sbin/sshd") or guest.glob("/etc/ssh/ssh_host_*_key"):
        return
    if any(guest.glob(pattern) for pattern in _MAKERS):
        return
    if any(_MAKES.search(guest.read(path)) for path in _plain_files(guest, _MAKING)):
        return
    warn(
        on_event,
        "--sysprep: nothing in the guest seems to make new ssh host keys, without which sshd does not start: "
        "add --firstboot-command 'ssh-keygen -A'",
    )


_ASKERS = (
    "/etc/rc.d/rc.sysinit", "/etc/rc.sysinit", "/etc/init.d/*", "/usr/lib/systemd/system/*configur*.service",
    "/lib/systemd/system/*configur*.service",
)  # fmt: skip
"""Programs that may ask questions at boot because of the file of ``flag-reconfiguration``."""


def warn_without_questions(guest: Guest, on_event: Reporter) -> None:
    """Warn if no known program of the guest reads the file of ``flag-reconfiguration``."""
    if not any(b"/.unconfigured" in guest.read(path) for path in _plain_files(guest, _ASKERS)):
        warn(on_event, "--sysprep: nothing in the guest seems to read /.unconfigured at boot")


_SEED_FILES = (
    "/var/lib/random-seed",
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/misc/random-seed",
    "/etc/random-seed",
    "/var/lib/seedrng/seed.credit",
    "/var/lib/seedrng/seed.no-credit",
)
_OPENRC_SEED = "/var/lib/seedrng/seed.no-credit"
"""seedrng(8) reads at most 512 bytes."""
_SYSTEMD_SEED = "/var/lib/systemd/random-seed"
_FAMILY_SEED = {
    Family.FEDORA: "/var/lib/random-seed",
    Family.RHEL: "/var/lib/random-seed",
    Family.DEBIAN: "/var/lib/urandom/random-seed",
    Family.SUSE: "/var/lib/misc/random-seed",
}
_SMALLEST = 512
_LARGEST = 8192

_MACHINE_ID = "/etc/machine-id"
_EMPTY_IDS = (b"", b"uninitialized\n")
"""The second means "make one at first boot", machine-id(5)."""


def set_random_seed(guest: Guest, facts: GuestFacts, random_bytes: RandomBytes, on_event: Reporter) -> None:
    """Write new random seeds.

    Every existing seed file is overwritten with as many bytes as it had, within limits. A guest with systemd
    gets systemd's file even if the template has none; an older guest gets its family's file.
    """
    on_event(Step("Setting a random seed"))
    done = False
    for path in _SEED_FILES:
        if guest.is_file(path):
            size = max(_SMALLEST, min(_LARGEST, guest.stat(path).size))
            guest.write(path, random_bytes(size))
            done = True
    if guest.exists("/etc/init.d/seedrng") and not guest.exists(_OPENRC_SEED):
        guest.mkdir_p(_OPENRC_SEED.rpartition("/")[0])
        guest.chmod(0o700, _OPENRC_SEED.rpartition("/")[0])
        done |= _create(guest, _OPENRC_SEED, random_bytes)
    if not guest.exists(_SYSTEMD_SEED):
        done |= _create(guest, _SYSTEMD_SEED, random_bytes)
    if not done and facts.family in _FAMILY_SEED:
        done = _create(guest, _FAMILY_SEED[facts.family], random_bytes)
    if not done:
        warn(on_event, "the random seed could not be set: the guest has no known file for it")


def set_machine_id(guest: Guest, random_bytes: RandomBytes, on_event: Reporter) -> None:
    """Fill an empty ``/etc/machine-id``; nothing is changed if it is missing, a link or not empty."""
    if guest.is_symlink(_MACHINE_ID) or not guest.is_file(_MACHINE_ID):
        return
    if guest.stat(_MACHINE_ID).size <= len(_EMPTY_IDS[1]) and guest.read(_MACHINE_ID) in _EMPTY_IDS:
        on_event(Step(f"Setting the machine ID in {_MACHINE_ID}"))
        guest.write(_MACHINE_ID, f"{uuid.UUID(bytes=random_bytes(16), version=4).hex}\n".encode())


def _create(guest: Guest, path: str, random_bytes: RandomBytes) -> bool:
    directory = path.rpartition("/")[0]
    if not guest.is_dir(directory) or guest.is_symlink(path) or guest.exists(path):
        return False
    guest.write(path, random_bytes(_SMALLEST))
    guest.chown(0, 0, path)
    guest.chmod(0o600, path)
    return True

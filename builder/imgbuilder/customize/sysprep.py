"""Files that identify one machine among copies of its image: finding, removing and renewing them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from imgbuilder.customize.facts import Family, GuestFacts
from imgbuilder.errors import UsageError
from imgbuilder.events import Reporter, Step, warn
from imgbuilder.guests.ports import Guest
from imgbuilder.host.variation import RandomBytes


@dataclass(frozen=True)
class SysprepTask:
    """The files of one task."""

    remove: tuple[str, ...] = ()
    """Patterns of paths that are removed."""
    empty: tuple[str, ...] = ()
    """Patterns of files that are emptied, because their absence has a different meaning."""
    empty_below: tuple[str, ...] = ()
    """Folders below which all files are emptied."""


@dataclass(frozen=True)
class IdentityFile:
    """A file that identifies the machine, and the task that would remove it."""

    task: str
    path: str


TASKS = {
    "machine-id": SysprepTask(remove=("/var/lib/dbus/machine-id",), empty=("/etc/machine-id",)),
    "ssh-hostkeys": SysprepTask(remove=("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub")),
    "dhcp-leases": SysprepTask(
        remove=(
            "/var/lib/dhcp/*.lease*", "/var/lib/dhcp3/*.lease*", "/var/lib/dhclient/*",
            "/var/lib/dhcpcd/*.lease*",
            "/var/lib/NetworkManager/*.lease", "/var/lib/NetworkManager/secret_key",
            "/var/lib/NetworkManager/timestamps", "/var/lib/NetworkManager/seen-bssids",
        )
    ),
    "network-rules": SysprepTask(
        remove=("/etc/udev/rules.d/70-persistent-net.rules",
                "/etc/udev/rules.d/75-persistent-net-generator.rules")
    ),
    "logs": SysprepTask(
        remove=("/var/log/journal/*", "/var/log/*.gz", "/var/log/*.xz", "/var/log/*.[0-9]", "/var/log/*.old",
                "/var/log/*/*.gz", "/var/log/*/*.[0-9]", "/root/install.log", "/root/anaconda-ks.cfg"),
        empty_below=("/var/log",),
    ),
    "shell-history": SysprepTask(
        remove=tuple(
            f"{home}/{name}"
            for home in ("/root", "/home/*")
            for name in (".*_history", ".lesshst", ".viminfo", ".wget-hsts")
        )
    ),
    "package-caches": SysprepTask(
        remove=("/var/cache/apt/archives/*.deb", "/var/cache/apt/archives/partial/*", "/var/cache/apt/*.bin",
                "/var/lib/apt/lists/*_*", "/var/lib/apt/lists/partial/*", "/var/cache/dnf/*",
                "/var/cache/libdnf5/*", "/var/cache/yum/*", "/var/cache/zypp/*", "/var/cache/pacman/pkg/*",
                "/var/cache/apk/*", "/var/cache/xbps/*", "/var/cache/urpmi/rpms/*")
    ),
    "temporary-files": SysprepTask(
        remove=("/tmp/*", "/tmp/.[!.]*", "/var/tmp/*", "/var/tmp/.[!.]*")  # noqa: S108 - in the guest
    ),
    "cloud-init": SysprepTask(
        remove=("/var/lib/cloud/instance", "/var/lib/cloud/instances/*", "/var/lib/cloud/data/*",
                "/var/lib/cloud/sem/*")
    ),
    "random-seed": SysprepTask(
        remove=("/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/var/lib/random-seed",
                "/var/lib/urandom/random-seed", "/var/lib/misc/random-seed", "/etc/random-seed")
    ),
}  # fmt: skip
"""The tasks by their names."""


def parse_tasks(words: tuple[str, ...]) -> tuple[str, ...]:
    """Parse a list of tasks: names, ``all``, and ``-NAME`` to leave one out."""
    chosen: list[str] = []
    for word in words:
        if word == "all":
            chosen = list(TASKS)
        elif word.startswith("-") and word[1:] in TASKS:
            chosen = [name for name in chosen if name != word[1:]]
        else:
            chosen += [name for name in known_tasks((word,)) if name not in chosen]
    return known_tasks(tuple(chosen))


def known_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Accept one or more names of tasks."""
    hint = f"use all, or some of: {', '.join(TASKS)}"
    for name in names:
        if name not in TASKS:
            raise UsageError(f"{name!r} is not a task", hint=hint)
    if not names:
        raise UsageError("the list of tasks is empty", hint=hint)
    return names


def clean(guest: Guest, name: str, *, keep: str = "") -> None:
    """Carry out one task, but keep the file ``keep``, the log of this build."""
    task = TASKS[name]
    for path in _matches(guest, task.remove):
        if path != keep:
            guest.remove(path)
    for path in [*_matches(guest, task.empty), *_files(guest, task)]:
        if not guest.is_symlink(path) and guest.is_file(path):
            guest.truncate(path)


def find(guest: Guest, names: Sequence[str] = tuple(TASKS)) -> list[IdentityFile]:
    """Find the files that identify the machine, in the order of tasks and paths; nothing is changed."""
    found = []
    for name in names:
        task = TASKS[name]
        full = [
            path
            for path in [*_matches(guest, task.empty), *_files(guest, task)]
            if not guest.is_symlink(path) and guest.is_file(path) and guest.stat(path).size
        ]
        found += [IdentityFile(name, path) for path in sorted({*_matches(guest, task.remove), *full})]
    return found


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


_SEED_FILES = (
    "/var/lib/random-seed",
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/misc/random-seed",
    "/etc/random-seed",
)
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

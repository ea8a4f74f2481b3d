"""The table of docs/guests.md: every operation tried in a guest of every kind, in memory, and looked at.

``python -m tests.unit.imgbuilder.customize.matrix`` writes the page.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.customize.facts import PackageManager
from imgbuilder.customize.registry import all_operations
from imgbuilder.customize.run import customize
from imgbuilder.errors import OperationError
from imgbuilder.events import Event, Notice, Severity
from tests.fakes.debianguest import KEY, context_of
from tests.fakes.families import KINDS, guest_of
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation
from tests.fakes.windows import RUNNER, SYSTEM, virtio_win

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "guests.md"
Look = Callable[[FakeGuest], bool]

_COMMANDS = {
    PackageManager.APT: "apt-get", PackageManager.XBPS: "xbps-", PackageManager.URPMI: "urpm",
}  # fmt: skip


def _shell_ran(word: str) -> Look:
    return lambda guest: any(word in script for script in guest.scripts)


def _has(path: str, text: str) -> Look:
    return lambda guest: guest.is_file(path) and text in guest.text(path)


def _gone(path: str) -> Look:
    return lambda guest: not guest.exists(path)


def _runs_package_manager(guest: FakeGuest) -> bool:
    manager = context_of(guest).facts.package_manager
    assert manager is not None
    return _shell_ran(_COMMANDS.get(manager, manager.value))(guest)


def _starts_at_boot(guest: FakeGuest) -> bool:
    if guest.exists(SYSTEM):
        service = guest.hives[SYSTEM].get(("controlset001", "services", "firstboot"), {})
        return "ImagePath" in service and guest.ls("/Program Files/Guestfs/Firstboot/scripts") != []
    starters = (
        "/etc/systemd/system/multi-user.target.wants/guestfs-firstboot.service",
        "/etc/runlevels/default/guestfs-firstboot", "/etc/runit/runsvdir/default/guestfs-firstboot",
        "/etc/rc3.d/S99guestfs-firstboot", "/etc/rc.d/rc3.d/S99guestfs-firstboot",
        "/etc/init.d/rc3.d/S99guestfs-firstboot",
    )  # fmt: skip
    return any(map(guest.is_symlink, starters)) and guest.ls("/usr/lib/virt-sysprep/scripts") != []


def _has_hostname(guest: FakeGuest) -> bool:
    if guest.exists(SYSTEM):
        name = guest.hives[SYSTEM]["controlset001", "control", "computername", "computername"]
        return name["ComputerName"].text == "NEW-NAME"
    places = (
        "/etc/hostname", "/etc/sysconfig/network", "/etc/HOSTNAME", "/etc/uci-defaults/99-pybuilder-hostname",
    )  # fmt: skip
    return any(_has(path, "new-name")(guest) for path in places)


def _has_address(guest: FakeGuest) -> bool:
    places = (
        "/etc/netplan/00-pybuilder.yaml", "/etc/network/interfaces",
        "/etc/NetworkManager/system-connections/pybuilder.nmconnection",
        "/etc/systemd/network/00-pybuilder.network",
    )  # fmt: skip
    return any(_has(path, "192.0.2.11/24")(guest) for path in places)


def _starts_from_virtio(guest: FakeGuest) -> bool:
    service = ("controlset001", "services", "viostor")
    return _has("/Windows/Drivers/VirtIO/netkvm.inf", "w10")(guest) and service in guest.hives[SYSTEM]


def _has_key(guest: FakeGuest) -> bool:
    # OpenWrt's ssh server reads root's keys elsewhere.
    place = "/etc/dropbear" if guest.exists("/etc/dropbear") else "/root/.ssh"
    return _has(f"{place}/authorized_keys", KEY)(guest)


@dataclass(frozen=True)
class Trial:
    """An argument of an operation, and what must be seen in the guest afterwards."""

    argument: str
    look: Look


COLUMNS: dict[str, dict[str, Trial]] = {
    "files": {
        "append-line": Trial("/srv/a:new", _has("/srv/a", "new")),
        "copy-in": Trial("{local}:/srv", _has("/srv/local", "#!")),
        "delete": Trial("/srv/a", _gone("/srv/a")),
        "edit": Trial("/srv/a:s/old/new/", _has("/srv/a", "new")),
        "mkdir": Trial("/srv/x/y", lambda guest: guest.is_dir("/srv/x/y")),
        "move": Trial("/srv/a:/srv/new", _has("/srv/new", "old")),
        "touch": Trial("/srv/new", _has("/srv/new", "")),
        "truncate": Trial("/srv/a", lambda guest: guest.read("/srv/a") == b""),
        "truncate-recursive": Trial("/srv/tree", lambda guest: guest.read("/srv/tree/c") == b""),
        "upload": Trial("{local}:/srv/new", _has("/srv/new", "#!")),
        "write": Trial("/srv/new:text", _has("/srv/new", "text")),
        "no-logfile": Trial("", _gone("/tmp/builder.log")),
    },
    "other files": {
        "chmod": Trial("600:/srv/a", lambda guest: guest.permissions("/srv/a")[0] == "0600"),
        "chown": Trial("1000:1000:/srv/a", lambda guest: guest.permissions("/srv/a")[1:] == (1000, 1000)),
        "copy": Trial("/srv/a:/srv/new", _has("/srv/new", "old")),
        "link": Trial("/srv/a:/srv/new", _has("/srv/new", "old")),
        "scrub": Trial("/srv/a", _gone("/srv/a")),
        "tar-in": Trial("{tar}:/srv", _has("/srv/local", "#!")),
        "cloud-init": Trial("{local}", _has("/var/lib/cloud/seed/nocloud/user-data", "#!")),
        "sysprep": Trial("shell-history", _gone("/root/.ash_history")),
        "selinux-relabel": Trial("", lambda guest: guest.exists("/.autorelabel")),
    },
    "commands": {
        "run": Trial("{local}", _shell_ran("/local")),
        "run-command": Trial("echo word", _shell_ran("echo word")),
    },
    "packages": {
        "install": Trial("word", _runs_package_manager),
        "uninstall": Trial("word", _runs_package_manager),
        "update": Trial("", _runs_package_manager),
    },
    "first boot": {
        "firstboot": Trial("{script}", _starts_at_boot),
        "firstboot-command": Trial("true", _starts_at_boot),
    },
    "packages at first boot": {"firstboot-install": Trial("word", _starts_at_boot)},
    "hostname": {"hostname": Trial("new-name", _has_hostname)},
    "time zone": {
        "timezone": Trial("Europe/Berlin", lambda guest: guest.is_symlink("/etc/localtime"))
    },
    "fixed address": {"static-ip": Trial("192.0.2.11/24,gateway=192.0.2.1", _has_address)},
    "passwords": {
        "root-password": Trial("password:x", _has("/etc/shadow", "root:$6$")),
        "password": Trial("ann:password:x", _has("/etc/shadow", "ann:$6$")),
    },
    "ssh keys": {"ssh-inject": Trial(f"root:string:{KEY}", _has_key)},
    "user": {"user": Trial("bob", _has("/etc/shadow", "bob:*:"))},
    "apt only": {
        "mirror": Trial("http://mirror.example.org", lambda _guest: True),
        "package-cache": Trial("{folder}", lambda _guest: True),
    },
    "virtio-win": {
        "inject-virtio-win": Trial("{virtio}", _starts_from_virtio),
        "inject-qemu-ga": Trial("{virtio}", _starts_at_boot),
        "inject-blnsvr": Trial("{virtio}", _starts_at_boot),
    },
}  # fmt: skip
"""The columns of the table: operations that have the same needs, and so the same answer in each kind."""

SETTINGS = {
    "no-selinux-relabel", "password-crypto", "secret", "selinux-relabel-exclude", "windows-runner",
}  # fmt: skip
"""Operations that do nothing to a guest themselves."""

_MAIN, _CUSTOMIZE = "tests/guest/test_main_job.py::", "tests/guest/test_customize.py::"
_OPERATIONS, _FIRST_BOOT = "tests/guest/test_operations.py::", "tests/guest/test_firstboot.py::"
_ALPINE = "tests/guest/test_other_systems.py::test_alpine_with_openrc_and_busybox"
_SYSVINIT = "tests/guest/test_other_systems.py::test_debian_without_systemd"
_MANAGERS = "tests/guest/test_managers.py::test_packages_are_installed_updated_and_removed"
_WINDOWS = "tests/guest/test_windows.py::test_the_same_tree_and_registry_as_virt_customize"
_KINDS = "tests/guest/test_kinds.py::test_what_works_in_memory_works_on_a_disk"
REAL = {
    "Debian 11-13": {
        "files": f"{_CUSTOMIZE}test_the_same_operations_by_virt_customize",
        "other files": f"{_OPERATIONS}test_nothing_is_lost_through_absolute_links",
        "commands": f"{_CUSTOMIZE}test_the_same_operations_by_virt_customize",
        "packages": f"{_OPERATIONS}test_apt_keeps_the_users_configuration_and_updates_kernels",
        "first boot": f"{_FIRST_BOOT}test_a_hundred_scripts_run_in_order_and_tell_how_they_ended",
        "hostname": f"{_MAIN}test_image_boots_and_serves",
        "time zone": f"{_OPERATIONS}test_the_time_zone_outlives_its_package",
        "fixed address": f"{_MAIN}test_image_boots_and_serves",
        "passwords": f"{_MAIN}test_image_content",
        "ssh keys": f"{_MAIN}test_image_boots_and_serves",
        "user": _SYSVINIT,
        "apt only": f"{_OPERATIONS}test_apt_with_kept_packages",
    },
    "Debian, Devuan without systemd": dict.fromkeys(
        ("commands", "packages", "first boot", "hostname", "user"), _SYSVINIT
    ),
    "Alpine": dict.fromkeys(("commands", "first boot", "hostname", "user"), _ALPINE),
    "RHEL, Rocky, Alma 8-10": dict.fromkeys(("commands", "packages"), _MANAGERS),
    "openSUSE, SLES 12-15": dict.fromkeys(("commands", "packages"), _MANAGERS),
    "Arch": dict.fromkeys(("commands", "packages"), _MANAGERS),
    "Windows": dict.fromkeys(("files", "first boot", "hostname", "virtio-win"), _WINDOWS),
}
"""Tests that look at the same in a real guest, or use the real package manager."""
ON_DISK = {
    "files": "append-line", "other files": "copy", "first boot": "firstboot-command",
    "packages at first boot": "firstboot-install", "hostname": "hostname", "time zone": "timezone",
    "fixed address": "static-ip", "passwords": "root-password", "ssh keys": "ssh-inject",
}  # fmt: skip
"""Operations that need no command of the guest: they are tried on disks of all kinds in ``NAMED``."""
NAMED = tuple(kind for kind, (release, _paths) in KINDS.items() if release)
"""The kinds whose os-release names them; without an appliance no other system is found."""


def real_test(kind: str, column: str) -> str:
    """Return the test that looked into a real guest or disk; empty if the guest was in memory."""
    on_disk = _KINDS if kind in NAMED and column in ON_DISK else ""
    return REAL.get(kind, {}).get(column, on_disk)


def every_test() -> list[str]:
    """Return these tests, in the order of the table."""
    found = [real_test(kind, column) for kind in KINDS for column in COLUMNS]
    return list(dict.fromkeys(filter(None, found)))


def outcome(kind: str, keyword: str, trial: Trial, files: dict[str, str]) -> tuple[str, str]:
    """Try an operation; return one of *works*, *warns*, *refused*, and the text of the message."""
    guest = guest_of(kind)
    events: list[Event] = []
    argument = trial.argument
    for name, path in files.items():
        argument = argument.replace(f"{{{name}}}", path)
    before = guest.tree()
    operations = [parse_operation(keyword, argument)]
    if kind == "Windows":
        operations.append(parse_operation("windows-runner", files["runner"]))
    try:
        customize(guest, operations, context_of(guest), events.append)
    except OperationError as error:
        assert guest.tree() == before, f"{kind} was changed before --{keyword} was refused"
        return "refused", _sentence(keyword, error.message)
    assert trial.look(guest), f"--{keyword} did nothing to {kind}"
    warnings = [
        item.text for item in events if isinstance(item, Notice) and item.severity is Severity.WARNING
    ]
    text = "; ".join(item for item in warnings if item.startswith(f"--{keyword}"))
    return ("warns", _sentence(keyword, text)) if text else ("works", "")


def _sentence(keyword: str, message: str) -> str:
    """Return a message without the option and without the guest's name."""
    return re.sub(r" \([^)]*\)", "", message.removeprefix(f"--{keyword}: "))


def cells(files: dict[str, str]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the outcome of each kind of guest and column; one column has one answer."""
    found = {}
    for kind in KINDS:
        for column, trials in COLUMNS.items():
            answers = {outcome(kind, keyword, trial, files) for keyword, trial in trials.items()}
            assert len(answers) == 1, (kind, column, answers)
            ((state, text),) = answers
            assert state == "works" or text, f"{kind}: {', '.join(trials)} {state}, and nothing is said"
            found[kind, column] = state, text
    return found


def local_files(folder: Path) -> dict[str, str]:
    """Make the local files that arguments name."""
    import tarfile  # here, like the files, for both ways to use this module

    (folder / "local").write_text("#!/bin/sh\n")
    (folder / "script").write_text("echo word\n")
    (folder / "rhsrvany.exe").write_bytes(RUNNER)
    with tarfile.open(folder / "tar", "w") as tar:
        tar.add(folder / "local", arcname="local")
    (folder / "kept").mkdir(exist_ok=True)
    return {
        "local": f"{folder}/local", "script": f"{folder}/script", "tar": f"{folder}/tar",
        "folder": f"{folder}/kept", "runner": f"{folder}/rhsrvany.exe",
        "virtio": str(virtio_win(folder / "virtio-win")),
    }  # fmt: skip


_HEAD = """\
# Guests

Every operation in every kind of guest. It works, or it is refused before the guest is changed, or it warns;
an operation that does nothing and ends with 0 is a fault. The page is generated:
`python -m tests.unit.imgbuilder.customize.matrix` writes it.

- **works**: seen in a real guest, with the real package manager, or on a disk that the command wrote and the
  test read back, by the test below that has the same letter; one operation may stand for its column.
- works: seen in a guest in memory with the files of that kind, by
  `tests/unit/imgbuilder/customize/test_matrix.py`: its commands were recorded and not run.
- refused, warns: with the sentence below that has the same number.

"""


def page() -> str:
    """Return the page."""
    with tempfile.TemporaryDirectory() as folder:
        found = cells(local_files(Path(folder)))
    sentences = list(dict.fromkeys(text for _state, text in found.values() if text))
    tests = every_test()
    lines = ["| guest | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for kind in KINDS:
        row = [kind]
        for column in COLUMNS:
            state, text = found[kind, column]
            test = real_test(kind, column)
            if state == "works" and test:
                row.append(f"**works** ({chr(97 + tests.index(test))})")
            else:
                row.append(f"{state} ({sentences.index(text) + 1})" if text else state)
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", "The columns have these operations:", ""]
    lines += [
        f"- {column}: {', '.join(f'`--{keyword}`' for keyword in trials)}"
        for column, trials in COLUMNS.items()
    ]
    lines += ["", "Sentences:", ""]
    lines += [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]
    lines += ["", "Tests with real guests:", ""]
    lines += [f"- ({chr(97 + number)}) `{test}`" for number, test in enumerate(tests)]
    return _HEAD + "\n".join(lines) + "\n"


def every_keyword() -> set[str]:
    """Return the keywords of all operations that change a guest."""
    return set(all_operations()) - SETTINGS


if __name__ == "__main__":
    PAGE.write_text(page())

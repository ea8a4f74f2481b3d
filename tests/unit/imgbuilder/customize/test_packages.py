"""Package managers: what is run in guests of each kind."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from imgbuilder.customize import packagemanagers
from imgbuilder.customize.commands import NO_NETWORK_HINT
from imgbuilder.customize.facts import Family, GuestFacts, PackageManager
from imgbuilder.customize.registry import parse_operation
from imgbuilder.errors import OperationError
from imgbuilder.guest import CommandResult
from tests.fakes.guest import FakeGuest
from tests.unit.imgbuilder.customize.support import apply, context_of, debian_guest

if TYPE_CHECKING:
    from pathlib import Path


def _facts(manager: PackageManager | None) -> GuestFacts:
    return GuestFacts("x", Family.OTHER, (1, 0), manager, "Some System 1")


EXPECTED = {
    PackageManager.DNF: (
        "dnf -y install a b",
        "dnf -y --best upgrade",
        "dnf -y --disableplugin=subscription-manager remove a b",
    ),
    PackageManager.YUM: ("yum -y install a b", "yum -y update", "yum -y remove a b"),
    PackageManager.PACMAN: (
        "pacman -Syu --noconfirm --needed -- a b",
        "pacman -Syu --noconfirm",
        "pacman -R --noconfirm -- a b",
    ),
    PackageManager.APK: ("apk update\napk add -- a b", "apk update\napk upgrade", "apk del -- a b"),
    PackageManager.XBPS: ("xbps-install -Sy -- a b", "xbps-install -Suy", "xbps-remove -y -- a b"),
    PackageManager.URPMI: ("urpmi --auto a b", "urpmi --auto --auto-update", "urpme --auto a b"),
    PackageManager.PISI: (
        "pisi install --yes-all a b",
        "pisi upgrade --yes-all",
        "pisi remove --yes-all a b",
    ),
}


@pytest.mark.parametrize("manager", EXPECTED)
def test_commands(manager: PackageManager) -> None:
    facts = _facts(manager)
    scripts = (
        packagemanagers.install_script(facts, ["a", "b"]),
        packagemanagers.update_script(facts),
        packagemanagers.uninstall_script(facts, ["a", "b"]),
    )
    assert scripts == tuple(f"set -e\n{text}\n" for text in EXPECTED[manager])


@pytest.mark.parametrize("manager", PackageManager)
def test_every_manager_quotes_names_and_asks_nothing(manager: PackageManager, tmp_path: Path) -> None:
    facts = _facts(manager)
    for script in (
        packagemanagers.install_script(facts, ["a.b", "c+"]),
        packagemanagers.update_script(facts),
        packagemanagers.uninstall_script(facts, ["a.b", "c+"]),
    ):
        assert script.startswith("set -e\n")
        checked = subprocess.run(["/bin/sh", "-n"], input=script.encode(), capture_output=True, check=False)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("manager", PackageManager)
@pytest.mark.parametrize("name", ["-y", "a b", "a;b", "$(x)", "a\n", "'", ""])
def test_z15_no_manager_takes_odd_names(manager: PackageManager, name: str) -> None:
    with pytest.raises(OperationError, match="is not a package name of"):
        packagemanagers.install_script(_facts(manager), [name])
    with pytest.raises(OperationError, match="is not a package name of"):
        packagemanagers.uninstall_script(_facts(manager), [name])


@pytest.mark.parametrize(
    ("manager", "name", "fits"),
    [
        (PackageManager.APT, "g++", True),
        (PackageManager.APT, "libc6:i386", True),
        (PackageManager.APT, "nginx=1:1.2-3~bpo", True),
        (PackageManager.APT, "nginx/bookworm-backports", True),
        (PackageManager.APT, "/root/x_1.deb", True),
        (PackageManager.APT, "vim-", False),
        (PackageManager.APT, "@core", False),
        (PackageManager.APT, "lib.*", False),
        (PackageManager.DNF, "@core", True),
        (PackageManager.DNF, "php-*", True),
        (PackageManager.DNF, "perl(Foo::Bar)", True),
        (PackageManager.APK, "nginx>1.2", True),
        (PackageManager.APK, "so:libc.musl-x86_64.so.1", True),
        (PackageManager.PACMAN, "extra/vim", True),
        (PackageManager.PACMAN, "a/b/c", False),
    ],
)
def test_z15_what_each_manager_takes(manager: PackageManager, name: str, fits: bool) -> None:
    if fits:
        assert name in packagemanagers.install_script(_facts(manager), [name])
    else:
        with pytest.raises(OperationError):
            packagemanagers.install_script(_facts(manager), [name])


def test_signs_of_the_shell_in_names_are_quoted() -> None:
    script = packagemanagers.install_script(_facts(PackageManager.DNF), ["php-*", "perl(A)"])
    assert "install 'php-*' 'perl(A)'\n" in script


def test_an_unknown_manager_is_an_error_before_the_guest_is_changed() -> None:
    guest = FakeGuest()
    guest.add("/etc/os-release", 'ID=strange\nPRETTY_NAME="Strange\x1b 1"\n')
    for keyword, text in (("install", "a"), ("uninstall", "a"), ("update", ""), ("firstboot-install", "a")):
        with pytest.raises(OperationError, match=r"no package manager .* \(Strange\? 1\)") as caught:
            parse_operation(keyword, text).check_guest(context_of(guest))
        assert caught.value.hint is not None
        assert "--run-command" in caught.value.hint


def test_failures_name_the_option_and_the_missing_network() -> None:
    guest = debian_guest()
    guest.on_sh("apt-get", CommandResult(100, ""))
    for keyword, text, hint in (
        ("install", "a,b", NO_NETWORK_HINT),
        ("update", "", NO_NETWORK_HINT),
        ("uninstall", "a,b", None),
    ):
        with pytest.raises(
            OperationError, match=f"--{keyword} ?{text} failed in the guest: exit status 100"
        ) as caught:
            apply(guest, keyword, text, network=False)
        assert caught.value.hint == hint


def _run_apt(tmp_path: Path, script: str, status: int = 0) -> tuple[int, list[str]]:
    """Run an apt script with a fake apt-get in front, and the policy file in a folder of the test."""
    log = tmp_path / "calls"
    fake = tmp_path / "apt-get"
    fake.write_text(
        f'#!/bin/sh\necho "$DEBIAN_FRONTEND $(ls {tmp_path} | grep -c policy) $*" >>{log}\n'
        f'case "$*" in *update*) exit {status};; esac\n'
    )
    fake.chmod(0o755)
    script = script.replace("/usr/sbin/policy-rc.d", f"{tmp_path}/policy-rc.d")
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, check=False
    )
    return done.returncode, log.read_text().splitlines()


def test_apt_is_run_without_questions_and_without_starting_daemons(tmp_path: Path) -> None:
    status, calls = _run_apt(tmp_path, packagemanagers.install_script(_facts(PackageManager.APT), ["a", "b"]))
    options = "-q -y -o Dpkg::Options::=--force-confnew"
    assert status == 0
    assert calls == [
        f"noninteractive 1 {options} -o APT::Update::Error-Mode=any update",
        f"noninteractive 1 {options} install -- a b",
    ]
    assert not (tmp_path / "policy-rc.d").exists()


def test_apt_stops_when_the_lists_cannot_be_had(tmp_path: Path) -> None:
    status, calls = _run_apt(
        tmp_path, packagemanagers.install_script(_facts(PackageManager.APT), ["a"]), status=100
    )
    assert status == 100
    assert len(calls) == 1
    assert not (tmp_path / "policy-rc.d").exists()


def test_the_guests_own_policy_stays(tmp_path: Path) -> None:
    (tmp_path / "policy-rc.d").write_text("own")
    status, _calls = _run_apt(tmp_path, packagemanagers.uninstall_script(_facts(PackageManager.APT), ["a"]))
    assert status == 0
    assert (tmp_path / "policy-rc.d").read_text() == "own"


def test_at_boot_daemons_are_started() -> None:
    assert "policy-rc.d" not in packagemanagers.install_script(
        _facts(PackageManager.APT), ["a"], at_boot=True
    )


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (102, 0), (103, 0), (4, 4), (104, 104)])
def test_zypper_that_asks_for_a_restart_has_succeeded(status: int, expected: int, tmp_path: Path) -> None:
    fake = tmp_path / "zypper"
    fake.write_text(f"#!/bin/sh\nexit {status}\n")
    fake.chmod(0o755)
    for script in (
        packagemanagers.install_script(_facts(PackageManager.ZYPPER), ["a"]),
        packagemanagers.update_script(_facts(PackageManager.ZYPPER)),
    ):
        done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, check=False)
        assert done.returncode == expected

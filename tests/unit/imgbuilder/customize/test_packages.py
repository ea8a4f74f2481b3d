"""Package managers: the commands in guests of each kind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imgbuilder.customize.commands import NO_NETWORK_HINT
from imgbuilder.customize.context import Family, GuestFacts, PackageManager
from imgbuilder.customize.ops import packages
from imgbuilder.errors import OperationError
from imgbuilder.events import Event, Notice, Severity
from imgbuilder.guests.ports import CommandResult
from tests.fakes.debianguest import apply, context_of
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation


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
    PackageManager.APK: (
        "apk update\napk add -- a b\nfind /etc -name '*.apk-new'",
        "apk update\napk upgrade\nfind /etc -name '*.apk-new'",
        "apk del -- a b",
    ),
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
        packages.install_script(facts, ["a", "b"]),
        packages.update_script(facts),
        packages.uninstall_script(facts, ["a", "b"]),
    )
    assert scripts == tuple(f"set -e\n{text}\n" for text in EXPECTED[manager])


@pytest.mark.parametrize("manager", PackageManager)
def test_every_manager_quotes_names_and_asks_nothing(manager: PackageManager, tmp_path: Path) -> None:
    facts = _facts(manager)
    for script in (
        packages.install_script(facts, ["a.b", "c+"]),
        packages.update_script(facts),
        packages.uninstall_script(facts, ["a.b", "c+"]),
    ):
        assert script.startswith("set -e\n")
        checked = subprocess.run(["/bin/sh", "-n"], input=script.encode(), capture_output=True, check=False)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.row("Z15")
@pytest.mark.parametrize("manager", PackageManager)
@pytest.mark.parametrize("name", ["-y", "a b", "a;b", "$(x)", "a\n", "'", ""])
def test_no_manager_accepts_odd_names(manager: PackageManager, name: str) -> None:
    with pytest.raises(OperationError, match="is not a package name of"):
        packages.install_script(_facts(manager), [name])
    with pytest.raises(OperationError, match="is not a package name of"):
        packages.uninstall_script(_facts(manager), [name])


FITTING = {
    PackageManager.APT: "g++ libc6:i386 nginx=1:1.2-3~bpo nginx/bookworm-backports /root/x_1.deb",
    PackageManager.DNF: "@core php-* perl(Foo::Bar)",
    PackageManager.APK: "nginx>1.2 so:libc.musl-x86_64.so.1",
    PackageManager.PACMAN: "extra/vim",
}
UNFIT = {PackageManager.APT: "vim- @core lib.*", PackageManager.PACMAN: "a/b/c"}


@pytest.mark.row("Z15")
@pytest.mark.parametrize("manager", FITTING)
def test_names_that_each_manager_accepts(manager: PackageManager) -> None:
    for name in FITTING[manager].split():
        assert name in packages.install_script(_facts(manager), [name])
    for name in UNFIT.get(manager, "").split():
        with pytest.raises(OperationError):
            packages.install_script(_facts(manager), [name])


def test_signs_of_the_shell_in_names_are_quoted() -> None:
    script = packages.install_script(_facts(PackageManager.DNF), ["php-*", "perl(A)"])
    assert "install 'php-*' 'perl(A)'\n" in script


def test_an_unknown_manager_is_an_error_before_the_guest_is_changed(bare: FakeGuest) -> None:
    bare.add("/etc/os-release", 'ID=strange\nPRETTY_NAME="Strange\x1b 1"\n')
    for keyword, text in (("install", "a"), ("uninstall", "a"), ("update", ""), ("firstboot-install", "a")):
        with pytest.raises(OperationError, match=r"no known package manager .* \(Strange 1\)") as caught:
            parse_operation(keyword, text).check_guest(context_of(bare))
        assert "--run-command" in (caught.value.hint or "")


def test_failures_name_the_option_and_the_missing_network(guest: FakeGuest) -> None:
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


def _run_apt(tmp_path: Path, script: str, status: int = 0, more: str = "true") -> tuple[int, list[str]]:
    """Run an apt script with a fake apt-get in front, and the policy file in a folder of the test."""
    log = tmp_path / "calls"
    fake = tmp_path / "apt-get"
    fake.write_text(
        f'#!/bin/sh\necho "$DEBIAN_FRONTEND $(ls {tmp_path} | grep -c policy) $*" >>{log}\n'
        f'case "$*" in *update*) exit {status};; esac\n{more}\n'
    )
    fake.chmod(0o755)
    script = script.replace("/usr/sbin/policy-rc.d", f"{tmp_path}/policy-rc.d")
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, check=False
    )
    return done.returncode, log.read_text().splitlines()


def test_apt_is_run_without_questions_and_without_starting_daemons(tmp_path: Path) -> None:
    status, calls = _run_apt(tmp_path, packages.install_script(_facts(PackageManager.APT), ["a", "b"]))
    options = "-q -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
    quick = "-o Acquire::Languages=none -o Acquire::GzipIndexes=true -o Acquire::CompressionTypes::Order::=gz"
    assert status == 0
    assert calls == [
        f"noninteractive 1 {options} {quick} -o APT::Update::Error-Mode=any update",
        f"noninteractive 1 {options} install -- a b",
    ]
    assert not (tmp_path / "policy-rc.d").exists()


def test_apt_stops_when_the_lists_cannot_be_had(tmp_path: Path) -> None:
    status, calls = _run_apt(tmp_path, packages.install_script(_facts(PackageManager.APT), ["a"]), status=100)
    assert status == 100
    assert len(calls) == 1
    assert not (tmp_path / "policy-rc.d").exists()


def test_the_guests_own_policy_stays(tmp_path: Path) -> None:
    (tmp_path / "policy-rc.d").write_text("own")
    status, _calls = _run_apt(tmp_path, packages.uninstall_script(_facts(PackageManager.APT), ["a"]))
    assert status == 0
    assert (tmp_path / "policy-rc.d").read_text() == "own"


def test_a_policy_that_a_package_brings_stays(tmp_path: Path) -> None:
    script = packages.install_script(_facts(PackageManager.APT), ["a"])
    _run_apt(tmp_path, script, more=f"echo package >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/policy-rc.d")
    assert (tmp_path / "policy-rc.d").read_text() == "package\n"


def test_at_boot_daemons_are_started_and_the_lock_is_waited_for() -> None:
    script = packages.install_script(_facts(PackageManager.APT), ["a"], at_boot=True)
    assert "policy-rc.d" not in script
    assert "--force-confold -o DPkg::Lock::Timeout=600 install -- a\n" in script


def test_an_upgrade_may_install_what_the_new_versions_need() -> None:
    """A kernel of a new ABI is a new package: apt(8) installs it, while apt-get by default keeps it back."""
    facts = _facts(PackageManager.APT)
    assert "-o APT::Get::Upgrade-Allow-New=true upgrade\n" in packages.update_script(facts)
    assert "-o APT::Get::Upgrade-Allow-New=true upgrade >" in packages.fetched_script(facts, None, "/l")


PRINTED = """\
Reading package lists...
The following packages have been kept back:
  linux-image-amd64 held-one
  third
The following upgrades have been deferred due to phasing:
  phased
The following packages will be upgraded:
  other
Setting up mydaemon (1) ...

Configuration file '/etc/my daemon.conf'
 ==> File on system created by you or by a script.
 ==> File also in package provided by package maintainer.
 ==> Using current old file as you requested.

Configuration file '/etc/second'
 ==> Modified (by you or by a script) since installation.
 ==> Package distributor has shipped an updated version.
 ==> Keeping old config file as default.
Configuration file '/etc/taken'
 ==> Using new config file as default.
warning: /etc/httpd.conf created as /etc/httpd.conf.rpmnew
warning: /etc/old.conf saved as /etc/old.conf.rpmsave
warning: /etc/arch.conf installed as /etc/arch.conf.pacnew
/etc/alpine.apk-new
No package nothere available.
Note, selecting 'python3.11-minimal' for regex 'python3.1'
"""


def test_deviations_are_read_from_the_output_of_a_package_manager() -> None:
    picked = subprocess.run(
        ["/bin/sh", "-c", packages.NOTED], input=PRINTED, capture_output=True, text=True, check=True
    ).stdout
    assert "Setting up" not in picked
    assert packages.deviations(picked) == packages.deviations(PRINTED)
    assert packages.deviations(picked) == [
        "/etc/my daemon.conf was kept; the package's version is /etc/my daemon.conf.dpkg-dist",
        "/etc/second was kept; the package's version is /etc/second.dpkg-dist",
        "/etc/httpd.conf was kept; the package's version is /etc/httpd.conf.rpmnew",
        "/etc/old.conf is now the package's version; the previous one is /etc/old.conf.rpmsave",
        "/etc/arch.conf was kept; the package's version is /etc/arch.conf.pacnew",
        "/etc/alpine was kept; the package's version is /etc/alpine.apk-new",
        "packages were kept back and not updated: linux-image-amd64 held-one third phased",
    ]
    assert packages.not_found(picked) == ["nothere", "python3.1"]
    assert packages.deviations("Setting up x ...\n") == packages.not_found("x\n") == []


def test_deviations_are_warnings_and_missing_packages_an_error(events: list[Event], guest: FakeGuest) -> None:
    guest.on_sh("sed -n", CommandResult(0, "The following packages have been kept back:\n  \x1b[1mkern\n"))
    apply(guest, "update", on_event=events.append)
    [notice] = [event for event in events if isinstance(event, Notice)]
    assert notice.severity is Severity.WARNING
    assert notice.text == "--update: packages were kept back and not updated: ?[1mkern"
    guest.on_sh("sed -n", CommandResult(0, "No package b available.\n"))
    with pytest.raises(OperationError, match=r"--install a,b: .* no package b$"):
        apply(guest, "install", "a,b")


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (102, 0), (103, 0), (4, 4), (104, 104)])
def test_zypper_that_asks_for_a_restart_has_succeeded(status: int, expected: int, tmp_path: Path) -> None:
    fake = tmp_path / "zypper"
    fake.write_text(f"#!/bin/sh\nexit {status}\n")
    fake.chmod(0o755)
    for script in (
        packages.install_script(_facts(PackageManager.ZYPPER), ["a"]),
        packages.update_script(_facts(PackageManager.ZYPPER)),
    ):
        done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, check=False)
        assert done.returncode == expected

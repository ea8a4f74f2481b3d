"""Package managers: the commands in guests of each kind."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from imgbuilder.customize import packagemanagers as packages
from imgbuilder.customize.facts import Family, GuestFacts, PackageManager
from imgbuilder.errors import OperationError


def _facts(manager: PackageManager | None) -> GuestFacts:
    return GuestFacts("x", Family.OTHER, (1, 0), manager, "Some System 1")


EXPECTED = {
    PackageManager.DNF: (
        "dnf -y install a b",
        "dnf -y --best upgrade",
        "dnf -y --disableplugin=subscription-manager remove a b",
    ),
    PackageManager.DNF5: ("dnf5 -y install a b", "dnf5 -y --best upgrade", "dnf5 -y remove a b"),
    PackageManager.MICRODNF: ("microdnf -y install a b", "microdnf -y update", "microdnf -y remove a b"),
    PackageManager.TDNF: ("tdnf -y install a b", "tdnf -y update", "tdnf -y remove a b"),
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
    PackageManager.APT: "g++ libc6:i386 nginx=1:1.2-3~bpo nginx=1.2* nginx/bookworm-backports"
    " ubuntu-server^ zabbix-agent=1:1.8.* /root/x_1.deb",
    PackageManager.DNF: "@core php-* perl(Foo::Bar)",
    PackageManager.APK: "nginx>1.2 so:libc.musl-x86_64.so.1",
    PackageManager.PACMAN: "extra/vim",
}
UNFIT = {PackageManager.APT: "vim- @core lib.* a^b", PackageManager.PACMAN: "a/b/c"}


@pytest.mark.row("Z15")
@pytest.mark.parametrize("manager", FITTING)
def test_names_that_each_manager_accepts(manager: PackageManager) -> None:
    for name in FITTING[manager].split():
        assert shlex.quote(name) in packages.install_script(_facts(manager), [name])
    for name in UNFIT.get(manager, "").split():
        with pytest.raises(OperationError):
            packages.install_script(_facts(manager), [name])


def test_signs_of_the_shell_in_names_are_quoted() -> None:
    script = packages.install_script(_facts(PackageManager.DNF), ["php-*", "perl(A)"])
    assert "install 'php-*' 'perl(A)'\n" in script


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
    assert script.count("apt-get -o DPkg::Lock::Timeout=600 -q -y") == 2


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


@pytest.mark.parametrize(
    ("manager", "waiting"),
    [
        (PackageManager.APK, "apk --wait 600 add"),
        (PackageManager.ZYPPER, "ZYPP_LOCK_TIMEOUT=600 zypper -n in"),
        (PackageManager.PACMAN, "db.lck"),
        (PackageManager.DNF, "dnf -y install a"),
    ],
)
def test_at_boot_every_manager_waits_for_its_lock(manager: PackageManager, waiting: str) -> None:
    assert waiting in packages.install_script(_facts(manager), ["a"], at_boot=True)


@pytest.mark.parametrize(
    ("routes", "routes6", "waits"),
    [
        ("eth0\t00000000\t0102A8C0\n", "", False),
        ("eth0\t0002A8C0\t00000000\n", "0" * 32 + " 00 x lo\n", True),
        ("", "0" * 32 + " 00 x eth0\n", False),
    ],
)
def test_packages_are_fetched_at_boot_when_there_is_a_route(
    routes: str, routes6: str, waits: bool, tmp_path: Path
) -> None:
    (tmp_path / "route").write_text(routes)
    (tmp_path / "ipv6_route").write_text(routes6)
    for name, text in (("sleep", f"echo >>{tmp_path}/slept"), ("dnf", f"echo $* >{tmp_path}/called")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = packages.install_script(_facts(PackageManager.DNF), ["a"], at_boot=True)
    script = script.replace("/proc/net", str(tmp_path))
    subprocess.run(["/bin/sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert (tmp_path / "called").read_text() == "-y install a\n"
    assert (tmp_path / "slept").exists() == waits

"""Facts about guests, read from their files, also where these contradict each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.customize.facts import Family, Init, PackageManager, System, read_facts
from imgbuilder.guests.roots import parse_os_release
from tests.fakes.debianguest import apply, debian_guest
from tests.fakes.guest import FakeGuest


@pytest.mark.parametrize(
    ("release", "programs", "expected"),
    [
        ("ID=debian\nVERSION_ID=12", "/usr/bin/apt-get", ("debian", "apt", (12, 0))),
        ('ID=ubuntu\nVERSION_ID="24.04"', "/usr/bin/apt-get", ("debian", "apt", (24, 4))),
        ("ID=pop\nID_LIKE='ubuntu debian'", "/usr/bin/apt-get", ("debian", "apt", (0, 0))),
        ("ID=fedora\nVERSION_ID=41", "/usr/bin/apt-get /usr/bin/dnf", ("fedora", "dnf", (41, 0))),
        ("ID=centos\nVERSION_ID=7", "/usr/bin/yum", ("rhel", "yum", (7, 0))),
        ("ID=x\nID_LIKE=rhel", "/usr/bin/dnf /usr/bin/yum", ("rhel", "dnf", (0, 0))),
        ("ID=opensuse-leap\nVERSION_ID=15.6", "/usr/bin/zypper", ("suse", "zypper", (15, 6))),
        ("ID=arch", "/usr/bin/pacman", ("arch", "pacman", (0, 0))),
        ("ID=alpine\nVERSION_ID=3.20.1", "/sbin/apk", ("alpine", "apk", (3, 20))),
        ("ID=void", "/usr/bin/xbps-install", ("void", "xbps", (0, 0))),
        ("ID=mageia\nVERSION_ID=9", "/usr/bin/dnf /usr/sbin/urpmi", ("mageia", "urpmi", (9, 0))),
        ("ID='../x'", "", ("other", "", (0, 0))),
    ],
)
def test_facts(bare: FakeGuest, release: str, programs: str, expected: tuple[object, ...]) -> None:
    bare.add("/etc/os-release", release)
    for path in programs.split():
        bare.add(path)
    facts = read_facts(bare)
    manager = "" if facts.package_manager is None else facts.package_manager.value
    assert (facts.family.value, manager, facts.version) == expected


def test_facts_of_guests_without_os_release(bare: FakeGuest) -> None:
    assert read_facts(bare).distro == "unknown"
    bare.add("/etc/redhat-release", "CentOS release 6")
    assert read_facts(bare).family is Family.RHEL
    bare.add("/etc/os-release", b"ID=debian\n" + b"#" * 70_000)
    assert read_facts(bare).family is Family.RHEL, "a file of that size is not read as os-release"


@given(st.text())
def test_any_os_release_can_be_read(text: str) -> None:
    guest = FakeGuest()
    guest.add("/etc/os-release", text.encode(errors="replace"))
    facts = read_facts(guest)
    assert facts.product_name.isprintable()
    assert all(key.isupper() for key in parse_os_release(text))


@pytest.mark.parametrize(
    ("release", "programs", "manager"),
    [
        ("ID=debian", "/usr/bin/apt-get /usr/bin/dnf /usr/bin/zypper", PackageManager.APT),
        ("ID=fedora", "/usr/bin/apt-get /usr/bin/dnf", PackageManager.DNF),
        ("ID=fedora", "/usr/bin/dnf5", PackageManager.DNF5),
        ("ID=rhel", "/usr/bin/yum /usr/bin/dnf /usr/bin/microdnf", PackageManager.DNF),
        ("ID=rhel", "/usr/bin/microdnf", PackageManager.MICRODNF),
        ("ID=photon", "/usr/bin/yum /usr/bin/tdnf /usr/bin/dnf", PackageManager.TDNF),
        ("ID=mageia", "/usr/sbin/urpmi /usr/bin/dnf", PackageManager.URPMI),
        ("ID=debian", "/sbin/apk", PackageManager.APK),
        ("ID=alpine", "", None),
        ("ID=strange", "/usr/bin/emerge", None),
    ],
)
def test_the_package_manager_is_one_that_is_there(
    bare: FakeGuest, release: str, programs: str, manager: PackageManager | None
) -> None:
    bare.add("/etc/os-release", release)
    for program in programs.split():
        bare.add(program)
    assert read_facts(bare).package_manager is manager


def test_a_guest_that_claims_another_family_is_what_its_programs_are() -> None:
    guest = debian_guest()
    guest.add("/etc/network/interfaces")
    guest.add("/sbin/ifup")
    own = read_facts(guest)
    guest.add("/usr/lib/os-release", "ID=alpine\nPRETTY_NAME=Alpine\n")
    claimed = read_facts(guest)
    assert (claimed.distro, claimed.product_name) == ("alpine", "Alpine")
    assert claimed.package_manager is own.package_manager is PackageManager.APT
    assert claimed.inits == (Init.SYSTEMD,)
    assert claimed.network is own.network
    for keyword, text in (("install", "word"), ("firstboot-command", "true"), ("hostname", "vm")):
        apply(guest, keyword, text)
    assert any("apt-get -q -y" in script and " install -- word" in script for script in guest.scripts)
    assert guest.is_symlink("/etc/systemd/system/multi-user.target.wants/guestfs-firstboot.service")
    assert guest.text("/etc/hostname") == "vm\n"


def test_dnf_that_is_a_link_to_dnf5_is_dnf5(bare: FakeGuest) -> None:
    bare.add("/etc/os-release", "ID=fedora")
    bare.add("/usr/bin/dnf5")
    bare.add_link("/usr/bin/dnf", "dnf5")
    assert read_facts(bare).package_manager is PackageManager.DNF5


@pytest.mark.parametrize(
    ("release", "paths", "inits"),
    [
        ("ID=debian", "/etc/systemd/system/ /etc/init.d/", (Init.SYSTEMD, Init.SYSV)),
        ("ID=debian", "/etc/init.d/ /etc/runlevels/default/ /usr/sbin/openrc-run", (Init.OPENRC, Init.SYSV)),
        ("ID=alpine", "/etc/init.d/ /etc/runlevels/default/", ()),
        ("ID=alpine", "/etc/runlevels/default/ /sbin/openrc-run", (Init.OPENRC,)),
        ("ID=void", "/etc/runit/runsvdir/default/", (Init.RUNIT,)),
        ("ID=nixos", "/etc/systemd/system/", ()),
        ("ID=strange", "/etc/init.d/", ()),
    ],
)
def test_init_systems(bare: FakeGuest, release: str, paths: str, inits: tuple[Init, ...]) -> None:
    bare.add("/etc/os-release", release)
    for path in paths.split():
        if path.endswith("/"):
            bare.add_dir(path.rstrip("/"))
        else:
            bare.add(path)
    assert read_facts(bare).inits == inits


@pytest.mark.parametrize(
    ("path", "content", "family"),
    [
        ("/etc/openwrt_release", "", Family.OPENWRT),
        ("/etc/redhat-release", "CentOS release 6.10", Family.RHEL),
        ("/etc/os-release", 'ID=new\nID_LIKE="gentoo"', Family.GENTOO),
        ("/etc/os-release", "ID=azurelinux", Family.PHOTON),
        ("/etc/os-release", "ID=$(reboot)", Family.OTHER),
    ],
)
def test_families(bare: FakeGuest, path: str, content: str, family: Family) -> None:
    bare.add(path, content)
    facts = read_facts(bare)
    assert (facts.family, facts.system) == (family, System.LINUX)


@pytest.mark.parametrize("folder", ["/Windows/System32", "/WINDOWS/system32"])
def test_windows_is_known_by_its_folder(bare: FakeGuest, folder: str) -> None:
    bare.add(f"{folder}/cmd.exe")
    assert read_facts(bare).system is System.WINDOWS
    bare.add("/etc/os-release", "ID=debian")
    assert read_facts(bare).system is System.LINUX

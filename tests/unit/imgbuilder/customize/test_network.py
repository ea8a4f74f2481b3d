"""The test of name resolution before apt, and facts about guests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.customize.context import Family, PackageManager, read_facts
from imgbuilder.customize.network import check_network, first_apt_host
from imgbuilder.errors import OperationError
from imgbuilder.guests.ports import CommandResult
from imgbuilder.guests.roots import parse_os_release
from tests.fakes.debianguest import context_of, debian_guest
from tests.fakes.guest import FakeGuest

LISTS = "/etc/apt/sources.list.d"


def _guest(sources: str = "deb http://deb.example.org/debian bookworm main\n") -> FakeGuest:
    guest = debian_guest()
    guest.add("/etc/apt/sources.list", sources)
    return guest


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("deb http://a.example/debian x main", "a.example"),
        (
            "# deb http://a.example/ x\ndeb-src http://s.example/ x\ndeb https://B.example:8080/ x",
            "b.example",
        ),
        ("deb [arch=amd64 signed-by=/x] ftp://a.example/ x main", "a.example"),
        ("deb file:/srv/mirror x\ndeb cdrom:[x]/ x\ndeb copy:/x y", None),
        ("deb mirror+https://m.example/list x", "m.example"),
        ("deb tor+http://a.onion/ x", None),
        ("deb http://$(reboot)/ x", None),
        ("deb http://[::1/ x\ndeb http://[fd00::1]/ x", "fd00::1"),
        ("", None),
    ],
)
def test_first_host_of_one_line_sources(text: str, host: str | None) -> None:
    assert first_apt_host(_guest(text)) == host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Types: deb\nURIs: http://a.example/debian\nSuites: x\n", "a.example"),
        ("Types: deb\nURIs:\n file:/x\n https://a.example/\nSuites: x\n", "a.example"),
        ("# c\nEnabled: no\nURIs: http://off.example/\n\nURIs: http://on.example/\n", "on.example"),
        ("garbage", None),
    ],
)
def test_first_host_of_deb822_sources(text: str, host: str | None) -> None:
    guest = debian_guest()
    guest.add(f"{LISTS}/debian.sources", text)
    guest.add(f"{LISTS}/ignored.save", "deb http://no.example/ x")
    assert first_apt_host(guest) == host


@given(st.binary(max_size=200), st.sampled_from(["x.list", "x.sources"]))
def test_any_sources_give_a_plain_host_or_none(content: bytes, name: str) -> None:
    guest = debian_guest()
    guest.add(f"{LISTS}/{name}", content)
    host = first_apt_host(guest)
    assert host is None or not set(host) & set(" '\"$`;\n")


def test_missing_name_resolution_is_reported_before_apt_runs() -> None:
    guest = _guest()
    guest.on_sh("getent", CommandResult(3, ""))
    with pytest.raises(OperationError, match=r"guest: deb\.example\.org") as caught:
        check_network(guest, context_of(guest))
    assert caught.value.hint is not None
    assert "getent ahosts deb.example.org" in caught.value.hint


def test_a_guest_that_resolves_goes_on() -> None:
    guest = _guest()
    check_network(guest, context_of(guest))
    assert len(guest.scripts) == 1


def test_nothing_is_tested_where_it_would_prove_nothing() -> None:
    guest = _guest()
    guest.on_sh("", CommandResult(3, ""))
    check_network(guest, context_of(guest, network=False))
    check_network(guest, context_of(guest, proxies={"http_proxy": "http://p/"}))
    for conf in ('Acquire::http::Proxy "http://p:1/";', 'Acquire { http { Proxy "http://p:1/"; }; };'):
        guest.add("/etc/apt/apt.conf.d/90proxy", conf)
        check_network(guest, context_of(guest))
    check_network(_guest("deb file:/x y"), context_of(guest))
    assert guest.scripts == []


@pytest.mark.parametrize(
    ("tool", "status"),
    [("getent", 0), ("getent", 1), ("perl", 0), ("perl", 1), ("nslookup", 0), ("nslookup", 1), ("", 0)],
)
def test_the_resolver_script_uses_what_the_guest_has(tool: str, status: int, tmp_path: Path) -> None:
    if tool:
        program = tmp_path / tool
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
    guest = _guest()
    check_network(guest, context_of(guest))
    done = subprocess.run(
        ["/bin/sh", "-c", guest.scripts[0]], env={"PATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (3 if status else 0, b"")


@pytest.mark.parametrize(
    ("release", "programs", "family", "manager", "version"),
    [
        ("ID=debian\nVERSION_ID=12", ["/usr/bin/apt-get"], Family.DEBIAN, PackageManager.APT, (12, 0)),
        ('ID=ubuntu\nVERSION_ID="24.04"', ["/usr/bin/apt-get"], Family.DEBIAN, PackageManager.APT, (24, 4)),
        ("ID=pop\nID_LIKE='ubuntu debian'", ["/usr/bin/apt-get"], Family.DEBIAN, PackageManager.APT, (0, 0)),
        (
            "ID=fedora\nVERSION_ID=41",
            ["/usr/bin/apt-get", "/usr/bin/dnf"],
            Family.FEDORA,
            PackageManager.DNF,
            (41, 0),
        ),
        ("ID=centos\nVERSION_ID=7", ["/usr/bin/yum"], Family.RHEL, PackageManager.YUM, (7, 0)),
        ("ID=x\nID_LIKE=rhel", ["/usr/bin/dnf", "/usr/bin/yum"], Family.RHEL, PackageManager.DNF, (0, 0)),
        (
            "ID=opensuse-leap\nVERSION_ID=15.6",
            ["/usr/bin/zypper"],
            Family.SUSE,
            PackageManager.ZYPPER,
            (15, 6),
        ),
        ("ID=arch", ["/usr/bin/pacman"], Family.ARCH, PackageManager.PACMAN, (0, 0)),
        ("ID=alpine\nVERSION_ID=3.20.1", ["/sbin/apk"], Family.ALPINE, PackageManager.APK, (3, 20)),
        ("ID=void", ["/usr/bin/xbps-install"], Family.VOID, PackageManager.XBPS, (0, 0)),
        (
            "ID=mageia\nVERSION_ID=9",
            ["/usr/bin/dnf", "/usr/sbin/urpmi"],
            Family.MAGEIA,
            PackageManager.URPMI,
            (9, 0),
        ),
        ("ID='../x'", [], Family.OTHER, None, (0, 0)),
    ],
)
def test_facts(
    release: str,
    programs: list[str],
    family: Family,
    manager: PackageManager | None,
    version: tuple[int, int],
) -> None:
    guest = FakeGuest()
    guest.add("/etc/os-release", release)
    for path in programs:
        guest.add(path)
    facts = read_facts(guest)
    assert (facts.family, facts.package_manager, facts.version) == (family, manager, version)


def test_facts_of_guests_without_os_release() -> None:
    guest = FakeGuest()
    assert read_facts(guest).distro == "unknown"
    guest.add("/etc/redhat-release", "CentOS release 6")
    assert read_facts(guest).family is Family.RHEL
    guest.add("/etc/os-release", b"ID=debian\n" + b"#" * 70_000)
    assert read_facts(guest).family is Family.RHEL, "a file of that size is not read as os-release"


@given(st.text())
def test_any_os_release_can_be_read(text: str) -> None:
    guest = FakeGuest()
    guest.add("/etc/os-release", text.encode(errors="replace"))
    facts = read_facts(guest)
    assert facts.product_name.isprintable()
    assert all(key.isupper() for key in parse_os_release(text))

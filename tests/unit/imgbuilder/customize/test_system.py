"""Hostname and time zone, in guests of several families."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.customize.accountfiles import rename_host
from imgbuilder.customize.run import customize
from imgbuilder.errors import OperationError
from imgbuilder.events import Event, Notice
from tests.fakes.debianguest import apply, context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation


def _guest(os_release: str) -> FakeGuest:
    guest = FakeGuest()
    guest.add("/etc/os-release", os_release)
    return guest


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [
        ("debian", "vm", "127.0.1.1\tdebian\n", "127.0.1.1\tvm\n"),
        ("debian", "vm.ex.org", "127.0.1.1\tdebian\n", "127.0.1.1\tvm.ex.org\n"),
        ("old.dom", "vm.ex.org", "127.0.1.1 old.dom  old # old\n", "127.0.1.1 vm.ex.org  vm # old\n"),
        ("old.dom", "vm", "127.0.1.1 old.dom old\n", "127.0.1.1 vm vm\n"),
        ("old", "vm", "127.0.1.1 older hold old-x\n", "127.0.1.1 older hold old-x\n"),
        ("old", "vm", "# 127.0.1.1 old\n\n::1 ip6-localhost\n", "# 127.0.1.1 old\n\n::1 ip6-localhost\n"),
        (
            "localhost",
            "vm",
            "127.0.0.1 localhost localhost.localdomain\n",
            "127.0.0.1 localhost localhost.localdomain\n",
        ),
        (
            "",
            "vm.ex.org",
            "127.0.1.1 unassigned-hostname.unassigned-domain unassigned-hostname",
            "127.0.1.1 vm.ex.org vm",
        ),
        ("1.2.3.4", "vm", "1.2.3.4 other\n", "1.2.3.4 other\n"),
    ],
)
def test_hosts_file(old: str, new: str, before: str, after: str) -> None:
    assert rename_host(before.encode(), old, new) == after.encode()


@given(hosts=st.binary(), old=st.sampled_from(["localhost", "zz-not-there"]))
def test_hosts_without_the_old_name_are_kept_byte_for_byte(hosts: bytes, old: str) -> None:
    if b"unassigned-hostname" not in hosts and b"zz-not-there" not in hosts:
        assert rename_host(hosts, old, "vm.example.org") == hosts


def test_hostname_in_debian(guest: FakeGuest) -> None:
    apply(guest, "hostname", "vm.example.org")
    assert guest.text("/etc/hostname") == "vm.example.org\n"
    assert guest.text("/etc/hosts") == "127.0.0.1\tlocalhost\n127.0.1.1\tvm.example.org\n"
    guest.remove("/etc/hosts")
    apply(guest, "hostname", "other")
    assert not guest.exists("/etc/hosts")


def test_hostname_through_a_link_stays_in_the_guest(guest: FakeGuest) -> None:
    guest.remove("/etc/hostname")
    guest.add_link("/etc/hostname", "/var/lib/name")
    guest.add("/var/lib/name", "debian\n")
    apply(guest, "hostname", "vm")
    assert guest.text("/var/lib/name") == "vm\n"


NETWORK = "NETWORKING=yes\nHOSTNAME=old.example.org\n"
MACHINE = "A=1\nPRETTY_HOSTNAME=old\nB=2"


@pytest.mark.parametrize(
    ("release", "files", "path", "content"),
    [
        ("ID=fedora\nVERSION_ID=41\n", {"/etc/machine-info": MACHINE}, "/etc/hostname", "vm\n"),
        *(
            (release, {"/etc/machine-info": MACHINE}, "/etc/machine-info", "A=1\nB=2\nPRETTY_HOSTNAME=vm\n")
            for release in ("ID=fedora\nVERSION_ID=41\n", 'ID="rocky"\nID_LIKE="rhel"\nVERSION_ID="9.4"\n')
        ),
        ("ID=sles\nVERSION_ID=11.4\n", {"/etc/HOSTNAME": "old\n"}, "/etc/HOSTNAME", "vm\n"),
        *((f"ID={name}\n", {}, "/etc/hostname", "vm\n") for name in ("arch", "alpine", "void", "gentoo")),
    ],
)
def test_hostname_elsewhere(release: str, files: dict[str, str], path: str, content: str) -> None:
    guest = _guest(release)
    for name, text in files.items():
        guest.add(name, text)
    apply(guest, "hostname", "vm")
    assert guest.text(path) == content


@pytest.mark.parametrize(
    ("path", "release"),
    [
        ("/etc/os-release", "ID=centos\nVERSION_ID=6\n"),
        ("/etc/redhat-release", "CentOS release 6.10 (Final)\n"),  # from before os-release
    ],
)
def test_hostname_in_old_red_hat_systems(bare: FakeGuest, path: str, release: str) -> None:
    bare.add(path, release)
    bare.add("/etc/sysconfig/network", NETWORK)
    apply(bare, "hostname", "vm")
    assert bare.text("/etc/sysconfig/network") == "NETWORKING=yes\nHOSTNAME=vm\n"
    assert not bare.exists("/etc/hostname")


@pytest.mark.row("Z14")
def test_a_time_zone_is_a_zone_file_below_zoneinfo(guest: FakeGuest) -> None:
    guest.add("/etc/secret", b"TZif")
    guest.add("/usr/share/zoneinfo/leapseconds", b"# text")
    guest.add_dir("/usr/share/zoneinfo/Etc")
    guest.add_link("/usr/share/zoneinfo/localtime", "/etc/secret")
    guest.add_link("/usr/share/zoneinfo/Loop", "Loop")
    for name in ("Europe", "Etc", "localtime", "leapseconds", "None", "Loop"):
        with pytest.raises(OperationError, match=f"zoneinfo/{name} is not a time zone"):
            apply(guest, "timezone", name)
    assert guest.readlink("/etc/localtime") == "/usr/share/zoneinfo/Etc/UTC"


@pytest.mark.row("Z14")
def test_a_link_to_another_zone_is_a_time_zone(guest: FakeGuest) -> None:
    guest.add_link("/usr/share/zoneinfo/Germany", "Europe/Berlin")
    apply(guest, "timezone", "Germany")
    assert guest.readlink("/etc/localtime") == "/usr/share/zoneinfo/Germany"
    assert not guest.exists("/etc/timezone")


def test_the_old_file_with_the_zones_name_follows(guest: FakeGuest) -> None:
    guest.add("/etc/timezone", "Etc/UTC\n")
    guest.remove("/etc/localtime")
    guest.add("/etc/localtime", "a copy")
    apply(guest, "timezone", "Europe/Berlin")
    assert guest.text("/etc/timezone") == "Europe/Berlin\n"
    assert guest.readlink("/etc/localtime") == "/usr/share/zoneinfo/Europe/Berlin"


def test_the_error_about_missing_time_zone_data_has_a_hint() -> None:
    with pytest.raises(OperationError) as caught:
        apply(_guest("ID=alpine\n"), "timezone", "Europe/Berlin")
    assert "--install tzdata" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("distro", "systemd", "said"),
    [
        ("other", False, True),
        ("clear-linux-os", True, False),
        ("debian", False, False),
    ],
)
def test_a_hostname_that_may_have_no_effect_is_a_warning(distro: str, systemd: bool, said: bool) -> None:
    guest = _guest(f"ID={distro}\n")
    if systemd:
        guest.add_dir("/etc/systemd")
    events: list[Event] = []
    apply(guest, "hostname", "vm", on_event=events.append)
    assert guest.text("/etc/hostname") == "vm\n"
    assert [f"({distro})" in event.text for event in events if isinstance(event, Notice)] == [True] * said


@pytest.mark.parametrize(
    ("init", "folder"),
    [("/sbin/openrc-run", "/etc/runlevels/default"), ("", "/etc/runit/runsvdir/default")],
)
def test_openrc_and_runit_read_the_hostname(init: str, folder: str, events: list[Event]) -> None:
    guest = _guest("ID=other\n")
    guest.add_dir(folder)
    if init:
        guest.add(init)
    apply(guest, "hostname", "vm", on_event=events.append)
    assert guest.text("/etc/hostname") == "vm\n"
    assert events == []


def test_openwrt_sets_its_hostname_at_the_first_boot(events: list[Event]) -> None:
    guest = _guest("ID=openwrt\n")
    apply(guest, "hostname", "vm.example.org", on_event=events.append)
    assert guest.text("/etc/uci-defaults/99-pybuilder-hostname") == (
        "uci set system.@system[0].hostname=vm.example.org\nuci commit system\n"
    )
    assert events == []


@pytest.mark.parametrize("keyword", ["hostname", "timezone", "install", "user", "firstboot-command"])
def test_nixos_refuses_what_it_would_undo(keyword: str) -> None:
    guest = _guest("ID=nixos\n")
    with pytest.raises(OperationError, match=f"--{keyword}: NixOS generates this") as caught:
        customize(guest, [parse_operation("mkdir", "/x"), parse_operation(keyword, "x")], context_of(guest))
    assert "configuration.nix" in (caught.value.hint or "")
    assert not guest.exists("/x")


def test_openwrt_refuses_a_time_zone_that_it_would_not_read() -> None:
    guest = _guest("ID=openwrt\n")
    with pytest.raises(OperationError, match="--timezone: OpenWrt does not read") as caught:
        customize(guest, [parse_operation("timezone", "UTC")], context_of(guest))
    assert "uci" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["ZONE", "TIMEZONE"])
def test_the_zone_outlives_an_update_of_old_systems(guest: FakeGuest, name: str) -> None:
    guest.add("/etc/sysconfig/clock", f'# zone\n{name}="America/New_York"\nUTC=true\n')
    apply(guest, "timezone", "Europe/Berlin")
    assert guest.text("/etc/sysconfig/clock") == f'# zone\nUTC=true\n{name}="Europe/Berlin"\n'


EXCLUDED = "/etc/selinux/fixfiles_exclude_dirs"
CONTEXTS = "/etc/selinux/{}/contexts/files/file_contexts"


def selinux_guest(
    config: str = "SELINUX=enforcing\nSELINUXTYPE=default\n", policy: str = "default"
) -> FakeGuest:
    guest = debian_guest()
    guest.add("/etc/selinux/config", config)
    guest.add("/usr/sbin/load_policy")
    guest.add(CONTEXTS.format(policy), "/.* system_u:object_r:default_t:s0\n")
    return guest


def labelled(guest: FakeGuest) -> list[str]:
    return [path for call, path in guest.calls if call == "relabel"]


def test_the_appliance_labels_by_the_guests_policy_and_the_guest_need_not() -> None:
    guest = selinux_guest()
    guest.has_setfiles = True
    guest.add("/.autorelabel")
    customize(guest, [], context_of(guest))
    assert labelled(guest) == [CONTEXTS.format("default")]
    assert not guest.exists("/.autorelabel")


def test_targeted_is_the_default_policy() -> None:
    guest = selinux_guest("# SELINUXTYPE=mls\nSELINUX = permissive\n", "targeted")
    guest.has_setfiles = True
    customize(guest, [], context_of(guest))
    assert labelled(guest) == [CONTEXTS.format("targeted")]


@pytest.mark.parametrize(
    ("config", "policy", "setfiles"),
    [
        ("SELINUX=enforcing\nSELINUXTYPE=default\n", "default", False),
        ("SELINUX=disabled\nSELINUXTYPE=default\n", "default", True),
        ("SELINUX=enforcing\nSELINUXTYPE=mls\n", "default", True),
        ("SELINUX=enforcing\nSELINUXTYPE=../../tmp\n", "default", True),
    ],
)
def test_otherwise_the_guest_labels_itself(config: str, policy: str, setfiles: bool) -> None:
    guest = selinux_guest(config, policy)
    guest.add("/etc/tmp/contexts/files/file_contexts")
    guest.has_setfiles = setfiles
    customize(guest, [], context_of(guest))
    assert labelled(guest) == ([] if setfiles else [CONTEXTS.format(policy)])
    assert guest.exists("/.autorelabel")


@pytest.mark.parametrize(
    ("config", "policy", "said"),
    [
        ("SELINUX=enforcing\n", "", True),
        ("SELINUX=enforcing\nSELINUXTYPE=mls\n", "targeted", True),
        ("SELINUX=enforcing\nSELINUXTYPE=../../etc\n", "targeted", True),
        ("SELINUX=enforcing\n", "targeted", False),
        ("SELINUX=permissive\n", "", False),
        ("SELINUX=disabled\n", "", False),
    ],
)
def test_enforcing_without_a_policy_is_a_warning_before_anything_changes(
    config: str, policy: str, said: bool, events: list[Event]
) -> None:
    guest = selinux_guest(config)
    if policy:
        guest.add(f"/etc/selinux/{policy}/policy/policy.33")
    customize(guest, [parse_operation("no-selinux-relabel")], context_of(guest), events.append)
    warned = [at for at, event in enumerate(events) if "enforces SELinux" in getattr(event, "text", "")]
    assert warned == ([0] if said else [])


def test_no_labels_without_selinux_or_when_they_are_not_wanted() -> None:
    plain = debian_guest()
    customize(plain, [parse_operation("selinux-relabel")], context_of(plain))
    left = selinux_guest()
    customize(left, [parse_operation("no-selinux-relabel")], context_of(left))
    for guest in (plain, left):
        assert labelled(guest) == []
        assert not guest.exists("/.autorelabel")


def test_directories_are_passed_over_by_the_appliance() -> None:
    guest = selinux_guest()
    guest.has_setfiles = True
    words = [parse_operation("selinux-relabel-exclude", path) for path in ("/srv/a", "/srv/b")]
    customize(guest, words, context_of(guest))
    assert labelled(guest) == [f"{CONTEXTS.format('default')} /srv/a /srv/b"]
    assert not guest.exists(EXCLUDED)


@pytest.mark.parametrize("before", [None, "/old", "/old\n/srv/a\n"])
def test_directories_are_passed_over_by_the_guest_itself(before: str | None) -> None:
    guest = selinux_guest()
    if before is not None:
        guest.add(EXCLUDED, before)
    words = [parse_operation("selinux-relabel-exclude", path) for path in ("/srv/a", "/srv/b")]
    customize(guest, words, context_of(guest))
    assert guest.text(EXCLUDED) == ("" if before is None else "/old\n") + "/srv/a\n/srv/b\n"
    assert guest.exists("/.autorelabel")

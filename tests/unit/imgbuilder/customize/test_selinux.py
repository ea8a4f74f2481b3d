"""SELinux guests: labelled in the appliance or at their first boot."""

from __future__ import annotations

import pytest

from imgbuilder.customize.run import customize
from tests.fakes.debianguest import context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation

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

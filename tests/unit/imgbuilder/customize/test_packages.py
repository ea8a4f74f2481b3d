"""The operations that use the guest's package manager."""

from __future__ import annotations

import pytest

from imgbuilder.customize.commands import NO_NETWORK_HINT
from imgbuilder.customize.run import check_guest
from imgbuilder.errors import OperationError
from imgbuilder.events import Event, Notice, Severity
from imgbuilder.guests.ports import CommandResult
from tests.fakes.debianguest import apply, context_of
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation


def test_an_unknown_manager_is_an_error_before_the_guest_is_changed(bare: FakeGuest) -> None:
    bare.add("/etc/os-release", 'ID=strange\nPRETTY_NAME="Strange\x1b 1"\n')
    for keyword, text in (("install", "a"), ("uninstall", "a"), ("update", ""), ("firstboot-install", "a")):
        with pytest.raises(OperationError, match=r"no known package manager .* \(Strange 1\)") as caught:
            check_guest([parse_operation(keyword, text)], context_of(bare))
        assert "--run-command" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        ("E: dpkg was interrupted, you must manually run 'dpkg --configure -a'", "dpkg --configure -a"),
        ("error: failed to init transaction (unable to lock database)", "db.lck"),
        ("E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7", "left running"),
        ("ERROR: Unable to lock database: temporary error (try again later)", "left running"),
        ("System management is locked by the application with pid 7 (zypper).", "left running"),
        ("E: Unmet dependencies. Try 'apt --fix-broken install' with no packages", "apt-get -y --fix-broken"),
    ],
)
@pytest.mark.parametrize("keyword", ["install", "uninstall", "update"])
def test_a_template_left_in_the_middle_of_something_has_a_hint(
    guest: FakeGuest, keyword: str, output: str, hint: str
) -> None:
    guest.on_sh("apt-get", CommandResult(100, output))
    with pytest.raises(OperationError) as caught:
        apply(guest, keyword, "" if keyword == "update" else "a", network=False)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(("distro", "command"), [("gentoo", "emerge"), ("openwrt", "opkg install")])
def test_the_hint_names_the_guests_own_command(bare: FakeGuest, distro: str, command: str) -> None:
    bare.add("/etc/os-release", f"ID={distro}\n")
    with pytest.raises(OperationError) as caught:
        check_guest([parse_operation("install", "a")], context_of(bare))
    assert command in (caught.value.hint or "")


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


def test_deviations_are_warnings_and_missing_packages_an_error(events: list[Event], guest: FakeGuest) -> None:
    guest.on_sh("sed -n", CommandResult(0, "The following packages have been kept back:\n  \x1b[1mkern\n"))
    apply(guest, "update", on_event=events.append)
    [notice] = [event for event in events if isinstance(event, Notice)]
    assert notice.severity is Severity.WARNING
    assert notice.text == "--update: packages were kept back and not updated: ?[1mkern"
    guest.on_sh("sed -n", CommandResult(0, "No package b available.\n"))
    with pytest.raises(OperationError, match=r"--install a,b: .* no package b$"):
        apply(guest, "install", "a,b")

"""Fixed addresses, as each program that sets up a network reads them."""

from __future__ import annotations

import configparser
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.customize.ops.staticip import StaticIp
from imgbuilder.errors import OperationError, UsageError
from tests.fakes.debianguest import apply, context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation

BOTH = "192.0.2.11/24,2001:db8::11/64,gateway=192.0.2.1,gateway=fe80::1,dns=192.0.2.53,search=example.org"
WANTS = "/etc/systemd/system/multi-user.target.wants/"


def _guest(*paths: str, release: str = "") -> FakeGuest:
    guest = debian_guest()
    for path in paths:
        guest.add(path)
    if release:
        guest.remove("/etc/os-release")
        guest.add("/etc/os-release", release)
    return guest


def _ini(text: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=True)
    parsed.read_string(text)
    return parsed


def test_networkd() -> None:
    guest = _guest(f"{WANTS}systemd-networkd.service")
    apply(guest, "static-ip", f"{BOTH},mac=52:54:00:AA:00:11")
    assert guest.text("/etc/systemd/network/00-pybuilder.network") == (
        "[Match]\nMACAddress=52:54:00:aa:00:11\nType=ether\n\n[Network]\nDHCP=no\nAddress=192.0.2.11/24\n"
        "Address=2001:db8::11/64\nGateway=192.0.2.1\nGateway=fe80::1\nDNS=192.0.2.53\nDomains=example.org\n"
    )
    assert guest.text("/etc/resolv.conf") == "nameserver 192.0.2.53\nsearch example.org\n"


def test_names_are_left_to_the_guests_resolver() -> None:
    guest = _guest(f"{WANTS}systemd-networkd.service", "/etc/resolv.conf")
    guest.add_link("/etc/systemd/system/dbus-org.freedesktop.resolve1.service", "/lib/x.service")
    apply(guest, "static-ip", BOTH)
    assert guest.text("/etc/resolv.conf") == ""


def test_netplan() -> None:
    guest = _guest("/usr/sbin/netplan", f"{WANTS}systemd-networkd.service")
    apply(guest, "static-ip", BOTH)
    path = "/etc/netplan/00-pybuilder.yaml"
    assert guest.permissions(path) == ("0600", 0, 0)
    assert json.loads(guest.text(path))["network"]["ethernets"] == {
        "0-pybuilder": {
            "match": {"name": "e*"},
            "dhcp4": False,
            "dhcp6": False,
            "addresses": ["192.0.2.11/24", "2001:db8::11/64"],
            "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}, {"to": "::/0", "via": "fe80::1"}],
            "nameservers": {"addresses": ["192.0.2.53"], "search": ["example.org"]},
        }
    }


def test_network_manager() -> None:
    guest = _guest(f"{WANTS}NetworkManager.service", "/sbin/ifup", "/etc/network/interfaces")
    apply(guest, "static-ip", f"{BOTH},interface=eth0")
    path = "/etc/NetworkManager/system-connections/pybuilder.nmconnection"
    assert guest.permissions(path) == ("0600", 0, 0), "NetworkManager ignores files that others may read"
    found = _ini(guest.text(path))
    assert dict(found["connection"]) == {
        "id": "pybuilder", "type": "ethernet", "autoconnect-priority": "100", "interface-name": "eth0",
    }  # fmt: skip
    assert dict(found["ipv4"]) == {
        "method": "manual", "address1": "192.0.2.11/24", "gateway": "192.0.2.1", "dns": "192.0.2.53;",
        "dns-search": "example.org;",
    }  # fmt: skip
    assert dict(found["ipv6"]) == {
        "method": "manual", "address1": "2001:db8::11/64", "gateway": "fe80::1", "dns-search": "example.org;",
    }  # fmt: skip
    assert not guest.exists("/etc/resolv.conf"), "NetworkManager writes it"


@pytest.mark.parametrize(
    ("release", "auto", "name"),
    [("", "auto /e*/1=lan", "lan"), ("ID=alpine\n", "auto eth0", "eth0")],
)
def test_ifupdown(release: str, auto: str, name: str) -> None:
    guest = _guest("/sbin/ifup", release=release)
    guest.add("/etc/network/interfaces", "auto eth0\niface eth0 inet dhcp\n")
    apply(guest, "static-ip", BOTH)
    assert guest.text("/etc/network/interfaces").split("\n\n")[1] == (
        f"{auto}\niface {name} inet static\n    address 192.0.2.11/24\n    gateway 192.0.2.1\n"
        "    dns-nameservers 192.0.2.53\n    dns-search example.org\n"
        f"iface {name} inet6 static\n    address 2001:db8::11/64\n    gateway fe80::1\n"
    )
    apply(guest, "static-ip", "192.0.2.12/24")
    assert "dhcp" in guest.text("/etc/network/interfaces.before-pybuilder"), "the user's own, not ours"


def test_ifupdown_of_alpine_knows_no_cards() -> None:
    guest = _guest("/sbin/ifup", "/etc/network/interfaces", release="ID=alpine\n")
    wish = parse_operation("static-ip", "192.0.2.11/24,mac=52:54:00:00:00:11")
    with pytest.raises(OperationError, match="by its MAC address"):
        wish.check_guest(context_of(guest))


def test_cloud_init_leaves_the_network_alone() -> None:
    guest = _guest(f"{WANTS}systemd-networkd.service")
    guest.add_dir("/etc/cloud/cloud.cfg.d")
    apply(guest, "static-ip", BOTH)
    assert "network: {config: disabled}" in guest.text("/etc/cloud/cloud.cfg.d/99-pybuilder-network.cfg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("192.0.2.11", "is not an address with its network"),
        ("192.0.2.300/24", "is not an address with its network"),
        ("fe80::1%eth0/64", "is not an address with its network"),
        ("192.0.2.0/24", "the network itself"),
        ("192.0.2.255/24", "broadcast"),
        ("127.0.0.1/8", "cannot be the address"),
        ("192.0.2.1/24,192.0.2.1/24", "given twice"),
        ("192.0.2.1/24,gateway=2001:db8::1", "no address is of the kind"),
        ("192.0.2.1/24,gateway=192.0.2.2,gateway=192.0.2.3", "two gateways"),
        ("192.0.2.1/24,mac=52:54", "is not a MAC address"),
        ("192.0.2.1/24,mac=53:54:00:00:00:01", "of a group"),
        ("192.0.2.1/24,mac=52:54:00:00:00:01,interface=eth0", "mac and interface"),
        ("192.0.2.1/24,interface=eth0\nauto", "is not the name of an interface"),
        ("192.0.2.1/24,gw=192.0.2.2", "a part of the argument is unknown"),
        ("gateway=192.0.2.1", "at least one address"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_operation("static-ip", text)


@given(st.text(alphabet="0123456789abcdef:./,=gatewymcnirfds -%\n", max_size=60))
def test_any_text_is_refused_or_has_an_address(text: str) -> None:
    try:
        wish = parse_operation("static-ip", text)
    except UsageError:
        return
    assert isinstance(wish, StaticIp)
    assert wish.addresses
    assert "\n" not in "".join([*wish.addresses, *wish.gateways, *wish.dns, *wish.search, wish.interface])

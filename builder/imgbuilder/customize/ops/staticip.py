"""The operation that gives a guest fixed addresses, written for the program that sets up its network."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from imgbuilder.customize.argforms import ArgumentForm, ArgumentPart, Kind, Raw
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import Family, NetworkProgram
from imgbuilder.customize.needs import Need
from imgbuilder.customize.operation import Operation
from imgbuilder.customize.registry import operation
from imgbuilder.customize.values import hostname
from imgbuilder.errors import OperationError, UsageError
from imgbuilder.guests.ports import Guest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_METAVAR = "ADDRESS/PREFIX[,gateway=IP][,dns=IP][,WORD=...]"
_WORDS = "the words are gateway=IP, dns=IP, search=DOMAIN, mac=MAC and interface=NAME"
_LISTS = ("gateway", "dns", "search")
_SINGLE = ("mac", "interface")


def parse_interface_address(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """Parse an address with the length of its network, such as ``192.0.2.11/24``."""
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        found = None
    if found is None or "/" not in text or "%" in text:
        raise UsageError(
            f"{text!r} is not an address with its network",
            hint="for example 192.0.2.11/24 or 2001:db8::11/64",
        )
    address, network = found.ip, found.network
    spare = network.num_addresses > 2 and found.version == 4
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise UsageError(f"{text} cannot be the address of a machine")
    if spare and address in (network.network_address, network[-1]):
        raise UsageError(f"{text} is the network itself or its broadcast address")
    return found


def parse_ip(text: str) -> Address:
    """Parse an address without a network."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        found = None
    if found is None or "%" in text:
        raise UsageError(f"{text!r} is not an address", hint="for example 192.0.2.1 or 2001:db8::1")
    return found


def addresses(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Accept the addresses of an interface; return them in their usual form."""
    if not texts:
        raise UsageError("at least one address is needed", hint="for example 192.0.2.11/24")
    return _each_once(tuple(str(parse_interface_address(text)) for text in texts))


def gateways(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Accept at most one gateway for IPv4 and one for IPv6."""
    found = [parse_ip(text) for text in texts]
    if len({gateway.version for gateway in found}) != len(found):
        raise UsageError("two gateways of one kind", hint="give one for IPv4 and one for IPv6 at most")
    return tuple(map(str, found))


def servers(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Accept the addresses of name servers."""
    return _each_once(tuple(str(parse_ip(text)) for text in texts))


def domains(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Accept search domains."""
    return _each_once(tuple(hostname(text) for text in texts))


def mac_address(text: str) -> str:
    """Accept the MAC address of one card, or an empty text; return it in lower case."""
    found = text.lower().replace("-", ":")
    if found and not _MAC.fullmatch(found):
        raise UsageError(f"{text!r} is not a MAC address", hint="for example 52:54:00:12:34:56")
    if found and int(found[:2], 16) & 1:
        raise UsageError(f"{text} is a MAC address of a group", hint="the first pair of digits must be even")
    return found


def interface_name(text: str) -> str:
    """Accept the name of an interface, or an empty text."""
    if text and not _INTERFACE.fullmatch(text):
        raise UsageError(f"{text!r} is not the name of an interface", hint="for example eth0 or enp1s0")
    return text


def _each_once(texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(texts)) != len(texts):
        raise UsageError(f"{max(texts, key=texts.count)} is given twice")
    return texts


def _cut(text: str) -> tuple[Raw, ...]:
    """Split the argument at commas into addresses and words with a value."""
    found: dict[str, list[str]] = {name: [] for name in ("", *_LISTS, *_SINGLE)}
    for item in text.split(","):
        name, equals, value = item.strip().partition("=")
        if not equals:
            found[""].append(name)
        elif name not in found or not name:
            raise UsageError("a part of the argument is unknown", hint=_WORDS)
        elif name in _SINGLE and found[name]:
            raise UsageError(f"{name} is given twice")
        else:
            found[name].append(value)
    singles: list[Raw] = [found[name][0] if found[name] else None for name in _SINGLE]
    return (tuple(found[""]), *(tuple(found[name]) or None for name in _LISTS), *singles)


_FORM = ArgumentForm(
    _METAVAR,
    (
        ArgumentPart("ADDRESS/PREFIX", tuple, Kind.LIST),
        ArgumentPart("IP", tuple, Kind.LIST, optional=True, key="gateway"),
        ArgumentPart("IP", tuple, Kind.LIST, optional=True),
        ArgumentPart("DOMAIN", tuple, Kind.LIST, optional=True),
        ArgumentPart("MAC", optional=True),
        ArgumentPart("NAME", optional=True),
    ),
    _cut,
)


@operation(
    "static-ip",
    progress="Setting the address: {addresses}",
    form=_FORM,
    needs=(Need.NETWORK,),
)
@dataclass(frozen=True)
class StaticIp(Operation):
    """Give the guest fixed addresses in place of DHCP.

    They are written for the program that sets up the guest's network: netplan, NetworkManager,
    systemd-networkd or ifupdown. Several addresses, and words that can be repeated, are separated by commas:
    --static-ip 192.0.2.11/24,2001:db8::11/64,gateway=192.0.2.1,dns=192.0.2.53. Domains in which names are
    looked up are further words: search=example.org. The addresses belong to the card with
    the address of mac=, or to the interface= of that name, otherwise to the first wired interface (eth0 in
    Alpine). With ifupdown, the former /etc/network/interfaces is kept as
    interfaces.before-pybuilder; in the others, the new settings are read before all that is there. cloud-init
    no longer sets up the network. During the build, the guest's network is that of the appliance.

    Attributes:
        addresses: The addresses, each with the length of its network.
        gateways: The default gateways, one for IPv4 and one for IPv6 at most.
        dns: The name servers.
        search: The domains in which names are looked up.
        mac: The MAC address of the card.
        interface: The name of the interface.
    """

    addresses: tuple[str, ...] = field(metadata={"rule": addresses})
    gateways: tuple[str, ...] = field(default=(), metadata={"rule": gateways})
    dns: tuple[str, ...] = field(default=(), metadata={"rule": servers})
    search: tuple[str, ...] = field(default=(), metadata={"rule": domains})
    mac: str = field(default="", metadata={"rule": mac_address})
    interface: str = field(default="", metadata={"rule": interface_name})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mac and self.interface:
            raise UsageError("--static-ip: mac and interface are given", hint="one of them names the card")
        versions = {parse_interface_address(text).version for text in self.addresses}
        for gateway in self.gateways:
            if parse_ip(gateway).version not in versions:
                raise UsageError(f"--static-ip: no address is of the kind of the gateway {gateway}")

    def check_guest(self, context: GuestContext) -> None:
        if self.mac and context.facts.network is NetworkProgram.IFUPDOWN and not _has_patterns(context):
            raise OperationError(
                "--static-ip: the guest's ifupdown cannot find a card by its MAC address",
                hint="name the interface instead: interface=eth0",
            )

    def apply(self, guest: Guest, context: GuestContext) -> None:
        program = context.facts.network
        assert program is not None  # needs=NETWORK
        path, write = _WRITERS[program]
        if program is NetworkProgram.IFUPDOWN and guest.is_file(path):
            old = f"{path}.before-pybuilder"
            if not guest.exists(old):
                guest.copy(path, old)
        content = write(self, patterns=_has_patterns(context))
        _write_private(guest, path, content, 0o644 if program in _READABLE else 0o600)
        if guest.is_dir(_CLOUD):
            _write_private(guest, f"{_CLOUD}/99-pybuilder-network.cfg", _NO_CLOUD_NETWORK, 0o644)
        if self.dns and program is not NetworkProgram.NETWORK_MANAGER and not _resolves_itself(guest):
            lines = [f"nameserver {server}" for server in self.dns]
            lines += [f"search {' '.join(self.search)}"] if self.search else []
            _write_private(guest, _RESOLV, "".join(f"{line}\n" for line in lines), 0o644)


_RESOLV = "/etc/resolv.conf"
_CLOUD = "/etc/cloud/cloud.cfg.d"
_NO_CLOUD_NETWORK = "# The addresses were set when the image was built.\nnetwork: {config: disabled}\n"
_READABLE = {NetworkProgram.NETWORKD, NetworkProgram.IFUPDOWN}
"""Programs whose files everyone may read; systemd-networkd runs as a user of its own."""
_RESOLVED = (
    "/etc/systemd/system/dbus-org.freedesktop.resolve1.service",
    "/etc/systemd/system/sysinit.target.wants/systemd-resolved.service",
    "/etc/systemd/system/multi-user.target.wants/systemd-resolved.service",
)


def _has_patterns(context: GuestContext) -> bool:
    """Return whether interfaces(5) of the guest knows patterns; that of Alpine does not."""
    return context.facts.family is not Family.ALPINE


def _resolves_itself(guest: Guest) -> bool:
    """Return whether the guest's resolv.conf is not a plain file that names the servers."""
    return guest.is_symlink(_RESOLV) or any(map(guest.is_symlink, _RESOLVED))


def _write_private(guest: Guest, path: str, content: str, mode: int) -> None:
    """Write a file of root's, which has its mode before it has its content."""
    guest.mkdir_p(path.rpartition("/")[0])
    guest.write(path, b"")
    guest.chown(0, 0, path)
    guest.chmod(mode, path)
    guest.write(path, content.encode())


def _networkd(wish: StaticIp, **_: object) -> str:
    match = f"MACAddress={wish.mac}" if wish.mac else f"Name={wish.interface or 'en* eth*'}"
    lines = ["[Match]", match, *(() if wish.interface else ("Type=ether",)), "", "[Network]", "DHCP=no"]
    lines += [f"Address={address}" for address in wish.addresses]
    lines += [f"Gateway={gateway}" for gateway in wish.gateways]
    lines += [f"DNS={server}" for server in wish.dns]
    lines += [f"Domains={' '.join(wish.search)}"] if wish.search else []
    return "".join(f"{line}\n" for line in lines)


def _netplan(wish: StaticIp, **_: object) -> str:
    """Return YAML in the form of JSON, which is YAML as well; the name sorts before others."""
    match = {"macaddress": wish.mac} if wish.mac else {"name": wish.interface or "e*"}
    card: dict[str, object] = {
        "match": match, "dhcp4": False, "dhcp6": False, "addresses": list(wish.addresses),
    }  # fmt: skip
    if wish.gateways:
        card["routes"] = [
            {"to": "0.0.0.0/0" if parse_ip(gateway).version == 4 else "::/0", "via": gateway}
            for gateway in wish.gateways
        ]
    if wish.dns or wish.search:
        card["nameservers"] = {"addresses": list(wish.dns), "search": list(wish.search)}
    return json.dumps({"network": {"version": 2, "ethernets": {"0-pybuilder": card}}}, indent=2) + "\n"


def _network_manager(wish: StaticIp, **_: object) -> str:
    lines = ["[connection]", "id=pybuilder", "type=ethernet", "autoconnect-priority=100"]
    lines += [f"interface-name={wish.interface}"] if wish.interface else []
    lines += ["", "[ethernet]", *([f"mac-address={wish.mac.upper()}"] if wish.mac else [])]
    for name, version in (("ipv4", 4), ("ipv6", 6)):
        mine = [text for text in wish.addresses if parse_interface_address(text).version == version]
        lines += ["", f"[{name}]", f"method={'manual' if mine else 'disabled' if version == 4 else 'auto'}"]
        lines += [f"address{number}={address}" for number, address in enumerate(mine, 1)]
        lines += [f"gateway={text}" for text in wish.gateways if parse_ip(text).version == version]
        dns = [text for text in wish.dns if parse_ip(text).version == version]
        lines += [f"dns={';'.join(dns)};"] if dns else []
        lines += [f"dns-search={';'.join(wish.search)};"] if wish.search and mine else []
    return "".join(f"{line}\n" for line in lines)


def _ifupdown(wish: StaticIp, *, patterns: bool) -> str:
    """Return interfaces(5); ``lan`` stands for the interface that matches a pattern."""
    name = wish.interface or ("lan" if patterns else "eth0")
    pattern = f"mac/{wish.mac}=lan" if wish.mac else "/e*/1=lan"
    lines = ["# Written when the image was built.", "auto lo", "iface lo inet loopback", ""]
    lines += [f"auto {pattern if name == 'lan' else name}"]
    more = [f"gateway {text}" for text in wish.gateways]
    more += [f"dns-nameservers {' '.join(wish.dns)}"] if wish.dns else []
    more += [f"dns-search {' '.join(wish.search)}"] if wish.search else []
    for address in wish.addresses:
        kind = "inet" if parse_interface_address(address).version == 4 else "inet6"
        lines += [f"iface {name} {kind} static", f"    address {address}"]
        # Each setting once, with the first address of its kind.
        mine = [text for text in more if not text.startswith("gateway ") or (":" in text) == (":" in address)]
        lines += [f"    {text}" for text in mine]
        more = [text for text in more if text not in mine]
    return "".join(f"{line}\n" for line in lines)


_WRITERS: Mapping[NetworkProgram, tuple[str, Callable[..., str]]] = {
    NetworkProgram.NETPLAN: ("/etc/netplan/00-pybuilder.yaml", _netplan),
    NetworkProgram.NETWORK_MANAGER: (
        "/etc/NetworkManager/system-connections/pybuilder.nmconnection",
        _network_manager,
    ),
    NetworkProgram.NETWORKD: ("/etc/systemd/network/00-pybuilder.network", _networkd),
    NetworkProgram.IFUPDOWN: ("/etc/network/interfaces", _ifupdown),
}
"""By program: the file, and what writes its content."""

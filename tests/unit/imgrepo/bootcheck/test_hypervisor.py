"""The machine of a boot check: read-only, without network access, virtio throughout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.errors import ToolError, UsageError
from imgbuilder.host.packages import install_hint
from imgbuilder.machine.model import BOARDS, Firmware, Machine
from imgbuilder.machine.qemu import find_firmware
from imgrepo.bootcheck.hypervisor import headless_command

MACHINE = Machine("web", Path("/images/web, new.qcow2"), OutputFormat.QCOW2, memory=512, processors=2)
CHECK = ("tcg", Path("/run/monitor"))


def test_the_image_is_only_read_and_its_comma_is_no_end() -> None:
    words = headless_command(MACHINE, *CHECK)
    drive = words[words.index("-drive") + 1]
    assert drive == "if=none,id=disk0,file=/images/web,, new.qcow2,format=qcow2,snapshot=on"
    assert words.count("-drive") == 1


@pytest.mark.parametrize("ports", [(), (22, 80)])
def test_the_network_leads_nowhere_with_and_without_ports(ports: tuple[int, ...]) -> None:
    words = headless_command(MACHINE, *CHECK, ports)
    network = words[words.index("-netdev") + 1]
    assert network.startswith("user,id=net0,restrict=on")
    assert network.count("hostfwd=tcp:127.0.0.1:0-:") == len(ports)
    assert all(f":0-:{port}" in network for port in ports)


def test_no_device_but_virtio_and_no_default_ones() -> None:
    words = headless_command(MACHINE, *CHECK)
    devices = [words[number + 1] for number, word in enumerate(words) if word == "-device"]
    assert len(devices) == 4
    assert all(device.startswith("virtio-") for device in devices)
    assert "-nodefaults" in words
    assert words[0] == "qemu-system-x86_64"
    assert words[words.index("-m") + 1] == "512"
    assert words[words.index("-smp") + 1] == "2"
    assert words[words.index("-display") + 1] == "none"


def test_uefi_gets_its_code_read_only_and_variables_of_its_own() -> None:
    words = headless_command(MACHINE, *CHECK, firmware=(Path("/fw/code"), Path("/run/vars")))
    assert "if=pflash,format=raw,readonly=on,file=/fw/code" in words
    assert "if=pflash,format=raw,file=/run/vars" in words


def test_arm_has_its_own_board() -> None:
    words = headless_command(replace(MACHINE, arch="aarch64"), *CHECK)
    assert words[0] == "qemu-system-aarch64"
    assert words[words.index("-machine") + 1] == "virt"
    assert "virtio-gpu-pci,max_hostmem=67108864" in words


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(UsageError, match="s390x"):
        headless_command(replace(MACHINE, arch="s390x"), *CHECK)


@pytest.mark.parametrize(("arch", "name"), [("x86_64", "x86_64"), ("i686", "i386"), ("aarch64", "aarch64")])
def test_missing_firmware_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, name: str
) -> None:
    places = ((str(tmp_path / "code"), str(tmp_path / "variables")),)
    monkeypatch.setitem(BOARDS, arch, replace(BOARDS[arch], firmware=places))
    assert find_firmware(MACHINE) is None
    uefi = replace(MACHINE, firmware=Firmware.UEFI, arch=arch)
    with pytest.raises(ToolError) as caught:
        find_firmware(uefi)
    assert caught.value.hint == install_hint(f"uefi-{name}")
    for place in places[0]:
        Path(place).touch()
    assert find_firmware(uefi) == (tmp_path / "code", tmp_path / "variables")

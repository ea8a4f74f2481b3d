"""Name, libosinfo id and architecture in a guest's files."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.guests.roots import parse_os_release
from imgrepo.images.osfacts import display_name, elf_arch, osinfo_id


def header(machine: int, *, little: bool = True) -> bytes:
    order = "<" if little else ">"
    return (
        b"\x7fELF\x02" + (b"\x01" if little else b"\x02") + bytes(10) + struct.pack(f"{order}HH", 3, machine)
    )


def test_os_release_is_read_like_a_shell_reads_it() -> None:
    text = (
        '# c\nNAME=\'Debian GNU/Linux\'\nPRETTY_NAME="a \\"b\\" \\$c"\nID=debian\nEMPTY=\nbad line\nX="open\n'
    )
    assert parse_os_release(text) == {
        "NAME": "Debian GNU/Linux",
        "PRETTY_NAME": 'a "b" $c',
        "ID": "debian",
        "EMPTY": "",
    }


@pytest.mark.parametrize(
    ("kind", "version", "osinfo"),
    [
        ("debian", "12", "debian12"),
        ("ubuntu", "24.04", "ubuntu24.04"),
        ("fedora", "40", "fedora40"),
        ("rocky", "9.4", "rocky9"),
        ("almalinux", "9.4", "almalinux9"),
        ("centos", "9", "centos-stream9"),
        ("rhel", "9.4", "rhel9.4"),
        ("alpine", "3.20.1", "alpinelinux3.20"),
        ("opensuse-leap", "15.6", "opensuse15.6"),
        ("arch", "", "archlinux"),
        ("debian", "", None),
        ("debian", "12\n[evil]", None),
        ("unheard-of", "1", None),
    ],
)
def test_osinfo_ids(kind: str, version: str, osinfo: str | None) -> None:
    assert osinfo_id({"ID": kind, "VERSION_ID": version}) == osinfo


@pytest.mark.parametrize(
    ("data", "arch"),
    [
        (header(62), "x86_64"),
        (header(3), "i386"),
        (header(183), "aarch64"),
        (header(21), "ppc64le"),
        (header(21, little=False), "ppc64"),
        (header(22, little=False), "s390x"),
        (header(62, little=False), None),
        (header(9999), None),
        (b"#!/bin/sh\n" + bytes(20), None),
        (b"\x7fELF", None),
        (b"", None),
    ],
)
def test_architectures_of_programs(data: bytes, arch: str | None) -> None:
    assert elf_arch(data) == arch


@given(st.binary(max_size=64))
def test_any_bytes_may_be_asked_for_their_architecture(data: bytes) -> None:
    assert elf_arch(data) is None or data.startswith(b"\x7fELF")


@pytest.mark.row("R15")
@given(st.text())
def test_a_display_name_is_one_short_line_that_an_index_keeps(text: str) -> None:
    name = display_name(text)
    if name is not None:
        assert 0 < len(name) <= 100
        assert name == name.strip()
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name)
        name.encode()


@pytest.mark.row("R15")
@given(st.text())
def test_any_text_can_be_an_os_release_file(text: str) -> None:
    release = parse_os_release(text)
    assert all("\n" not in value for value in release.values())
    osinfo = osinfo_id(release)
    assert osinfo is None or osinfo.replace("-", "").replace(".", "").isalnum()


def test_nothing_printable_is_no_name() -> None:
    assert display_name("\x00 \n\t") is None

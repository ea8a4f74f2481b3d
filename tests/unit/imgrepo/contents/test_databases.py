"""Packages of guests with rpm and apk."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.errors import GuestCallError, GuestError, PybuilderError
from imgbuilder.guests.ports import CommandResult
from imgrepo.contents import databases
from imgrepo.contents.databases import parse_apk, parse_rpm, read_apk, read_rpm
from imgrepo.library.records import Package
from tests.fakes.appliance import FakeAppliance, FakeAppliances
from tests.fakes.guest import FakeGuest
from tests.unit.imgrepo.contents.guests import disk_of, look

LIST = (
    "bash\t\t5.2.26\t3.fc40\tx86_64\tbash-5.2.26-3.fc40.src.rpm\tGPL-3.0-or-later\n"
    "openssl-libs\t1\t3.2.1\t2.fc40\tx86_64\topenssl-3.2.1-2.fc40.src.rpm\tApache-2.0\n"
    "gpg-pubkey\t\ta15b79cc\t63d04c2c\t(none)\t(none)\tpubkey\n"
    "glibc\t0\t2.39\t8.fc40\ti686\tglibc-2.39-8.fc40.src.rpm\t"
    "LGPLv2+ and LGPLv2+ with exceptions and Public Domain\n"
    "local-thing\t\t1\t1\tnoarch\t(none)\tProprietary\n"
    "silent\t\t1\t1\tnoarch\t(none)\t(none)\n"
)

INSTALLED = """\
C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=
P:busybox
V:1.36.1-r15
A:x86_64
S:508532
I:921600
T:Size optimized toolbox of many common UNIX utilities
U:https://busybox.net/
L:GPL-2.0-only
o:busybox
m:Maintainer <maintainer@example.org>
F:bin
R:busybox
a:0:0:755
Z:Q1/bMnsBpUYcbBXf8DqoBeFwXRAQU=
F:etc
R:securetty

P:ssl_client
V:1.36.1-r15
A:x86_64
L:GPL-2.0-only
o:busybox

P:libcrypto3
V:3.1.4-r5
A:x86_64
L:Apache-2.0
o:openssl
"""


def rpm_guest(text: str = LIST) -> FakeGuest:
    guest = FakeGuest()
    guest.add("/etc/os-release", 'ID=fedora\nVERSION_ID=40\nPRETTY_NAME="Fedora Linux 40"\n')
    guest.add("/usr/lib/sysimage/rpm/rpmdb.sqlite", b"SQLite format 3\0")
    guest.add_dir("/tmp")
    answer_with(guest, text)
    return guest


def answer_with(guest: FakeGuest, text: str) -> None:
    def answer(_script: str) -> CommandResult:
        guest.add("/tmp/packages", text)
        return CommandResult(0, "")

    guest.on_sh("rpm", answer)


def test_rpm(tmp_path: Path) -> None:
    def prepare(appliance: FakeAppliance) -> None:
        answer_with(appliance, LIST)

    disk = disk_of(rpm_guest())
    found = look(tmp_path, disk, FakeAppliances({"a.img": disk}, prepare))
    assert (found.manager, found.distribution, found.release) == ("rpm", "fedora", "40")
    gpl, lgpl = ("GPL-3.0-or-later",), ("LGPL-2.0-or-later", "LGPLv2+ with exceptions", "Public Domain")
    assert found.packages == (
        Package("bash", "5.2.26-3.fc40", "x86_64", "bash", "5.2.26-3.fc40", gpl, copyleft=True),
        Package("glibc", "2.39-8.fc40", "i686", "glibc", "2.39-8.fc40", lgpl, copyleft=True),
        Package("local-thing", "1-1", "noarch", "local-thing", "1-1", ("Proprietary",)),
        Package(
            "openssl-libs", "1:3.2.1-2.fc40", "x86_64", "openssl", "3.2.1-2.fc40", ("Apache-2.0",),
            copyleft=False,
        ),
        Package("silent", "1-1", "noarch", "silent", "1-1"),
    )  # fmt: skip


def test_what_rpm_writes_goes_into_memory_and_is_gone() -> None:
    guest = rpm_guest()
    read_rpm(guest)
    assert [call for call in guest.calls if call[0] in ("mount_memory", "unmount")] == [
        ("mount_memory", "/tmp"),
        ("unmount", "/tmp"),
    ]
    assert guest.ls("/tmp") == []
    assert "/usr/lib/sysimage/rpm" in guest.scripts[0]


def test_a_guest_without_tmp_lists_its_packages_in_another_folder() -> None:
    guest = rpm_guest()
    guest.remove("/tmp")
    with pytest.raises(GuestError, match="none of the folders /tmp,"):
        read_rpm(guest)
    guest.add_dir("/root")
    guest.on_sh("rpm", CommandResult(0, ""))
    with pytest.raises(GuestError):  # the fake writes no list
        read_rpm(guest)
    assert ("mount_memory", "/root") in guest.calls
    assert ">/root/packages" in guest.scripts[-1]


def test_an_rpm_that_cannot_be_run() -> None:
    guest = rpm_guest()
    guest.on_sh("rpm", CommandResult(1, "sh: rpm: Exec format error"))
    with pytest.raises(GuestError, match="Exec format error") as caught:
        read_rpm(guest)
    assert "architecture" in (caught.value.hint or "")

    def fail(_script: str) -> CommandResult:
        raise GuestCallError("sh: no such file")

    guest.on_sh("rpm", fail)
    with pytest.raises(GuestError, match="no such file"):
        read_rpm(guest)
    assert guest.ls("/tmp") == []


@pytest.mark.parametrize(
    "line",
    [
        "bash",
        "bash\t\t5\t3\tx86_64\ts.src.rpm",
        "../bash\t\t5\t3\tx86_64\tb-1-1.src.rpm\tMIT",
        "bash\tx\t5\t3\tx86_64\tb-1-1.src.rpm\tMIT",
        "ba\x1bsh\t\t5\t3\tx86_64\tb-1-1.src.rpm\tMIT",
        "bash\t\t5\t3\tx86_64\t../b-1-1.src.rpm\tMIT",
        f"bash\t{'1' * 100}\t5\t3\tx86_64\tb-1-1.src.rpm\tMIT",
        "\t" * 2_000_000,
    ],
)
def test_a_lying_rpm(line: str) -> None:
    with pytest.raises(GuestError):
        list(parse_rpm(f"{line}\n"))


def test_apk(tmp_path: Path) -> None:
    guest = FakeGuest()
    guest.add("/etc/os-release", "ID=alpine\nVERSION_ID=3.19.1\n")
    guest.add("/lib/apk/db/installed", INSTALLED)
    found = look(tmp_path, disk_of(guest))
    assert found.manager == "apk"
    busybox, version = ("x86_64", "busybox", "1.36.1-r15", ("GPL-2.0-only",)), "1.36.1-r15"
    assert found.packages == (
        Package("busybox", version, *busybox, copyleft=True),
        Package("libcrypto3", "3.1.4-r5", "x86_64", "openssl", "3.1.4-r5", ("Apache-2.0",), copyleft=False),
        Package("ssl_client", version, *busybox, copyleft=True),
    )


def test_a_manager_that_is_only_a_tool_does_not_hide_the_other(tmp_path: Path) -> None:
    guest = FakeGuest()
    guest.add("/etc/os-release", "ID=alpine\n")
    guest.add("/var/lib/dpkg/status", "")
    guest.add("/usr/lib/apk/db/installed", INSTALLED)
    assert look(tmp_path, disk_of(guest)).manager == "apk"
    assert len(read_apk(guest)) == 3


@pytest.mark.parametrize("text", ["P:x\n", "P:../x\nV:1\nA:x86_64\n", "V:1\nA:x\n", "P:x\nV:1\nA:x\no:a b\n"])
def test_a_damaged_database_of_apk(text: str) -> None:
    with pytest.raises(GuestError):
        list(parse_apk(text))


PACKAGE = "P:x\nV:1\nA:x86_64\n"


@pytest.mark.row("T14")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("between", [" ", " with ", ",", " and ", "a,", " or", "\t \t"])
def test_a_licence_field_without_end_costs_no_time(between: str) -> None:
    (found,) = parse_apk(f"{PACKAGE}L:MIT{between * 4_000_000}b\n")
    assert found.copyleft is None
    assert len(found.licences) <= 200


@pytest.mark.row("T14")
def test_other_fields_of_apk_are_not_kept() -> None:
    keys = "".join(f"{chr(number)}:{'x' * 20}\n" for number in range(0x4E00, 0x9E00)).encode()
    guest = FakeGuest()
    guest.add("/lib/apk/db/installed", (PACKAGE.encode() + keys + b"\n") * 10)
    tracemalloc.start()
    try:
        assert len(read_apk(guest)) == 10
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(keys) * 10  # the text as bytes and as characters, and hardly more


@pytest.mark.row("T14")
def test_licences_that_take_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_MOST_MEMORY", 100 << 10)
    names = ",".join(f"name-{number}" for number in range(190))
    guest = FakeGuest()
    guest.add("/lib/apk/db/installed", f"{PACKAGE}L:{names}\n\n" * 3)
    assert len(read_apk(guest)) == 3
    guest.add("/lib/apk/db/installed", f"{PACKAGE}L:{names}\n\n" * 30)
    with pytest.raises(GuestError, match="more names of licences"):
        read_apk(guest)
    monkeypatch.setattr(databases, "_MOST_PACKAGES", 2)
    with pytest.raises(GuestError, match="more than 2 packages"):
        read_apk(guest)


@pytest.mark.row("T14")
def test_a_paragraph_without_a_package_is_not_passed_over() -> None:
    with pytest.raises(GuestError, match="impossible package"):
        list(parse_apk(f"{PACKAGE}\nF:bin\nR:busybox\n"))


@settings(deadline=None)
@given(st.text())
def test_any_text_raises_only_our_errors(text: str) -> None:
    for parse, base in ((parse_rpm, LIST), (parse_apk, INSTALLED)):
        for whole in (text, f"{base}{text}", f"{base}\n{text}"):
            try:
                assert all(package.name.isascii() for package in parse(whole))
            except PybuilderError:
                continue

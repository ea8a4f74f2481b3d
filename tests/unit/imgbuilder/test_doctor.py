"""The doctor: findings about missing programs, and one line that installs them all."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from imgbuilder import doctor
from imgbuilder.doctor import Finding, Health, examine, installation
from imgbuilder.events import ignore
from imgbuilder.host import process
from imgbuilder.services import Services, Settings


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Debian host with none of the programs, for an ordinary user."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("imgbuilder.host.process._SYSTEM_FOLDERS", ())
    monkeypatch.setattr(doctor, "_ARCHIVE_KEYS", tmp_path / "missing.gpg")
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian"})
    monkeypatch.setattr(doctor, "readable_kernels", list)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def findings(tmp_path: Path) -> dict[str, Finding]:
    found = list(examine([], tmp_path, Services(Settings()).open_appliance, ignore))
    return {finding.subject: finding for finding in found}


@pytest.mark.usefixtures("bare")
def test_one_line_installs_all_that_is_missing(tmp_path: Path) -> None:
    found = findings(tmp_path)
    for name in (
        "qemu-system-x86_64",
        "qemu-img",
        "qemu-io",
        "sfdisk",
        "gpg",
        "gpgv",
        "xz",
        "zstd",
        "setpriv",
    ):
        assert found[name].health is Health.BAD, name
    for name in ("perl", "fusermount3", "mmdebstrap", "newuidmap", "debian-archive-keyring"):
        assert found[name].health is Health.WORSE, name
        assert "it is needed for" in found[name].fact
    assert "KVM" not in found, "without its program KVM cannot be tried"
    command = installation(list(found.values()))
    assert command.startswith("sudo apt-get install --no-install-recommends ")
    packages = command.split()[4:]
    assert len(packages) == len(set(packages))
    expected = {
        "qemu-system-x86", "qemu-utils", "fdisk", "gpg", "gpgv", "xz-utils", "zstd", "util-linux", "perl",
        "fuse3", "mmdebstrap", "uidmap", "debian-archive-keyring", "e2fsprogs",
    }  # fmt: skip
    assert expected <= set(packages)


@pytest.mark.usefixtures("bare")
def test_a_client_is_not_asked_for_the_programs_of_publishers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "pydantic" else object())
    assert not {"mmdebstrap", "newuidmap", "debian-archive-keyring"} & findings(tmp_path).keys()


@pytest.mark.parametrize("missing", ["e2fsck", "resize2fs", "setpriv"])
def test_a_build_without_an_appliance_names_the_missing_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find = process.find_program
    monkeypatch.setattr(process, "find_program", lambda name: None if name == missing else find(name))
    monkeypatch.setattr(doctor, "readable_kernels", list)  # the appliance is not started
    found = findings(tmp_path)["builds without an appliance"]
    assert (found.health, found.needs, found.remedy) == (Health.WORSE, missing, "")
    assert missing in found.fact


def test_nothing_is_missing() -> None:
    assert installation([Finding(Health.GOOD, "xz", "version 5"), Finding(Health.BAD, "cache", "full")]) == ""

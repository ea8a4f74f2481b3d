"""Templates of other releases, architectures, layouts: made, booted by BIOS and UEFI, published.

Minutes each under emulation, and the network: run with PYBUILDER_TEST_LONG=1. Debian 12 as it is made by
default is made and booted by the other guest tests in any case.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.guest.conftest import Publisher, long
from tests.guest.machine import booted
from tests.guest.person import Person

pytestmark = [
    pytest.mark.guest,
    pytest.mark.network,
    pytest.mark.timeout(2400),
    long,
]

UEFI = ("-bios", "/usr/share/ovmf/OVMF.fd")
UEFI_32 = (
    "-machine", "q35",
    "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd",
    "-drive", "if=pflash,format=raw,unit=1,snapshot=on,file=/usr/share/OVMF/OVMF32_VARS_4M.fd",
)  # fmt: skip

TEMPLATES: dict[str, tuple[str, ...]] = {
    "12-bios": ("debian-12", "--no-uefi"),
    "12-btrfs": ("debian-12", "--root", "btrfs"),
    "12-xfs-lvm": ("debian-12", "--root", "xfs", "--lvm"),
    "12-lvm": ("debian-12", "--lvm"),
    "12-i386": ("debian-12", "--arch", "i386"),
    "11": ("debian-11",),
    "11-i386-btrfs": ("debian-11", "--arch", "i386", "--root", "btrfs"),
    "13": ("debian-13",),
    "13-xfs": ("debian-13", "--root", "xfs"),
    "sid": ("debian-sid",),
}

SCRIPT = """#!/bin/sh
set -eu
# In the new system, as root: the marker shows on the console of the booted machine.
mkdir -p /etc/issue.d
echo "made-by-the-script $(dpkg --print-architecture)" >/etc/issue.d/script.issue
"""


def published_entry(person: Person, publisher: Publisher, image: Path) -> str:
    """Publish an image alone; return its entry."""
    images, web = person.home / f"{image.stem}-images", person.home / f"{image.stem}-web"
    for folder in (images, web):
        folder.mkdir()
        person.owns(folder)
    image.rename(images / image.name)
    try:
        person.run(
            "pybuilder-repo", "publish", images, "--output", web, "--gpg-key", publisher.fingerprint,
            "--xz-preset", "0", env={"GNUPGHOME": str(publisher.gnupg)}, timeout=900,
        )  # fmt: skip
        return (web / "index").read_text()
    finally:
        shutil.rmtree(images)
        shutil.rmtree(web)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_made_boots_by_each_firmware_and_is_published(
    name: str, person: Person, publisher: Publisher
) -> None:
    words = TEMPLATES[name]
    script, image = person.home / f"{name}.sh", person.home / f"template-{name}.img"
    script.write_text(SCRIPT)
    try:
        person.run(
            "pybuilder-repo", "make-template", words[0], image, *words[1:],
            "--script", script, "--locale", "de_DE.UTF-8", timeout=1500,
        )  # fmt: skip
        manifest = json.loads(image.with_suffix(".json").read_text())
        assert manifest["locale"] == "de_DE.UTF-8"
        assert "locales" in manifest["packages"]
        image.chmod(0o644)
        uefi = UEFI_32 if manifest["arch"] == "i386" else UEFI
        firmwares: tuple[tuple[str, ...], ...] = ((),) if "--no-uefi" in words else ((), uefi)
        for firmware in firmwares:
            with booted(person, image, "raw", extra=firmware) as machine:
                console = machine.wait_for("login:", 500)
                assert f"made-by-the-script {manifest['arch']}" in console
        entry = published_entry(person, publisher, image)
        assert f"expand=/dev/sda{2 if '--no-uefi' in words else 3}\n" in entry
        assert ("lvexpand=/dev/system/root\n" in entry) == ("--lvm" in words)
        assert f"arch={'i386' if manifest['arch'] == 'i386' else 'x86_64'}\n" in entry
    finally:
        image.unlink(missing_ok=True)


def test_the_same_inputs_give_the_same_system(person: Person) -> None:
    digests = set()
    for number in range(2):
        image = person.home / f"same-{number}.img"
        person.run(
            "pybuilder-repo", "make-template", "debian-12", image, timeout=1500,
            env={"SOURCE_DATE_EPOCH": "1700000000"},
        )  # fmt: skip
        digests.add(json.loads(image.with_suffix(".json").read_text())["system_sha512"])
        image.unlink()
    assert len(digests) == 1

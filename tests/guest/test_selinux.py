"""A Debian guest with an SELinux policy gets its labels in the appliance, or makes them at its first boot."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment, open_appliance
from tests.guest.conftest import long
from tests.guest.images import copy
from tests.guest.machine import TEMPLATE_ROOT
from tests.guest.person import Person

pytestmark = [
    pytest.mark.guest,
    pytest.mark.network,
    pytest.mark.timeout(2400),
    long,
]

# Without what they recommend: some 250 packages, which do not fit on the template's disk.
INSTALL = """export DEBIAN_FRONTEND=noninteractive
apt-get -q update && apt-get -q -y install --no-install-recommends selinux-policy-default policycoreutils"""
CONFIG = "SELINUX=permissive\nSELINUXTYPE=default\n"
KERNEL = "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&security=selinux selinux=1 /' /etc/default/grub && update-grub"


def label_of(guest: object, path: str) -> bytes:
    """The label of a file that pybuilder wrote after the policy was installed; empty for none."""
    found = guest._connection.call("getxattrs", path)  # type: ignore[attr-defined]
    return next((one["attrval"] for one in found if one["attrname"] == "security.selinux"), b"")


def test_a_guest_with_a_policy_has_its_labels_after_its_first_boot(person: Person, template: Path) -> None:
    image = person.home / "selinux.img"
    copy(template, image)
    person.owns(image)
    person.run(
        "pybuilder-customize", "-a", image, "--run-command", INSTALL,
        "--write", f"/etc/selinux/config:{CONFIG}", "--run-command", KERNEL,
        "--write", "/etc/cron.d/late:# nothing\n", "--root-password", "disabled",
        "--mkdir", "/srv/left", "--write", "/srv/left/alone:x", "--selinux-relabel-exclude", "/srv/left",
        timeout=1500,
    )  # fmt: skip
    with open_appliance([Attachment(image, "raw", readonly=True)]) as guest:
        guest.mount(TEMPLATE_ROOT, "/", options="ro,noload")
        assert guest.exists("/etc/selinux/default/contexts/files/file_contexts")
        if not guest.exists("/.autorelabel"):
            assert b":shadow_t:" in label_of(guest, "/etc/shadow")
            return
    # It boots, makes its labels, and boots again, which ends QEMU.
    person.run(
        "qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-display", "none", "-serial", "null",
        "-monitor", "none", "-no-reboot", "-nic", "none",
        "-drive", f"file={image},format=raw,if=virtio", timeout=1500,
    )  # fmt: skip
    with open_appliance([Attachment(image, "raw", readonly=True)]) as guest:
        guest.mount(TEMPLATE_ROOT, "/", options="ro,noload")
        assert not guest.exists("/.autorelabel")
        assert b":shadow_t:" in label_of(guest, "/etc/shadow")
        assert b":system_cron_spool_t:" in label_of(guest, "/etc/cron.d/late")
        assert b":var_t:" not in label_of(guest, "/srv/left/alone")
    image.unlink()

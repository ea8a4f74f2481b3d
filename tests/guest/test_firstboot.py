"""A hundred scripts of the first boot, one of which fails: booted, and read out of the image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.guest.conftest import long
from tests.guest.images import copy
from tests.guest.person import Person

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1200), long]


@pytest.mark.row("Z12")
def test_a_hundred_scripts_run_in_order_and_tell_how_they_ended(person: Person, template: Path) -> None:
    image = person.home / "firstboot.img"
    copy(template, image)
    person.owns(image)
    commands = person.home / "firstboot.txt"
    lines = [f"firstboot-command echo script-{number:03d}" for number in range(1, 101)]
    lines[36] += "; exit 3"
    script = person.home / "script of its own"
    script.write_text("#!/bin/sh\necho script-051\n")
    script.chmod(0o644)
    lines[50] = f"firstboot {script}"
    # In the background, so that the driver comes to its end.
    lines.append("firstboot-command (sleep 5; systemctl --no-block poweroff) >/dev/null 2>&1 &")
    commands.write_text("\n".join(lines) + "\n")
    person.run("pybuilder-customize", "-a", image, "--commands-from-file", commands, timeout=600)
    waiting = person.run("pybuilder", "-q", "firstboot-log", image, timeout=600, check=False)
    assert waiting.returncode == 1
    assert waiting.stdout.count(": waiting for the first boot\n") == 101

    person.run(
        "qemu-system-x86_64", "-accel", "tcg", "-m", "768", "-display", "none", "-serial", "null",
        "-monitor", "none", "-no-reboot", "-nic", "none",
        "-drive", f"file={image},format=raw,if=virtio", timeout=900,
    )  # fmt: skip

    printed = person.run(
        "pybuilder", "-q", "firstboot-log", image, "--format", "raw", timeout=600, check=False
    )
    assert printed.returncode == 1, "one script failed"
    states = re.findall(
        r"^5000-(\d{4})-\S+: exit status (\d+), from \S+Z to \S+Z$", printed.stdout, re.MULTILINE
    )
    expected = [(f"{number:04d}", "3" if number == 37 else "0") for number in range(1, 102)]
    assert states == expected, printed.stdout[-3000:]
    said = re.findall(r"^script-(\d+)$", printed.stdout, re.MULTILINE)
    assert said == [f"{number:03d}" for number in range(1, 101)]
    image.unlink()

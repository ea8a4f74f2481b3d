"""The examples, built as their READMEs say, and booted."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import long
from tests.guest.images import look_into
from tests.guest.machine import booted
from tests.guest.person import Person

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1800), long]

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def examples(configured: Person) -> Iterator[Path]:
    """The folder where the person can read it."""
    folder = configured.home / "examples"
    shutil.copytree(EXAMPLES, folder)
    yield folder
    shutil.rmtree(folder)


def build(person: Person, examples: Path, name: str, *more: str | Path) -> Path:
    person.run("pybuilder", "--recipe", examples / name / "recipe.toml", *more, timeout=1500)
    return person.home / f"{name}.qcow2"


def read(image: Path, *paths: str) -> list[bytes]:
    with look_into(image, "qcow2") as guest:
        return [guest.read(path) for path in paths]


def test_a_web_server(configured: Person, examples: Path) -> None:
    image = build(configured, examples, "web-server")
    with booted(configured, image, "qcow2", (80,)) as machine:
        address = f"http://127.0.0.1:{machine.ports[80]}/"
        end = time.monotonic() + 400
        while True:
            try:
                with urllib.request.urlopen(address, timeout=20) as answer:
                    assert b"Built from a recipe" in answer.read()
                    assert answer.headers["Server"] == "nginx", "without its version"
                    break
            except OSError:
                assert time.monotonic() < end, machine.console[-3000:]
                time.sleep(2)
    image.unlink()


@pytest.mark.parametrize("name", ["puppet-agent", "ansible-pull"])
def test_configuration_at_the_first_boot(configured: Person, examples: Path, name: str) -> None:
    show = "cat /etc/motd; getent passwd operator; (sleep 1; poweroff) >/dev/null 2>&1 &"
    image = build(configured, examples, name, "--set", "name=n1.example.org", "--firstboot-command", show)
    configured.run(
        "qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-display", "none", "-serial", "null",
        "-monitor", "none", "-no-reboot", "-nic", "none", "-drive", f"file={image},format=qcow2,if=virtio",
        timeout=1500,
    )  # fmt: skip
    printed = configured.run(
        "pybuilder", "-q", "firstboot-log", image, "--format", "qcow2", timeout=600, check=False
    )
    who = {"puppet-agent": "Puppet", "ansible-pull": "Ansible"}[name]
    assert f"This is n1, configured by {who}." in printed.stdout, printed.stdout[-3000:]
    assert re.search(r"^operator:x:\d+:", printed.stdout, re.MULTILINE)
    assert re.search(r"^5000-0001-\S+: exit status 0,", printed.stdout, re.MULTILINE), printed.stdout[-3000:]
    image.unlink()


def test_a_ci_runner_runs_a_job(configured: Person, examples: Path) -> None:
    job = "#!/bin/sh\nid -un; touch /etc/mine || echo sealed; echo JOB-SAYS-HELLO; exit 7\n"
    (configured.home / "job").write_text(job)
    (configured.home / "job").chmod(0o755)
    make = (
        "git init -q -b main /srv/work && cd /srv/work && mkdir .ci && cp /srv/job .ci/run && git add . && "
        "git -c user.name=x -c user.email=x@x commit -q -m x && git clone -q --bare . /srv/project.git"
    )
    say = (
        "for n in $(seq 120); do ls /var/lib/ci-runner/results/*.status >/dev/null 2>&1 && break; sleep 2; "
        "done; "
        "cat /var/lib/ci-runner/results/*; (sleep 1; poweroff) >/dev/null 2>&1 &"
    )
    image = build(
        configured, examples, "ci-runner", "--upload", f"{configured.home}/job:/srv/job",
        "--run-command", make, "--firstboot-command", say,
    )  # fmt: skip
    configured.run(
        "qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-display", "none", "-serial", "null",
        "-monitor", "none", "-no-reboot", "-nic", "user", "-drive", f"file={image},format=qcow2,if=virtio",
        timeout=1500,
    )  # fmt: skip
    printed = configured.run(
        "pybuilder", "-q", "firstboot-log", image, "--format", "qcow2", timeout=600, check=False
    )
    assert re.search(r"^runner\n.*sealed\nJOB-SAYS-HELLO\n7$", printed.stdout, re.MULTILINE | re.DOTALL), (
        printed.stdout[-3000:]
    )
    image.unlink()


def test_a_kiosk(configured: Person, examples: Path) -> None:
    image = build(configured, examples, "kiosk", "--set", "page=https://status.example.org/")
    wanted = "/etc/systemd/system/graphical.target.wants/kiosk.service"
    page, unit = read(image, "/etc/kiosk.conf", wanted)
    assert page == b"PAGE=https://status.example.org/\n"
    assert b"cage -- /usr/bin/firefox-esr" in unit
    found = subprocess.run(["qemu-img", "info", image], capture_output=True, text=True, check=True)
    assert "6 GiB" in found.stdout
    image.unlink()

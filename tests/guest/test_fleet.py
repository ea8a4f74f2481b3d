"""A fleet of twelve real machines of three kinds, built by two runs: the first one is killed midway."""

from __future__ import annotations

import socket
import subprocess
import time

import pytest

from tests.guest.conftest import long
from tests.guest.machine import booted, free_port
from tests.guest.person import Person, leftovers

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1500), long]

FLEET = """\
recipe = "base.toml"
hosts = "hosts.csv"

[defaults]
template = "debian-12"
output = "images/{host}.qcow2"
format = "qcow2"
gateway = "10.0.2.2"
ssh-keys = ["file:key.pub"]

[secrets]
ROOT = "file:root-password"

[[host]]
range = "web[1-6]"
addresses = ["10.0.2.{n+20}/24"]
set = { role = "web" }

[[host]]
range = "db[1-4]"
addresses = ["10.0.2.{n+40}/24", "fec0::{n+40}/64"]
size = "3G"
mac = "auto"
set = { role = "database" }
"""
TABLE = "name,addresses,role\nmail,10.0.2.60/24,mail\nlog,10.0.2.61/24,log\n"
RECIPE = """\
[variables]
role = {}

[[operation]]
write = "/etc/motd"
content = "the role is ${{ role }}"

[[operation]]
root-password = "secret:ROOT"
"""
HOSTS = {*(f"web{n}" for n in range(1, 7)), *(f"db{n}" for n in range(1, 5)), "mail", "log"}


def greeting(port: int, limit: float) -> bytes:
    """Return what the ssh server at a forwarded port says first."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                said = connection.recv(64)
        except OSError:
            said = b""
        if said:
            return said
        time.sleep(1)
    return b""


def test_twelve_machines_of_three_kinds(configured: Person) -> None:
    home = configured.home
    folder = home / "fleet"
    (folder / "images").mkdir(parents=True)
    files = {"fleet.toml": FLEET, "hosts.csv": TABLE, "base.toml": RECIPE, "root-password": "canary-9c1\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    configured.owns(folder)
    configured.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")

    with configured.start("pybuilder", "fleet", "build", folder / "fleet.toml") as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("[3/12]"):
                break
        first.kill()
        first.communicate()
    images = folder / "images"
    done = {path.stem: path.stat().st_ino for path in images.glob("*.qcow2")}
    assert 3 <= len(done) < 12
    second = configured.run("pybuilder", "fleet", "build", folder / "fleet.toml", timeout=900)
    assert ", 0 failed, " in second.stdout
    assert {path.stem for path in images.iterdir()} == HOSTS, "and nothing unfinished is left"
    recorded = {line.split()[0] for line in second.stdout.splitlines() if ": built in" in line}
    kept = {name: inode for name, inode in done.items() if not any(f"{name}:" in line for line in recorded)}
    assert {name: (images / f"{name}.qcow2").stat().st_ino for name in kept} == kept
    listed = configured.run("pybuilder", "fleet", "status", folder / "fleet.toml").stdout
    assert listed.count(" built ") == 12
    state = folder / "fleet.state"
    assert not [path for path in state.iterdir() if b"canary-9c1" in path.read_bytes()]
    assert leftovers(configured, [home]) == []

    planned = configured.run("pybuilder", "fleet", "plan", folder / "fleet.toml", "--json").stdout
    mac = next(
        line.split('"')[3] for line in planned.split('"host": "db2"')[1].split("\n") if '"mac"' in line
    )
    ports = {"web4": free_port(), "db2": free_port()}
    nics = {
        "web4": f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{ports['web4']}-10.0.2.24:22",
        "db2": f"user,model=virtio-net-pci,mac={mac},hostfwd=tcp:127.0.0.1:{ports['db2']}-10.0.2.42:22",
    }
    for name, nic in nics.items():
        image = images / f"{name}.qcow2"
        with booted(configured, image, "qcow2", network=False, extra=("-nic", nic)) as machine:
            machine.wait_for(f"{name} login:", 400)
            assert greeting(ports[name], 240).startswith(b"SSH-2.0"), machine.console[-3000:]
            answer = subprocess.run(
                configured.command(
                    "ssh", "-i", folder / "key", "-p", str(ports[name]), "-o", "StrictHostKeyChecking=no",
                    "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "root@127.0.0.1",
                    "cat /etc/motd; ip -o address show scope global; ip -o -6 address show scope site",
                ),
                env=configured.environment(), capture_output=True, text=True, timeout=240, check=False,
            )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        role, address = {"web4": ("web", "10.0.2.24/24"), "db2": ("database", "10.0.2.42/24")}[name]
        assert f"the role is {role}" in answer.stdout
        assert f" {address} " in answer.stdout, answer.stdout
        assert ("fec0::42/64" in answer.stdout) == (name == "db2"), answer.stdout

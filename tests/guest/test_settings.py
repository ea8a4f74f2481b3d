"""A mirror, a seed of cloud-init, a chosen hash, and packages at the first boot: on a real guest."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment, open_appliance
from tests.guest.conftest import Person
from tests.guest.machine import TEMPLATE_ROOT

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1800)]

HOST = "169.254.2.2"
"""This host as the appliance's network of QEMU calls it."""


@pytest.fixture
def mirror() -> Iterator[tuple[str, list[str]]]:
    """A mirror of Debian's archive that passes everything on, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            try:
                with urllib.request.urlopen(f"http://deb.debian.org{self.path}", timeout=60) as answer:
                    content = answer.read()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
            except urllib.error.HTTPError as error:
                self.send_error(error.code)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{HOST}:{server.server_port}", asked
    server.shutdown()


def test_mirror_seed_and_hash(person: Person, template: Path, mirror: tuple[str, list[str]]) -> None:
    address, asked = mirror
    image, user_data = person.home / "settings.img", person.home / "user-data"
    subprocess.run(["cp", "--sparse=always", template, image], check=True)
    user_data.write_text("#cloud-config\nhostname: seeded\nruncmd:\n  - echo CLOUD-INIT-RAN >/var/log/ran\n")
    if person.prefix:
        shutil.chown(image, person.name, person.name)
    boot_too = "PYBUILDER_TEST_LONG" in os.environ
    packages = "hello,cloud-init" if boot_too else "hello"
    later = ["--firstboot-install", "sl", "--firstboot-command", "(sleep 5; poweroff) >/dev/null 2>&1 &"]
    done = person.run(
        "pybuilder-customize", "-a", image, "--mirror", address, "--install", packages,
        "--cloud-init", user_data, "--password-crypto", "sha256", "--root-password", "random",
        *(later if boot_too else []), timeout=1500,
    )  # fmt: skip
    assert any(path.startswith("/debian/pool/main/h/hello/hello_") for path in asked), asked
    assert ("the guest has no cloud-init" in done.stderr) is not boot_too
    seed = "/var/lib/cloud/seed/nocloud"
    with open_appliance([Attachment(image, "raw", readonly=True)]) as guest:
        guest.mount(TEMPLATE_ROOT, "/", options="ro")
        assert guest.read(f"{seed}/user-data") == user_data.read_bytes()
        assert guest.read(f"{seed}/meta-data").startswith(b"instance-id: iid-")
        assert guest.stat(f"{seed}/user-data").mode & 0o777 == 0o600
        assert b"\nroot:$5$" in b"\n" + guest.read("/etc/shadow")
        sources = guest.glob("/etc/apt/sources.list.d/*") + guest.glob("/etc/apt/sources.list")
        assert sources
        assert not any(HOST.encode() in guest.read(path) for path in sources), "only during the build"
    if boot_too:
        _boots_as_seeded(person, image)
    image.unlink()


def _boots_as_seeded(person: Person, image: Path) -> None:
    person.run(
        "qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-display", "none", "-serial", "null",
        "-monitor", "none", "-no-reboot", "-nic", "user,model=virtio-net-pci",
        "-drive", f"file={image},format=raw,if=virtio", timeout=1500,
    )  # fmt: skip
    with open_appliance([Attachment(image, "raw", readonly=True)]) as guest:
        guest.mount(TEMPLATE_ROOT, "/", options="ro,noload")
        assert guest.exists("/usr/games/sl"), guest.read("/root/virt-sysprep-firstboot.log")[-3000:]
        assert guest.read("/etc/hostname") == b"seeded\n"
        assert guest.read("/var/log/ran") == b"CLOUD-INIT-RAN\n"

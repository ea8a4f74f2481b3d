"""A recipe, a mirror, a seed of cloud-init, a chosen hash, packages at the first boot: on a real guest."""

from __future__ import annotations

import http.server
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import long
from tests.guest.images import copy, look_into
from tests.guest.machine import HOST
from tests.guest.person import ROOT, Person

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1800), long]


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


SEED = "/var/lib/cloud/seed/nocloud"
USER_DATA = "#cloud-config\nhostname: seeded\nruncmd:\n  - echo CLOUD-INIT-RAN >/var/log/ran\n"


def test_a_recipe_with_a_mirror_and_a_seed(configured: Person, mirror: tuple[str, list[str]]) -> None:
    """The example of a web server, with packages from a mirror."""
    address, asked = mirror
    example, image = configured.home / "web-server", configured.home / "mirrored.qcow2"
    shutil.copytree(ROOT / "examples" / "web-server", example)
    user_data = configured.home / "user-data"
    user_data.write_text(USER_DATA)
    done = configured.run(
        "pybuilder", "--recipe", example / "recipe.toml", "-o", image, "--mirror", address,
        "--cloud-init", user_data, timeout=600,
    )  # fmt: skip
    assert any(re.search("/pool/.*/nginx-light_", path) for path in asked), asked
    assert "the guest has no cloud-init" in done.stderr
    with look_into(image, "qcow2") as guest:
        assert b"Built from a recipe" in guest.read("/var/www/html/index.html")
        assert b"server_tokens off;" in guest.read("/etc/nginx/conf.d/quiet.conf")
        assert guest.read("/etc/hostname") == b"web.example.org\n"
        assert guest.read(f"{SEED}/user-data") == USER_DATA.encode()
        assert guest.read(f"{SEED}/meta-data").startswith(b"instance-id: iid-")
        assert guest.stat(f"{SEED}/user-data").mode & 0o777 == 0o600
        sources = guest.glob("/etc/apt/sources.list.d/*") + guest.glob("/etc/apt/sources.list")
        assert sources
        assert not any(HOST.encode() in guest.read(path) for path in sources), "only during the build"
    image.unlink()


def test_the_first_boot_of_a_seeded_image(person: Person, template: Path) -> None:
    image, user_data = person.home / "settings.img", person.home / "user-data"
    copy(template, image)
    user_data.write_text(USER_DATA)
    person.owns(image)
    done = person.run(
        "pybuilder-customize", "-a", image, "--install", "cloud-init", "--cloud-init", user_data,
        "--password-crypto", "sha256", "--root-password", "random", "--firstboot-install", "sl",
        "--firstboot-command", "(sleep 5; poweroff) >/dev/null 2>&1 &", timeout=1500,
    )  # fmt: skip
    assert "the guest has no cloud-init" not in done.stderr
    person.run(
        "qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-display", "none", "-serial", "null",
        "-monitor", "none", "-no-reboot", "-nic", "user,model=virtio-net-pci",
        "-drive", f"file={image},format=raw,if=virtio", timeout=1500,
    )  # fmt: skip
    with look_into(image) as guest:
        assert guest.exists("/usr/games/sl"), guest.read("/root/virt-sysprep-firstboot.log")[-3000:]
        assert guest.read("/etc/hostname") == b"seeded\n"
        assert guest.read("/var/log/ran") == b"CLOUD-INIT-RAN\n"
        assert b"\nroot:$5$" in b"\n" + guest.read("/etc/shadow")
    image.unlink()

"""A second revision of a real template: a client with the first fetches only the blocks that changed."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
import urllib.request
from pathlib import Path

import pytest

from tests.guest.conftest import Publisher, long
from tests.guest.images import copy, look_into
from tests.guest.machine import booted, free_port
from tests.guest.person import Person
from tests.guest.test_oracle import virt_builder

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1200), long]

MARK = "the second revision has booted"


def publish(person: Person, publisher: Publisher, images: Path, site: Path) -> None:
    """Publish the images again; that of the other clients is left out, since it takes long to pack."""
    person.run(
        "pybuilder-repo", "publish", images, "--output", site, "--gpg-key", publisher.fingerprint,
        "--no-compression", "--zstd", "--zstd-level", "1",
        env={"GNUPGHOME": str(publisher.gnupg)}, timeout=900,
    )  # fmt: skip


def test_an_update_fetches_what_changed_and_boots(
    person: Person, publisher: Publisher, template: Path
) -> None:
    images, site, cache = (person.home / name for name in ("update-images", "update-site", "update-cache"))
    for folder in (images, site):
        folder.mkdir()
    image = images / "debian-12.img"
    copy(template, image)
    for path in (images, site, image):
        person.owns(path)
    publish(person, publisher, images, site)
    port = free_port()
    server = person.start("pybuilder-repo", "serve", site, "--port", str(port))
    try:
        url = f"http://127.0.0.1:{port}/index.asc"
        for _try in range(100):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        build = ["pybuilder", "-v", "debian-12", "--source", url, "--fingerprint", publisher.fingerprint]
        build += ["--cache", str(cache), "--root-password", "disabled"]
        person.run("gpg", "--batch", "--quiet", "--import", publisher.public_key)
        first = person.home / "first.img"
        person.run(*build, "-o", str(first), "--hostname", "first", timeout=600)
        person.run(
            "pybuilder-customize", "--hostside", "always", "-a", image,
            "--write", "/etc/motd:second", "--firstboot-command", f"echo '{MARK}' >/dev/ttyS0",
            timeout=600,
        )  # fmt: skip
        publish(person, publisher, images, site)
        second = person.home / "second.img"
        shown = person.run(*build, "-o", str(second), "--hostname", "second", timeout=600)
        found = re.search(
            r"(\d+) of (\d+) blocks are fetched, ([\d.]+)([KM]) of [\d.]+M", shown.stdout + shown.stderr
        )
        assert found is not None, shown
        assert int(found[1]) < int(found[2]) // 20
        assert float(found[3]) < (5 if found[4] == "M" else 1024)
        with look_into(second) as guest:
            assert guest.read("/etc/motd") == b"second"
            assert guest.read("/etc/hostname") == b"second\n"
        with booted(person, second, "raw") as machine:
            machine.wait_for(MARK, 600)
    finally:
        server.terminate()
        server.wait()
    if shutil.which("virt-builder") is not None:  # it passes over the lists of blocks
        tree = dataclasses.replace(publisher, site=site)
        assert "debian-12" in virt_builder(person, tree, "--list")
        third = person.home / "third.img"
        virt_builder(
            person, tree, "debian-12", "-o", str(third), "--no-network", "--root-password", "disabled",
            "--write", "/root/by-virt-builder:yes",
        )  # fmt: skip
        with look_into(third) as guest:
            assert guest.read("/etc/motd") == b"second"
            assert guest.read("/root/by-virt-builder") == b"yes"
    for path in (images, site, cache):
        shutil.rmtree(path)

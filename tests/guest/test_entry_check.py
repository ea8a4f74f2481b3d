"""``entry check`` with real images: what it says of a clean and of a dirty one, and that its advice works."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.appliance import ApplianceOptions, Attachment, open_appliance
from imgbuilder.events import ignore
from imgrepo.library.folder import image_at
from imgrepo.library.records import Leftover
from imgrepo.review.leftovers import look_inside
from tests.guest import layouts
from tests.guest.images import copy
from tests.guest.person import Person, leftovers
from tests.guest.smallguest import small_disk, small_system

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

TEXT = """
title = "A demo"
description = "It serves."
hints = "ask ann"
licence = "GPL-2.0-or-later"
contributor = "Ann"
"""
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDdoZV9cIXFqZ0oLbU7RUSPYWyAj3Mvd1gyoP5vIhiQM ann"


@pytest.fixture(scope="module")
def library(person: Person) -> Iterator[Path]:
    folder = person.home / "check-library"
    folder.mkdir()
    person.owns(folder)
    yield folder
    shutil.rmtree(folder)


def entry(person: Person, library: Path, name: str, image: Path, text: str = TEXT) -> Path:
    """Make an entry with a copy of an image, and its script."""
    folder = library / name
    folder.mkdir()
    (folder / "entry.toml").write_text(text)
    copy(image, folder / f"{name}.img")
    (folder / f"{name}.img").chmod(0o644)
    person.owns(folder)
    person.run("pybuilder-repo", "entry", "run-script", name, "--library", library)
    return folder


def check(person: Person, library: Path, name: str, *words: str) -> dict[str, Any]:
    done = person.run(
        "pybuilder-repo",
        "entry",
        "check",
        name,
        "--library",
        library,
        "--json",
        *words,
        check=False,
        timeout=400,
    )
    print(done.stderr)
    data = json.loads(done.stdout)
    return {item["key"]: item for item in data["entries"][0]["items"]}


def test_a_clean_image(person: Person, library: Path, template: Path) -> None:
    folder = entry(person, library, "clean", template, f'{TEXT}\nsize-budget = "400M"\n')
    image = folder / "clean.img"
    image.chmod(0o444)
    before = image.stat()
    items = check(person, library, "clean")
    states = {key: item["state"] for key, item in items.items() if item["state"] != "ok"}
    assert states == {"screenshot": "missing", "contents": "missing", "sources": "unknown"}
    assert items["size"]["detail"].endswith("packed, of 400.0M")
    after = image.stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    assert leftovers(person, [folder, folder / "check"]) == []
    record = json.loads((folder / "check" / "check.json").read_text())
    assert 50 << 20 < record["packed"]["zstd"] < 400 << 20
    assert record["run"]["problem"] == ""
    again = check(person, library, "clean", "--quick")
    assert again == items


def test_a_dirty_image_and_the_way_out(person: Person, library: Path, tmp_path: Path) -> None:
    folder = entry(person, library, "dirty", small_disk(tmp_path / "disk", small_system(tmp_path)))
    image = folder / "dirty.img"
    person.run(
        "pybuilder-customize", "-a", image, "--mkdir", "/etc/ssh",
        "--write", "/etc/ssh/ssh_host_ed25519_key:key", "--ssh-inject", f"root:string:{PUBLIC}",
        "--write", "/root/.bash_history:mysql -psecret", "--root-password", "password:k3ssel-Untold",
    )  # fmt: skip
    items = check(person, library, "dirty")
    for words in ("the id of one machine: /etc/machine-id", "/etc/ssh/ssh_host_ed25519_key", "/random-seed"):
        assert words in items["identity"]["detail"]
    for words in ("/root/.ssh/authorized_keys", "/root/.bash_history", "root with a password that"):
        assert words in items["secrets"]["detail"]
    assert items["run"]["state"] == "ok"
    assert "k3ssel" not in (folder / "check" / "check.json").read_text()
    # What it says is done as it says.
    command, _, _rest = items["secrets"]["hint"].removeprefix("remove it: ").partition(";")
    person.run(*shlex.split(command))
    (folder / "entry.toml").write_text(TEXT.replace("ask ann", "the password of root is k3ssel-Untold"))
    person.run("pybuilder-repo", "entry", "run-script", "dirty", "--library", library)
    assert check(person, library, "dirty", "--quick")["identity"]["state"] == "unknown", "another image"
    items = check(person, library, "dirty")
    assert {key: items[key]["state"] for key in ("identity", "secrets", "run")} == {
        "identity": "ok", "secrets": "ok", "run": "ok",
    }, items  # fmt: skip


def test_a_root_on_a_logical_volume_and_a_home_of_its_own(tmp_path: Path) -> None:
    image = tmp_path / "lvm.img"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    linux, lvm = "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "E6D6D379-F507-44C2-A23C-238F2A3DF928"
    with open_appliance([Attachment(image, "raw")], ApplianceOptions(), ignore) as appliance:
        appliance.make_gpt("/dev/sda", [(2048, 131071, linux), (131072, 520000, lvm)])
        volume = appliance.make_volume("/dev/sda2", "system", "root")
        appliance.make_filesystem("ext4", "/dev/sda1")
        appliance.make_filesystem("ext4", volume)
        appliance.mount(volume, "/")
        for path in ("/etc", "/root", "/home"):
            appliance.mkdir_p(path)
        appliance.write("/etc/os-release", b"ID=debian\n")
        appliance.write("/etc/passwd", b"root:x:0:0::/root:/bin/sh\n")
        appliance.write("/etc/machine-id", b"0123456789abcdef0123456789abcdef\n")
        appliance.write("/root/.bash_history", b"x")
        appliance.shutdown()
    before = image.read_bytes()
    found = look_inside(image_at(image, hint=""), "", open_appliance, ApplianceOptions(), print)
    assert {one.trace for one in found.seen} == {Leftover.MACHINE_ID, Leftover.SHELL_HISTORY}
    assert image.read_bytes() == before


def test_an_encrypted_root(tmp_path: Path) -> None:
    image = layouts.partitioned(tmp_path / "luks.img", "label: gpt\nstart=2048,size=65536\n", size=40 << 20)
    layouts.fill(image, 1, "luks", tmp_path)
    found = look_inside(image_at(image, hint=""), "", open_appliance, ApplianceOptions(), print)
    assert (found.system, found.reason) == (False, "luks.img holds an encrypted disk")

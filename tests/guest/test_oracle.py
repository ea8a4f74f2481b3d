"""The real virt-builder reads what we publish, and builds from it."""

from __future__ import annotations

import shutil

import pytest

from tests.guest.conftest import Publisher
from tests.guest.images import look_into
from tests.guest.person import Person

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which("virt-builder") is None, reason="virt-builder (guestfs-tools) is not installed"
    ),
]


def virt_builder(person: Person, publisher: Publisher, *words: str, timeout: float = 600) -> str:
    person.run("gpg", "--batch", "--quiet", "--import", publisher.public_key)
    # virt-builder cannot find out by itself that KVM hangs.
    env = {
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        "XDG_CONFIG_HOME": "/nonexistent",
        "VIRT_BUILDER_DIRS": "/nonexistent",
    }
    source = ["--source", f"file://{publisher.index}", "--fingerprint", publisher.fingerprint]
    return person.run("virt-builder", *source, *words, env=env, timeout=timeout).stdout


def test_it_lists_the_same(configured: Person, publisher: Publisher) -> None:
    theirs = virt_builder(configured, publisher, "--list")
    ours = configured.run("pybuilder", "--list").stdout
    assert ours == theirs
    for style in ("long", "json"):
        source = ["--source", f"file://{publisher.index}", "--fingerprint", publisher.fingerprint]
        theirs = virt_builder(configured, publisher, "--list", "--list-format", style)
        ours = configured.run(
            "pybuilder", *source, "--list", "--list-format", style, env={"XDG_CONFIG_HOME": "/nonexistent"}
        ).stdout
        assert ours == theirs


def test_it_validates(configured: Person, publisher: Publisher) -> None:
    configured.run("virt-index-validate", publisher.index)


def test_it_builds(configured: Person, publisher: Publisher) -> None:
    image = configured.home / "theirs.img"
    printed = virt_builder(
        configured, publisher, "debian-12", "-o", str(image), "--no-network", "--root-password", "disabled",
        "--hostname", "theirs.example.org", "--write", "/root/by-virt-builder:yes",
    )  # fmt: skip
    assert "Output file" in printed
    with look_into(image) as guest:
        assert guest.read("/root/by-virt-builder") == b"yes"
        assert guest.read("/etc/hostname") == b"theirs.example.org\n"
    image.unlink()

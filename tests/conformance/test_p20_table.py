"""P20: what virt-builder itself makes of the crafted texts; each difference has its reason here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from imgindex.errors import IndexSyntaxError
from imgindex.parse import parse_index
from imgindex.trust import UnverifiedText
from tests.fakes.attacks import bad_texts, good_texts

pytestmark = pytest.mark.skipif(
    shutil.which("virt-builder") is None, reason="virt-builder is missing (package guestfs-tools)"
)

WE_REFUSE = {
    "P1": "two checksums: which one counts differs between readers",
    "P2": "a template without a digest: it could be exchanged",
    "P3": "sizes that no disk has, or in C's notations: they reach qemu-img and sfdisk",
    "P4": "the same for the size of the file: it bounds the download",
    "P5": "what is no SHA-512 can fit no file; better to say so before the download",
    "P6": "other digests are not looked at, so that nothing would be checked",
    "P7": "paths that leave the folder of the index, or mean another file in a URL than on a disk",
    "P8": "names that could be options",
    "P9": "they become part of file names",
    "P10": "formats that open other files",
    "P11": "they become arguments of programs",
    "P16": "control characters, which make terminals do things",
    "P17": "one alias of two templates: which one is built depends on the order",
    "D8": "keys of ours, which virt-builder does not know",
}
"""Rows that virt-builder accepts at least in part, and why we do not."""

THEY_REFUSE = {
    "no empty line between sections": "read since 1.55.6",
    "comments and empty lines": "read since 1.55.6",
    "notes in languages": "an empty line inside a value: read since 1.55.6",
    "largest revision": "its integers have 63 bits",
}
"""Good texts that virt-builder 1.48 refuses."""


def names(path: Path) -> list[tuple[str, str]] | None:
    """Return what virt-builder lists; None when it refuses."""
    home = str(path.parent)
    environment = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
    environment["VIRT_BUILDER_DIRS"] = home
    done = subprocess.run(
        ["virt-builder", "--list", "--list-format", "json", "--no-check-signature", "--source", str(path)],
        capture_output=True,
        check=False,
        env=environment,
    )
    if done.returncode != 0:
        return None
    return sorted(
        (item["os-version"], item["arch"]) for item in json.loads(done.stdout, strict=False)["templates"]
    )


@pytest.mark.row("P20")
def test_what_we_refuse_and_virt_builder_does_not(tmp_path: Path) -> None:
    path = tmp_path / "index"
    differing = set()
    for row, name, text in bad_texts():
        path.write_text(text)
        if names(path) is not None:
            differing.add(row)
            assert row in WE_REFUSE, name
    assert differing == set(WE_REFUSE)


@pytest.mark.row("P20")
def test_what_both_accept_has_the_same_templates(tmp_path: Path) -> None:
    path = tmp_path / "index"
    refused = set()
    for _row, name, text in good_texts():
        path.write_text(text)
        found = names(path)
        if found is None:
            refused.add(name)
        else:
            index = parse_index(UnverifiedText(text), where="test")
            assert found == sorted((entry.os_version, entry.arch) for entry in index.entries), name
    assert refused == set(THEY_REFUSE)


@pytest.mark.row("P20")
def test_all_bad_texts_are_bad_without_a_signature_too() -> None:
    """All but those whose digest is missing, which only a signed index must have."""
    accepted = []
    for row, name, text in bad_texts():
        try:
            parse_index(UnverifiedText(text), where="test")
        except IndexSyntaxError:
            continue
        accepted.append((row, name))
    assert {row for row, _name in accepted} == {"P2", "P6"}

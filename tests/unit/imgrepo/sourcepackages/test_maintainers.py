"""Packages that only the pool of a snapshot has: used by a known maintainer's signature, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import PybuilderError
from imgindex.trust import VerifiedText
from imgrepo.sourcepackages.finding import issuer_fingerprint, read_dsc
from tests.fakes.debarchive import DebArchive
from tests.fakes.keys import KeyMaker, signature_packets
from tests.fakes.webfolder import WebFolder
from tests.unit.imgrepo.sourcepackages.conftest import COVERED, Bench, members


@dataclass
class Old:
    """A pool without lists that has the old bash, with the ``.dsc`` signed by its maintainer."""

    archive: DebArchive
    web: WebFolder
    keyring: Path
    dsc: Path
    maintainer: str

    def text(self, version: str) -> bytes:
        """Return the text of another ``.dsc``."""
        return self.archive.dsc("bash", version, {"bash_5.2.15.orig.tar.xz": b"other"})


@pytest.fixture(scope="module")
def people(keys: KeyMaker) -> tuple[str, str]:
    """Two maintainers."""
    return keys.make("Maintainer <m@example.org>"), keys.make("Another <a@example.org>")


@pytest.fixture
def old(bench: Bench, keys: KeyMaker, people: tuple[str, str], tmp_path: Path) -> Iterator[Old]:
    """Take bash out of the archive, and put it into a pool, signed by a maintainer."""
    packages = bench.archive.suites["bookworm"]
    bench.archive.suites["bookworm"] = [one for one in packages if one[0] != "bash"]
    bench.archive.write()
    maintainer, other = people
    archive = DebArchive(tmp_path / "old", keys, bench.archive.key)
    folder = archive.root / archive.folder_of("bash")
    folder.mkdir(parents=True)
    files = archive.add("unlisted", "bash", "5.2.15-2")
    for name, data in files.items():
        (folder / name).write_bytes(keys.sign(data, maintainer) if name.endswith(".dsc") else data)
    keyring = tmp_path / "maintainers.gpg"
    keyring.write_bytes(keys.export(other, maintainer))
    with WebFolder(archive.root) as web:
        yield Old(archive, web, keyring, folder / "bash_5.2.15-2.dsc", maintainer)


def run(bench: Bench, old: Old) -> int:
    return bench.run("--snapshot", old.web.url, "--maintainer-keyring", old.keyring)


def reason(bench: Bench) -> str:
    (gap,) = bench.record()["gaps"]
    assert gap["source"] == "bash"
    assert b"bash_5.2.15-2/" not in (bench.folder / "demo-sources.tar").read_bytes()
    return str(gap["reason"])


def test_a_maintainers_signature_is_enough(bench: Bench, old: Old) -> None:
    assert run(bench, old) == 0
    assert bench.record()["covered"] == COVERED
    found = members(bench.folder / "demo-sources.tar")
    assert found["bash_5.2.15-2/bash_5.2.15-2.dsc"] == old.dsc.read_bytes()
    assert found["bash_5.2.15-2/bash_5.2.15.orig.tar.xz"].startswith(b"original bash")
    assert old.maintainer in found["SOURCES.tsv"].decode()


def change(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda old, keys: old.keyring.unlink(), "maintainers' keys are missing"),
        (lambda old, keys: change(old.dsc, b"3.0 (quilt)", b"3.0 (quilz)"), "altered after signing"),
        (lambda old, keys: old.dsc.write_bytes(old.text("5.2.15-2")), "cannot be verified"),
        (
            lambda old, keys: old.dsc.write_bytes(keys.sign(old.text("5.2.15-1"), old.maintainer)),
            "it belongs to 'bash' '5.2.15-1'",
        ),
        (
            lambda old, keys: change(old.dsc.with_name("bash_5.2.15.orig.tar.xz"), b"original", b"0riginal"),
            "is not the file",
        ),
        (lambda old, keys: old.dsc.unlink(), "in its pool either"),
        (lambda old, keys: os.truncate(old.dsc, 10 << 20), "at most"),
    ],
    ids=["no keys", "changed", "unsigned", "of another version", "changed file", "gone", "long"],
)
def test_what_cannot_be_used_is_a_gap(
    bench: Bench, old: Old, keys: KeyMaker, damage: Callable[[Old, KeyMaker], object], why: str
) -> None:
    damage(old, keys)
    assert run(bench, old) == 1
    assert why in reason(bench)


def test_an_unknown_maintainer(bench: Bench, old: Old, keys: KeyMaker) -> None:
    mallory = keys.make("Mallory <x@example.org>")
    old.dsc.write_bytes(keys.sign(old.text("5.2.15-2"), mallory))
    assert run(bench, old) == 1
    assert f"the key {mallory} is not in" in reason(bench)


@pytest.mark.parametrize("name", ["../../x.tar.xz", "/etc/passwd", "a/b", ".x", "bash_5.2.15-2.dsc"])
def test_a_signed_dsc_that_names_files_elsewhere(bench: Bench, old: Old, keys: KeyMaker, name: str) -> None:
    text = old.archive.dsc("bash", "5.2.15-2", {name: b"x"})
    old.dsc.write_bytes(keys.sign(text, old.maintainer))
    assert run(bench, old) == 1
    assert "cannot be verified" in reason(bench)


def test_the_issuer_of_a_signature(keys: KeyMaker) -> None:
    for kind in ("ed25519", "rsa3072"):
        key = keys.make(f"Issuer {kind} <i@example.org>", kind)
        packets = signature_packets(keys.sign("text\n", key))
        assert issuer_fingerprint(packets) == key


@given(st.binary(max_size=200))
def test_any_signature_has_an_issuer_or_none(data: bytes) -> None:
    for packets in (data, b"\xc2\x20" + data, b"\x88\x20\x04\x00\x16\x08" + data):
        found = issuer_fingerprint(packets)
        assert found is None or len(found) in (40, 64)


@given(st.text(max_size=200))
def test_any_dsc_raises_only_our_errors(text: str) -> None:
    from datetime import UTC, datetime

    start = "Source: x\nVersion: 1-1\nChecksums-Sha256:\n " + "0" * 64 + " 5 "
    for whole in (text, start + text, f"{start}x_1.orig.tar.xz\n{text}"):
        signed = VerifiedText(whole, "A" * 40, "A" * 40, datetime(2026, 1, 1, tzinfo=UTC), None)
        try:
            package = read_dsc(signed, b"x", ("x", "1-1"), "http://m", "pool/x", where="x")
        except PybuilderError:
            continue
        assert all("/" not in file.name and file.name[0] != "." for file in package.files)

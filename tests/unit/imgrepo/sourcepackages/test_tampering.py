"""An attacker between the archive and us: a change at any step is found, and nothing is used."""

from __future__ import annotations

import contextlib
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import PybuilderError
from imgrepo.sourcepackages.archive import Suite, _release_fields, read_sources, source_files, source_package
from tests.fakes.debarchive import sha256
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.sourcepackages.conftest import Bench


def nothing_was_made(bench: Bench) -> bool:
    return not (bench.folder / "demo-sources.tar").exists() and not (bench.folder / "sources.json").exists()


@pytest.mark.parametrize("how", ["changed", "unsigned", "signed by another key"])
def test_a_release_file_that_is_not_the_archives(bench: Bench, keys: KeyMaker, how: str) -> None:
    path = bench.archive.root / "dists/bookworm/InRelease"
    if how == "changed":
        path.write_bytes(path.read_bytes().replace(b"Origin: Debian", b"Origin: Debiam"))
    elif how == "unsigned":
        path.write_text("Codename: bookworm\nSHA256:\n")
    else:
        bench.archive.key = keys.make("Mallory <mallory@example.org>")
        bench.archive.write()
    assert bench.run() == 3
    assert nothing_was_made(bench)


def test_one_suite_for_another(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.archive.write(codename="buster")
    assert bench.run() == 1
    assert "calls itself buster or stable, not bookworm" in capsys.readouterr().err
    assert nothing_was_made(bench)


@pytest.mark.parametrize("by_hash", [True, False])
def test_a_changed_list(bench: Bench, *, by_hash: bool) -> None:
    bench.archive.write(by_hash=by_hash)
    lists = bench.archive.root / "dists/bookworm/main/source"
    text = lzma.decompress((lists / "Sources.xz").read_bytes()).replace(b"bash", b"bosh")
    for path in [lists / "Sources.xz", *(lists / "by-hash/SHA256").iterdir()]:
        path.write_bytes(lzma.compress(text))
    assert bench.run() == 3
    assert nothing_was_made(bench)


def test_the_list_under_its_own_name_where_the_other_one_is_missing(bench: Bench) -> None:
    for path in bench.archive.root.glob("dists/*/main/source/by-hash/SHA256/*"):
        path.unlink()
    assert bench.run() == 0


@pytest.mark.parametrize("file", ["bash_5.2.15-2.dsc", "bash_5.2.15.orig.tar.xz"])
def test_a_changed_file_is_a_gap_and_not_in_the_archive(
    bench: Bench, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bench.archive.root / "pool/main/b/bash" / file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert bench.run() == 1
    assert f"{file} is not the file in the signed list" in capsys.readouterr().err
    record = bench.record()
    assert [gap["source"] for gap in record["gaps"]] == ["bash"]
    assert "bash" not in [name for name, _version in record["covered"]]
    assert b"bash_5.2.15-2/" not in (bench.folder / "demo-sources.tar").read_bytes()


def test_an_endless_file(bench: Bench) -> None:
    path = bench.archive.root / "pool/main/b/bash/bash_5.2.15-2.dsc"
    path.write_bytes(path.read_bytes() + b"x" * 100_000)
    assert bench.run() == 1
    assert [gap["source"] for gap in bench.record()["gaps"]] == ["bash"]
    assert b"bash_5.2.15-2/" not in (bench.folder / "demo-sources.tar").read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bash_5.2.15-2.dsc", "../../../../etc/passwd.dsc"),
        ("bash_5.2.15-2.dsc", "a/b.dsc"),
        ("bash_5.2.15-2.dsc", ".dsc"),
        ("Directory: pool/main/b/bash", "Directory: ../../etc"),
        ("Directory: pool/main/b/bash", "Directory: /etc"),
        ("Directory: pool/main/b/bash", "Directory: pool/../../etc"),
        ("Directory: pool/main/b/bash", "Directory: http://example.org/x"),
        ("bash_5.2.15.orig.tar.xz", "bash_5.2.15-2.dsc"),
        ("bash_5.2.15-2.dsc", "bash_5.2.15-2.txt"),
    ],
)
def test_signed_names_that_lead_elsewhere(bench: Bench, old: str, new: str) -> None:
    text = bench.archive.sources("bookworm")
    assert old in text
    bench.archive.write(text=text.replace(old, new))
    before = set(bench.repository.base.rglob("*"))
    assert bench.run("--quiet") == 1
    assert nothing_was_made(bench)
    assert {path.name for path in set(bench.repository.base.rglob("*")) - before} <= {
        "demo.contents", "contents.json", "contents.cdx.json", "contents.spdx.json",
    }  # fmt: skip


GOOD = f"""\
Package: x
Version: 1-1
Directory: pool/main/x/x
Checksums-Sha256:
 {sha256(b"1")} 1 x_1-1.dsc
 {sha256(b"2")} 1 x_1.orig.tar.xz
"""


@given(
    st.one_of(
        st.binary(max_size=400),
        st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=30)).map(
            lambda cut: GOOD.encode()[: cut[0]] + cut[1] + GOOD.encode()[cut[0] :]
        ),
    )
)
def test_any_list_raises_only_our_errors(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("list") / "Sources.xz"
    for content in (lzma.compress(data, preset=0), data):
        path.write_bytes(content)
        try:
            for fields in read_sources(path, {"x"}, where="list"):
                package = source_package(fields, "http://m", proof="p", where="list")
                assert all("/" not in file.name and file.name[0] != "." for file in package.files)
                assert all(
                    file.url.startswith("http://m/") and ".." not in file.url.split("/")
                    for file in package.files
                )
        except PybuilderError:
            continue


@given(st.text())
def test_any_field_raises_only_our_errors(text: str) -> None:
    for rows in (text, f"{sha256(b'')} 0 {text}"):
        try:
            for file in source_files(rows, "http://m", "pool/x", where="x"):
                assert "/" not in file.name
        except PybuilderError:
            pass
    with contextlib.suppress(PybuilderError):
        _release_fields(f"Codename: bookworm\n{text}", Suite("http://m", "bookworm"), "x")


def test_a_list_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "Sources.xz"
    path.write_bytes(lzma.compress(GOOD.encode())[:-10])
    with pytest.raises(PybuilderError, match="cannot be unpacked"):
        list(read_sources(path, {"x"}, where="list"))

"""virt-index-validate, the reference's own check, on what we write and what we sign."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from imgindex.errors import IndexSyntaxError
from imgindex.gpg import GpgVerifier
from imgindex.lexer import parse_sections
from imgindex.model import Entry, ExtraField, FurtherFile, Index, Note
from imgindex.parse import parse_index
from imgindex.signer import GpgSigner
from imgindex.write import write_index
from tests.fakes.keys import KeyMaker
from tests.unit.imgindex.test_write import ENTRIES

pytestmark = pytest.mark.skipif(
    shutil.which("virt-index-validate") is None,
    reason="virt-index-validate is missing (package guestfs-tools)",
)

INDEX = Index(
    (
        Entry(
            os_version="debian-12",
            file="debian-12.xz",
            arch="x86_64",
            size=6 * 2**30,
            name="Debian 12 (bookworm) \u2013 f\u00fcr alle",
            osinfo="debian12",
            sha512="ab" * 64,
            revision=7,
            format="qcow2",
            compressed_size=123,
            expand="/dev/sda1",
            lvexpand="/dev/vg/root",
            notes=(Note("", "First.\n\n[x] - not a section\n# no comment\n  indented"), Note("de", "Erste.")),
            hidden=True,
            aliases=("bookworm", "debian-stable"),
            sig="debian-12.xz.sig",
            zstd=FurtherFile("debian-12.zst", "cd" * 64, 45),
            extra=(ExtraField("file", "br", "debian-12.br"),),
        ),
        Entry(
            os_version="empty-notes",
            file="e.xz",
            arch="aarch64",
            size=512,
            sha512="cd" * 64,
            notes=(Note("", ""),),
        ),
    )
)


def validate(path: Path, data: bytes) -> subprocess.CompletedProcess[str]:
    path.write_bytes(data)
    return subprocess.run(["virt-index-validate", str(path)], capture_output=True, text=True, check=False)


def test_written_index_is_valid(tmp_path: Path) -> None:
    done = validate(tmp_path / "index", write_index(INDEX).encode())
    assert done.returncode == 0, done.stdout + done.stderr


def test_signed_index_is_valid_and_reads_back(tmp_path: Path, keys: KeyMaker) -> None:
    key = keys.make("Oracle <oracle@example.org>")
    signed = GpgSigner(keys.home, ask=False).clearsign(write_index(INDEX), key)
    done = validate(tmp_path / "index.asc", signed)
    assert done.returncode == 0, done.stdout + done.stderr
    verified = GpgVerifier().verify(signed, keys.pin(key), where="test")
    assert parse_index(verified, where="test") == INDEX


def listed_by_virt_builder(index: Path) -> list[dict[str, object]]:
    """Templates that the real client finds in an index; only this one is configured."""
    home = index.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    environment["VIRT_BUILDER_DIRS"] = str(home)
    done = subprocess.run(
        ["virt-builder", "--list", "--list-format", "json", "--no-check-signature", "--source", str(index)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    templates: list[dict[str, object]] = json.loads(done.stdout)["templates"]
    return templates


def test_virt_builder_skips_the_zstd_keys(tmp_path: Path) -> None:
    """Design decision 8: the second file is an offer that the reference does not see."""
    entry = INDEX.entries[0]
    plain = Index((dataclasses.replace(entry, zstd=None, extra=()),))
    (tmp_path / "plain").write_text(write_index(plain))
    (tmp_path / "zstd").write_text(write_index(Index((entry,))))
    assert "file[zstd]=debian-12.zst\n" in (tmp_path / "zstd").read_text()
    found = listed_by_virt_builder(tmp_path / "zstd")
    assert found == listed_by_virt_builder(tmp_path / "plain")
    assert [(item["os-version"], item["compressed-size"]) for item in found] == [("debian-12", "123")]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ENTRIES)
def test_any_written_entry_is_valid(tmp_path: Path, entry: Entry) -> None:
    done = validate(tmp_path / "index", write_index(Index((entry,))).encode())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.row("P20")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "# comment\n",
        "[a]\n",
        "[a]\nx=1\n y\n",
        "[a]\n# c\nx=\n",
        "[a] \t\nx[y]=1\n",
        "x=1\n",
        "[a]\nx\n",
        "[a]\nx-y=1\n",
        "[a]\nx[]=1\n",
        "[a]x\n",
        "[a b]\n",
        "[]\n",
        " x\n",
        "[a]\n x\n",
        "[a]\nx=1",
        "[a]\nx =1\n",
        "\ufeff[a]\n",
        "[a]\r\nx=1\n",
        "[a]\nx=1\n\n\n[b]\n",
    ],
)
def test_same_verdict_on_the_grammar(tmp_path: Path, text: str) -> None:
    """P20: the oracle and we agree on what is an index at all."""
    try:
        parse_sections(text, where="test")
        ours = True
    except IndexSyntaxError:
        ours = False
    assert (validate(tmp_path / "index", text.encode()).returncode == 0) == ours


@pytest.mark.row("P20")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[a]\n\nx=1\n\n\n[b]\n", "virt-builder ignores empty lines since 1.55.6"),
        ("[a]\nx=1\n[b]\n", "virt-builder wants an empty line between sections before 1.55.6"),
    ],
)
def test_reasoned_differences(text: str, why: str) -> None:
    assert parse_sections(text, where="test"), why

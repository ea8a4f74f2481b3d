"""``pybuilder-repo validate`` reports all problems of an index."""

from __future__ import annotations

import dataclasses
import hashlib
import lzma
import struct
import subprocess
from pathlib import Path

import pytest

from imgindex.model import Entry, FurtherFile, Index
from imgindex.signer import GpgSigner
from imgindex.write import write_index
from imgrepo.cli.main import run
from imgrepo.webroot.validate import ValidateRequest, validate
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.repository import Repository

DISK = bytes(4096) + b"disk" * 256
XZ = lzma.compress(DISK)


def qcow2(size: int) -> bytes:
    """A version 2 qcow2 header for a disk of this size, with its first tables left to zero."""
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, size, 0, 1, 65536, 131072, 1, 0, 0)
    return header.ljust(196608, b"\0")


@dataclasses.dataclass
class Web:
    """A served folder with one template and its signed index."""

    repository: Repository
    entry: Entry

    @property
    def folder(self) -> Path:
        return self.repository.web

    @property
    def index(self) -> Path:
        return self.folder / "index.asc"

    def put(self, *entries: Entry) -> None:
        self.sign(write_index(Index(entries or (self.entry,))))

    def sign(self, text: str) -> None:
        keys = GpgSigner(self.repository.gpg_home, ask=False)
        self.index.write_bytes(keys.clearsign(text, self.repository.key))
        (self.folder / "index.gpg").write_bytes(keys.export_public_key(self.repository.key))

    def problems(self, *, full: bool = True, key: Path | None = None) -> list[str]:
        request = ValidateRequest(self.index, full=full, key=key)
        found = validate(request, self.repository.services(), self.repository.events.append)
        return [problem.message for problem in found]


def described(path: Path, data: bytes, **more: object) -> Entry:
    """Write a template file and return a right entry for it."""
    path.write_bytes(data)
    found = Entry(
        os_version="debian-12",
        file=path.name,
        arch="x86_64",
        size=len(DISK),
        sha512=hashlib.sha512(data).hexdigest(),
        compressed_size=len(data),
        format="raw",
    )
    return dataclasses.replace(found, **more)  # type: ignore[arg-type]


@pytest.fixture
def web(repository: Repository) -> Web:
    made = Web(repository, described(repository.web / "d.xz", XZ))
    made.put()
    return made


def test_what_publish_makes_is_valid(published: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("index", "index.asc"):
        assert run(["validate", "--full", str(published.web / name)], published.services()) == 0
        shown = capsys.readouterr()
        assert shown.out.endswith(f"{published.web / name} validated OK\n")
        assert ("signed by" in shown.out) == (name == "index.asc")
        assert ("is not signed" in shown.err) == (name == "index")


def test_good(web: Web) -> None:
    assert web.problems() == []


@pytest.mark.parametrize(
    ("data", "disk_format"),
    [(XZ, None), (DISK, "raw"), (qcow2(len(DISK)), "qcow2"), (lzma.compress(qcow2(len(DISK))), "qcow2")],
    ids=["xz", "raw", "qcow2", "xz of qcow2"],
)
def test_disks_of_every_kind(web: Web, data: bytes, disk_format: str | None) -> None:
    entry = described(web.folder / "x", data, format=disk_format)
    web.put(entry)
    assert web.problems() == []
    web.put(dataclasses.replace(entry, size=len(DISK) + 512))
    (problem,) = web.problems()
    assert f"the disk in {web.folder / 'x'} has {len(DISK)} bytes" in problem
    assert problem.endswith(f"instead of {len(DISK) + 512}")


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
@pytest.mark.parametrize("data", [XZ[:-40], XZ[:20], b"\xfd7zXZ\x00", b"QFI"])
def test_a_file_without_a_disk(web: Web, data: bytes, disk_format: str) -> None:
    web.put(described(web.folder / "x", data, format=disk_format))
    (problem,) = web.problems()
    assert str(web.folder / "x") in problem


def test_a_qcow2_with_a_backing_file(web: Web) -> None:
    header = bytearray(qcow2(len(DISK)))
    header[8:20] = struct.pack(">QI", 100, 5)
    web.put(described(web.folder / "x", lzma.compress(bytes(header)), format="qcow2"))
    (problem,) = web.problems()
    assert "does not hold a disk" in problem
    assert "backing" in problem


def test_files_that_are_missing_or_other_ones(web: Web) -> None:
    data = (web.folder / "d.xz").read_bytes()
    zstd = FurtherFile("d.zst", hashlib.sha512(b"zstd").hexdigest(), 4)
    web.put(dataclasses.replace(web.entry, zstd=zstd, sig="d.sig"))
    assert len(web.problems()) == 2
    (web.folder / "d.zst").write_bytes(b"zstd")
    (web.folder / "d.sig").write_bytes(b"")
    not_packed, unsigned = web.problems()
    assert "d.zst" in not_packed
    assert unsigned == f"template debian-12: {web.folder}/d.sig: its signature file is empty"
    web.put(dataclasses.replace(web.entry, zstd=zstd))
    (web.folder / "d.zst").write_bytes(b"ZSTD")
    (web.folder / "d.xz").write_bytes(data + b"x")
    first, second = web.problems()
    assert f"has {len(data) + 1} bytes instead of {len(data)}" in first
    assert "d.zst has a different SHA-512" in second
    (web.folder / "d.xz").unlink()
    (web.folder / "d.xz").mkdir()
    assert "Is a directory" in web.problems()[0]


def zstd_file(web: Web, data: bytes) -> FurtherFile:
    """Write a second file for the template."""
    packed = subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout
    (web.folder / "d.zst").write_bytes(packed)
    return FurtherFile("d.zst", hashlib.sha512(packed).hexdigest(), len(packed))


def test_a_second_file_is_unpacked_and_compared(web: Web) -> None:
    web.put(dataclasses.replace(web.entry, zstd=zstd_file(web, DISK)))
    assert web.problems() == []
    web.put(dataclasses.replace(web.entry, zstd=zstd_file(web, DISK[:-1] + b"!")))
    (problem,) = web.problems()
    assert problem == (
        f"template debian-12: {web.folder}/d.zst does not hold the same disk as {web.folder}/d.xz"
    )
    web.put(dataclasses.replace(web.entry, zstd=zstd_file(web, DISK[:-512])))
    (problem,) = web.problems()
    assert "d.zst" in problem
    assert str(len(DISK) - 512) in problem
    # A wrong first file is reported once, and the second file is checked by itself.
    good = zstd_file(web, DISK)
    web.put(dataclasses.replace(web.entry, zstd=good, size=len(DISK) - 512))
    assert [("d.xz" in problem, "d.zst" in problem) for problem in web.problems()] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.row("S31")
def test_detached_signatures_of_templates(web: Web) -> None:
    signed = dataclasses.replace(web.entry, sig="d.sig")
    web.put(signed)
    keys = KeyMaker()
    with keys:
        key, stranger = keys.make("publisher"), keys.make("stranger")
        key_file = web.folder / "key.gpg"
        key_file.write_bytes(keys.export(key))
        web.index.write_bytes(keys.sign(write_index(Index((signed,))), key))

        def sign(data: bytes, how: str = "--detach-sign", by: str = key) -> list[str]:
            made = keys.gpg("--local-user", by, how, "--armor", data=data)
            (web.folder / "d.sig").write_bytes(made)
            return web.problems(key=key_file)

        assert sign(XZ) == []
        where = f"template debian-12: {web.folder}/d.sig: "
        (other_template,) = sign(DISK)
        assert other_template.startswith(f"{where}the signature does not fit")
        (unknown,) = sign(XZ, by=stranger)
        assert unknown.startswith(f"{where}it is signed by key {stranger}")
        for how in ("--sign", "--clear-sign"):
            (not_detached,) = sign(XZ, how)
            assert not_detached == f"{where}its signature file holds something else than signatures"


def test_signatures_without_a_key_are_told_of(web: Web) -> None:
    web.index.write_text(write_index(Index((dataclasses.replace(web.entry, sig="d.sig"),))))
    (web.folder / "d.sig").write_bytes(b"anything")
    (web.folder / "index.gpg").unlink()
    assert web.problems() == []
    assert "no key to check the signatures of templates with" in str(web.repository.events)


def test_every_wrong_entry_is_told_with_its_line_in_the_signed_file(web: Web) -> None:
    good = write_index(Index((web.entry,)))
    bad = good.replace("file=d.xz", "file=../d.xz").replace("[debian-12]", "[b]")
    worse = good.replace("arch=x86_64\n", "").replace("[debian-12]", "[c]")
    web.sign(good + bad + worse + good)
    problems = web.problems()
    lines = web.index.read_text().split("\n")
    assert [problem.split(": ", 2)[1] for problem in problems] == [
        f"line {lines.index('file=../d.xz') + 1}",
        f"line {lines.index('[c]') + 1}",
        f"line {len(lines) - lines[::-1].index('[debian-12]')}",
    ]
    assert "given twice" in problems[2]
    assert web.problems(full=False) == []


def test_a_missing_digest_is_wrong_even_in_a_draft(web: Web) -> None:
    web.index.write_text(write_index(Index((dataclasses.replace(web.entry, sha512=None),))))
    (problem,) = web.problems()
    assert "checksum[sha512] is missing" in problem


def test_signature_by_another_key(web: Web, tmp_path: Path) -> None:
    other = web.repository.services().make_keys(web.repository.signing())
    with KeyMaker() as keys:
        (tmp_path / "other.gpg").write_bytes(keys.export(keys.make("other")))
    (problem,) = web.problems(key=tmp_path / "other.gpg")
    assert "is signed by key" in problem
    (tmp_path / "right.gpg").write_bytes(other.export_public_key(web.repository.key))
    assert web.problems(key=tmp_path / "right.gpg") == []


def test_changed_after_signing(web: Web) -> None:
    web.index.write_bytes(web.index.read_bytes().replace(b"arch=x86_64", b"arch=aarch64"))
    assert web.problems(full=False) == []
    (problem,) = web.problems()
    assert "altered after signing" in problem


def test_no_key_to_check_with(web: Web) -> None:
    (web.folder / "index.gpg").unlink()
    (problem,) = web.problems()
    assert "index.gpg is missing" in problem
    (problem,) = web.problems(key=web.folder / "none")
    assert "cannot read the key file" in problem


@pytest.mark.parametrize(
    ("options", "problem"), [(("--default-sig-expire", "1d"), "has expired"), ((), "clock says")]
)
def test_signature_out_of_its_time(web: Web, options: tuple[str, ...], problem: str) -> None:
    with KeyMaker() as keys:
        key = keys.make("timely", at="20200101T000000")
        at = "20200601T000000" if options else "20900101T000000"
        web.index.write_bytes(keys.sign(write_index(Index((web.entry,))), key, at=at, options=options))
        (web.folder / "index.gpg").write_bytes(keys.export(key))
    (found,) = web.problems()
    assert problem in found


def test_exit_codes(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    services = web.repository.services()
    assert run(["validate", str(web.index)], services) == 0
    assert capsys.readouterr().out == f"{web.index} validated OK\n"
    web.index.write_text("[a]\nfoo\n")
    assert run(["validate", str(web.index)], services) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{web.index}: line 2: neither" in shown.err
    assert f"{web.index} could not be validated: 1 problem" in shown.err
    assert run(["validate", str(web.folder / "none")], services) == 2
    assert f"the file {web.folder / 'none'} does not exist" in capsys.readouterr().err
    assert run(["validate", str(web.folder)], services) == 2
    assert f"try {web.folder / 'index.asc'}" in capsys.readouterr().err
    assert run(["validate"], services) == 2
    assert run(["validate", "a", "b"], services) == 2
    assert run(["validate", "--gpgkey", "x", str(web.index)], services) == 2


def test_a_file_larger_than_any_client_reads(web: Web) -> None:
    web.index.write_bytes(b"#\n" * 2_500_001)
    (problem,) = web.problems(full=False)
    assert "larger than" in problem

"""Rows D27 to D29 of ``threat-model.md``, ``--offline``, and bundles: the real command, gpg, and a server."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.cli import main as cli
from imgbuilder.errors import FetchError, FileMissingError
from imgbuilder.fetch.bundle import fetch_member
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.transfer import Download
from imgbuilder.fetch.urls import inside, template_url
from imgindex.model import Entry, FurtherFile, Index
from imgindex.write import write_index
from tests.fakes.faultserver import FaultServer, answer
from tests.fakes.keys import HomeGuard, KeyMaker

DISK = b"boot".ljust(1 << 20, b"\0")


@dataclass
class World:
    """A publisher's folder, and a user."""

    folder: Path
    keys: KeyMaker
    key: str
    capture: pytest.CaptureFixture[str]

    @property
    def site(self) -> Path:
        return self.folder / "site"

    @property
    def cached(self) -> list[str]:
        return [path.name for path in (self.folder / "home").rglob("templates/*") if len(path.name) == 128]

    def publish(self, *, zstd: bool = False, at: datetime | None = None, name: str = "tiny") -> bytes:
        """Write templates; sign and return the index."""
        self.site.mkdir(exist_ok=True)
        packed = subprocess.run(["xz", "-0c"], input=DISK, capture_output=True, check=True).stdout
        (self.site / "tiny.xz").write_bytes(packed)
        second = None
        if zstd:
            quick = subprocess.run(["zstd", "-qc"], input=DISK, capture_output=True, check=True).stdout
            (self.site / "tiny.zst").write_bytes(quick)
            second = FurtherFile("tiny.zst", hashlib.sha512(quick).hexdigest(), len(quick))
        entry = Entry(
            name, "tiny.xz", "x86_64", len(DISK), format="raw", name="Tiny Linux",
            sha512=hashlib.sha512(packed).hexdigest(), compressed_size=len(packed), zstd=second,
        )  # fmt: skip
        entries = (entry, replace(entry, os_version="other", file="sub/o.xz", sha512="0" * 128))
        moment = f"{at or datetime.now(UTC):%Y%m%dT%H%M%S}!"
        signed = self.keys.sign(write_index(Index(entries)), self.key, at=moment)
        (self.site / "index.asc").write_bytes(signed)
        return signed

    def run(self, source: str, *words: str, fingerprint: str = "") -> tuple[int, str, str]:
        """Run the command; return exit code, output, and errors."""
        self.capture.readouterr()
        code = cli.run(["--source", source, "--fingerprint", fingerprint or self.key, *words])
        out = self.capture.readouterr()
        return code, out.out, out.err


@pytest.fixture
def world(
    tmp_path: Path, keys: KeyMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[World]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "VIRT_BUILDER_DIRS"):
        monkeypatch.setenv(variable, str(home))
    monkeypatch.setattr("imgbuilder.host.paths.STOCK_SOURCES", home / "none")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("GNUPGHOME", raising=False)
    key = keys.make("Bundler <b@example.org>", at=f"{datetime.now(UTC) - timedelta(days=20):%Y%m%dT%H%M%S}!")
    subprocess.run(["gpg", "--quiet", "--batch", "--import"], input=keys.export(key), check=True)
    monkeypatch.chdir(tmp_path)
    guard = HomeGuard(home / ".gnupg")
    yield World(tmp_path, keys, key, capsys)
    guard.release()


@pytest.mark.row("D27")
def test_a_304_nobody_asked_for_changes_nothing(world: World) -> None:
    """The last accepted index is used, after it was verified again."""
    index = world.publish()
    with FaultServer([answer(index)], [answer(b"", status="304 Not Modified")]) as server:
        source = f"{server.url}/index.asc"
        assert world.run(source, "--list")[:2] == (0, LISTED)
        code, out, err = world.run(source, "--list")
        assert (code, out) == (0, LISTED)
        assert "304" in err
        assert b"If-Modified-Since" not in server.requests[1]
        state = next((world.folder / "home").rglob("sources/*.asc"))
        state.write_bytes(index.replace(b"Tiny Linux", b"Evil Linux"))
        code, out, err = world.run(source, "--list")
        assert code != 0
        assert out == ""


LISTED = f"{'tiny':<24} {'x86_64':<10} Tiny Linux\n{'other':<24} {'x86_64':<10} Tiny Linux\n"


@pytest.mark.row("D28")
def test_offline_uses_the_last_accepted_index_and_says_how_old_it_is(world: World) -> None:
    index = world.publish(at=datetime.now(UTC) - timedelta(days=3, hours=1))
    packed = (world.site / "tiny.xz").read_bytes()
    with FaultServer([answer(index)]) as server:
        source = f"{server.url}/index.asc"
        code, out, err = world.run(source, "--list", "--offline")
        assert code == 1
        assert f"no index from {source} was ever accepted here" in err
        assert "--source BUNDLE" in err
        assert world.run(source, "--list")[0] == 0
        assert len(server.requests) == 1, "offline means that no server is asked"
        code, out, err = world.run(source, "--list", "--offline")
        assert (code, out) == (0, LISTED)
        assert "signed 3 days ago" in err
        code, out, _err = world.run(source, "--list", "--list-format", "json", "--offline")
        assert len(json.loads(out)["templates"]) == 2, "notices do not go into the list"
        code, _out, err = world.run(source, "--cache-all-templates", "--offline")
        assert code == 1
        assert "tiny is not on this machine" in err
        assert "cache add FILE" in err
        assert len(server.requests) == 1
        (world.folder / "stick.xz").write_bytes(packed)
        assert world.run(source, "cache", "add", "stick.xz", "--offline")[0] == 0
        code, out, err = world.run(source, "--dry-run", "tiny", "--offline")
        assert code == 0
        assert "download" not in out
        assert len(server.requests) == 1


def test_what_has_no_checksum_is_not_cached_and_named(world: World) -> None:
    """A copy of it could not be distinguished from another file, so that it would never be used."""
    world.publish()
    folder = world.folder / "home/pybuilder/repos.d"
    folder.mkdir(parents=True)
    digest = hashlib.sha512((world.site / "tiny.xz").read_bytes()).hexdigest()
    entry = f"arch=x86_64\nfile=tiny.xz\nformat=raw\nsize={len(DISK)}\n"
    (world.site / "index").write_text(f"[bare]\n{entry}\n[good]\n{entry}checksum={digest}\n")
    (folder / "s.conf").write_text(f"[s]\nuri={world.site}/index\nunsigned=yes\n")
    assert cli.run(["--cache-all-templates"]) == 1
    err = world.capture.readouterr().err
    assert "bare: source s gives no checksum for it" in err
    assert "1 of 2 templates could not be had" in err
    assert cli.run(["--print-cache"]) == 0
    assert [line.split()[::2] for line in world.capture.readouterr().out.splitlines()[1:]] == [
        ["bare", "no"],
        ["good", "cached"],
    ]


def test_an_unsigned_source_can_be_used_offline(world: World) -> None:
    """Its index is proved no less than when it was fetched."""
    index = world.publish()
    body = index.split(b"\n\n", 1)[1].split(b"-----BEGIN PGP SIGNATURE", 1)[0]
    folder = world.folder / "home/pybuilder/repos.d"
    folder.mkdir(parents=True)
    with FaultServer([answer(body)]) as server:
        (folder / "s.conf").write_text(f"[s]\nuri={server.url}/index\nunsigned=yes\n")
        assert cli.run(["--list", "--offline"]) == 1
        assert "without --offline" in world.capture.readouterr().err
        assert cli.run(["--list"]) == 0
    world.capture.readouterr()
    for words, why in (["--offline"], "is not asked (--offline)"), ([], "cannot be reached"):
        assert cli.run(["--list", *words]) == 0
        shown = world.capture.readouterr()
        assert "tiny" in shown.out
        assert f"source s {why}" in shown.err
        assert "its last index is used" in shown.err
    assert cli.run(["source", "forget", "s"]) == 0
    assert cli.run(["--list", "--offline"]) == 1


@pytest.mark.row("D28")
def test_offline_relaxes_no_rule(world: World) -> None:
    """A signature that has expired meanwhile, and a record that was damaged."""
    index = world.publish()
    with FaultServer([answer(index)]) as server:
        source = f"{server.url}/index.asc"
        assert world.run(source, "--list")[0] == 0
    state = next((world.folder / "home").rglob("sources/*.asc"))
    state.write_bytes(index.replace(b"Tiny Linux", b"Evil Linux"))
    code, out, err = world.run(source, "--list", "--offline")
    assert code != 0
    assert out == ""
    assert "cannot be used" in err
    state.write_bytes(index)
    assert world.run(source, "--list", "--offline")[0] == 0
    code, _out, err = world.run(source, "--list", "--offline", "--no-check-signature")
    assert code == 1
    assert "only verified indexes are kept" in err


@pytest.mark.row("D28")
def test_local_sources_are_read_offline(world: World) -> None:
    world.publish()
    code, out, err = world.run("site/index.asc", "--list", "--offline")
    assert (code, out, err) == (0, LISTED, "")


@pytest.mark.row("D29")
def test_every_answer_is_verified(world: World) -> None:
    """The first time all is well; then the same address serves another's bytes (CVE-2018-0501)."""
    index = world.publish()
    evil = index.replace(b"Tiny Linux", b"Evil Linux")
    with FaultServer([answer(index)], [answer(evil)]) as server:
        source = f"{server.url}/index.asc"
        assert world.run(source, "--list")[0] == 0
        code, out, _err = world.run(source, "--list")
        assert code == 3
        assert "Evil" not in out


@pytest.mark.row("D29")
def test_every_mirror_is_verified(world: World) -> None:
    """A source's first address is dead, its second evil, its third good: only good bytes are believed."""
    index = world.publish()
    evil = index.replace(b"Tiny Linux", b"Evil Linux")
    folder = world.folder / "home" / "pybuilder" / "repos.d"
    folder.mkdir(parents=True)
    (world.folder / "key.gpg").write_bytes(world.keys.export(world.key))
    gone, bad = answer(b"", status="404 Not Found"), answer(evil)
    with FaultServer([gone]) as first, FaultServer([bad]) as second, FaultServer([answer(index)]) as third:

        def listed(*servers: FaultServer) -> tuple[int, str]:
            places = ", ".join(f"{server.url}/index.asc" for server in servers)
            text = f"[mirrored]\nuri={places}\ngpgkey=file://{world.folder}/key.gpg\n"
            (folder / "a.conf").write_text(text)
            world.capture.readouterr()
            return cli.run(["--list"]), world.capture.readouterr().out

        code, out = listed(first, second)
        assert code != 0
        assert "Evil" not in out
        assert listed(first, second, third) == (0, LISTED)
        assert len(second.requests) == 2, "it was asked, and not believed"
        code, out = listed(first, second)
        assert "Evil" not in out, "nor when a good index is known"


@pytest.mark.row("D26")
@pytest.mark.parametrize("form", ["site/index.asc", "file://{}/site/index.asc"])
def test_local_sources_get_the_same_verdicts(world: World, form: str) -> None:
    """Altered, older, not whole, of another size, and no file at all: as by http."""
    index, source = world.publish(), form.format(world.folder)
    place, template = world.site / "index.asc", world.site / "tiny.xz"
    assert world.run(source, "--list")[:2] == (0, LISTED)
    for bad in (index.replace(b"Tiny L", b"Evil L"), index[:-300], b""):
        place.write_bytes(bad)
        code, out, _err = world.run(source, "--list")
        assert code != 0
        assert out == ""
    place.write_bytes(bytes(6_000_000))
    code, out, err = world.run(source, "--list")
    assert (code, out) == (0, LISTED), "what cannot be fetched within the limit is as good as not there"
    assert "is longer than the 5000000 bytes" in err
    old = datetime.now(UTC) - timedelta(days=9)
    world.publish(at=old)
    code, _out, err = world.run(source, "--list")
    assert (code, "rolled back" in err) == (3, True)
    place.unlink()
    os.mkfifo(place)
    assert world.run(source, "--list")[0] == 0, (
        "the last accepted index stands in for one that cannot be read"
    )
    place.unlink()
    place.write_bytes(index)
    good = template.read_bytes()
    for bad in (good[:-1], good + b"x", bytes(len(good)), b""):
        template.write_bytes(bad)
        code, _out, err = world.run(source, "--cache-all-templates")
        assert code in (1, 3)
        assert str(template) in err or "tiny.xz" in err
        assert world.cached == []


@pytest.fixture
def bundle(world: World) -> Path:
    world.publish(zstd=True)
    code, out, err = world.run("site/index.asc", "cache", "export", "x.pybundle", "tiny")
    assert (code, err) == (0, "")
    assert f"pybuilder --source x.pybundle --fingerprint {world.key} tiny" in out
    for path in (world.folder / "home").iterdir():  # another machine
        subprocess.run(["rm", "-rf", path], check=True)
    world.site.rename(world.folder / "gone")
    return world.folder / "x.pybundle"


def test_a_bundle_is_a_source_like_any_other(world: World, bundle: Path) -> None:
    """Its key comes along, but only the one that the user names counts."""
    for source in ("x.pybundle", f"file://{bundle}"):
        assert world.run(source, "--list", "--offline") == (0, LISTED, "")
    assert world.run("x.pybundle", "--cache-all-templates", "--offline")[0] == 1, "the other is not in it"
    assert len(world.cached) == 1
    code, _out, err = world.run("x.pybundle", "--list", fingerprint="A" * 40)
    assert code == 2
    assert "is not in your keyring" in err


def test_a_bundle_is_for_people_and_other_programs_too(world: World, bundle: Path) -> None:
    with tarfile.open(bundle) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["index.asc", "fingerprints", "key.gpg", "tiny.xz"]
    assert {(member.uid, member.mtime, member.mode) for member in members} == {(0, 0, 0o644)}
    subprocess.run(["tar", "-xf", bundle, "-C", world.folder], check=True)
    assert world.key in (world.folder / "fingerprints").read_text().split()
    assert world.run("index.asc", "--list", fingerprint="A" * 40)[0] == 2
    subprocess.run(["gpg", "--quiet", "--batch", "--import", "key.gpg"], check=True)
    assert world.run("index.asc", "--list")[0] == 0


def rewrite(bundle: Path, change: Callable[[str, bytes], bytes]) -> None:
    body = io.BytesIO()
    with tarfile.open(bundle) as old, tarfile.open(fileobj=body, mode="w") as new:
        for member in old:
            data = change(member.name, old.extractfile(member).read())  # type: ignore[union-attr]
            info = tarfile.TarInfo(member.name)
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    bundle.write_bytes(body.getvalue())


@pytest.mark.row("T1")
def test_a_bundle_gets_the_same_verdicts(world: World, bundle: Path) -> None:
    good = bundle.read_bytes()
    rewrite(bundle, lambda name, data: data.replace(b"Tiny L", b"Evil L") if name == "index.asc" else data)
    assert world.run("x.pybundle", "--list")[0] == 3
    bundle.write_bytes(good)
    rewrite(bundle, lambda name, data: bytes(len(data)) if name == "tiny.xz" else data)
    code, _out, err = world.run("x.pybundle", "--cache-all-templates")
    assert code == 3
    assert "not the bytes that the index names" in err
    assert world.cached == []
    bundle.write_bytes(good)
    assert world.run("x.pybundle", "--list")[0] == 0
    old = datetime.now(UTC) - timedelta(days=9)
    index = world.publish(at=old)
    rewrite(bundle, lambda name, data: index if name == "index.asc" else data)
    code, _out, err = world.run("x.pybundle", "--list")
    assert code == 3
    assert "rolled back" in err


def test_a_key_of_the_bundle_s_maker_is_not_trusted(world: World, bundle: Path) -> None:
    """An attacker signs the index again and packs the attacker's key, but the user names the publisher's."""
    evil = world.keys.make("Evil <e@example.org>")
    text = write_index(Index((Entry("tiny", "tiny.xz", "x86_64", len(DISK), sha512="a" * 128),)))
    forged = {"index.asc": world.keys.sign(text, evil), "key.gpg": world.keys.export(evil)}
    rewrite(bundle, lambda name, data: forged.get(name, data))
    assert world.run("x.pybundle", "--list")[0] == 2, "the named key is not in it"
    forged["key.gpg"] = world.keys.export(evil, world.key)
    rewrite(bundle, lambda name, data: forged.get(name, data))
    assert world.run("x.pybundle", "--list")[0] == 3


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["cache", "export", "x.tar", "tiny"], "ends in .pybundle"),
        (["cache", "export", "x.pybundle"], "at least one template"),
        (["cache", "export", "x.pybundle", "nope"], "no source offers"),
        (["cache", "export", "x.pybundle", "other"], "cannot read"),
        (["cache", "export", "no/where/x.pybundle", "tiny"], "no/where"),
        (["cache", "export", "x.pybundle", "tiny", "--no-check-signature"], "no signed index"),
    ],
)
def test_what_cannot_be_bundled(world: World, words: list[str], problem: str) -> None:
    world.publish()
    code, _out, err = world.run("site/index.asc", *words)
    assert code in (1, 2)
    assert problem in err
    assert list(world.folder.glob("*.pybundle")) == []
    assert list(world.folder.glob(".p*")) == []


def member(name: str = "a", data: bytes = b"x", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data.ljust(-(-len(data) // 512) * 512, b"\0")


END = bytes(1024)


def pax(size: int) -> bytes:
    info = tarfile.TarInfo("p")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.GNU_FORMAT)


HOSTILE = {
    "empty": b"",
    "junk": os.urandom(2000),
    "gzip": b"\x1f\x8b" + bytes(2000),
    "a link": member(type=tarfile.SYMTYPE, linkname="/etc/shadow") + END,
    "a hard link": member() + member("b", b"", type=tarfile.LNKTYPE, linkname="a") + END,
    "a device": member(type=tarfile.CHRTYPE) + END,
    "a folder": member("d", b"", type=tarfile.DIRTYPE) + END,
    "sparse": member(type=tarfile.GNUTYPE_SPARSE) + END,
    "absolute": member("/etc/passwd") + END,
    "upwards": member("../a") + END,
    "dots inside": member("a/../../b") + END,
    "control": member("a\x1b[0m") + END,
    "twice": member() + member() + END,
    "cut off": member(data=bytes(5000))[:3000],
    "endless": member(data=b"", size=1 << 62) + END,
    "negative": member(data=b"", size=-512) + END,
    "giant header": pax(1 << 40) + bytes(4096),
    "long name": member("././@LongLink", b"", type=tarfile.GNUTYPE_LONGNAME, size=1 << 33) + END,
    "names in names": (member("././@LongLink", b"a\0", type=tarfile.GNUTYPE_LONGNAME)) * 3000
    + member()
    + END,
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_bundles(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x.pybundle"
    path.write_bytes(HOSTILE[how])
    if how == "giant header":
        os.truncate(path, 1 << 41)
    body = io.BytesIO()
    with pytest.raises(FetchError):
        fetch_member(Download(f"{path}!/a", body, limit=1 << 20))
    assert body.getvalue() == b""


def test_many_members(tmp_path: Path) -> None:
    path = tmp_path / "x.pybundle"
    path.write_bytes(b"".join(member(str(number), b"") for number in range(10_001)) + END)
    with pytest.raises(FetchError, match="too many"):
        fetch_member(Download(f"{path}!/1", io.BytesIO(), limit=9))


def test_limits_of_members(tmp_path: Path) -> None:
    path = tmp_path / "x.pybundle"
    path.write_bytes(member("a", b"12345") + member("b", b"67") + END)
    body = io.BytesIO()
    assert fetch_member(Download(f"{path}!/a", body, limit=5, expected=5)).size == 5
    fetch_member(Download(f"{path}!/b", body, limit=5))
    assert body.getvalue() == b"1234567"
    with pytest.raises(FetchError, match="promises 4"):
        fetch_member(Download(f"{path}!/a", body, limit=9, expected=4))
    with pytest.raises(FetchError, match="longer"):
        fetch_member(Download(f"{path}!/a", body, limit=4))
    with pytest.raises(FileMissingError, match="no file c"):
        fetch_member(Download(f"{path}!/c", body, limit=4))
    folder = tmp_path / "folder.pybundle"
    folder.mkdir()
    with pytest.raises(FetchError):
        fetch_member(Download(f"{folder}!/c", body, limit=4))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_mutated_bundles_raise_only_our_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.pybundle"
    raw = bytearray(member("a", b"12345") + member("b" * 150, b"67") + member("c", bytes(600)) + END)
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    with contextlib.suppress(FetchError):
        fetch_member(Download(f"{path}!/c", io.BytesIO(), limit=1000))


def test_addresses() -> None:
    assert template_url("/m/x.pybundle", "a/b.xz") == "/m/x.pybundle!/a/b.xz"
    assert template_url("file:///m/x.pybundle", "a+b.xz") == "file:///m/x.pybundle!/a+b.xz"
    assert inside(Path("/m/x.pybundle!/a/b.xz")) == (Path("/m/x.pybundle"), "a/b.xz")
    assert inside(Path("/m/x.pybundle")) == (Path("/m/x.pybundle"), "index.asc")
    assert inside(Path("/m/x.pybundle/index.asc")) is None
    assert inside(Path("/m/x.tar")) is None


def test_a_bundle_of_a_web_server_is_refused_with_advice(world: World) -> None:
    code, _out, err = world.run("http://h/x.pybundle", "--list")
    assert code == 2
    assert "download it" in err
    with pytest.raises(FetchError):
        SourceFetcher().fetch(Download("/nowhere/x.pybundle", io.BytesIO(), limit=9))

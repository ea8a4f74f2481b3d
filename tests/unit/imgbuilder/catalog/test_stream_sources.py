"""Simplestreams sources, from configuration to image, over a real web server with real signatures."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgbuilder.services import Services
from tests.fakes.commands import Command
from tests.fakes.keys import KeyMaker
from tests.fakes.streams import StreamTree, digests, lxd_tree, ubuntu_tree
from tests.fakes.template import SIZE, TinyAppliances, make_disk
from tests.fakes.webfolder import WebFolder

pytestmark = pytest.mark.usefixtures("appliances")

NAME = "com.ubuntu.cloud:server:24.04:amd64"
FILE = "/server/releases/noble/release-20240423.10/ubuntu-24.04-server-cloudimg-amd64.img"
PRODUCTS = "com.ubuntu.cloud:released:download"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("image")
    disk = make_disk(folder / "disk.raw")
    made = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", disk, made], check=True)
    assert made.stat().st_size < SIZE
    return made.read_bytes()


@pytest.fixture
def appliances(appliances: TinyAppliances) -> TinyAppliances:
    appliances.roots = {"/dev/sda2": {"/": "/dev/sda2"}}
    return appliances


@pytest.fixture
def tree(tmp_path: Path, home: Path, publisher_keys: KeyMaker, image: bytes) -> StreamTree:
    return ubuntu_tree(tmp_path / "tree", publisher_keys, image)


@pytest.fixture
def web(tree: StreamTree) -> Iterator[WebFolder]:
    with WebFolder(tree.folder) as server:
        yield server


@dataclass
class Cloud:
    """A tree of images on a server, and the user's folder."""

    home: Path
    tree: StreamTree
    web: WebFolder

    def configure(self, uri: str = "", **fields: str) -> None:
        place = self.home / "pybuilder" / "repos.d"
        place.mkdir(parents=True, exist_ok=True)
        key = self.home / "key.gpg"
        key.write_bytes(self.tree.keys.export(self.tree.key))
        lines = {"uri": uri or self.web.url, "format": "simplestreams", "gpgkey": str(key), **fields}
        text = "".join(f"{name}={value}\n" for name, value in lines.items() if value)
        (place / "cloud.conf").write_text(f"[cloud]\n{text}")


@pytest.fixture
def cloud(home: Path, tree: StreamTree, web: WebFolder) -> Cloud:
    return Cloud(home, tree, web)


def test_a_build_of_a_cloud_image(cloud: Cloud, pybuilder: Command) -> None:
    """Signed over http, SHA-256 only, qcow2: the size is found, and the next build needs no download."""
    cloud.configure()
    ran = pybuilder("--list")
    assert ran.out.split("\n")[0].split() == [
        "com.ubuntu.cloud:server:24.04:arm64", "arm64", "ubuntu-noble-24.04-arm64-server-20240423",
    ]  # fmt: skip
    assert "6.06" not in ran.out
    assert cloud.web.paths == ["/streams/v1/index.sjson", f"/streams/v1/{PRODUCTS}.sjson"]
    long = pybuilder("--list", "--long", NAME).out
    assert "Minimum/default size" not in long
    assert "Download size:" in long
    assert "Aliases:                 ubuntu-noble-24.04-amd64-server-20240423.10 24.04 lts n noble" in long
    assert "size" not in json.loads(pybuilder("--list", "--list-format=json", NAME).out)["templates"][0]

    ran = pybuilder("noble", "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    assert f"{NAME} (8.0M, qcow2)" in ran.out
    assert list(cloud.home.glob("pybuilder/templates/*")) == []

    pybuilder("noble", "--size", "4M", "--root-password", "disabled").failed(2, "minimum size = 8.0M")

    del cloud.web.asked[:]
    pybuilder("noble", "--root-password", "disabled").good()
    assert Path(f"{NAME}.img").stat().st_size == SIZE
    assert cloud.web.paths.count(FILE) == 2  # the header, and the whole
    del cloud.web.asked[:]
    pybuilder("noble", "--root-password", "disabled", "--output", "second.img").good()
    assert FILE not in cloud.web.paths
    long = pybuilder("--list", "--long", NAME).out
    assert "Minimum/default size:    8.0M" in long
    assert "cached" in pybuilder("--print-cache").out

    cloud.web.close()
    ran = pybuilder("noble", "--root-password", "disabled", "--output", "third.img").good()
    assert "last accepted index is used" in ran.err + ran.out


def test_a_build_from_an_lxd_server(
    tmp_path: Path, home: Path, publisher_keys: KeyMaker, image: bytes, pybuilder: Command
) -> None:
    tree = lxd_tree(tmp_path / "lxd", publisher_keys, image)
    with WebFolder(tree.folder) as web:
        Cloud(home, tree, web).configure()
        assert pybuilder("--list").out == (
            f"{'debian:bookworm:amd64:default':<24} {'amd64':<10} Debian bookworm default\n"
        )
        pybuilder("debian/12", "--root-password", "disabled", "--format", "qcow2", "-o", "x.qcow2").good()
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", "x.qcow2"]))
    assert info["virtual-size"] == SIZE


def test_unsigned_sources_are_asked_for_other_files(cloud: Cloud, pybuilder: Command) -> None:
    cloud.configure(gpgkey="", unsigned="yes")
    ran = pybuilder("--list").good()
    assert NAME in ran.out
    assert (ran.out + ran.err).count("the origin of these templates is not verified") == 1
    assert cloud.web.paths == ["/streams/v1/index.json", f"/streams/v1/{PRODUCTS}.json"]


@pytest.mark.row("T6")
def test_once_signed_never_unsigned(cloud: Cloud, pybuilder: Command) -> None:
    cloud.configure()
    assert pybuilder("--list").code == 0
    cloud.configure(gpgkey="", unsigned="yes")
    pybuilder("--list").failed(3, f"pybuilder source forget '{cloud.web.url}/streams/v1/index.sjson'")
    ran = pybuilder("source", "forget", "cloud")
    assert ran.out.count("Forgotten: ") == 2
    assert pybuilder("--list").code == 0


@pytest.mark.row("V2", "V9")
@pytest.mark.parametrize("which", ["index", PRODUCTS])
def test_every_file_is_judged(cloud: Cloud, pybuilder: Command, which: str) -> None:
    """For the index and for the files that it names."""
    cloud.configure()
    path = cloud.tree.folder / f"streams/v1/{which}.sjson"
    old = path.read_bytes()
    cloud.tree.publish()
    good = path.read_bytes()
    assert pybuilder("--list").code == 0
    other = cloud.tree.keys.sign(path.with_suffix(".json").read_bytes(), cloud.tree.keys.make("someone else"))
    for bad, words in [
        (good.replace(b"image-downloads", b"image-Downloads", 1), "altered after signing"),
        (path.with_suffix(".json").read_bytes(), "not a signed index"),
        (other, "signed by key"),
        (old, "rolled back"),
        (b"<html>", "web page"),
    ]:
        path.write_bytes(bad)
        ran = pybuilder("--list")
        assert ran.code == 3, bad
        assert words in ran.err
        assert f"{which}.sjson" in ran.err
    path.write_bytes(good)
    assert pybuilder("--list").code == 0


def test_one_file_cannot_be_served_for_another(cloud: Cloud, pybuilder: Command) -> None:
    cloud.tree.products["com.ubuntu.cloud:daily:download"] = {
        "daily:x": cloud.tree.products[PRODUCTS][NAME] | {"aliases": "daily"}
    }
    cloud.tree.publish()
    cloud.configure()
    assert len(pybuilder("--list").out.splitlines()) == 3
    folder = cloud.tree.folder / "streams/v1"
    shutil.copy(folder / "com.ubuntu.cloud:daily:download.sjson", folder / f"{PRODUCTS}.sjson")
    pybuilder("--list").failed(1, "daily", "but the index announces")


@pytest.mark.row("T9")
def test_another_image_than_the_source_names_is_refused(cloud: Cloud, pybuilder: Command) -> None:
    """By SHA-256."""
    cloud.configure()
    path = cloud.tree.folder / FILE[1:]
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    pybuilder("noble", "--root-password", "disabled").failed(3, "SHA-256")
    assert list(cloud.home.glob("pybuilder/templates/[!.]*")) == []
    assert list(Path().iterdir()) == []
    path.write_bytes(good)
    assert pybuilder("noble", "--root-password", "disabled").code == 0


def test_a_header_that_lies_fails_the_build(
    cloud: Cloud, pybuilder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first bytes come before the digest: an attacker who alters only them gains nothing."""
    cloud.configure()
    path = cloud.tree.folder / FILE[1:]
    good = path.read_bytes()
    path.write_bytes(good[:24] + (SIZE // 2).to_bytes(8) + good[32:])
    true_get = Services.template_disk

    def honest_again(self: Services, *rest: object) -> object:
        path.write_bytes(good)
        return true_get(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Services, "template_disk", honest_again)
    pybuilder("noble", "--root-password", "disabled").failed(
        1, f"{SIZE} bytes where the index promises {SIZE // 2}"
    )
    assert list(Path().iterdir()) == []
    assert list(cloud.home.glob("pybuilder/images/*")) == []
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xfd7zXZ\x00" + bytes(506), "this is a xz file"),
        (b"<html>not found</html>", "not a disk image"),
        (b"QFI\xfb" + bytes(508), "refused as a qcow2 image"),
    ],
)
def test_what_is_no_disk_image_is_not_downloaded(
    cloud: Cloud, pybuilder: Command, content: bytes, words: str
) -> None:
    item = cloud.tree.add_image(FILE[1:], content) | digests(content, "sha256")
    cloud.tree.products[PRODUCTS][NAME]["versions"]["20240423.10"]["items"]["disk1.img"] = item
    cloud.tree.publish()
    cloud.configure()
    pybuilder("noble", "--root-password", "disabled").failed(1, words)
    assert cloud.web.paths.count(FILE) == 1


def test_raw_images_with_sha512_and_a_cache_filled_before(
    cloud: Cloud, pybuilder: Command, tmp_path: Path
) -> None:
    content = make_disk(tmp_path / "disk.raw").read_bytes()
    item = cloud.tree.add_image(FILE[1:], content) | digests(content, "sha256", "sha512")
    arm = cloud.tree.products[PRODUCTS].pop("com.ubuntu.cloud:server:24.04:arm64")
    assert arm
    cloud.tree.products[PRODUCTS][NAME]["versions"]["20240423.10"]["items"]["disk1.img"] = item
    cloud.tree.publish()
    cloud.configure()
    pybuilder("--cache-all-templates").good()
    assert (cloud.home / "pybuilder/templates" / hashlib.sha512(content).hexdigest()).exists()
    assert "8.0M, raw" in pybuilder("noble", "--dry-run").out
    del cloud.web.asked[:]
    pybuilder("noble", "--root-password", "disabled", "--output", "x.img").good()
    assert FILE not in cloud.web.paths


def test_cache_all_templates_learns_what_it_downloads(cloud: Cloud, pybuilder: Command) -> None:
    del cloud.tree.products[PRODUCTS]["com.ubuntu.cloud:server:24.04:arm64"]
    cloud.tree.publish()
    cloud.configure()
    assert pybuilder("--cache-all-templates").code == 0
    assert cloud.web.paths.count(FILE) == 1
    assert pybuilder("--cache-all-templates").code == 0
    assert cloud.web.paths.count(FILE) == 1
    assert "Minimum/default size:    8.0M" in pybuilder("--list", "--long", NAME).out


def test_what_is_known_of_images_may_be_lost_or_damaged(cloud: Cloud, pybuilder: Command) -> None:
    cloud.configure()
    assert pybuilder("noble", "--root-password", "disabled").code == 0
    (record,) = cloud.home.glob("pybuilder/images/*.json")
    good = record.read_text()
    for damaged in (
        "",
        "[]",
        "{}",
        good.replace('"qcow2"', '"vmdk"'),
        good.replace('"size": 8', '"size": -8'),
        "[",
    ):
        record.write_text(damaged)
        assert "Minimum/default size" not in pybuilder("--list", "--long", NAME).out, damaged
    record.unlink()
    os.mkfifo(record)
    assert pybuilder("--list", "--long", NAME).code == 0
    record.unlink()
    assert pybuilder("noble", "--root-password", "disabled", "--output", "x.img").code == 0
    assert record.read_text() == good


def test_mirrors_of_a_tree(cloud: Cloud, tmp_path: Path, pybuilder: Command) -> None:
    """The address that answered is used for all files, and for the image."""
    (tmp_path / "empty").mkdir()
    with WebFolder(tmp_path / "empty") as empty:
        cloud.configure(f"{empty.url}, {cloud.web.url}/streams/v1/index.sjson")
        pybuilder("noble", "--root-password", "disabled").good()
        assert empty.paths == ["/streams/v1/index.sjson"]
        assert FILE in cloud.web.paths


def test_local_trees_and_list_sources(cloud: Cloud, pybuilder: Command) -> None:
    for uri in (str(cloud.tree.folder), f"file://{cloud.tree.folder}/"):
        cloud.configure(uri)
        pybuilder("noble", "--root-password", "disabled", "--output", f"{len(uri)}.img").good()
    shown = pybuilder("source", "list").out
    assert "Format:                  simplestreams\n" in shown
    assert f"Signed by:               {cloud.tree.key}\n" in shown


def test_a_source_of_the_command_line(
    tree: StreamTree, web: WebFolder, pybuilder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GNUPGHOME", str(tree.keys.home))
    words = ("--source", f"{web.url}/streams/v1/index.sjson", "--fingerprint", tree.key)
    pybuilder(*words, "--list", "noble").good()
    ran = pybuilder(*words[:2], "--fingerprint", "A" * 40, "--list")
    assert ran.code == 2
    pybuilder(*words[:2], "--no-check-signature", "--list", "noble").good()
    assert web.paths[-2:] == ["/streams/v1/index.json", f"/streams/v1/{PRODUCTS}.json"]


@pytest.mark.row("T5")
def test_max_age_counts_for_each_file(cloud: Cloud, pybuilder: Command) -> None:
    """A server that holds back one file only."""
    path = cloud.tree.folder / f"streams/v1/{PRODUCTS}.sjson"
    path.write_bytes(
        cloud.tree.keys.sign(path.with_suffix(".json").read_bytes(), cloud.tree.key, at="20990101T000000")
    )
    cloud.configure()
    pybuilder("--list").failed(3, "clock")


def test_large_files_and_long_lines(cloud: Cloud, pybuilder: Command) -> None:
    """Files may be larger than an index. gpg signs only the beginning of a long line (F3)."""
    old = {"items": {"disk1.img": {"path": "x", "size": 1, "sha256": "0" * 64, "more": "x" * 6000}}}
    versions = cloud.tree.products[PRODUCTS][NAME]["versions"]
    versions.update({f"19990101.{number}": old for number in range(900)})
    cloud.tree.publish()
    size = (cloud.tree.folder / f"streams/v1/{PRODUCTS}.sjson").stat().st_size
    assert 5_000_000 < size < 20_000_000
    cloud.configure()
    ran = pybuilder("--list", "--long", NAME)
    assert "20240423.10" in ran.out, ran.err
    cloud.web.close()
    assert "20240423.10" in pybuilder("--list", "--long", NAME).out
    for number in range(5, 900):
        del versions[f"19990101.{number}"]
    cloud.tree.publish()
    cloud.configure(str(cloud.tree.folder))
    path = cloud.tree.folder / f"streams/v1/{PRODUCTS}.sjson"
    good = path.read_bytes()
    path.write_bytes(good + bytes(20_000_001 - len(good)))
    pybuilder("--list").failed(1, "longer than the 20000000 bytes")
    products = json.loads(path.with_suffix(".json").read_text())
    cloud.tree.write(f"streams/v1/{PRODUCTS}", products, indent=None)
    pybuilder("--list").failed(3, "line is longer than", "python3 -m json.tool")
    shutil.copytree(cloud.tree.folder, cloud.home / "copy")
    cloud.configure(str(cloud.home / "copy"), gpgkey="", unsigned="yes")
    assert pybuilder("--list", NAME).code == 0


def test_a_broken_tree_leaves_other_sources_alone(cloud: Cloud, pybuilder: Command, tmp_path: Path) -> None:
    cloud.configure()
    place = cloud.home / "pybuilder" / "repos.d"
    (tmp_path / "index").write_text("[x]\nfile=x.xz\narch=x86_64\nsize=512\n")
    (place / "z.conf").write_text(f"[z]\nuri={tmp_path}/index\nunsigned=yes\n")
    cloud.tree.write("streams/v1/index", {"format": "index:1.0", "index": []})
    ran = pybuilder("--list").good()
    assert ran.out.splitlines()[-1].startswith("x  ")
    assert "source cloud is left out" in ran.out + ran.err

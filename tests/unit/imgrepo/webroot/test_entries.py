"""Rules of the new index, and the record of images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import RepositoryError
from imgbuilder.host.hashing import Fingerprint
from imgindex.model import Entry, Index
from imgrepo.images.compress import Compressed
from imgrepo.images.facts import ImageFacts
from imgrepo.images.scan import SourceImage
from imgrepo.webroot.entries import merge, new_entry, old_entry, origin_of, published_name
from imgrepo.webroot.state import Published, read_state, write_state

SHA = "0123456789abcdef" * 8
FACTS = ImageFacts("x86_64", "Debian", "debian12", "/dev/sda2")
MADE = Compressed(Path("x"), 1000, SHA, "f" * 128)


def source(name: str = "debian-12.img") -> SourceImage:
    stem, _dot, ending = name.rpartition(".")
    kind = DiskFormat.QCOW2 if ending == "qcow2" else DiskFormat.RAW
    return SourceImage(Path(name), stem, kind, Fingerprint(1, 2, 3, 4))


def entry(
    name: str = "debian-12", file: str = "debian-12-0000000000000000.xz", arch: str = "x86_64"
) -> Entry:
    return Entry(name, file, arch, 512, sha512="0" * 128)


def remembered(name: str, arch: str = "x86_64") -> Published:
    return Published(Fingerprint(1, 2, 3, 4), "f" * 128, "f.xz", name, arch)


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("debian-12-0123456789abcdef.xz", "debian-12"),
        ("debian-12.img.xz", "debian-12"),
        ("debian-12.xz", "debian-12"),
        ("debian-12.qcow2", "debian-12"),
        ("sub/debian-12.raw.xz", "debian-12"),
        ("a.b-0123456789abcdef.qcow2.xz", "a.b"),
        ("debian-12-0123.xz", "debian-12-0123"),
    ],
)
def test_a_published_file_tells_its_image(file: str, stem: str) -> None:
    assert origin_of(entry(file=file)) == stem


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", fullmatch=True))
def test_the_name_of_a_published_file_leads_back_to_its_image(stem: str) -> None:
    endings = (".img", ".raw", ".qcow2", ".xz")
    if not stem.endswith(endings):
        assert origin_of(entry(file=published_name(stem, SHA))) == stem


def test_an_image_is_found_again_by_memory_then_by_file_then_by_name() -> None:
    renamed = entry("mine", "debian-12-0000000000000000.xz")
    other = entry("other", "other.xz")
    index = Index((other, renamed))
    assert old_entry(index, "debian-12", remembered("other")) is other
    assert old_entry(index, "debian-12", None) is renamed
    assert old_entry(Index((entry("debian-12", "x.xz"),)), "debian-12", None, "x86_64") is not None
    assert old_entry(index, "new", None) is None


def test_another_architecture_is_another_template() -> None:
    index = Index((entry(arch="aarch64"),))
    assert old_entry(index, "debian-12", None, "x86_64") is None
    assert old_entry(index, "debian-12", remembered("debian-12", "aarch64"), "x86_64") is None
    assert old_entry(Index((entry(arch="amd64"),)), "debian-12", None, "x86_64") is not None


def test_a_new_template_starts_at_revision_one() -> None:
    made = new_entry(source("a.qcow2"), 2048, FACTS, MADE, None)
    assert made == Entry(
        "a", "a-0123456789abcdef.xz", "x86_64", 2048, name="Debian", osinfo="debian12", sha512=SHA,
        revision=1, format="qcow2", compressed_size=1000, expand="/dev/sda2",
    )  # fmt: skip


def test_the_same_content_keeps_the_entry() -> None:
    old = Entry("a", "by-hand.xz", "x86_64", 512, sha512=SHA, revision=4, name="By hand")
    assert new_entry(source("a.img"), 512, FACTS, MADE, old) is old


def test_a_detached_signature_does_not_outlive_its_file() -> None:
    old = Entry("a", "a.xz", "x86_64", 512, sha512="0" * 128, sig="a.xz.sig")
    assert new_entry(source("a.img"), 512, FACTS, MADE, old).sig is None


def test_the_order_of_the_index_stays() -> None:
    a, b, c = (entry(name, f"{name}.xz") for name in "abc")
    newer = entry("a", "a2.xz")
    assert merge(Index((a, b)), {("a", "x86_64"): newer}, [c]).entries == (newer, b, c)


@pytest.mark.row("R16")
def test_the_same_template_twice_is_refused() -> None:
    with pytest.raises(RepositoryError, match="both be the template a"):
        merge(Index((entry("a", "a.xz"),)), {}, [entry("a", "b.xz")])


def test_what_is_remembered_comes_back(tmp_path: Path) -> None:
    images = {"a.img": remembered("a"), "b.img": remembered("b", "aarch64")}
    write_state(tmp_path, tmp_path, images)
    assert read_state(tmp_path, tmp_path) == images
    (path,) = tmp_path.iterdir()
    assert path.name.startswith(".")
    assert read_state(tmp_path, tmp_path / "other") == {}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"version": 2, "images": {}}', '{"version": 1}',
        '{"version": 1, "images": []}',
        '{"version": 1, "images": {"a": {}}}', '{"version": 1, "images": {"a": {"fingerprint": [1]}}}',
        '{"version": 1, "images": {"a": 5}}', "[" * 100_000, "\xff",
    ],
)  # fmt: skip
def test_a_damaged_memory_is_no_memory(tmp_path: Path, text: str) -> None:
    write_state(tmp_path, tmp_path, {"a.img": remembered("a")})
    (path,) = tmp_path.iterdir()
    path.write_text(text, encoding="latin-1")
    assert read_state(tmp_path, tmp_path) == {}


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_can_be_the_memory(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("state")
    write_state(folder, folder, {"a.img": remembered("a")})
    (path,) = folder.iterdir()
    path.write_text(json.dumps({"version": 1, "images": value}))
    assert isinstance(read_state(folder, folder), dict)

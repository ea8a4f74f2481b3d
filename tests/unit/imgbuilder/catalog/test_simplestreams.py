"""The reading of simplestreams files; what is done with them over the web is in test_stream_sources.py."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.catalog.simplestreams import (
    MOST_PRODUCT_FILES,
    joined,
    parse_products,
    parse_stream_index,
    version_key,
)
from imgbuilder.errors import IndexSyntaxError
from imgindex.model import UNKNOWN_SIZE, Entry, Index
from imgindex.trust import UnverifiedText, VerifiedText
from tests.fakes.fuzz import examples

SHA256, SHA512 = "ab" * 32, "cd" * 64
ITEM = {"path": "images/x.img", "size": 1536, "sha256": SHA256}


def signed(text: str) -> VerifiedText:
    return VerifiedText(text, "F" * 40, "F" * 40, datetime(2026, 1, 1, tzinfo=UTC), None)


def document(product: object, name: str = "p", **fields: object) -> dict[str, Any]:
    return {"format": "products:1.0", "content_id": "c", "products": {name: product}, **fields}


def product(item: object = None, version: str = "1", **fields: object) -> dict[str, Any]:
    items = {"disk1.img": ITEM if item is None else item}
    return {"arch": "amd64", "versions": {version: {"items": items}}, **fields}


def read(content: object, *, sign: bool = True) -> Index:
    text = content if isinstance(content, str) else json.dumps(content)
    return parse_products(signed(text) if sign else UnverifiedText(text), where="w", content_id="c")


def refused(content: object) -> str:
    """Read a file whose one product is odd; return what is wrong with it."""
    made = read(content)
    assert made.entries == ()
    (item,) = made.refused
    return item.problem.message


def only(content: object, *, sign: bool = True) -> Entry:
    (entry,) = read(content, sign=sign).entries
    return entry


def test_an_entry() -> None:
    made = only(document(product(pubname="ubuntu-x", aliases="lts, 24.04,bad alias,p"), "com:x:24.04"))
    assert made == Entry(
        os_version="com:x:24.04",
        file="images/x.img",
        arch="amd64",
        size=UNKNOWN_SIZE,
        name="ubuntu-x",
        sha256=SHA256,
        compressed_size=1536,
        aliases=("ubuntu-x", "lts", "24.04", "p"),
        extra=made.extra,
    )
    assert made.extra[0][::2] == ("version", "1")


def test_the_download_s_size_is_not_the_disk_s() -> None:
    made = only(document(product()))
    assert (made.size, made.compressed_size) == (UNKNOWN_SIZE, 1536)


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        (["9", "10"], "10"),  # virt-builder takes 9
        (["20240423", "20240423.10", "20240423.9"], "20240423.10"),
        (["20240101_07:42", "20240102_07:42", "20231231_23:59"], "20240102_07:42"),
        (["1.0~rc1", "1.0"], "1.0"),
        (["1.0", "1.0a"], "1.0a"),
        (["007", "8"], "8"),
        (["9" * 5000, "1" + "0" * 5000], "1" + "0" * 5000),
        (["alpha", "beta", "Alpha"], "beta"),
        (["", "0"], "0"),
    ],
)
def test_versions_are_compared_as_versions(versions: list[str], newest: str) -> None:
    for order in (versions, versions[::-1]):
        assert max(order, key=version_key) == newest


@settings(deadline=None)
@given(st.lists(st.text(alphabet="0123456789.~abZ_:-", max_size=8), min_size=3, max_size=3))
def test_versions_have_one_order(versions: list[str]) -> None:
    a, b, c = sorted(versions, key=version_key)
    assert version_key(a) <= version_key(b) <= version_key(c)
    assert version_key(a) < version_key(a + "1")
    assert version_key(a + "~") < version_key(a)


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_numbers_are_compared_as_numbers(one: int, other: int) -> None:
    assert (version_key(f"x.{one}") < version_key(f"x.{other}")) == (one < other)


def test_the_newest_version_with_a_usable_disk_counts() -> None:
    versions = {
        "1": {"items": {"disk.img": {**ITEM, "path": "one"}}},
        "3": {"items": {"root.tar.xz": ITEM}},
        "4": {},
        "5": {"items": {"disk.img": {"path": "md5only", "size": 1, "md5": "0" * 32}}},
        "2": {"items": {"disk1.img": {**ITEM, "path": "second"}, "disk.img": {**ITEM, "path": "two"}}},
    }
    content = document({"arch": "amd64", "versions": versions})
    assert only(content).file == "two"
    assert only(content, sign=False).file == "md5only"


def test_products_without_a_disk_may_be_as_they_like() -> None:
    content = document(
        {"versions": {"1": {"items": {"root.tar.xz": {"size": "?"}}}, "2": {}}}, "a name / of theirs"
    )
    content["products"]["ok"] = product()
    assert [entry.os_version for entry in read(content).entries] == ["ok"]


def test_arch_and_name_of_the_version_count_first() -> None:
    fields = {"arch": "arm64", "pubname": "v", "items": {"disk.qcow2": {**ITEM, "sha512": SHA512.upper()}}}
    made = only(document({"arch": "amd64", "pubname": "p", "versions": {"20240101": fields}}))
    assert (made.arch, made.name, made.sha512, made.revision) == ("arm64", "v", SHA512, 20240101)


def test_lxd_products_get_a_name() -> None:
    lxd = product(
        os="Debian", release="bookworm", release_title="12", variant="cloud", aliases="debian/12/cloud"
    )
    assert only(document(lxd)).name == "Debian 12 cloud"
    assert only(document(lxd)).aliases == ("debian/12/cloud",)


PATHS = [
    "",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a//b",
    "http://evil/x",
    "a\\b",
    "a b",
    "a%2e",
    "a?x",
    "a#x",
    ".",
    "x\n",
    "ä",
]


@pytest.mark.row("T7")
@pytest.mark.parametrize("path", [*PATHS, 7, None, ["a"], "a/" * 600 + "b"])
def test_paths_stay_below_the_source(path: object) -> None:
    assert "path" in refused(document(product({**ITEM, "path": path})))
    member = {"format": "products:1.0", "datatype": "image-downloads", "path": path, "products": ["x", 5]}
    index = {"c": member, "good": {**member, "path": "streams/v1/g"}, "odd": 7}
    made = parse_stream_index(signed(json.dumps({"format": "index:1.0", "index": index})), where="w")
    assert made.files == (("good", "streams/v1/g"),)
    assert [item.names for item in made.refused] == [("x",), ()]
    assert "path" in made.refused[0].problem.message


BAD_ITEMS: dict[str, list[object]] = {
    "size": [0, -1, "1.5K", "9" * 30, 10**4000, float("nan"), {}, True, 1.5, None, 1 << 60],
    "sha256": ["ab", 5, [1], SHA256 + "\n"],
    "sha512": ["zz" * 64],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in BAD_ITEMS for value in BAD_ITEMS[key]])
def test_bad_items(key: str, value: object) -> None:
    assert key in refused(document(product({**ITEM, key: value})))


def test_a_size_may_be_text() -> None:
    """Some publishers write all values so, and simplestreams' own tools read it."""
    assert only(document(product({**ITEM, "size": "1536"}))).compressed_size == 1536


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (document({**product(), "arch": "x y"}), "arch"),
        (document({**product(), "arch": ""}), "arch"),
        (document({**product(), "arch": None}), "no 'arch'"),
        (document({**product(), "pubname": "a\x1b[2Jb"}), "pubname"),
        (document({**product(), "pubname": "a" * 501}), "pubname"),
        (document({**product(), "pubname": "\ud800"}), "pubname"),
        (document({**product(), "pubname": 3}), "pubname"),
        (document({**product(), "aliases": ["a"]}), "aliases"),
        (document(product(version="1\x07")), "version"),
        (document(product(), "../x"), "name"),
        (document(product(), "-rf"), "name"),
        (document(product(), "a/b"), "name"),
        (document(product(version="1" * 101)), "version"),
        (document([]), "no object 'p'"),
        (document({"arch": "a"}), "no object 'versions'"),
        (document({"arch": "a", "versions": {"1": []}}), "no object '1'"),
        (document({"arch": "a", "versions": {"1": {"items": []}}}), "no object 'items'"),
        (document({"arch": "a", "versions": {"1": {"items": {"disk.img": 1}}}}), "no object 'disk.img'"),
    ],
)
def test_an_odd_product_takes_only_itself_away(content: dict[str, Any], words: str) -> None:
    assert words in refused(content)
    content["products"]["good"] = product(aliases="x")
    made = read(content)
    assert [entry.os_version for entry in made.entries] == ["good"]
    assert made.refused[0].names[0] == next(iter(content["products"]))


def test_keys_that_are_given_twice_take_away_what_they_are_in() -> None:
    text = json.dumps(document(product(), "a"))
    twice = text.replace('"arch": "amd64"', '"arch": "amd64", "arch": "arm64"')
    assert "'arch' of the product 'a' is given twice" in refused(twice)
    good, other = (json.dumps(product(ITEM | {"path": path})) for path in ("x", "y"))
    products = f'{{"a": {good}, "b": {good}, "a": {other}}}'
    text = f'{{"format": "products:1.0", "content_id": "c", "products": {products}}}'
    made = read(text)
    assert [entry.os_version for entry in made.entries] == ["b"]
    assert [item.names[0] for item in made.refused] == ["a"]


def test_what_is_wrong_with_an_old_version_does_not_matter() -> None:
    versions = {
        "1": 5,
        "2": {"items": {"disk.img": {**ITEM, "path": "../x"}}},
        "3": {"items": {"disk.img": ITEM}},
    }
    assert only(document({"arch": "a", "versions": versions})).revision == 3
    newest = {**versions, "4": {"items": {"disk.img": {**ITEM, "sha256": "ab"}}}}
    assert "version '4'" in refused(document({"arch": "a", "versions": newest}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format": "products:1.0", "content_id": "c"}, "no object 'products'"),
        ({"format": "products:2.0", "content_id": "c", "products": {}}, "format"),
        ({"products": {}}, "format"),
        ([], "format"),
        ("", "JSON"),
        ("{", "JSON"),
        ('{"format": NaN}', "format"),
        ('{"format": "products:1.0", "content_id": "c", "products": {}, "products": {}}', "given twice"),
        ('{"format": "products:1.0", "format": "products:1.0"}', "given twice"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "[]," * 800_000 + "1]", "values"),
        ('{"format": ' + "1" * 5000 + "}", "format"),
    ],
)
def test_bad_files(content: object, words: str) -> None:
    with pytest.raises(IndexSyntaxError, match=words) as caught:
        read(content)
    assert caught.value.message.startswith("w: ")


def test_a_signed_file_cannot_stand_for_another() -> None:
    """All files of a source bear the same key's signature."""
    with pytest.raises(IndexSyntaxError, match="announces"):
        read(document(product(), content_id="another"))
    assert read(document(product(), content_id="another"), sign=False).entries


def test_the_index_names_files_of_images_only() -> None:
    index = {
        "a": {"format": "products:1.0", "datatype": "image-downloads", "path": "streams/v1/a.sjson"},
        "b": {"format": "products:1.0", "datatype": "image-ids", "path": "../b"},
        "c": {"format": "products:2.0", "datatype": "image-downloads"},
    }
    content = json.dumps({"format": "index:1.0", "index": index})
    assert parse_stream_index(signed(content), where="w") == ((("a", "streams/v1/a.sjson"),), ())


def test_the_number_of_files_is_bounded() -> None:
    member = {"format": "products:1.0", "datatype": "image-downloads", "path": "x"}
    index = {str(number): member for number in range(MOST_PRODUCT_FILES + 1)}
    with pytest.raises(IndexSyntaxError, match="at most"):
        parse_stream_index(signed(json.dumps({"format": "index:1.0", "index": index})), where="w")


def entry(name: str, arch: str = "amd64", *aliases: str) -> Entry:
    return Entry(name, "f", arch, UNKNOWN_SIZE, aliases=aliases)


def test_an_alias_of_two_is_nobody_s() -> None:
    made = joined(
        [
            Index((entry("a", "amd64", "x", "y"), entry("b", "x86_64", "x"))),
            Index((entry("c", "arm64", "x"),)),
        ],
        where="w",
    )
    assert [item.aliases for item in made.entries] == [("y",), (), ("x",)]


def test_a_product_of_two_files_is_nobody_s() -> None:
    made = joined([Index((entry("a"), entry("b"))), Index((entry("a", "x86_64"),))], where="w")
    assert [item.os_version for item in made.entries] == ["b"]
    (item,) = made.refused
    assert (item.names, item.arch) == (("a",), "x86_64")
    assert "twice" in item.problem.message


def test_many_versions_and_products_take_little_time() -> None:
    """A bound that catches only what grows faster than the file."""
    item = {"disk.img": ITEM}
    many = {f"{number}{'.1a' * 20}": {"items": item} for number in range(20_000)}
    content = {f"p{number}": product(aliases="x,y") for number in range(30_000)}
    started = time.monotonic()
    made = joined(
        [
            read(document({"arch": "a", "versions": many})),
            read(json.dumps({**document({}), "products": content})),
        ],
        where="w",
    )
    assert len(made.entries) == 30_001
    assert time.monotonic() - started < 60


DEEP = "[" * 900 + "]" * 900


@pytest.mark.parametrize("key", ["arch", "versions", "pubname", "aliases", "size", "sha256", "path"])
def test_a_deep_value_is_an_odd_one(key: str) -> None:
    text = json.dumps(document({**product({**ITEM, "size": 1}), "pubname": "n", "aliases": "a"}))
    odd = re.sub(rf'"{key}": ("[^"]*"|1|\{{.*\}}(?=, "pubname"))', f'"{key}": {DEEP}', text, count=1)
    assert odd != text
    assert len(read(odd).refused) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def places(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, member in value.items():
            found += places(member, (*path, key))
    return found


FULL = document(
    {
        **product({**ITEM, "sha512": SHA512, "ftype": "disk1.img"}, pubname="n", aliases="a,b", os="O"),
        "release": "r",
        "variant": "v",
    }
)


@pytest.mark.timeout(7200)
@settings(max_examples=examples(80), deadline=None)
@given(st.sampled_from(places(FULL)), JSON, st.booleans())
def test_any_value_anywhere_gives_an_index_or_our_error(
    path: tuple[str, ...], value: object, sign: bool
) -> None:
    content = copy.deepcopy(FULL)
    content["products"]["good"] = product()
    holder: Any = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    try:
        made = read(content, sign=sign)
    except IndexSyntaxError:
        assert len(path) < 3, "an odd product must take only itself away"
        return
    assert len(path) < 2 or any(item.os_version == "good" for item in made.entries)
    for item in made.entries:
        assert ".." not in item.file.split("/")
        assert not item.file.startswith("/")
        assert item.compressed_size is not None
        assert item.compressed_size > 0
        assert (item.sha256 or item.sha512) or not sign
        assert all(
            isinstance(text, str) for text in (item.os_version, item.arch, item.name or "", *item.aliases)
        )


BITS = st.sampled_from(
    [*"{}[],:", '"format"', '"products:1.0"', '"index:1.0"', '"products"', '"index"', '"versions"', '"items"',
     '"disk.img"', '"size"', '"path"', '"sha256"', f'"{SHA256}"', '"arch"', '"aliases"', '"x"', "1", "NaN",
     "-0", "1e999", "9" * 30, "null", '"\\ud800"', '"\\u202e"', json.dumps(product())[1:-1]]
)  # fmt: skip


@pytest.mark.timeout(7200)
@settings(max_examples=examples(60), deadline=None)
@given(st.text(max_size=200) | JSON.map(json.dumps) | st.lists(BITS, max_size=40).map("".join))
def test_any_text_gives_an_index_or_our_error(text: str) -> None:
    for reader in (lambda: read(text), lambda: parse_stream_index(UnverifiedText(text), where="w")):
        with contextlib.suppress(IndexSyntaxError):
            reader()

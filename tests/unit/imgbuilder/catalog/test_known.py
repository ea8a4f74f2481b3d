"""Public libraries by name: the real table is only read, and stand-ins of its shapes are asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.catalog import known
from imgbuilder.catalog.addsource import new_source
from imgbuilder.catalog.known import known_source, known_sources
from imgbuilder.catalog.sources import SourceFormat, trusted_keys
from imgbuilder.errors import UsageError
from tests.fakes.commands import Command
from tests.fakes.keys import KeyMaker
from tests.fakes.streams import StreamTree, ubuntu_tree
from tests.fakes.webfolder import WebFolder


@pytest.mark.parametrize("name", known_sources())
def test_each_library_of_the_table_can_be_added(name: str, tmp_path: Path) -> None:
    """Its address, and its key or the reason why it has none, pass what a user's own source must pass."""
    library = known_sources()[name]
    assert library.uri.startswith("https://")
    assert library.licence
    assert bool(library.key) == bool(library.fingerprint) == (not library.unsigned)
    only = [library.fingerprint] if library.fingerprint else []
    key = None if library.key is None else str(library.key)
    new = new_source(name, library.uri, key, only, tmp_path, unsigned=bool(library.unsigned))
    assert new.source.check == (not library.unsigned)
    assert (new.source.format is SourceFormat.SIMPLESTREAMS) == (name != "libguestfs.org")
    if not library.unsigned:
        assert trusted_keys(new.source).fingerprints == {library.fingerprint}


def test_the_stock_source_is_the_one_of_the_table() -> None:
    text = (known.TABLE.parent / "libguestfs.conf").read_text()
    library = known_sources()["libguestfs.org"]
    assert f"[libguestfs.org]\nuri={library.uri}\n" in text
    assert f"fingerprint={library.fingerprint}\n" in text


@pytest.mark.parametrize(
    ("word", "name"),
    [("ubuntu", "ubuntu"), ("Ubuntu", "ubuntu"), ("debian", "libguestfs.org"), ("fedora", "libguestfs.org"),
     ("alpine", "incus")],
)  # fmt: skip
def test_a_library_is_found_by_what_it_offers(word: str, name: str) -> None:
    assert known_source(word).name == name


def test_no_word_means_two_libraries() -> None:
    words = [word for item in known_sources().values() for word in (item.name, *item.offers)]
    assert sorted(words) == sorted(set(words))


def test_what_was_probably_meant() -> None:
    with pytest.raises(UsageError) as caught:
        known_source("unbutu")
    assert "did you mean ubuntu?" in str(caught.value.hint)


@pytest.fixture
def tree(tmp_path: Path, home: Path, publisher_keys: KeyMaker, no_proxies: None) -> StreamTree:
    return ubuntu_tree(tmp_path / "tree", publisher_keys, b"x" * 512)


@pytest.fixture
def web(tree: StreamTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebFolder]:
    """A server, and a table with two libraries on it."""
    stock = tmp_path / "stock"
    stock.mkdir()
    (stock / "u.gpg").write_bytes(tree.keys.export(tree.key))
    with WebFolder(tree.folder) as server:
        (stock / "known.toml").write_text(
            f"""
[ubuntu]
title = "Images"
offers = ["kubuntu"]
uri = "{server.url}/streams/v1/index.sjson"
key = "u.gpg"
fingerprint = "{tree.key}"
licence = "for own use"

[bare]
title = "More images"
uri = "{server.url}/streams/v1/index.json"
unsigned = "it has no key"
licence = "free"
"""
        )
        monkeypatch.setattr(known, "TABLE", stock / "known.toml")
        yield server


def configuration(home: Path, name: str) -> str:
    return (home / "pybuilder" / "repos.d" / f"{name}.conf").read_text()


def test_a_signed_library(home: Path, tree: StreamTree, web: WebFolder, pybuilder: Command) -> None:
    ran = pybuilder("source", "add", "kubuntu").good()
    assert ran.out.startswith(f"Added: ubuntu, in {home}/pybuilder/repos.d/ubuntu.conf\n")
    assert ran.out.endswith(f"by the key\n{tree.key}\nLicence: for own use\n")
    assert configuration(home, "ubuntu") == (
        f"[ubuntu]\nuri={web.url}/\nformat=simplestreams\ngpgkey=./ubuntu.gpg\nfingerprint={tree.key}\n"
    )
    assert pybuilder("--list").good().err == ""
    del web.asked[:]
    again = pybuilder("source", "add", "ubuntu").good()
    assert again.out.startswith(f"ubuntu is configured already, in {home}/pybuilder/repos.d/ubuntu.conf\n")
    assert web.asked == []


def test_a_library_with_another_key_is_not_added(
    home: Path, tree: StreamTree, web: WebFolder, pybuilder: Command
) -> None:
    tree.key = tree.keys.make("another")
    tree.publish()
    pybuilder("source", "add", "ubuntu").failed(3, "nothing was added")
    assert not (home / "pybuilder" / "repos.d").exists()


def test_a_library_without_signature_is_added_on_request(
    home: Path, web: WebFolder, pybuilder: Command
) -> None:
    pybuilder("source", "add", "bare").failed(
        2, "bare is not signed: it has no key", "pybuilder source add bare --no-check-signature"
    )
    assert web.asked == []
    ran = pybuilder("source", "add", "bare", "--no-check-signature").good()
    assert "Its index is not signed: only its server vouches for them.\nLicence: free\n" in ran.out
    assert "the origin of these templates is not verified" in ran.err
    assert configuration(home, "bare") == f"[bare]\nuri={web.url}/\nformat=simplestreams\nunsigned=yes\n"
    assert "the origin of these templates is not verified" in pybuilder("--list").good().err
    pybuilder("source", "add", "bare").good()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("ubuntu", "--no-check-signature"),
            "only with its signature checked",
        ),
        (("ubuntu", "--gpgkey", "x.gpg"), "the key of ubuntu is known"),
        (("ubuntu", "--fingerprint", "A" * 40), "the key of ubuntu is known"),
        (("ubunto",), "no public library is known as 'ubunto'"),
    ],
)
def test_wrong_input(
    home: Path, web: WebFolder, pybuilder: Command, words: tuple[str, ...], expected: str
) -> None:
    pybuilder("source", "add", *words).failed(2, expected)
    assert web.asked == []
    assert not (home / "pybuilder" / "repos.d").exists()


def test_a_library_that_is_switched_off_is_not_added_a_second_time(
    home: Path, web: WebFolder, pybuilder: Command
) -> None:
    folder = home / "pybuilder" / "repos.d"
    folder.mkdir(parents=True)
    (folder / "off.conf").write_text("[ubuntu]\nenabled=no\n")
    pybuilder("source", "add", "ubuntu").failed(2, f"there is a source ubuntu already, in {folder}/off.conf")
    assert web.asked == []


def test_the_list_asks_no_server(home: Path, tree: StreamTree, web: WebFolder, pybuilder: Command) -> None:
    pybuilder("source", "add", "ubuntu").good()
    del web.asked[:]
    assert pybuilder("source", "available").good().out == (
        "Source:                  ubuntu\n"
        "Holds:                   Images\n"
        "Also known as:           kubuntu\n"
        f"URI:                     {web.url}/\n"
        "Format:                  simplestreams\n"
        f"Signed by:               {tree.key}\n"
        "Licence:                 for own use\n"
        f"State:                   configured in {home}/pybuilder/repos.d/ubuntu.conf\n"
        "\n"
        "Source:                  bare\n"
        "Holds:                   More images\n"
        f"URI:                     {web.url}/\n"
        "Format:                  simplestreams\n"
        "Not signed:              it has no key\n"
        "Licence:                 free\n"
        "State:                   not added\n"
    )
    assert web.asked == []

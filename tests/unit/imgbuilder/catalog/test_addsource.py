"""``source add``, from the command line to the file, with real keys and a real web server."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.catalog import addsource
from imgbuilder.cli import source_modes
from tests.fakes.commands import Command
from tests.fakes.keys import KeyMaker
from tests.fakes.streams import lxd_tree
from tests.fakes.template import Site, make_site
from tests.fakes.webfolder import WebFolder


@pytest.fixture
def site(tmp_path: Path, home: Path, publisher_keys: KeyMaker) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    made = make_site(folder, publisher_keys)
    Path("pub.gpg").write_bytes(publisher_keys.export(made.key, armor=True))
    return made


@pytest.fixture
def web(site: Site) -> Iterator[WebFolder]:
    with WebFolder(site.folder) as server:
        yield server


def files(home: Path) -> dict[str, str]:
    folder = home / "pybuilder" / "repos.d"
    found = sorted(folder.iterdir()) if folder.exists() else []
    return {path.name: path.read_text() if path.suffix == ".conf" else "" for path in found}


def test_a_key_file(home: Path, site: Site, web: WebFolder, pybuilder: Command) -> None:
    ran = pybuilder("source", "add", "ours", f"{web.url}/index.asc", "--gpgkey", "pub.gpg").good()
    assert ran.out.startswith(f"Added: ours, in {home}/pybuilder/repos.d/ours.conf\nIt offers 1 template. ")
    assert site.key in ran.out
    text = f"[ours]\nuri={web.url}/index.asc\ngpgkey=./ours.gpg\n"
    assert files(home) == {"ours.conf": text, "ours.gpg": ""}
    Path("pub.gpg").unlink()
    assert pybuilder("--list").out.startswith("tiny ")
    shown = pybuilder("source", "list").out
    assert "Source:                  ours\n" in shown
    assert f"Signed by:               {site.key}\n" in shown


def test_a_fingerprint_of_the_user_s_keyring(
    home: Path, site: Site, web: WebFolder, pybuilder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("source", "add", "ours", f"{web.url}/index.asc", "--gpgkey", site.key.lower())
    pybuilder(*command).failed(2, "not in your keyring")
    assert files(home) == {}
    monkeypatch.setenv("GNUPGHOME", str(site.keys.home))
    assert pybuilder(*command).code == 0
    assert files(home) == {"ours.conf": f"[ours]\nuri={web.url}/index.asc\ngpgkey={site.key}\n"}
    assert pybuilder("--list").out.startswith("tiny ")


def test_a_file_narrowed_to_a_fingerprint(home: Path, site: Site, web: WebFolder, pybuilder: Command) -> None:
    other = site.keys.make("another")
    Path("pub.gpg").write_bytes(site.keys.export(site.key, other))
    words = ("source", "add", "ours", f"{web.url}/index.asc", "--gpgkey", "pub.gpg", "--fingerprint")
    pybuilder(*words, other).failed(3, f"the keys of this source are {other}")
    pybuilder(*words, "F" * 40).failed(2, "does not hold the key")
    assert files(home) == {}
    assert pybuilder(*words, site.key).code == 0
    assert f"fingerprint={site.key}\n" in files(home)["ours.conf"]
    assert pybuilder("--list").code == 0


def test_relative_paths_and_simplestreams(home: Path, site: Site, tmp_path: Path, pybuilder: Command) -> None:
    tree = lxd_tree(tmp_path / "tree", site.keys, b"x" * 512)
    Path("lxd.gpg").write_bytes(site.keys.export(tree.key))
    pybuilder("source", "add", "lxd", "../tree/streams/v1/index.sjson", "--gpgkey", "lxd.gpg").good()
    text = f"[lxd]\nuri={tmp_path / 'out'}/../tree/\nformat=simplestreams\ngpgkey=./lxd.gpg\n"
    assert files(home)["lxd.conf"] == text
    key = f"file://{Path('pub.gpg').absolute()}"
    pybuilder("source", "add", "here", "../site/index.asc", "--gpgkey", key).good()
    assert len(pybuilder("--list").out.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "needs the name of a public library, or a name and an address"),
        (("x",), "no public library is known as 'x'"),
        (("{url}",), "needs the name of a public library, or a name and an address"),
        (("x", "{url}", "more"), "needs the name of a public library, or a name and an address"),
        (("x", "{url}"), "needs --gpgkey"),
        (("x", "{url}", "--gpgkey", ""), "needs --gpgkey"),
        (("a/b", "{url}", "--gpgkey", "pub.gpg"), "not a name for a source"),
        (("..", "{url}", "--gpgkey", "pub.gpg"), "not a name for a source"),
        (("a b", "{url}", "--gpgkey", "pub.gpg"), "not a name for a source"),
        (("x\n[y]", "{url}", "--gpgkey", "pub.gpg"), "not a name for a source"),
        (("x", "ftp://h/x", "--gpgkey", "pub.gpg"), "ftp"),
        (("x", "/a\nunsigned=yes", "--gpgkey", "pub.gpg"), "not an address"),
        (("x", "/a,/b", "--gpgkey", "pub.gpg"), "comma"),
        (("x", "{url}", "--gpgkey", "https://h/key.gpg"), "downloaded unchecked"),
        (("x", "{url}", "--gpgkey", "nowhere.gpg"), "no such file"),
        (("x", "{url}", "--gpgkey", "."), "is a folder"),
        (("x", "{url}", "--gpgkey", "ABCD1234"), "not a full key fingerprint"),
        (("x", "{url}", "--gpgkey", "A" * 40, "--fingerprint", "B" * 40), "selects keys"),
        (("x", "{url}", "--gpgkey", "pub.gpg", "--fingerprint", "ABCD"), "not a full key fingerprint"),
        (("x", "{url}", "--gpgkey", "pub.gpg", "--no-check-signature"), "signature was checked"),
        (
            ("x", "{url}", "--gpgkey", "pub.gpg", "--source", "/x", "--fingerprint", "A" * 40),
            "has no option --source",
        ),
        (("x", "{url}", "--gpgkey", "empty.gpg"), "is empty"),
    ],
)
def test_wrong_input(
    home: Path, site: Site, web: WebFolder, pybuilder: Command, words: tuple[str, ...], expected: str
) -> None:
    Path("empty.gpg").touch()
    ran = pybuilder(
        "source", "add", *(word.replace("{url}", f"{web.url}/index.asc") for word in words)
    ).failed(2, expected)
    assert "Traceback" not in ran.err
    assert files(home) == {}
    assert web.asked == []


def test_gpgkey_alone_means_nothing(home: Path, pybuilder: Command) -> None:
    pybuilder("--list", "--gpgkey", "x").failed(2, "--gpgkey")


def test_what_does_not_pass_is_not_added(home: Path, site: Site, web: WebFolder, pybuilder: Command) -> None:
    words = ("source", "add", "ours", f"{web.url}/index.asc", "--gpgkey", "pub.gpg")
    good = site.index.read_bytes()
    for bad, code in (
        (good.replace(b"Tiny", b"Tidy"), 3),
        (b"[x]\n", 3),
        (site.keys.sign("[a", site.key), 1),
    ):
        site.index.write_bytes(bad)
        assert pybuilder(*words).code == code
        assert files(home) == {}
    site.index.write_bytes(good)
    Path("pub.gpg").write_bytes(site.keys.export(site.keys.make("another")))
    pybuilder(*words).failed(3, "nothing was added. It may be an old key, or the key of someone else")
    assert files(home) == {}


def test_a_source_that_cannot_be_reached_is_not_added_from_memory(
    home: Path, site: Site, web: WebFolder, pybuilder: Command
) -> None:
    words = ("source", "add", "ours", f"{web.url}/index.asc", "--gpgkey", "pub.gpg")
    assert pybuilder(*words).code == 0
    for path in (home / "pybuilder" / "repos.d").iterdir():
        path.unlink()
    site.index.unlink()
    pybuilder(*words).failed(1, "404")
    assert files(home) == {}


def test_nothing_is_overwritten(
    home: Path, site: Site, web: WebFolder, pybuilder: Command, tmp_path: Path
) -> None:
    words = ("source", "add", "ours", f"{web.url}/index.asc", "--gpgkey", "pub.gpg")
    folder = home / "pybuilder" / "repos.d"
    folder.mkdir(parents=True)
    for name, text in [
        ("other.conf", "[ours]\nenabled=no\n"),
        ("other.conf", f"[ours]\nuri=/x\ngpgkey={'A' * 40}\n"),
        ("ours.conf", ""),
        ("ours.gpg", "x"),
    ]:
        path = folder / name
        path.write_text(text)
        pybuilder(*words).failed(2, "already")
        assert path.read_text() == text
        assert len(files(home)) == 1
        path.unlink()
    (folder / "ours.conf").symlink_to(tmp_path / "elsewhere")
    assert pybuilder(*words).code == 2
    assert not (tmp_path / "elsewhere").exists()


def test_nothing_is_left_of_a_failed_write(
    home: Path, site: Site, web: WebFolder, pybuilder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration appears between the check and the write: the key goes again."""
    true_write = addsource.write_source
    taken = home / "pybuilder" / "repos.d" / "ours.conf"

    def late(new: addsource.NewSource) -> None:
        taken.parent.mkdir(parents=True)
        taken.write_text("[theirs]\n")
        true_write(new)

    monkeypatch.setattr(source_modes, "write_source", late)
    ran = pybuilder("source", "add", "ours", f"{web.url}/index.asc", "--gpgkey", "pub.gpg")
    assert ran.code == 2
    assert files(home) == {"ours.conf": "[theirs]\n"}


def test_passwords_are_kept_from_others(home: Path, site: Site, web: WebFolder, pybuilder: Command) -> None:
    url = web.url.replace("://", "://me:canary@")
    ran = pybuilder("source", "add", "ours", f"{url}/index.asc", "--gpgkey", "pub.gpg").good()
    assert "canary" not in ran.out + ran.err
    conf = home / "pybuilder" / "repos.d" / "ours.conf"
    assert "canary" in conf.read_text()
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600
    assert stat.S_IMODE(conf.with_suffix(".gpg").stat().st_mode) == 0o644

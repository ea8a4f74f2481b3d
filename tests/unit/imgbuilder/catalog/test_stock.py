"""The source that comes with the package. The real one is never asked here, but a stand-in of its shape."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imgbuilder.catalog.sourcefiles import read_sources
from imgbuilder.catalog.sources import trusted_keys
from imgbuilder.events import ignore
from imgbuilder.host import paths
from imgbuilder.services import Settings
from tests.fakes.commands import Command
from tests.fakes.keys import KeyMaker
from tests.fakes.webfolder import WebFolder

FINGERPRINT = "F7774FB1AD074A7E8C8767EA91738F73E1B768A0"
REAL = paths.STOCK_SOURCES


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of configuration files; the system's are not looked at, but the package's are."""
    folder = tmp_path / "config"
    folder.mkdir()
    monkeypatch.delenv("VIRT_BUILDER_DIRS")
    monkeypatch.setattr(paths, "config_dirs", lambda: (folder, tmp_path / "system", paths.STOCK_SOURCES))
    for variable in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    return folder


@functools.cache
def old_key(keys: KeyMaker) -> str:
    """Make a key of the same kind, but shorter: 4096 bits take seconds."""
    return keys.make("Stand-in", "rsa2048", at="20111011T000000", options=("--cert-digest-algo", "SHA1"))


class StandIn:
    """A repository with a key of the same kind, and the package's configuration turned to it."""

    def __init__(self, folder: Path, keys: KeyMaker, web: WebFolder) -> None:
        self.folder, self.keys, self.web = folder, keys, web
        self.key = old_key(keys)
        self.stock = folder / "stock"
        self.stock.mkdir()
        text = (REAL / "libguestfs.conf").read_text()
        assert "https://builder.libguestfs.org/" in text
        text = text.replace("https://builder.libguestfs.org/", f"{web.url}/").replace(FINGERPRINT, self.key)
        (self.stock / "libguestfs.conf").write_text(text)
        (self.stock / "libguestfs.gpg").write_bytes(keys.export(self.key, armor=True))
        self.sign(self.key)

    def sign(self, key: str) -> None:
        text = f"[fedora-18]\nfile=f.xz\narch=x86_64\nsize=512\nchecksum={'ab' * 64}\n"
        (self.folder / "index.asc").write_bytes(
            self.keys.sign(text, key, at=f"{datetime.now(UTC):%Y%m%dT%H%M%S}!")
        )


@pytest.fixture
def stand_in(
    tmp_path: Path, config: Path, publisher_keys: KeyMaker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StandIn]:
    folder = tmp_path / "served"
    folder.mkdir()
    with WebFolder(folder) as web:
        made = StandIn(folder, publisher_keys, web)
        monkeypatch.setattr(paths, "STOCK_SOURCES", made.stock)
        yield made


def test_the_shipped_files() -> None:
    """The key that is shipped can be used as it is, and is the one that is named."""
    found = read_sources([REAL])
    assert not found.problems
    (source,) = found.sources
    assert (source.name, source.uri) == ("libguestfs.org", "https://builder.libguestfs.org/index.asc")
    assert source.only == (FINGERPRINT,)
    pin = trusted_keys(source)
    assert pin.fingerprints == {FINGERPRINT}
    assert pin.unusable == ()
    assert pin.sha1_self_signatures  # docs/adr/0009
    debian = Path("/etc/virt-builder/repos.d/libguestfs.gpg")
    if debian.exists():
        assert debian.read_bytes() == (REAL / "libguestfs.gpg").read_bytes()


def test_it_is_last_and_not_there_when_the_system_s_folders_are_named() -> None:
    assert paths.config_dirs({"HOME": "/h"})[-1] == REAL
    assert REAL not in paths.config_dirs({"HOME": "/h", "VIRT_BUILDER_DIRS": "/etc"})
    assert REAL not in paths.config_dirs()  # in the tests


def test_everybody_has_it(stand_in: StandIn, pybuilder: Command) -> None:
    ran = pybuilder("--list")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("fedora-18")
    stand_in.sign(stand_in.keys.make("Stand-in"))  # the same name, another key
    pybuilder("--list").failed(3, stand_in.key)


def test_another_key_in_the_shipped_file_is_of_no_use(stand_in: StandIn, pybuilder: Command) -> None:
    other = stand_in.keys.make("Other")
    (stand_in.stock / "libguestfs.gpg").write_bytes(stand_in.keys.export(other))
    pybuilder("--list").failed(2, f"does not hold the key {stand_in.key}")


@pytest.mark.parametrize(
    ("name", "text"),
    [("mine.conf", "[libguestfs.org]\nenabled=no\n"), ("libguestfs.conf", "")],
    ids=["enabled=no", "an empty file of the same name"],
)
def test_it_can_be_switched_off(
    stand_in: StandIn, config: Path, pybuilder: Command, name: str, text: str
) -> None:
    (config / name).write_text(text)
    assert pybuilder("--list").failed(2, "no sources").out == ""
    assert stand_in.web.asked == []


def test_a_virt_builder_configuration_of_it_is_used_instead(
    stand_in: StandIn, tmp_path: Path, pybuilder: Command
) -> None:
    """Debian's guestfs-tools bring the same source under the same name: it is asked once."""
    system = tmp_path / "system"
    system.mkdir()
    key = system / "libguestfs.gpg"
    shutil.copy(stand_in.stock / "libguestfs.gpg", key)
    text = f"[libguestfs.org]\nuri={stand_in.web.url}/index.asc\ngpgkey=file://{key}\n"
    for name in ("libguestfs.conf", "another.conf"):
        (system / name).write_text(text)
        del stand_in.web.asked[:]
        pybuilder("--list").good()
        assert stand_in.web.paths == ["/index.asc"]
        (system / name).unlink()


def test_the_same_place_under_another_name_is_asked_once(
    stand_in: StandIn, config: Path, pybuilder: Command
) -> None:
    key = stand_in.stock / "libguestfs.gpg"
    (config / "x.conf").write_text(f"[x]\nuri={stand_in.web.url}/index.asc\ngpgkey={key}\n")
    pybuilder("--list").good()
    assert stand_in.web.paths == ["/index.asc"]
    shown = json.loads(pybuilder("--list", "--list-format=json").out)
    assert len(shown["sources"]) == 1


def test_http_and_https_are_the_same_place(config: Path) -> None:
    (config / "x.conf").write_text("[x]\nuri=http://builder.libguestfs.org/index.asc\nunsigned=yes\n")
    assert [source.name for source in Settings().all_sources(ignore).sources] == ["x"]


def test_a_build_from_an_earlier_source_never_asks_it(
    stand_in: StandIn, config: Path, tmp_path: Path, pybuilder: Command
) -> None:
    index = tmp_path / "index"
    index.write_text("[mine]\nfile=m.xz\narch=x86_64\nsize=512\n")
    (config / "mine.conf").write_text(f"[mine]\nuri={index}\nunsigned=yes\n")
    pybuilder("mine", "--dry-run").good()
    pybuilder("--notes", "mine").good()
    assert stand_in.web.asked == []
    pybuilder("fedora-18", "--dry-run").good()
    assert stand_in.web.paths == ["/index.asc"]

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
from imgbuilder.cli import main as cli
from imgbuilder.events import ignore
from imgbuilder.host import paths
from imgbuilder.services import Settings
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
    """Make a key of the same kind; that takes seconds."""
    return keys.make("Stand-in", "rsa4096", at="20111011T000000", options=("--cert-digest-algo", "SHA1"))


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


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run(["--list", *words])
    out, err = capsys.readouterr()
    return code, out, err


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


def test_it_is_last_and_not_there_when_the_system_s_folders_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert paths.config_dirs({"HOME": "/h"})[-1] == REAL
    assert REAL not in paths.config_dirs({"HOME": "/h", "VIRT_BUILDER_DIRS": "/etc"})
    assert REAL not in paths.config_dirs()  # in the tests


def test_everybody_has_it(stand_in: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = listed(capsys)
    assert (code, err) == (0, "")
    assert out.startswith("fedora-18")
    stand_in.sign(stand_in.keys.make("Stand-in"))  # the same name, another key
    code, out, err = listed(capsys)
    assert code == 3
    assert stand_in.key in err


def test_another_key_in_the_shipped_file_is_of_no_use(
    stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    other = stand_in.keys.make("Other")
    (stand_in.stock / "libguestfs.gpg").write_bytes(stand_in.keys.export(other))
    code, _out, err = listed(capsys)
    assert code == 2
    assert f"does not hold the key {stand_in.key}" in err


@pytest.mark.parametrize(
    ("name", "text"),
    [("mine.conf", "[libguestfs.org]\nenabled=no\n"), ("libguestfs.conf", "")],
    ids=["enabled=no", "an empty file of the same name"],
)
def test_it_can_be_switched_off(
    stand_in: StandIn, config: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    (config / name).write_text(text)
    code, out, err = listed(capsys)
    assert (code, out) == (2, "")
    assert "no sources" in err
    assert stand_in.web.asked == []


def test_a_virt_builder_configuration_of_it_is_used_instead(
    stand_in: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
        assert listed(capsys)[0] == 0
        assert stand_in.web.paths == ["/index.asc"]
        (system / name).unlink()


def test_the_same_place_under_another_name_is_asked_once(
    stand_in: StandIn, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = stand_in.stock / "libguestfs.gpg"
    (config / "x.conf").write_text(f"[x]\nuri={stand_in.web.url}/index.asc\ngpgkey={key}\n")
    assert listed(capsys)[0] == 0
    assert stand_in.web.paths == ["/index.asc"]
    shown = json.loads(listed(capsys, "--list-format=json")[1])
    assert len(shown["sources"]) == 1


def test_http_and_https_are_the_same_place(config: Path) -> None:
    (config / "x.conf").write_text("[x]\nuri=http://builder.libguestfs.org/index.asc\nunsigned=yes\n")
    assert [source.name for source in Settings().all_sources(ignore).sources] == ["x"]


def test_a_build_from_an_earlier_source_never_asks_it(
    stand_in: StandIn, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "index"
    index.write_text("[mine]\nfile=m.xz\narch=x86_64\nsize=512\n")
    (config / "mine.conf").write_text(f"[mine]\nuri={index}\nunsigned=yes\n")
    assert cli.run(["mine", "--dry-run"]) == 0
    assert cli.run(["--notes", "mine"]) == 0
    assert stand_in.web.asked == []
    assert cli.run(["fedora-18", "--dry-run"]) == 0
    assert stand_in.web.paths == ["/index.asc"]

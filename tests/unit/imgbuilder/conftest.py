"""Fixtures of the client's tests."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from imgbuilder.events import Event
from imgbuilder.services import Services, Settings
from tests.fakes.commands import Command, Ran, use_appliances
from tests.fakes.keys import KeyMaker, keys
from tests.fakes.template import Site, TinyAppliances, make_site

publisher_keys = keys

__all__ = ["publisher_keys"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "VIRT_BUILDER_DIRS"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setenv("LANG", "C.UTF-8")
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    return tmp_path / "home"


@pytest.fixture
def site(tmp_path: Path, home: Path, publisher_keys: KeyMaker) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    made = make_site(folder, publisher_keys)
    made.configure(home)
    return made


@pytest.fixture
def appliances(monkeypatch: pytest.MonkeyPatch) -> TinyAppliances:
    made = TinyAppliances()
    use_appliances(monkeypatch, made)
    return made


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def pybuilder(capsys: pytest.CaptureFixture[str]) -> Command:
    return partial(Ran, capsys)


@pytest.fixture
def services(site: Site, appliances: TinyAppliances) -> Services:
    return Services(Settings(), open_appliance=appliances)

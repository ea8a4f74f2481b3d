"""Fixtures of the tests of ``imgrepo``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imgindex.trust import TrustedKeys
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.repository import Repository

__all__ = ["repository", "signing_key"]


@pytest.fixture(scope="session")
def signing_key(keys: KeyMaker) -> str:
    """Return the fingerprint of the publisher's key."""
    return keys.make("Publisher <publisher@example.org>")


@pytest.fixture(scope="session")
def pin(keys: KeyMaker, signing_key: str) -> TrustedKeys:
    """Return what the publisher's clients trust."""
    return keys.pin(signing_key)


@pytest.fixture
def repository(tmp_path: Path, keys: KeyMaker, pin: TrustedKeys, signing_key: str) -> Repository:
    """Return an empty repository with a folder for images and another one that is served."""
    return Repository(tmp_path, keys.home, pin, signing_key)


MakeTwin = Callable[[Callable[[Repository], object]], Repository]


@pytest.fixture(scope="session")
def originals() -> dict[Callable[[Repository], object], Repository]:
    """Return the repositories that were made, by the functions that made them."""
    return {}


@pytest.fixture
def twin(
    repository: Repository,
    originals: dict[Callable[[Repository], object], Repository],
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeTwin:
    """Return what gives the test's repository the content that a function makes, which it does once.

    The publisher does not remember the images, which are other files in another folder.
    """

    def made(make: Callable[[Repository], object]) -> Repository:
        if make not in originals:
            original = repository.empty_twin(tmp_path_factory.mktemp("original"))
            make(original)
            originals[make] = original
        repository.fill_from(originals[make])
        return repository

    return made


@pytest.fixture
def published(repository: Repository) -> Repository:
    """Return a repository with one template, ``a``."""
    repository.add("a.img")
    repository.publish()
    return repository


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is used for temporary files."""
    folder = tmp_path / "space"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder

"""Fixtures of the tests of ``imgrepo``."""

from __future__ import annotations

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

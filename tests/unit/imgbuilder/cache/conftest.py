"""Fixtures of the cache's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.cache.store import TemplateCache


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def cache(root: Path) -> Iterator[TemplateCache]:
    with TemplateCache(root) as opened:
        opened.open()
        yield opened

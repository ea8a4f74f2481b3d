"""The folder of the cache: many processes may make it at the same time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from imgbuilder.cache.folder import CacheFolder

USERS = 16
ROUNDS = 40


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    """Let the threads take turns between nearly all steps."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_all_who_make_a_new_cache_at_once_may_use_it(tmp_path: Path) -> None:
    start = Barrier(USERS)

    def use(root: Path) -> None:
        folder = CacheFolder(root)
        start.wait()
        folder.open()
        folder.close()

    with ThreadPoolExecutor(USERS) as threads:
        for number in range(ROUNDS):
            list(threads.map(use, [tmp_path / str(number)] * USERS))

"""Fixtures of the tests of customizations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imgbuilder.appliance.launch import LibguestfsAppliance
from tests.fakes.debianguest import fill_debian
from tests.fakes.guest import FakeGuest
from tests.fakes.workerguest import WorkerGuest, worker

_BOTH_WAYS = (
    "test_accounts",
    "test_files",
    "test_firstboot",
    "test_identity",
    "test_registry",
    "test_run",
    "test_sysprep",
    "test_system",
)
"""Modules about files of the guest: they run in memory, and with the worker that needs no appliance."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bare" in metafunc.fixturenames:
        both = metafunc.module.__name__.rpartition(".")[2] in _BOTH_WAYS
        metafunc.parametrize("bare", ["memory", "worker"] if both else ["memory"], indirect=True)


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibguestfsAppliance]:
    with worker(tmp_path_factory.mktemp("worker")) as opened:
        yield opened


@pytest.fixture
def bare(request: pytest.FixtureRequest) -> FakeGuest:
    """A guest without any file."""
    return FakeGuest() if request.param == "memory" else WorkerGuest(request.getfixturevalue("appliance"))


@pytest.fixture
def guest(bare: FakeGuest) -> FakeGuest:
    """A guest with Debian."""
    return fill_debian(bare)

"""Fixtures of the tests of customizations."""

from __future__ import annotations

import pytest

from tests.fakes.debianguest import debian_guest
from tests.fakes.guest import FakeGuest


@pytest.fixture
def guest() -> FakeGuest:
    return debian_guest()


@pytest.fixture
def bare() -> FakeGuest:
    """A guest without any file."""
    return FakeGuest()

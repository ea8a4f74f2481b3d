"""``pybuilder`` in the process of the test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from imgbuilder.cli import main as cli
from imgbuilder.services import Services
from tests.fakes.appliance import FakeAppliances


class Ran:
    """A finished command: its exit code and its output."""

    make_services: Callable[..., Services] = Services

    def __init__(self, capture: pytest.CaptureFixture[str], *words: str) -> None:
        capture.readouterr()
        self.code = cli.run(words, self.make_services)
        self.out, self.err = capture.readouterr()

    def good(self) -> Ran:
        """Check that it succeeded."""
        assert self.code == 0, self.err
        return self

    def failed(self, code: int, *words: str) -> Ran:
        """Check its exit code, and that its error has these words."""
        assert self.code == code, self.err
        for text in words:
            assert text in self.err
        return self


Command = Callable[..., Ran]
"""``pybuilder`` as a function of its words."""


def use_appliances(patch: pytest.MonkeyPatch, appliances: FakeAppliances) -> None:
    """Let the commands of a test start these appliances."""
    patch.setattr(Ran, "make_services", partial(Services, open_appliance=appliances))

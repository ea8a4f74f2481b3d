"""Fixtures of the tests of ``imgindex``."""

from tests.fakes.keys import keys

__all__ = ["keys"]

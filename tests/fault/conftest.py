"""Fixtures of the fault rows."""

from tests.fakes.keys import keys

__all__ = ["keys"]

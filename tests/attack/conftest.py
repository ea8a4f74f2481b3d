"""Fixtures of the attack rows."""

from tests.fakes.keys import keys

__all__ = ["keys"]

"""Fixtures of the client's tests."""

from tests.fakes.keys import keys

publisher_keys = keys

__all__ = ["publisher_keys"]

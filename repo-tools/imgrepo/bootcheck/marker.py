"""Looking for a contributor's regular expression in what a stranger's guest sends, in bounded time."""

from __future__ import annotations

import regex

from imgbuilder.errors import RepositoryError

_SECONDS = 0.5
"""Processor time for a line of some thousand characters; a harmless expression takes microseconds."""


class Marker:
    """A regular expression; its syntax is that of Python's ``re``.

    Args:
        expression: The expression.
        where: Names its origin in messages.

    Raises:
        RepositoryError: It is no regular expression.

    Attributes:
        expression: As it was given.
    """

    def __init__(self, expression: str, *, where: str) -> None:
        self.expression = expression
        self._where = where
        try:
            self._pattern = regex.compile(expression)
        except (regex.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise RepositoryError(f"{where}: {expression!r} is no regular expression: {error}") from error

    def found_in(self, line: str) -> bool:
        """Tell whether a line has it.

        Raises:
            RepositoryError: It takes too long.
        """
        try:
            return self._pattern.search(line, timeout=_SECONDS) is not None
        except TimeoutError as error:
            raise RepositoryError(
                f"{self._where}: looking for it in one line took more than {_SECONDS} seconds",
                hint="write it without repeated groups that can match in many ways, such as (a+)+",
            ) from error

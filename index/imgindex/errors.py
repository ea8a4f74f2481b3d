"""Errors that every part of pybuilder shares.

This module imports nothing of ours, so that every other module may import it.

The tree, by whose fault it is::

    PybuilderError               exit code 1
      UsageError                 exit code 2: the command line or a configuration file
      RepositoryError            the publisher's data is bad
        IndexSyntaxError         the index text cannot be read
      TrustError                 exit code 3: something is not proved to come from the publisher
        NotSignedError           no OpenPGP signature where one is required
        BadSignatureError        a signature that does not fit its text, or is too weak, expired, revoked
        WrongKeyError            signed, but not by a key of this source
        DigestMismatchError      bytes whose digest is not that in the signed index
        StaleIndexError          signed by the right key, but not the index to use now
          RolledBackError        older than one that was accepted before
          ConflictingIndexError  as old as one that was accepted before, and different
          ExpiredIndexError      too old by its own signature or by the user's configuration
          FutureIndexError       signed in the future
          ClockError             this machine's clock has gone back
      SigningError               the publisher's key cannot sign
      ToolError                  a program of the system is missing or failed
"""

from __future__ import annotations


class PybuilderError(Exception):
    """Base of all errors that are shown to the user without a traceback.

    Args:
        message: What happened, naming the file or source. One sentence, without a final period.
        hint: The next step: the exact option, command or path. Never advice to switch off a check.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def in_one_line(self) -> str:
        """The message, and the hint in parentheses if there is one."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(PybuilderError):
    """The command line, or a configuration file of the user, asks for something impossible."""

    exit_code = 2


class RepositoryError(PybuilderError):
    """The publisher's data is bad, although it may be properly signed."""


class IndexSyntaxError(RepositoryError):
    """The text of an index or of a source configuration file breaks the format.

    Args:
        where: The file or source, for the message.
        line: 1-based number of the offending line, or None when the whole text is meant.
        problem: The fault.
        hint: The next step.
    """

    def __init__(self, where: str, line: int | None, problem: str, *, hint: str | None = None) -> None:
        place = where if line is None else f"{where}: line {line}"
        super().__init__(f"{place}: {problem}", hint=hint)
        self.where = where
        self.line = line
        self.problem = problem


class TrustError(PybuilderError):
    """Something is not proved to come from the publisher, and is therefore not used."""

    exit_code = 3


class NotSignedError(TrustError):
    """There is no OpenPGP signature where one is required."""


class BadSignatureError(TrustError):
    """The signature does not fit the text, or is too weak, expired, or by a revoked or expired key."""


class WrongKeyError(TrustError):
    """The text is signed, but not by a key of this source."""


class DigestMismatchError(TrustError):
    """The digest of a file is not that in the signed index."""


class StaleIndexError(TrustError):
    """An index that is signed by the right key is not the one to use now (rule V8)."""


class RolledBackError(StaleIndexError):
    """The index is older than one that was accepted before (``docs/threat-model.md`` T4)."""


class ConflictingIndexError(StaleIndexError):
    """The index differs from one that was signed at the same second and accepted before."""


class ExpiredIndexError(StaleIndexError):
    """The index is too old: its signature has expired, or the user allows no such age (T5)."""


class FutureIndexError(StaleIndexError):
    """The index was signed at a time that this machine's clock has not reached."""


class ClockError(StaleIndexError):
    """This machine's clock has gone back, so that the age of no index can be judged."""


class SigningError(PybuilderError):
    """The publisher's key is missing, expired, locked or ambiguous, or signing failed."""


class ToolError(PybuilderError):
    """A program of the system that we depend on is missing, failed or took too long."""

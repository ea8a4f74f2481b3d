"""The client's errors; the shared ones are in ``imgindex.errors``.

::

    PybuilderError
      FetchError        the network, a server or a local file of a source
        FileMissingError    the source has no such file
        WrongSizeError      the file of the source has a different size
        OfflineError        only a server has the file, and the user forbade asking servers
        NoAnswerError       a request brought no response
        TransferCutError    a response broke off or stalled
      DiskError         a disk image or the space for it
      WorkspaceError    local files: no space, no permission
      UploadError       a place on another machine, and what is put there
      ToolError         see imgindex.errors; here:
        ProgramKilledError  a signal ended a program that we had started
      TrustError        see imgindex.errors; here:
        SourceStateError    the record of a source cannot be read or written
        SignatureLostError  a source that was signed is no longer
      GuestError        the appliance or the guest's disk
        ApplianceError    the appliance cannot be started or died
          ApplianceSilentError  it did not answer in time
        GuestCallError    one request to the appliance failed
        NotYetError       a layout that this version does not handle
      OperationError    a customization failed; keeps the end of the guest's log

``UnfitError`` is not one of them: the user never sees it.
"""

from __future__ import annotations

from imgindex.errors import (
    BadSignatureError,
    ClockError,
    ConflictingIndexError,
    DigestMismatchError,
    ExpiredIndexError,
    FutureIndexError,
    IndexSyntaxError,
    NotSignedError,
    PybuilderError,
    RepositoryError,
    RolledBackError,
    SigningError,
    StaleIndexError,
    ToolError,
    TrustError,
    UsageError,
    WrongKeyError,
)

__all__ = [
    "ApplianceError", "ApplianceSilentError", "BadSignatureError", "ClockError",
    "ConflictingIndexError", "DigestMismatchError", "DiskError", "ExpiredIndexError", "FetchError",
    "FileMissingError", "FutureIndexError", "GuestCallError", "GuestError", "IndexSyntaxError",
    "NoAnswerError", "NotSignedError", "NotYetError", "OfflineError", "OperationError",
    "ProgramKilledError", "PybuilderError", "RepositoryError", "RolledBackError",
    "SignatureLostError", "SigningError", "SourceStateError", "StaleIndexError", "ToolError",
    "TransferCutError", "TrustError", "UnfitError", "UploadError", "UsageError", "WorkspaceError",
    "WrongKeyError", "WrongSizeError",
]  # fmt: skip


class FetchError(PybuilderError):
    """A file of a source could not be fetched: the network, the server, or a local path failed."""


class FileMissingError(FetchError):
    """The source has no such file; other files of the same source may still be there."""


class WrongSizeError(FetchError):
    """The file has a different size than it must have: it is a different file; a retry does not help."""


class NoRangesError(FetchError):
    """The server sends only whole files, and a part of one was requested."""


class OfflineError(FetchError):
    """Only a server has the file, and the user forbade asking servers."""


class NoAnswerError(FetchError):
    """A request brought no response.

    Attributes:
        passing: The same request may succeed a moment later.
    """

    def __init__(self, message: str, *, hint: str | None = None, passing: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.passing = passing


class TransferCutError(FetchError):
    """A response broke off or stalled: what came so far is good, and the rest may be had later."""


class DiskError(PybuilderError):
    """A disk image is not what it should be, or cannot be changed as asked."""


class WorkspaceError(PybuilderError):
    """A local file or folder cannot be used: missing, not writable, or no space left."""


class UploadError(PybuilderError):
    """A file could not be put on another machine; what is served there is as valid as before."""


class ProgramKilledError(ToolError):
    """A signal ended a program that we had started; its input is not to blame."""


class SourceStateError(TrustError):
    """The record of a source cannot be read or written, so that a rollback would go unnoticed."""


class SignatureLostError(NotSignedError):
    """A source whose index was signed would now be used without a signature (``docs/threat-model.md`` T6)."""


class GuestError(PybuilderError):
    """The appliance, or the guest's disk as seen by it."""


class ApplianceError(GuestError):
    """The appliance could not be started, died, or did not answer in time."""


class ApplianceSilentError(ApplianceError):
    """The appliance did not respond for too long, and was stopped."""


class GuestCallError(GuestError):
    """One request to the appliance failed; ``errno_name`` is that of a system error, such as ``ENOENT``."""

    def __init__(self, message: str, *, errno_name: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.errno_name = errno_name


class NotYetError(GuestError):
    """A disk layout or content that this version does not handle; nothing was changed."""


class UnfitError(Exception):
    """A build without an appliance cannot go on, so it is thrown away and the appliance does all of it.

    It is not a ``PybuilderError``, so that nothing on its way takes it for a failure of the build.
    """


class OperationError(PybuilderError):
    """A customization failed."""

    def __init__(
        self, message: str, *, log_tail: str = "", log_file: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.log_tail = log_tail
        self.log_file = log_file

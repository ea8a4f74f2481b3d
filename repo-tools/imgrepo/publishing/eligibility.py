"""What ``publish`` lets pass of the images that it finds: what is due, and proven as required."""

from __future__ import annotations

from datetime import datetime

from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.events import Reporter, info
from imgindex.model import Entry
from imgrepo.images.scan import SourceImage
from imgrepo.library.approval import Reviewers
from imgrepo.library.publishing import described, find_images
from imgrepo.publishing.request import PublishRequest
from imgrepo.review.proof import missing_proof, without_entry


class Gate:
    """Judges the images of one run of ``publish``.

    Args:
        request: Where they are, and what is required of them.
        now: Entries of later days are held back.
        refused: Gets why an image is refused, by the name of its file.
        on_event: Reports those that are held back.
        reviewers: Whose approvals count; None when none are asked for.

    Attributes:
        found: All images and entries.
        held: What is told of the images that are held back.

    Raises:
        UsageError: The folder cannot be read, or what is published would lie among the entries.
    """

    def __init__(
        self,
        request: PublishRequest,
        now: datetime,
        refused: dict[str, PybuilderError],
        on_event: Reporter,
        reviewers: Reviewers | None = None,
    ) -> None:
        self._request, self._now, self._refused, self._report = request, now, refused, on_event
        self._reviewers = reviewers
        self._proven: dict[str, bool] = {}
        self.found = find_images(request.folder)
        self.held: list[str] = []
        if (self.found.entries or self.found.broken) and request.output.samefile(request.folder):
            raise UsageError(  # they hold what is not to be served, or not yet
                f"the folders of the entries in {request.folder} would be served with what is published",
                hint="publish into another folder: --output WEBROOT",
            )

    def lets_pass(self, image: SourceImage) -> bool:
        """Tell whether a new or changed image may be published; if not, its old template stays as it is."""
        entry = self.found.entries.get(image.name)
        until = None if entry is None else entry.held_until(self._now)
        if until is not None:
            self.held.append(f"{image.name} is held back until {until:%Y-%m-%d %H:%M} UTC")
            info(self._report, self.held[-1])
        return until is None and self._has_proof(image.name)

    def describe(self, entry: Entry, name: str) -> Entry:
        """Let a template say what the contributor of the image of a name says now, if it may.

        It may when the entry's day has come; and a text that nobody checked or signed, if that is required,
        is refused like an image.
        """
        found = self.found.entries.get(name)
        if found is None or found.held_until(self._now) is not None:
            return entry
        new = described(entry, found.description)
        return entry if new is entry or not self._has_proof(name) else new

    def _has_proof(self, name: str) -> bool:
        """Tell whether an image has all that is required; it is read once at most."""
        if name not in self._proven:
            problem = self._missing(name) if self._request.require else None
            if problem is not None:
                self._refused[name] = problem
            self._proven[name] = problem is None
        return self._proven[name]

    def _missing(self, name: str) -> PybuilderError | None:
        entry = self.found.entries.get(name)
        if entry is None:
            return without_entry(name, self._request.require)
        return missing_proof(
            self._request.require, entry.folder, self._report, reviewers=self._reviewers, words=entry.words
        )

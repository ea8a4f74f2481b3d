"""Decides which images may be published now: those whose day has come, with all required proof.

And those whose template was not withdrawn, protected, or given a different image by hand.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.events import Reporter, info, warn
from imgindex.model import Entry, Index
from imgrepo.images.compress import hash_image
from imgrepo.images.scan import SourceImage
from imgrepo.library.approval import Reviewers
from imgrepo.library.folder import described, find_images
from imgrepo.publishing.request import PublishRequest
from imgrepo.review.check import not_an_entry, unmet
from imgrepo.webroot.state import (
    Published,
    protected_error,
    protected_templates,
    set_aside_files,
    withdrawn_templates,
)


class Eligibility:
    """Decides which images of one run may be published; ``refused`` gets the reasons by file name."""

    def __init__(
        self,
        request: PublishRequest,
        now: datetime,
        refused: dict[str, PybuilderError],
        on_event: Reporter,
        reviewers: Reviewers | None = None,
    ) -> None:
        self._request, self._now, self._refused, self._on_event = request, now, refused, on_event
        self._reviewers = reviewers
        self._proven: dict[str, bool] = {}
        self.found = find_images(request.folder)
        self.waiting: list[str] = []
        if (self.found.entries or self.found.broken) and request.output.samefile(request.folder):
            raise UsageError(  # they hold files that must not be served, or not yet
                f"the folders of the entries in {request.folder} would be served with the published files",
                hint="publish into another folder: --output WEBROOT",
            )

    def is_eligible(self, image: SourceImage) -> bool:
        """Check whether a new or changed image may be published; if not, its old template stays as it is."""
        entry = self.found.entries.get(image.name)
        until = None if entry is None else entry.held_until(self._now)
        if until is not None:
            self.waiting.append(f"{image.name} is held back until {until:%Y-%m-%d %H:%M} UTC")
            info(self._on_event, self.waiting[-1])
        return until is None and self._has_proof(image.name)

    def updated(self, entry: Entry, name: str) -> Entry:
        """Update a template with the present description of its image, if that may be published.

        It may when the entry's day has come. A description without required proof is refused like an image.
        """
        found = self.found.entries.get(name)
        if found is None or found.held_until(self._now) is not None:
            return entry
        new = described(entry, found.description)
        return entry if new is entry or not self._has_proof(name) else new

    def _has_proof(self, name: str) -> bool:
        """Check whether an image has all required proof; it is read once at most."""
        if name not in self._proven:
            problem = self._missing(name) if self._request.require else None
            if problem is not None:
                self._refused[name] = problem
            self._proven[name] = problem is None
        return self._proven[name]

    def _missing(self, name: str) -> PybuilderError | None:
        entry = self.found.entries.get(name)
        if entry is None:
            return not_an_entry(name, self._request.require)
        return unmet(
            self._request.require,
            entry.folder,
            self._on_event,
            reviewers=self._reviewers,
            metadata_digest=entry.metadata_digest,
        )


class Decisions:
    """The decisions about templates that the publisher made by command: withdrawn, protected, set aside."""

    def __init__(self, output: Path, on_event: Reporter) -> None:
        self._output, self._on_event = output, on_event
        self._withdrawn = withdrawn_templates(output)
        self.protected, self.set_aside = protected_templates(output), set_aside_files(output)

    def is_withdrawn(self, image: SourceImage, name: str, arch: str) -> bool:
        """Check whether a template was withdrawn; if so, warn that its image is not published."""
        withdrawn = (name, arch) in self._withdrawn
        if withdrawn:
            warn(
                self._on_event,
                f"{image.name} is not published: its template {name} was withdrawn; to publish it again: "
                f"pybuilder-repo withdraw --undo {self._output} {name} --gpg-key KEY",
            )
        return withdrawn

    def is_set_aside(self, image: SourceImage, last: Published, old: Index) -> bool:
        """Check whether a template was given a different image by hand since this one was published."""
        if last.file not in self.set_aside or any(one.file == last.file for one in old.entries):
            return False
        if image.fingerprint != last.fingerprint and hash_image(image, self._on_event) != last.sha512:
            return False
        warn(
            self._on_event,
            f"{image.name} is not published: the template {last.entry} was given a different image by "
            "rollback or channel; a new image is published again",
        )
        return True

    def refusal(self, name: str, arch: str, old: Index) -> PybuilderError | None:
        """Return the error of an image that would replace that of a protected template."""
        if old.find(name, arch) is None or (name, arch) not in self.protected:
            return None
        return protected_error(self._output, name)

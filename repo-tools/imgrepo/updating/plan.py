"""Decides what an update does, from facts alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from imgrepo.library.records import ImageMark
from imgrepo.publishing.settings import Imported, Origin
from imgrepo.recordfile import Moment


@dataclass(frozen=True)
class Renewal:
    """The record of an image that an update got from its origin.

    Attributes:
        origin: Digest of the origin as ``library.toml`` had it, with the files that it names.
        source: What the image was made of: digest of the distribution's image, or SHA-512 of the base; empty
            for an image made from an archive.
        at: When it was made, or found to be the same.
    """

    origin: str
    source: str
    at: Moment
    image: ImageMark


@dataclass(frozen=True)
class Situation:
    """The facts about a template that has an origin.

    Attributes:
        there: Whether its image is in the library.
        last: The record of the last renewal; None for the first one.
        source: As in ``Renewal``, now.
    """

    there: bool
    last: Renewal | None
    origin: str
    source: str = ""


def reason_to_renew(origin: Origin, now: Situation, clock: datetime) -> str:
    """Return why an image is made, imported or built again; empty when it is as it should be."""
    last = now.last
    if not now.there:
        return "it is missing"
    if last is None:
        return "it was not made by update yet"
    if last.origin != now.origin:
        return "its origin was changed"
    if last.source != now.source:
        return "a newer one is offered" if isinstance(origin, Imported) else "its base changed"
    every = None if isinstance(origin, Imported) else origin.every
    age = (clock - last.at).days
    if every is not None and age >= every:
        return f"it is {age} days old"
    return ""

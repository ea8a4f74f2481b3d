"""Parts of work without an appliance that builds and customizations share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from imgbuilder.building.request import HostsideMode
from imgbuilder.errors import UnfitError, UsageError
from imgbuilder.events import Event, Reporter

VARIABLE = "PYBUILDER_HOSTSIDE"


def hostside_mode() -> HostsideMode:
    """Return when images are written without an appliance, as ``PYBUILDER_HOSTSIDE`` says.

    Raises:
        UsageError: It has another value.
    """
    value = os.environ.get(VARIABLE) or HostsideMode.AUTO.value
    try:
        return HostsideMode(value)
    except ValueError as error:
        raise UsageError(
            f"{VARIABLE} is {value!r}", hint="set it to auto, never or always, or unset it"
        ) from error


def refuse_appliance(obstacle: str) -> UsageError:
    """Return the error of a build that needs an appliance and must not have one."""
    return UsageError(
        f"the image cannot be written without an appliance: {obstacle}", hint="leave out --hostside always"
    )


@contextmanager
def held_back(on_event: Reporter) -> Iterator[Reporter]:
    """Report events only after a block; never those of an image that turns out to be unfit.

    An appliance does its work again then, and would report it again, with another random password.
    """
    held: list[Event] = []
    try:
        yield held.append
    except UnfitError:
        held.clear()
        raise
    finally:
        for event in held:
            on_event(event)
